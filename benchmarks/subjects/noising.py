"""Noising: x_t = √ᾱ_t · x_0 + √(1−ᾱ_t) · z with one t a sample, into a given output and into a fresh one."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from alphabar.process.forward import add_noise
from alphabar.schedule.noise_schedule import NoiseSchedule
from benchmarks import peers
from benchmarks.measure import Case, Result, Settings, measure

TITLE = "Noising"
ABOUT = (
    "`add_noise` with one t a sample. The floor is `torch.add` of the same two tensors, which does as "
    "much reading and writing; *by hand* is what plain torch can do with its tables ready. diffusers and "
    "azula cannot write into a given output, so they make a fresh one in both halves of the table."
)

Data = tuple[Tensor, Tensor, Tensor, Tensor]  # x_0, noise, t, out
LARGE, ONE, BATCH = (64, 3, 256, 256), (1, 3, 32, 32), (128, 3, 32, 32)
SIZES: tuple[tuple[tuple[int, ...], torch.dtype, dict[str, float]], ...] = (
    (LARGE, torch.float32, {"diffusers": 10, "floor": 1 / 1.15}),
    (ONE, torch.float32, {"diffusers": 4}),
    (BATCH, torch.float32, {"diffusers": 3}),
    (BATCH, torch.bfloat16, {"diffusers": 5}),
)
NEVER_SLOWER = {"diffusers": 1.0, "azula": 1.0}
"""Aims of the fresh output."""


def run(settings: Settings) -> Iterator[Result]:
    """Measure every size, with ``out`` and without."""
    for shape, dtype, aims in SIZES:
        data = example(shape, dtype, settings.device)
        name = f"{'×'.join(map(str, shape))} {str(dtype).removeprefix('torch.')}"
        known = {peer: aim for peer, aim in NEVER_SLOWER.items() if peers.library(peer)}
        yield measure(
            Case(f"{name}, into out", with_out(data), aims, (data[0].numel(), "elements")), settings
        )
        yield measure(Case(f"{name}, fresh", fresh(data), known, (data[0].numel(), "elements")), settings)


def example(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> Data:
    """Return x_0, noise, t and a place for the output."""
    x_0, noise = torch.randn(2, *shape, device=device, dtype=dtype).unbind()
    return x_0, noise, torch.randint(0, 1000, shape[:1], device=device), torch.empty_like(x_0)


def with_out(data: Data) -> dict[str, Callable[[], Tensor]]:
    """Return the entrants that write into an output, and the peers, which cannot."""
    x_0, noise, t, out = data
    schedule = NoiseSchedule.linear()
    signal, spread = tables(data)

    def by_hand() -> Tensor:
        a, b = (part[t].view(-1, *[1] * (x_0.ndim - 1)) for part in (signal, spread))
        return torch.mul(x_0, a, out=out).addcmul_(b, noise)

    return peers.named(
        alphabar=lambda: add_noise(schedule, x_0, noise, t, out=out),
        diffusers=diffusers(data),
        azula=azula(data),
        by_hand=by_hand,
        floor=lambda: torch.add(x_0, noise, out=out),
    )


def fresh(data: Data) -> dict[str, Callable[[], Tensor]]:
    """Return the entrants that make their output."""
    x_0, noise, t, _ = data
    schedule = NoiseSchedule.linear()
    return peers.named(
        alphabar=lambda: add_noise(schedule, x_0, noise, t),
        diffusers=diffusers(data),
        azula=azula(data),
        floor=lambda: torch.add(x_0, noise),
    )


def tables(data: Data) -> tuple[Tensor, Tensor]:
    """Return both scales at every t, ready where and as the data are."""
    schedule = NoiseSchedule.linear()
    return schedule.signal_scale.to(data[0]), schedule.noise_scale.to(data[0])


def diffusers(data: Data) -> Callable[[], Tensor] | None:
    """Return diffusers' way."""
    if (library := peers.library("diffusers")) is None:
        return None
    x_0, noise, t, _ = data
    scheduler = library.DDPMScheduler()
    return lambda: scheduler.add_noise(x_0, noise, t)


def azula(data: Data) -> Callable[[], Tensor] | None:
    """Return azula's way: its schedule gives the scales, and its losses write out the sum."""
    if peers.library("azula") is None:
        return None
    from azula.noise import VPSchedule

    x_0, noise, t, _ = data
    schedule, share = VPSchedule(), (t / 1000).to(x_0.dtype)

    def noised() -> Tensor:
        alpha, sigma = schedule(share)
        while alpha.ndim < x_0.ndim:
            alpha, sigma = alpha[..., None], sigma[..., None]
        return alpha * x_0 + sigma * noise

    return noised
