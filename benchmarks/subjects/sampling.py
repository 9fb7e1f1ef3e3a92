"""Whole sampling: to the same quality, and with the same network evaluations."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from alphabar.denoise.denoiser import Denoiser
from alphabar.samplers.ddim import DDIM
from alphabar.samplers.euler import Heun
from alphabar.samplers.exact import GaussianMixture
from alphabar.samplers.loop import sample
from alphabar.samplers.plan import Sampler
from alphabar.samplers.registry import SOLVERS
from alphabar.schedule.levels import log_alpha_bar_between
from alphabar.schedule.noise_schedule import NoiseSchedule
from alphabar.training.network import unet
from benchmarks import peers
from benchmarks.measure import OURS, Case, Result, Settings, measure

TITLE = "Whole sampling"
ABOUT = (
    "*Equal quality*: data are a Gaussian mixture whose exact denoiser stands for the network. Of "
    "diffusers' solvers and their settings the one that comes nearest to the true end points (median "
    "distance, against a Heun run of 500 steps) with N evaluations sets the mark; ours is the solver that "
    "reaches it with the fewest. *Equal evaluations*: DDIM with 50 steps through a small U-Net; the floor "
    "is the network alone."
)
EVALUATIONS = (10, 20, 50)
NOT_SLOWER = 0.97  # the network takes nearly all the time, and it is the same
STARTS, SEARCHED, DIMENSIONS, REFERENCE = 2048, 128, 16, 500


class Run(NamedTuple):
    """A way to sample, and how far from the true end points it arrives."""

    name: str
    call: Callable[[], Tensor]
    error: float
    evaluations: int


@dataclass(frozen=True, eq=False)
class Problem:
    """A mixture, where sampling starts, and where it should end."""

    mixture: GaussianMixture
    schedule: NoiseSchedule
    start: Tensor
    end: Tensor

    def error(self, reached: Tensor) -> float:
        """Return the median distance to the true end points: the mean is that of the few on a watershed."""
        return float((reached.double() - self.end).norm(dim=1).median())

    def network(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Answer as a network of ε-prediction would that has learned all there is."""
        level, signal, spread = _level(self.schedule, float(t.flatten()[0]))
        return (x_t - signal * self.mixture.mean_given(x_t, level.to(x_t))) / spread

    def part(self, count: int) -> Problem:
        """Return the problem with fewer starts."""
        return replace(self, start=self.start[:count], end=self.end[:count])


@lru_cache(maxsize=4096)
def _level(schedule: NoiseSchedule, t: float) -> tuple[Tensor, float, float]:
    """Return log ᾱ_t and both scales, remembered: a network takes no longer between the integers."""
    log_alpha_bar = log_alpha_bar_between(schedule, t)
    return log_alpha_bar, float((log_alpha_bar / 2).exp()), float((-log_alpha_bar.expm1()).sqrt())


def run(settings: Settings) -> Iterator[Result]:
    """Measure at equal quality, then at equal evaluations."""
    yield from _equal_quality(settings)
    yield _equal_evaluations(settings)


def problem(device: str) -> Problem:
    """Return a mixture of ten round blobs of several widths."""
    rng, schedule = torch.Generator().manual_seed(0), NoiseSchedule.linear()
    means = (torch.rand(10, DIMENSIONS, generator=rng, dtype=torch.float64) * 2 - 1).to(device)
    widths = torch.linspace(0.05, 0.3, 10, dtype=torch.float64, device=device)
    start = torch.randn(STARTS, DIMENSIONS, generator=rng).to(device)
    exact = GaussianMixture(means, widths).denoiser(schedule)
    end = _ours(exact, Heun(REFERENCE, spacing="log_snr"), start.double(), torch.float64)
    return Problem(GaussianMixture(means.float(), widths.float()), schedule, start, end)


def _ours(denoiser: Any, sampler: Sampler, start: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    return sample(denoiser, start.shape, sampler, x_t=start, dtype=dtype, progress=False)


SETTINGS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("DDIMScheduler", {"clip_sample": False}),
    ("DPMSolverMultistepScheduler", {}),
    ("DPMSolverMultistepScheduler", {"solver_order": 3}),
    ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    ("DPMSolverMultistepScheduler", {"use_lu_lambdas": True}),
    ("DPMSolverMultistepScheduler", {"use_lu_lambdas": True, "solver_order": 3}),
    ("UniPCMultistepScheduler", {}),
    ("UniPCMultistepScheduler", {"solver_order": 3}),
    ("UniPCMultistepScheduler", {"use_karras_sigmas": True, "solver_order": 3}),
    ("DEISMultistepScheduler", {"solver_order": 3}),
)
"""Those of diffusers' solvers that scale nothing, with the settings that their documentation recommends."""


PEERS = [
    (name, options | {"timestep_spacing": way})
    for name, options in SETTINGS
    for way in ("linspace", "trailing")
]


def peer_run(library: Any, name: str, options: dict[str, Any], count: int, on: Problem) -> Run:
    """Return diffusers' loop with one scheduler, and what it reaches."""
    scheduler = getattr(library, name)(**options)

    def call() -> Tensor:
        scheduler.set_timesteps(count, device=on.start.device)
        x = on.start
        for t in scheduler.timesteps:
            x = scheduler.step(on.network(x, t), t, x).prev_sample
        return x

    told = ", ".join(f"{key}={value}" for key, value in options.items() if key != "clip_sample")
    return Run(f"{name}({told})", call, on.error(call()), len(scheduler.timesteps))


TRIED = [(name, spacing) for name in SOLVERS if name != "PNDM" for spacing in ("trailing", "log_snr")]
"""Our own; PNDM cannot begin with fewer than four evaluations."""


def our_run(name: str, spacing: str, count: int, on: Problem) -> Run:
    """Return our loop with one solver, and what it reaches."""
    sampler = SOLVERS[name](count, spacing)
    denoiser = Denoiser(on.network, on.schedule)

    def call() -> Tensor:
        return _ours(denoiser, sampler, on.start)

    return Run(f"{name}, {spacing}", call, on.error(call()), len(sampler.plan(on.schedule)))


def _equal_quality(settings: Settings) -> Iterator[Result]:
    if (library := peers.library("diffusers")) is None:
        return
    on = problem(settings.device)
    some = on.part(SEARCHED)
    for count in EVALUATIONS:
        theirs = min(
            ((peer_run(library, *peer, count, some), peer) for peer in PEERS), key=lambda one: one[0].error
        )[1]
        mark = peer_run(library, *theirs, count, on)
        mine = _fewest(mark.error, count, some, on)
        notes = {
            run: f"{of.name}: {of.evaluations} evaluations, error {of.error:.2g}"
            for run, of in (("diffusers", mark), (OURS, mine))
        }
        case = Case(
            f"as near as diffusers with {count} evaluations", {OURS: mine.call, "diffusers": mark.call}
        )
        yield replace(measure(case, settings), notes=notes)


def _fewest(error: float, count: int, some: Problem, on: Problem) -> Run:
    """Return our run that comes as near with the fewest evaluations; ways are chosen on some starts."""
    low, high, best = 1, 2 * count, None
    while high - low > 1:
        few = (low + high) // 2
        way = min(TRIED, key=lambda one: our_run(*one, few, some).error)
        reached = our_run(*way, few, on)
        low, high, best = (low, few, reached) if reached.error <= error else (few, high, best)
    return best or reached


def _equal_evaluations(settings: Settings) -> Result:
    torch.manual_seed(0)
    network = unet((1, 8, 8)).to(settings.device).eval()
    schedule, start = NoiseSchedule.linear(), torch.randn(16, 1, 8, 8, device=settings.device)
    denoiser = Denoiser(network, schedule)
    t = torch.full((16,), 500, device=settings.device)
    entrants = peers.named(
        alphabar=lambda: _ours(denoiser, DDIM(50), start),
        diffusers=_peer_ddim(copy.deepcopy(network), start),
        floor=lambda: [network(start, t) for _ in range(50)],
    )
    return measure(
        Case("DDIM, 50 evaluations of a U-Net, 16×1×8×8", entrants, {"diffusers": NOT_SLOWER}), settings
    )


def _peer_ddim(network: Callable[..., Any], start: Tensor) -> Callable[[], Tensor] | None:
    if (library := peers.library("diffusers")) is None:
        return None
    scheduler = library.DDIMScheduler(clip_sample=False, timestep_spacing="trailing")

    def call() -> Tensor:
        scheduler.set_timesteps(50, device=start.device)
        x = start
        for t in scheduler.timesteps:
            x = scheduler.step(network(x, t).sample, t, x).prev_sample
        return x

    return call
