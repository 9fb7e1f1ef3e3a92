"""Whole chains: from noise to sample, everything around a network that costs nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor

from alphabar import (
    DDIM,
    DDPM,
    DEIS,
    LMS,
    PNDM,
    Denoiser,
    DPMSolver,
    Euler,
    Heun,
    NoiseSchedule,
    UniPC,
    sample,
)
from alphabar.samplers import Sampler
from benchmarks import peers
from benchmarks.measure import OURS, Case, Result, Settings, measure

TITLE = "Whole chains"
ABOUT = (
    "`sample()` and the loop of a diffusers pipeline, from the first noise to the last step: planning or "
    "`set_timesteps` included, each t once. The network is a multiplication by ½, so what is compared is "
    "all that surrounds a network. Linear schedule, T = 1000, ε-prediction, trailing spacing, no clipping; "
    "noise by address here, from a generator there. *First use* makes schedule or scheduler anew and empties "
    "every cache of ours, as in a process that samples once. azula runs its own samplers. The floor is the "
    "network alone. The last line compares the cost of a step in long chains with that in short ones."
)
PICTURED = "16×3×32×32"
SMALL, BATCH = (1, 3, 32, 32), (16, 3, 32, 32)
CONSTANT = 0.9  # a step of a long chain costs at most so much more than one of a short chain, as 1/1.1

CHAINS: dict[str, tuple[Callable[[int], Sampler], str, dict[str, Any]]] = {
    "DDPM": (DDPM, "DDPMScheduler", {"clip_sample": False}),
    "DDIM": (DDIM, "DDIMScheduler", {"clip_sample": False}),
    "Euler": (Euler, "EulerDiscreteScheduler", {}),
    "Heun": (Heun, "HeunDiscreteScheduler", {}),
    "DPM-Solver++ 2M": (DPMSolver, "DPMSolverMultistepScheduler", {}),
    "UniPC 2": (UniPC, "UniPCMultistepScheduler", {}),
    "DEIS 3": (DEIS, "DEISMultistepScheduler", {"solver_order": 3}),
    "LMS 4": (LMS, "LMSDiscreteScheduler", {}),
    "PNDM": (PNDM, "PNDMScheduler", {"skip_prk_steps": True}),
}
"""Ours, and theirs with its settings."""

RUNS: tuple[tuple[str, int, tuple[int, ...], float | None], ...] = (
    ("DDPM", 1000, SMALL, 2.0),
    ("DDPM", 100, BATCH, 2.0),
    ("DDIM", 50, SMALL, 1.8),
    ("DDIM", 50, BATCH, 1.8),
    ("Euler", 30, BATCH, None),
    ("Heun", 15, BATCH, None),
    ("DPM-Solver++ 2M", 20, BATCH, None),
    ("UniPC 2", 20, BATCH, None),
    ("DEIS 3", 20, BATCH, None),
    ("LMS 4", 30, BATCH, None),
    ("PNDM", 50, BATCH, None),
)
"""What is run: sampler, steps, shape, and the ratio to diffusers that is to be reached."""


def run(settings: Settings) -> Iterator[Result]:
    """Measure every chain, then short ones beside long ones."""
    for name, steps, shape, aim in RUNS:
        kind, theirs, options = CHAINS[name]
        device, size = settings.device, f"{name}, {steps} steps, {_size(shape)}"
        entrants = peers.named(
            alphabar=ours(kind(steps), shape, device),
            diffusers=diffusers_chain(theirs, options, steps, shape, device),
            azula=azula_chain(name, steps, shape, device),
            floor=floor(len(kind(steps).plan(NoiseSchedule.linear())), shape, device),
        )
        first = peers.named(
            alphabar=partial(first_use, kind, steps, shape, device),
            diffusers=diffusers_first_use(theirs, options, steps, shape, device),
        )
        yield measure(Case(size, entrants, {"diffusers": aim} if aim else {}), settings)
        yield measure(Case(f"{size}, first use", first), settings)
    yield _per_step(settings)


def ours(sampler: Sampler, shape: tuple[int, ...], device: str) -> Callable[[], Tensor]:
    """Return the call that a user writes."""
    denoiser = Denoiser(lambda x_t, t: x_t * 0.5, NoiseSchedule.linear())
    return lambda: sample(denoiser, shape, sampler, seed=0, device=device, progress=False)


def first_use(kind: Callable[[int], Sampler], steps: int, shape: tuple[int, ...], device: str) -> Tensor:
    """Sample as in a process that does so once: the schedule and the plan are made, and nothing is held."""
    forget()
    return ours(kind(steps), shape, device)()


def diffusers_chain(
    name: str, options: dict[str, Any], steps: int, shape: tuple[int, ...], device: str
) -> Callable[[], Tensor] | None:
    """Return the loop of a diffusers pipeline with one scheduler, whose t are spaced as ours."""
    if (library := peers.library("diffusers")) is None:
        return None
    return pipeline_loop(getattr(library, name)(**options, timestep_spacing="trailing"), steps, shape, device)


def diffusers_first_use(
    name: str, options: dict[str, Any], steps: int, shape: tuple[int, ...], device: str
) -> Callable[[], Tensor] | None:
    """Return the same with the scheduler made anew for each run."""
    if (library := peers.library("diffusers")) is None:
        return None
    kind = getattr(library, name)
    made = partial(kind, **options, timestep_spacing="trailing")
    return lambda: pipeline_loop(made(), steps, shape, device)()  # noqa: PLW0108  a run makes its own


def pipeline_loop(scheduler: Any, steps: int, shape: tuple[int, ...], device: str) -> Callable[[], Tensor]:
    """Return the loop of diffusers' DDPMPipeline and its kin around a scheduler."""
    draws = "generator" in type(scheduler).step.__code__.co_varnames
    # diffusers' schedulers of flow matching have neither of these.
    scaled = getattr(scheduler, "scale_model_input", lambda x, t: x)
    is_scaled = hasattr(scheduler, "init_noise_sigma")

    def call() -> Tensor:
        generator = torch.Generator(device).manual_seed(0)
        scheduler.set_timesteps(steps, device=device)
        x = torch.randn(shape, generator=generator, device=device)
        x = x * scheduler.init_noise_sigma if is_scaled else x
        more = {"generator": generator} if draws else {}
        for t in scheduler.timesteps:
            x = scheduler.step(scaled(x, t) * 0.5, t, x, **more).prev_sample
        return x

    return call


def azula_chain(name: str, steps: int, shape: tuple[int, ...], device: str) -> Callable[[], Tensor] | None:
    """Return azula's own sampling, where it has that sampler."""
    kind = {"DDPM": "DDPMSampler", "DDIM": "DDIMSampler", "Euler": "EulerSampler"}.get(name)
    if kind is None or peers.library("azula") is None:
        return None
    sampler = getattr(peers.library("azula"), kind)(peers.azula_denoiser(device), steps=steps, silent=True)
    return lambda: sampler(sampler.init(shape, device=device))


def floor(evaluations: int, shape: tuple[int, ...], device: str) -> Callable[[], None]:
    """Return the evaluations of the network alone."""
    x = torch.randn(shape, device=device)

    def call() -> None:
        for _ in range(evaluations):
            x * 0.5

    return call


def forget() -> None:
    """Empty every cache of the package, as a fresh process has them."""
    for clear in caches():
        clear()


@lru_cache
def caches() -> list[Callable[[], None]]:
    """Return what empties each cache of the modules that are loaded."""
    modules = [module for name, module in sys.modules.items() if name.partition(".")[0] == "alphabar"]
    held = [value for module in modules for value in vars(module).values() if hasattr(value, "cache_clear")]
    kinds = [value for module in modules for value in vars(module).values() if hasattr(value, "plan")]
    plans = [kind.plan for kind in kinds if hasattr(kind.plan, "cache_clear")]
    return [value.cache_clear for value in {id(value): value for value in (*held, *plans)}.values()]


def _per_step(settings: Settings) -> Result:
    """Time chains of DDIM of 50 and of 1000 steps, and divide by the steps."""
    counts = {OURS: 1000, "50 steps": 50}
    calls = {name: ours(DDIM(steps), SMALL, settings.device) for name, steps in counts.items()}
    found = measure(Case(f"DDIM, one step of 1000, {_size(SMALL)}", calls, {"50 steps": CONSTANT}), settings)
    samples = {name: [seconds / counts[name] for seconds in found.samples[name]] for name in counts}
    return replace(found, samples=samples)


def _size(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))
