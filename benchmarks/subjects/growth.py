"""Growth with size: noising 1 … 10⁸ elements."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from statistics import linear_regression, median

import torch

from benchmarks import peers
from benchmarks.measure import OURS, Case, Result, Settings, measure
from benchmarks.subjects.noising import example, with_out

TITLE = "Growth with size"
ABOUT = (
    "Noising one sample of n float32 elements into a given output. Below 10⁵ elements a call costs what "
    "surrounds the arithmetic; from there time grows with size, a straight line of slope 1 but for the "
    "step where the tensors leave the cache. *Slope* is that of log time against log n from 10⁵ up, "
    "beside the floor's."
)
CURVE = "elements"
STRAIGHT = 10**5


def run(settings: Settings) -> Iterator[Result]:
    """Measure each size, then say how straight the line is."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for power in range(9):
        size = 10**power
        entrants = with_out(example((1, size), torch.float32, settings.device))
        aims = {"diffusers": 1.0} if peers.library("diffusers") else {}
        result = measure(Case(f"10^{power} elements", entrants, aims), settings, x=size)
        for name, numbers in result.samples.items():
            lines.setdefault(name, []).append((size, median(numbers)))
        slopes = {f"slope of {name}": round(slope(lines[name]), 3) for name in (OURS, "floor") if power == 8}
        yield replace(result, notes=slopes)


def slope(points: list[tuple[float, float]]) -> float:
    """Return the slope of log time against log n where the line should be straight."""
    straight = [(math.log(n), math.log(seconds)) for n, seconds in points if n >= STRAIGHT]
    return linear_regression(*zip(*straight, strict=True)).slope
