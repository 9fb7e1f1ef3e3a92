"""Noise and noising together, as each training step does it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from alphabar import NoiseSchedule, add_noise
from alphabar.process import address
from benchmarks import peers
from benchmarks.measure import Case, Result, Settings, measure
from benchmarks.subjects.noising import BATCH, LARGE, Data, example

TITLE = "Noise and noising"
ABOUT = (
    "Fresh noise, mixed into x_0 with one t a sample: what every training step begins with. The floor "
    "reads one tensor and writes one: noise that is made where it is needed costs no traffic."
)
AIM = 5.0


def run(settings: Settings) -> Iterator[Result]:
    """Measure both sizes."""
    for shape in (BATCH, LARGE):
        data = example(shape, torch.float32, settings.device)
        name = f"{'×'.join(map(str, shape))} float32"
        case = Case(name, _entrants(data), {"diffusers": AIM}, (data[0].numel(), "elements"))
        yield measure(case, settings)


def _entrants(data: Data) -> dict[str, Callable[[], torch.Tensor]]:
    x_0, _, t, out = data
    schedule = NoiseSchedule.linear()
    library = peers.library("diffusers")
    scheduler = library and library.DDPMScheduler()
    theirs = scheduler and (lambda: scheduler.add_noise(x_0, torch.randn_like(x_0), t))
    return peers.named(
        alphabar=lambda: add_noise(schedule, x_0, address(x_0.shape, seed=0), t, out=out),
        diffusers=theirs,
        floor=lambda: torch.mul(x_0, 0.5, out=out),
    )
