"""Drop-in schedulers: whole runs of a pipeline, and noising."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from benchmarks import peers
from benchmarks.measure import Case, Result, Settings, measure
from benchmarks.subjects.chains import FIRST_USE, SMALL, forget, pipeline_loop

TITLE = "Drop-in schedulers"
ABOUT = (
    "The schedulers of `alphabar.diffusers` and those of diffusers in the loop of a diffusers pipeline: "
    "`set_timesteps`, then each t once, on one 3×32×32 image. The network is a multiplication by ½. Defaults "
    "of both. *First use* is ours made anew for each run, with every cache emptied."
)
RUNS: dict[str, tuple[str, int]] = {
    "DDPM": ("DDPMScheduler", 100),
    "DDIM": ("DDIMScheduler", 50),
    "DPM-Solver++": ("DPMSolverMultistepScheduler", 20),
    "UniPC": ("UniPCMultistepScheduler", 20),
    "Euler": ("EulerDiscreteScheduler", 30),
    "PNDM": ("PNDMScheduler", 50),
}


def run(settings: Settings) -> Iterator[Result]:
    """Measure every run, then noising."""
    if (theirs := peers.library("diffusers")) is None:
        return
    import alphabar.diffusers as ours

    for name, (scheduler, steps) in RUNS.items():
        entrants = {
            "alphabar": pipeline_loop(getattr(ours, scheduler)(), steps, SMALL, settings.device),
            FIRST_USE: _fresh(getattr(ours, scheduler), steps, settings.device),
            "diffusers": pipeline_loop(getattr(theirs, scheduler)(), steps, SMALL, settings.device),
        }
        yield measure(Case(f"{name}, {steps} steps", entrants), settings)
    x, t = torch.randn(SMALL, device=settings.device), torch.tensor([400], device=settings.device)
    both = {"alphabar": ours.DDPMScheduler(), "diffusers": theirs.DDPMScheduler()}
    noising = {name: lambda scheduler=made: scheduler.add_noise(x, x, t) for name, made in both.items()}
    yield measure(Case("add_noise", noising, {"diffusers": 3}), settings)


def _fresh(kind: Any, steps: int, device: str) -> Callable[[], Any]:
    def call() -> Any:
        forget()
        return pipeline_loop(kind(), steps, SMALL, device)()

    return call
