"""One row of a table, as one step of the peer: from its kind of sample and the network's raw output.

    x̂_0         = p · sample + q · output                                 then clipped
    prev_sample = a · sample + e · output + c · z + d · beginning + b_0 · x̂_0 + b_1 · kept' + …

The core's row acts on x. Some of the peer's schedulers keep x/√ᾱ instead ("variance exploding"): their
coefficients are the row's, divided by √ᾱ on either side. A step made for pipelines is bound by the calls, not
by the numbers: what earlier steps keep is rounded to float32 for anything up to float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import inf
from operator import itemgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor

from alphabar.errors import NoAnswerError
from alphabar.kernels import cpu, is_traced
from alphabar.process import Parameterisation
from alphabar.samplers import Row
from alphabar.schedule import Level

__all__ = ["STAY", "Ready", "Step", "mixed", "takes_kernels"]


class Terms(NamedTuple):
    """Which tensors, and what multiplies each."""

    places: tuple[int, ...]
    choose: itemgetter[Any]
    """Takes the tensors at these places, as a tuple, in one call; no graph can hold it."""
    numbers: Any
    """None for the one tensor as it is."""


@dataclass(frozen=True)
class Step:
    """Plain numbers."""

    read: tuple[float, float]
    """x̂_0: of the sample and the output."""
    advance: tuple[float, ...]
    """prev_sample: of the sample, the output, fresh noise, the sample that a longer step began with, x̂_0, and
    what earlier steps kept, newest first."""
    keeps: tuple[float, float] | None = (0.0, 1.0)
    """What later steps remember: of the sample and x̂_0; None for nothing."""
    draws: bool = False
    """Whether diffusers draws noise for it, used or not: a generator must come out as far along."""
    row: Row | None = None
    """Where the noise is scaled by the network's own answer."""
    begins: bool = False
    """Whether evaluations that follow start again from this one's sample."""

    @classmethod
    def of(
        cls,
        row: Row,
        t: Level,
        s: Level,
        reading: Parameterisation,
        exploding: bool = False,
        draws: bool = False,
        of_start: float = 0.0,
        begins: bool = False,
    ) -> Step:
        """Return a row between two levels as a step.

        Raises:
            NoAnswerError: ε-prediction where ᾱ_t = 0.
        """
        before, after = (1 / t.signal, 1 / s.signal) if exploding else (1.0, 1.0)
        of_x, of_output = read(reading, t)
        return cls(
            read=(of_x / before, of_output),
            advance=(
                row.x * after / before,
                0.0,
                row.z * after,
                of_start,
                *(b * after for b in row.history),
            ),
            keeps=(row.keeps[0] / before, row.keeps[1]),
            draws=draws,
            row=row if row.log_variance else None,
            begins=begins,
        )

    @classmethod
    def along(cls, t: Level, s: Level, of_eps: float, noise: float, reading: Parameterisation) -> Step:
        """Return √ᾱ_s · x̂_0 + of_eps · ε̂ + noise · z, with the ε̂ of the output even where x̂_0 is clipped."""
        of_x, of_output = (of_eps * part for part in reading.eps(t.signal, t.sigma))
        return cls(read(reading, t), (of_x, of_output, noise, 0.0, s.signal), draws=noise > 0)  # type: ignore[arg-type]

    def ready(self) -> Ready:
        """Return it prepared for arithmetic."""
        keeps = None if self.keeps is None else _terms(self.keeps, as_it_is=True)
        return Ready(
            _terms(self.read, as_it_is=True),
            _terms(self.advance),
            keeps,
            self.draws,
            self.row,
            self.begins,
            add_up,
        )


STAY = Step((0.0, 1.0), (1.0,), None)
"""A step of no length: where a spacing visits a level twice."""


class Ready(NamedTuple):
    """A step's coefficients that are not 0, each with the place of what it multiplies."""

    read: Terms
    advance: Terms
    keeps: Terms | None
    draws: bool
    row: Row | None
    begins: bool
    add_up: Callable[..., Tensor]


def read(reading: Parameterisation, t: Level) -> tuple[float, float]:
    """Return x̂_0's coefficients of x_t and the output.

    Raises:
        NoAnswerError: ε-prediction where ᾱ_t = 0.
    """
    try:
        return reading.x_0(t.signal, t.sigma)  # type: ignore[return-value]
    except ZeroDivisionError:
        raise NoAnswerError(
            "ε-prediction at a t with ᾱ_t = 0: the sample is pure noise, so ε says nothing about x_0. Use a "
            "network with v_prediction, or timestep_spacing='leading', which does not visit that t"
        ) from None


def mixed(steps: Sequence[Step], dtype: torch.dtype, ndim: int, device: torch.device) -> Ready:
    """Return one step for a batch whose samples each take their own."""

    def columns(rows: Sequence[tuple[float, ...]]) -> Terms:
        table = torch.tensor(rows, dtype=dtype, device=device).T.reshape(-1, len(rows), *[1] * (ndim - 1))
        return Terms((), itemgetter(slice(None)), table)

    row = steps[0].row
    if row is not None:
        bounds = torch.tensor([step.row.log_variance for step in steps], dtype=torch.float64)  # type: ignore[union-attr]
        low, high = bounds.T.reshape(2, -1, *[1] * (ndim - 1))
        row = replace(row, log_variance=(low, high))
    advance, draws = columns([step.advance for step in steps]), any(step.draws for step in steps)
    return Ready(columns([step.read for step in steps]), advance, None, draws, row, False, add_up_mixed)


def takes_kernels(sample: Tensor, output: Tensor) -> bool:
    """Whether the CPU kernels may serve: they are there, and nobody traces or differentiates."""
    if cpu.LIBRARY is None or not sample.is_cpu or is_traced():
        return False
    return not (torch.is_grad_enabled() and (sample.requires_grad or output.requires_grad))


def add_up(terms: Terms, tensors: tuple[Tensor, ...], quick: bool, limit: float = inf) -> Tensor:
    """Add up tensors with numbers, within ±limit; ``quick``: in one call of the CPU kernels, if they can."""
    places, choose, numbers = terms
    chosen = choose(tensors) if quick else tuple([tensors[place] for place in places])
    if numbers is None:
        only: Tensor = chosen[0]
        return only if limit == inf else only.clamp(-limit, limit)
    if quick:
        done = cpu.at_once(numbers, chosen, limit=limit)
        if done is not None:
            return done
    total: Tensor = chosen[0] * numbers[0]
    for tensor, coefficient in zip(chosen[1:], numbers[1:], strict=True):
        total = total.add_(tensor, alpha=coefficient)
    return total if limit == inf else total.clamp_(-limit, limit)


def add_up_mixed(terms: Terms, tensors: tuple[Tensor, ...], quick: bool, limit: float = inf) -> Tensor:
    """The same where each sample has its own coefficients."""
    total = torch.zeros_like(tensors[0])
    for tensor, coefficient in zip(tensors, terms.numbers, strict=False):
        total = total.addcmul_(tensor, coefficient)
    return total if limit == inf else total.clamp_(-limit, limit)


def _terms(coefficients: Sequence[float], *, as_it_is: bool = False) -> Terms:
    """The coefficients that are not 0, and what takes out the tensors they multiply, as a tuple."""
    kept = [(place, float(c)) for place, c in enumerate(coefficients) if c]
    places, numbers = (tuple(column) for column in zip(*kept, strict=True))
    choose = itemgetter(*places) if len(places) > 1 else itemgetter(slice(places[0], places[0] + 1))
    return Terms(places, choose, None if as_it_is and numbers == (1.0,) else numbers)
