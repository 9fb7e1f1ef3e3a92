"""One row of a table, as one step of the peer: from its kind of sample and the network's raw output.

    x̂_0         = p · sample + q · output                                 then clipped
    prev_sample = a · sample + e · output + c · z + b_0 · x̂_0 + b_1 · kept' + …

The core's row acts on x. Some of the peer's schedulers keep x/√ᾱ instead ("variance exploding"): their
coefficients are the row's, divided by √ᾱ on either side. Arithmetic is float32 for anything up to float32,
with each coefficient rounded once: a step made for pipelines is bound by the calls, not by the numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from alphabar.errors import NoAnswerError
from alphabar.levels import Level
from alphabar.plan import Row
from alphabar.prediction import Prediction

__all__ = ["STAY", "Ready", "Step", "mixed"]

Terms = tuple[tuple[int, Any], ...]


@dataclass(frozen=True)
class Step:
    """Plain numbers."""

    read: tuple[float, float]
    """x̂_0: of the sample and the output."""
    advance: tuple[float, ...]
    """prev_sample: of the sample, the output, fresh noise, x̂_0, and what earlier steps kept, newest first."""
    keeps: tuple[float, float] | None = (0.0, 1.0)
    """What later steps remember: of the sample and x̂_0; None for nothing."""
    draws: bool = False
    """Whether diffusers draws noise for it, used or not: a generator must come out as far along."""
    row: Row | None = None
    """Where the noise is scaled by the network's own answer."""

    @classmethod
    def of(
        cls, row: Row, t: Level, s: Level, reading: Prediction, exploding: bool = False, draws: bool = False
    ) -> Step:
        """Return a row between two levels as a step.

        Raises:
            NoAnswerError: ε-prediction where ᾱ_t = 0.
        """
        before, after = (1 / t.signal, 1 / s.signal) if exploding else (1.0, 1.0)
        of_x, of_output = read(reading, t)
        return cls(
            read=(of_x / before, of_output),
            advance=(row.x * after / before, 0.0, row.noise * after, *(b * after for b in row.history)),
            keeps=(row.keeps[0] / before, row.keeps[1]),
            draws=draws,
            row=row if row.log_variance else None,
        )

    @classmethod
    def along(cls, t: Level, s: Level, of_eps: float, noise: float, reading: Prediction) -> Step:
        """Return √ᾱ_s · x̂_0 + of_eps · ε̂ + noise · z, with the ε̂ of the output even where x̂_0 is clipped."""
        of_x, of_output = (of_eps * part for part in reading.eps(t.signal, t.noise))
        return cls(read(reading, t), (of_x, of_output, noise, s.signal), draws=noise > 0)  # type: ignore[arg-type]

    def ready(self, dtype: torch.dtype) -> Ready:
        """Return it prepared for arithmetic in this precision."""
        keeps = None if self.keeps is None else _terms(self.keeps, dtype, as_it_is=True)
        return Ready(
            _terms(self.read, dtype, as_it_is=True),
            _terms(self.advance, dtype),
            keeps,
            self.draws,
            self.row,
            add_up,
        )


STAY = Step((0.0, 1.0), (1.0, 0.0, 0.0), None)
"""A step of no length: where a spacing visits a level twice."""


class Ready(NamedTuple):
    """A step's coefficients that are not 0, each with the place of what it multiplies."""

    read: Terms
    advance: Terms
    keeps: Terms | None
    draws: bool
    row: Row | None
    add_up: Callable[[Terms, Sequence[Tensor]], Tensor]


def read(reading: Prediction, t: Level) -> tuple[float, float]:
    """Return x̂_0's coefficients of x_t and the output.

    Raises:
        NoAnswerError: ε-prediction where ᾱ_t = 0.
    """
    try:
        return reading.x_0(t.signal, t.noise)  # type: ignore[return-value]
    except ZeroDivisionError:
        raise NoAnswerError(
            "ε-prediction at a t with ᾱ_t = 0: the sample is pure noise, so ε says nothing about x_0. Use a "
            "network with v_prediction, or timestep_spacing='leading', which does not visit that t"
        ) from None


def mixed(steps: Sequence[Step], dtype: torch.dtype, ndim: int, device: torch.device) -> Ready:
    """Return one step for a batch whose samples each take their own."""

    def columns(rows: Sequence[tuple[float, ...]]) -> Terms:
        table = torch.tensor(rows, dtype=dtype, device=device).T.reshape(-1, len(rows), *[1] * (ndim - 1))
        return tuple(enumerate(table))

    row = steps[0].row
    if row is not None:
        bounds = torch.tensor([step.row.log_variance for step in steps], dtype=torch.float64)  # type: ignore[union-attr]
        low, high = bounds.T.reshape(2, -1, *[1] * (ndim - 1))
        row = replace(row, log_variance=(low, high))
    advance, draws = columns([step.advance for step in steps]), any(step.draws for step in steps)
    return Ready(columns([step.read for step in steps]), advance, None, draws, row, add_up_mixed)


def add_up(terms: Terms, tensors: Sequence[Tensor]) -> Tensor:
    """Add up tensors with numbers, in as few calls as there are terms."""
    place, first = terms[0]
    if first is None:
        return tensors[place]
    total: Tensor = tensors[place] * first
    for place, coefficient in terms[1:]:
        total = total.add_(tensors[place], alpha=coefficient)
    return total


def add_up_mixed(terms: Terms, tensors: Sequence[Tensor]) -> Tensor:
    """The same where each sample has its own coefficients."""
    total = torch.zeros_like(tensors[0])
    for place, coefficient in terms:
        total = total.addcmul_(tensors[place], coefficient)
    return total


def _terms(coefficients: Sequence[float], dtype: torch.dtype, *, as_it_is: bool = False) -> Terms:
    """The first one as a tensor of no dimension: torch multiplies by it sooner than by a number."""
    kept = [(place, c) for place, c in enumerate(coefficients) if c]
    if as_it_is and len(kept) == 1 and kept[0][1] == 1:
        return ((kept[0][0], None),)
    return tuple((place, c if i else torch.tensor(c, dtype=dtype)) for i, (place, c) in enumerate(kept))
