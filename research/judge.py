"""Judges ``Fitted`` on what it was not fitted to, beside diffusers' schedulers; writes research/judged.json.

python research/judge.py gaussian mixtures                   (minutes, one thread)
python research/judge.py mixtures:sigmoid                    (on another schedule than linear and cosine)
python research/judge.py network:RUN/digits:256:500          (a folder that ``alphabar train`` wrote)

Mixtures: held-out seeds and settings. Nothing here is read by ``fit.py``. A peer is asked at the t it rounds
to and at the noise level it means, and the better of the two counts; its settings are in the name.
"""

from __future__ import annotations

import inspect
import itertools
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import Tensor

import alphabar
from alphabar.samplers.adams import DEIS
from alphabar.samplers.dpm import DPMSolver
from alphabar.samplers.euler import Heun
from alphabar.samplers.exact import WIDTHS, GaussianMixture, gaussian_error
from alphabar.samplers.fitted import Fitted
from alphabar.samplers.loop import sample
from alphabar.samplers.plan import Sampler
from alphabar.samplers.registry import SOLVERS
from alphabar.samplers.unipc import UniPC
from alphabar.schedule.levels import log_alpha_bar_between
from alphabar.schedule.noise_schedule import FAMILIES, NoiseSchedule
from alphabar.training import checkpoint

OUT = Path(__file__).with_name("judged.json")
SPACED: list[dict[str, Any]] = [
    {"use_karras_sigmas": True},
    {"timestep_spacing": "trailing"},
    {"timestep_spacing": "linspace"},
]
SOLVER_PEERS: list[tuple[str, dict[str, Any]]] = [
    *(("DPMSolverMultistep", {"solver_order": order, **s}) for order in (2, 3) for s in SPACED),
    *(("DPMSolverMultistep", {"solver_order": order, "use_lu_lambdas": True}) for order in (2, 3)),
    *(("UniPCMultistep", {"solver_order": order, **s}) for order in (2, 3) for s in SPACED),
    *(("DEISMultistep", {"solver_order": order, **s}) for order in (2, 3) for s in SPACED),
    *(("HeunDiscrete", s) for s in SPACED),
    *(("LMSDiscrete", s) for s in SPACED),
    ("DPMSolverSinglestep", {"solver_order": 3, "use_karras_sigmas": True, "lower_order_final": True}),
    ("PNDM", {"skip_prk_steps": True}),
    ("DDIM", {"timestep_spacing": "trailing", "clip_sample": False}),
]
STEPS: dict[str, Callable[[int], int]] = {"HeunDiscrete": lambda n: (n + 1) // 2, "PNDM": lambda n: n - 1}
"""What a peer calls steps, by the evaluations it may take; where it is not the same."""
EVALUATIONS = (6, 10, 20)
DIMENSIONS = (2, 5, 8, 16, 32, 64)
HELD_OUT = [(0.04, 3, 0.5), (0.1, 20, 1.0), (0.25, 8, 0.5), (0.6, 5, 1.0)]
"""Width, components, spread of the means."""
HAND = "hand-made "
SEEDS, STARTS = range(910_000, 1_010_000, 10_000), 200  # a few starts decide the rms: so there are many
Answer = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Peer:
    """One of diffusers' schedulers with its settings."""

    name: str
    config: dict[str, Any]

    def __str__(self) -> str:
        return " ".join([self.name, *(f"{key}={value}" for key, value in self.config.items())])

    def run(
        self, schedule: NoiseSchedule, evaluations: int, x: Tensor, mean: Answer, at_sigma: bool
    ) -> Tensor:
        """Return the end points; ``mean(x_t, log ᾱ)`` is E[x_0 | x_t]."""
        kind = getattr(diffusers, f"{self.name}Scheduler")
        known = inspect.signature(kind).parameters
        shared = schedule.to_config() | {"trained_betas": schedule.beta.numpy()}  # it may not know the name
        scheduler = kind(**{key: value for key, value in shared.items() if key in known}, **self.config)
        scheduler.set_timesteps(STEPS.get(self.name, int)(evaluations))
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(0)  # otherwise it begins at the second of two equal t
        x = x / scheduler.scale_model_input(torch.ones(1, dtype=x.dtype), scheduler.timesteps[0])
        for i, t in enumerate(scheduler.timesteps):
            seen = scheduler.scale_model_input(x, t)
            level = log_alpha_bar_between(schedule, t.double())
            if at_sigma and hasattr(scheduler, "sigmas"):
                level = -torch.log1p(scheduler.sigmas[i].double() ** 2)
            eps = (seen - (level / 2).exp() * mean(seen.double(), level)) / (-torch.expm1(level)).sqrt()
            x = scheduler.step(eps.to(x.dtype), t, x).prev_sample
        return x.double()


PEERS = [Peer(name, config) for name, config in SOLVER_PEERS]


def gaussian() -> Iterator[dict[str, Any]]:
    """Error on Gaussian data: Fitted, the best hand-made table, the best peer."""
    for name in ("linear", "scaled_linear", "cosine", "sigmoid"):
        schedule = FAMILIES[name](1000)
        for n in (5, 6, 7, 8, 10, 12, 15, 20, 30, 50):
            peers = [(peer_gaussian(peer, schedule, n), str(peer)) for peer in PEERS]
            hand = [
                (gaussian_error(make(n, spacing), schedule), f"{solver}, {spacing}")
                for solver, make in SOLVERS.items()
                for spacing in ("trailing", "karras", "log_snr")
            ]
            yield {
                "schedule": name,
                "evaluations": n,
                "fitted": gaussian_error(Fitted(n), schedule),
                "hand": min(hand),
                "peer": min(peers),
            }


def peer_gaussian(peer: Peer, schedule: NoiseSchedule, evaluations: int) -> float:
    """The mean over the widths c of |std reached / c − 1|."""

    def mean(x_t: Tensor, level: Tensor) -> Tensor:
        return (level / 2).exp() * WIDTHS**2 / (level.exp() * WIDTHS**2 - torch.expm1(level)) * x_t

    start = torch.ones(1, len(WIDTHS), dtype=torch.float64)
    try:
        ends = [peer.run(schedule, evaluations, start, mean, at) for at in (False, True)]
    except (IndexError, AssertionError):  # the peer's own, where two of its rounded t are the same
        return math.inf
    return min(finite(float((end.abs() / WIDTHS - 1).abs().mean())) for end in ends)


def finite(value: float) -> float:
    """Return a number that sorts last where there is none."""
    return float("inf") if math.isnan(value) else value


def held_out(dimensions: int) -> Iterator[tuple[GaussianMixture, Tensor]]:
    """Mixtures that no fit has seen: tight and broad, of few and many components, near each other and far."""
    for seed, (i, (width, components, spread)) in itertools.product(SEEDS, enumerate(HELD_OUT)):
        draw = torch.Generator().manual_seed(seed + 100 * dimensions + i)
        means = spread * torch.randn(components, dimensions, generator=draw, dtype=torch.float64)
        widths = width * (0.7 + 0.6 * torch.rand(components, generator=draw, dtype=torch.float64))
        weights = 0.3 + torch.rand(components, generator=draw, dtype=torch.float64)
        start = torch.randn(STARTS, dimensions, generator=draw, dtype=torch.float64)
        yield GaussianMixture(means, widths, weights), start


def mixtures(*names: str) -> Iterator[dict[str, Any]]:
    """Distance to a 500-step Heun run from the same start, over √D: of each D, and over all mixtures."""
    for name in names or ("linear", "cosine"):
        away: dict[tuple[int, str], list[Tensor]] = {}
        for dimensions in DIMENSIONS:
            for mixture, start in held_out(dimensions):
                for key, distance in distances(FAMILIES[name](1000), mixture, start):
                    away.setdefault(key, []).append(distance / math.sqrt(dimensions))
        many = len(SEEDS) * len(HELD_OUT)
        for n, part in itertools.product(EVALUATIONS, (*DIMENSIONS, "all")):
            first = 0 if part == "all" else many * DIMENSIONS.index(part)
            last = None if part == "all" else first + many
            found = {key: torch.stack(each[first:last]) for (m, key), each in away.items() if m == n}
            yield {"schedule": name, "evaluations": n, "dimensions": part, **compared(found)}


def compared(found: dict[str, Tensor]) -> dict[str, Any]:
    """Median and root mean square of Fitted, and the least of the hand-made tables and of the peers."""
    figures = {
        "median": lambda away: away.median(),
        "rms": lambda away: away.square().mean().sqrt(),
    }
    made = {}
    for figure, reduced in figures.items():
        each = {key: finite(float(reduced(away))) for key, away in found.items()}
        hand = [(each[key], key.removeprefix(HAND)) for key in each if key.startswith(HAND)]
        peers = [(each[key], key) for key in each if key != "Fitted" and not key.startswith(HAND)]
        made[figure] = {"fitted": each["Fitted"], "hand": min(hand)} | ({"peer": min(peers)} if peers else {})
    return made


def distances(
    schedule: NoiseSchedule, mixture: GaussianMixture, start: Tensor
) -> Iterator[tuple[tuple[int, str], Tensor]]:
    """Each sampler's distances, (B,), by evaluations and name."""
    denoiser = mixture.denoiser(schedule)

    def ends(sampler: Sampler) -> Tensor:
        return sample(denoiser, start.shape, sampler, x_t=start, dtype=torch.float64, progress=False)

    true = ends(Heun(500, spacing="log_snr"))
    for n in EVALUATIONS:
        yield (n, "Fitted"), (ends(Fitted(n)) - true).norm(dim=1)
        for key, each in hand_made(n).items():
            yield (n, HAND + key), (ends(each) - true).norm(dim=1)
        for peer in PEERS:
            for at_sigma in (False, True):
                try:
                    end = peer.run(schedule, n, start, mixture.mean_given, at_sigma)
                except (
                    IndexError,
                    AssertionError,
                ):  # the peer's own, where two of its rounded t are the same
                    end = torch.full_like(true, math.nan)
                yield (n, f"{peer}{' at its σ' if at_sigma else ''}"), (end - true).norm(dim=1)


def hand_made(n: int) -> dict[str, Sampler]:
    """The hand-made tables that came first or near it on any problem."""
    made: dict[str, Sampler] = {}
    for spacing in ("log_snr", "trailing", "karras"):
        made[f"DPM-Solver++ 2M, {spacing}"] = DPMSolver(n, spacing=spacing)
        made[f"UniPC 2, {spacing}"] = UniPC(n, spacing=spacing)
    for spacing in ("log_snr", "trailing"):
        made[f"DEIS 4 to the end, {spacing}"] = DEIS(n, order=4, lower_order_final=False, spacing=spacing)
        made[f"DPM-Solver++ 3M exact, {spacing}"] = DPMSolver(n, order=3, rule="exact", spacing=spacing)
        made[f"UniPC 3, {spacing}"] = UniPC(n, order=3, spacing=spacing)
    return made


@torch.no_grad()
def network(folder: str, samples: str, steps: str = "100") -> Iterator[dict[str, Any]]:
    """Distance to a Heun run of so many steps, twice as many evaluations, from the same noise."""
    trained, count = checkpoint.load(folder), int(samples)
    denoiser = trained.denoiser(trained.labels(count))
    shape = (count, *trained.shape)
    start = torch.randn(shape, generator=torch.Generator().manual_seed(77))
    true = sample(denoiser, shape, Heun(int(steps), spacing="log_snr"), x_t=start, progress=False)
    for n in (6, 8, 9, 10, 12, 15, 20, 30):
        samplers = {"Fitted": Fitted(n), **{HAND + key: each for key, each in hand_made(n).items()}}
        away = {
            key: (sample(denoiser, shape, each, x_t=start, progress=False) - true).flatten(1).norm(dim=1)
            for key, each in samplers.items()
        }
        yield {"samples": count, "evaluations": n, **compared(away)}


def rounded(value: Any) -> Any:
    """Return the same with four digits of each number, so that what is kept can be read."""
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(each) for each in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


KINDS: dict[str, Callable[..., Iterator[dict[str, Any]]]] = {
    "gaussian": gaussian,
    "mixtures": mixtures,
    "network": network,
}


def main() -> None:
    """Run what is named and keep it beside what was run before."""
    torch.set_num_threads(1)
    kept: dict[str, Any] = json.loads(OUT.read_text()) if OUT.exists() else {}
    for what in sys.argv[1:]:
        key, *rest = what.split(":")
        began = time.monotonic()
        made = KINDS[key](*rest)
        name = f"{key} {Path(rest[0]).name}" if rest else key
        kept[name] = list(made)
        kept["versions"] = {
            "alphabar": alphabar.__version__,
            "diffusers": diffusers.__version__,
            "torch": torch.__version__,
        }
        OUT.write_text(json.dumps(rounded(kept), indent=1) + "\n")
        print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
