"""Normals: how many standard normal numbers a second."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from alphabar.process import addressed
from benchmarks.measure import Case, Result, Settings, measure, threads

TITLE = "Noise"
ABOUT = (
    "Standard normal numbers, by address and from torch's stream; the floor fills the same memory with "
    "one number."
)
SHAPE = (64, 3, 256, 256)


def run(settings: Settings) -> Iterator[Result]:
    """Measure with one thread and with all that were asked for."""
    out = torch.empty(SHAPE, device=settings.device)
    entrants = {
        "alphabar": lambda: addressed.normal(SHAPE, seed=0, device=settings.device),
        "torch.randn": lambda: torch.randn(SHAPE, device=settings.device),
        "randn into out": lambda: torch.randn(SHAPE, out=out),
        "floor": lambda: out.fill_(1.0),
    }
    for count in sorted({1, settings.threads}) if settings.device == "cpu" else [settings.threads]:
        plural = "thread" if count == 1 else "threads"
        name = f"{'×'.join(map(str, SHAPE))} float32" + (f", {count} {plural}" * (settings.device == "cpu"))
        with threads(count):
            yield measure(Case(name, entrants, work=(out.numel(), "normals")), settings)
