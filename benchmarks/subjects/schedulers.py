"""Drop-in schedulers: what one call costs beyond the arithmetic, on (1, 3, 32, 32)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from benchmarks import peers
from benchmarks.measure import Case, Result, Settings, measure
from benchmarks.subjects.steps import running

TITLE = "Drop-in schedulers"
ABOUT = (
    "The schedulers of `alphabar.diffusers` and those of diffusers, by the calls of a diffusers pipeline, "
    "on one small image: there a call costs what surrounds the arithmetic. Defaults, 50 steps."
)
SHAPE, STEPS = (1, 3, 32, 32), 50


def _one_step(scheduler: Any, x: Tensor, output: Tensor) -> Callable[[], Any]:
    """Step from the same t each time."""
    t = scheduler.timesteps[10]
    return lambda: scheduler.step(output, t, x)


def _running(scheduler: Any, x: Tensor, output: Tensor) -> Callable[[], Any]:
    """Step through whole runs, as a pipeline does, their beginnings included."""
    return running(scheduler, x, output, lambda: scheduler.set_timesteps(STEPS, device=x.device))


def _noising(scheduler: Any, x: Tensor, output: Tensor) -> Callable[[], Any]:
    t = torch.tensor([400], device=x.device)
    return lambda: scheduler.add_noise(x, output, t)


MEASURED: dict[str, tuple[Callable[[Any, Tensor, Tensor], Callable[[], Any]], str, float | None]] = {
    "DDPM step": (_one_step, "DDPMScheduler", 5),
    "DDIM step": (_one_step, "DDIMScheduler", 8),
    "DPM-Solver++ step": (_running, "DPMSolverMultistepScheduler", 4),
    "UniPC step": (_running, "UniPCMultistepScheduler", None),
    "add_noise": (_noising, "DDPMScheduler", 3),
}


def run(settings: Settings) -> Iterator[Result]:
    """Measure every call."""
    if (theirs := peers.library("diffusers")) is None:
        return
    import alphabar.diffusers as ours

    x, output = torch.randn(2, *SHAPE, device=settings.device).unbind()
    for name, (make, scheduler, aim) in MEASURED.items():
        entrants = {}
        for entrant, library in (("alphabar", ours), ("diffusers", theirs)):
            made = getattr(library, scheduler)()
            made.set_timesteps(STEPS, device=settings.device)
            entrants[entrant] = make(made, x, output)
        yield measure(Case(name, entrants, {"diffusers": aim} if aim else {}), settings)
