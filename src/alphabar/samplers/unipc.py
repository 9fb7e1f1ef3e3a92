"""UniPC: predict as DPM-Solver++ does, and correct the prediction with the estimate made at it, for free.

    x̃_s = σ_s/σ_t · x_t + √ᾱ_s (1 − e^{−h}) · x̂_0 + √ᾱ_s Σ_k w_k · (x̂_0⁽ᵏ⁾ − x̂_0)           (UniP)
    x_s  = the same, with the estimate at (x̃_s, s) as one more point                       (UniC)

Zhao et al. 2023, arXiv 2302.04867, algorithms 1 and 2 in the form for x̂_0. The estimate at x̃_s serves the
correction and the next prediction, so a step still costs one evaluation.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from alphabar.errors import ConfigError, look_up
from alphabar.samplers.plan import Form, Row, Stepwise
from alphabar.samplers.quadrature import moments
from alphabar.samplers.steps import Moments, check_order, compose, start_of, step
from alphabar.schedule import Level, Spacing

__all__ = ["SCALES", "UniPC"]


def bh1(z: float, count: int) -> list[float]:
    """With a single point w = ½ B(h), B(h) = h; with more, B(h) cancels."""
    return [-z / 2] if count == 1 else moments(z, count)


def bh2(z: float, count: int) -> list[float]:
    """With a single point w = ½ B(h), B(h) = 1 − e^{−h}; with more, B(h) cancels."""
    return [-math.expm1(z) / 2] if count == 1 else moments(z, count)


SCALES: dict[str, Moments] = {"bh1": bh1, "bh2": bh2}


@dataclass(frozen=True)
class UniPC(Stepwise):
    """The unified predictor-corrector: algorithms 1 and 2 of Zhao et al. 2023.

    >>> from alphabar import NoiseSchedule
    >>> [len(row.history) for row in UniPC(steps=4).plan(NoiseSchedule.linear()).rows]
    [1, 2, 3, 3]

    Args:
        steps: evaluations of the network, 1 … T; None for all T, or for as many as ``spacing`` lists.
        order: p of the predictor, 1 … 3; with the corrector the method converges with order p + 1.
        scale: ``"bh1"`` or ``"bh2"``, the B(h) of the paper.
        lower_order_final: let the order fall to 1 over the last steps.
        uncorrected: the steps, counted from 0, whose prediction is left as it is.
        spacing: a name in ``SPACINGS``, a function that spaces, or the list of t.

    Raises:
        ConfigError: another order, ``uncorrected`` of no whole numbers, or steps as in :class:`Stepwise`.
        UnknownNameError, TimestepError: another scale or spacing.
    """

    steps: int | None = None
    order: int = 2
    scale: str = "bh2"
    lower_order_final: bool = True
    uncorrected: Collection[int] = ()
    spacing: Spacing = "karras"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_order(self.order, 3)
        look_up(SCALES, self.scale, "scale")
        uncorrected = tuple(self.uncorrected) if isinstance(self.uncorrected, Iterable) else (None,)
        if not all(isinstance(i, int) and i >= 0 for i in uncorrected):
            raise ConfigError(f"uncorrected is {self.uncorrected!r}: give the numbers of steps, as in (0, 1)")
        object.__setattr__(self, "uncorrected", uncorrected)

    def rows(self, levels: Sequence[Level]) -> Iterator[Row]:
        """Return the table on given levels, each noisier than the next."""
        integrals, order, predicted = SCALES[self.scale], 0, Form()
        for i, (t, s) in enumerate(pairwise(levels)):
            start = [1.0]
            if i and i - 1 not in self.uncorrected:
                known = {k: levels[i - k] for k in range(order + 1)}
                start = compose(step(levels[i - 1], t, known, integrals, base=1), start_of(predicted))
            left = len(levels) - 1 - i if self.lower_order_final else self.order
            order = min(self.order, i + 1, left)
            predicted = step(t, s, {k: levels[i - k] for k in range(order)}, integrals)
            yield Row.of(t, s, compose(predicted, start))
