"""Data of known distribution, drawn by a seed, and how near samples are to it.

    mixture    (2,)       eight Gaussians on a ring
    sines      (1, 64)    sine curves of random amplitude, frequency and phase

Each is a file with two functions, ``draw`` and ``score``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from torch import Tensor

from recipes.problems import mixture, sines

__all__ = ["PROBLEMS", "Columns", "Problem"]

Columns = Mapping[str, Tensor]
"""``x``, (N, C, …), and what a network is told, (N, …), by name."""


class Problem(NamedTuple):
    """A distribution that can be drawn from exactly."""

    draw: Callable[[int, int], Columns]
    """``draw(count, seed)`` returns rows."""
    score: Callable[[Columns, Columns], dict[str, float]]
    """``score(found, true)`` compares rows with as many true ones; both hold what was asked for."""
    rows: int
    """To train on."""


PROBLEMS = {
    "mixture": Problem(mixture.draw, mixture.score, 50_000),
    "sines": Problem(sines.draw, sines.score, 50_000),
}
