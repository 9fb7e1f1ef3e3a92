"""A monotone cubic through a falling sequence.

    y(i + u) = the cubic with the values and slopes of both neighbours, 0 ≤ u ≤ 1

The slope at an integer is the harmonic mean of the differences on its two sides (Fritsch & Butland 1984,
SIAM J. Sci. Stat. Comput. 5, 300–304), so that the cubic falls everywhere, as the sequence does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

__all__ = ["Knots", "at", "between", "pieces", "through"]

Number = TypeVar("Number", float, Tensor)


class Knots(NamedTuple):
    """(N,) values and slopes at 0 … N−1."""

    value: Tensor
    slope: Tensor


def through(value: Tensor) -> Knots:
    """Return the knots of the cubic through the finite ones of (N,) values; a line at 0 through none."""
    value = value[value.isfinite()]
    value = value if len(value) else value.new_zeros(1)
    steps = value.diff()
    if len(value) < 3:
        return Knots(value, steps.expand(len(value)) if len(value) == 2 else torch.zeros_like(value))
    before, after = steps[:-1], steps[1:]
    first = ((3 * before[0] - after[0]) / 2).clamp(3 * before[0], torch.zeros(()))
    last = ((3 * after[-1] - before[-1]) / 2).clamp(3 * after[-1], torch.zeros(()))
    return Knots(value, torch.cat([first[None], 2 * before * after / (before + after), last[None]]))


def at(knots: Knots, t: Tensor) -> Tensor:
    """Return the cubic at t, 0 … N−1, in the shape and on the device of t."""
    return pieces(knots, t)(t)


def pieces(knots: Knots, t: Tensor) -> Callable[[Tensor], Tensor]:
    """Return the cubics of the intervals that these t lie in, as a function of t: looked up once."""
    value, slope = knots.value.to(t.device), knots.slope.to(t.device)
    i = t.long().clamp(max=max(len(value) - 2, 0))
    j = (i + 1).clamp(max=len(value) - 1)
    ends = value[i], value[j], slope[i], slope[j]
    return lambda t: between(*ends, t - i)


def between(value: Number, following: Number, slope: Number, next_slope: Number, u: Number) -> Number:
    """Return the cubic at 0 ≤ u ≤ 1 between two knots."""
    rise = following - value
    bend, next_bend = slope - rise, next_slope - rise
    return value + u * rise + u * (1 - u) * ((1 - u) * bend - u * next_bend)
