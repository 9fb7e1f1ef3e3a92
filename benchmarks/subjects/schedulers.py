"""Drop-in schedulers: whole runs of a pipeline, and noising."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from benchmarks import peers
from benchmarks.measure import Case, Result, Settings, measure
from benchmarks.subjects.chains import SMALL, caches, forget, pipeline_loop

TITLE = "Drop-in schedulers"
ABOUT = (
    "The schedulers of `alphabar.diffusers` and those of diffusers in the loop of a diffusers pipeline: "
    "`set_timesteps`, then each t once, on one 3×32×32 image. The network is a multiplication by ½. Defaults "
    "of both. What `set_timesteps` and the steps need is kept between runs of the same settings; *first use* "
    "makes the scheduler anew for each run, on both sides, and empties every cache of ours."
)
RUNS: dict[str, tuple[str, int, float | None]] = {
    "DDPM": ("DDPMScheduler", 100, 4),
    "DDIM": ("DDIMScheduler", 50, 4),
    "DPM-Solver++": ("DPMSolverMultistepScheduler", 20, 3),
    "UniPC": ("UniPCMultistepScheduler", 20, 3),
    "Euler": ("EulerDiscreteScheduler", 30, 2.5),
    "PNDM": ("PNDMScheduler", 50, 2),
    "Flow matching, Euler": ("FlowMatchEulerDiscreteScheduler", 28, None),
    "EDM, DPM-Solver++": ("EDMDPMSolverMultistepScheduler", 20, None),
    "LCM": ("LCMScheduler", 4, None),
}
"""The scheduler, the steps, and the ratio to diffusers that is to be reached."""


def run(settings: Settings) -> Iterator[Result]:
    """Measure every run, then noising."""
    if (theirs := peers.library("diffusers")) is None:
        return
    import alphabar.diffusers as ours

    caches.cache_clear()  # those of the adapter, which was not loaded before, count too
    for name, (scheduler, steps, aim) in RUNS.items():
        kinds = {"alphabar": getattr(ours, scheduler), "diffusers": getattr(theirs, scheduler)}
        again = {who: pipeline_loop(kind(), steps, SMALL, settings.device) for who, kind in kinds.items()}
        first = {who: _fresh(kind, steps, settings.device) for who, kind in kinds.items()}
        yield measure(Case(f"{name}, {steps} steps", again, {"diffusers": aim} if aim else {}), settings)
        yield measure(Case(f"{name}, {steps} steps, first use", first), settings)
    x, t = torch.randn(SMALL, device=settings.device), torch.tensor([400], device=settings.device)
    both = {"alphabar": ours.DDPMScheduler(), "diffusers": theirs.DDPMScheduler()}
    noising = {name: lambda scheduler=made: scheduler.add_noise(x, x, t) for name, made in both.items()}
    yield measure(Case("add_noise", noising, {"diffusers": 3}), settings)


def _fresh(kind: Any, steps: int, device: str) -> Callable[[], Any]:
    def call() -> Any:
        forget()
        return pipeline_loop(kind(), steps, SMALL, device)()

    return call
