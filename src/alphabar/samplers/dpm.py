"""DPM-Solver++: x̂_0 as a polynomial in λ, half the log-SNR (Lu et al. 2022, arXiv 2211.01095).

    x_s = σ_s/σ_t · x_t + σ_s ∫_{λ_t}^{λ_s} e^λ x̂_0(λ) dλ        (proposition 4.1)

In multistep form the polynomial goes through the latest estimates, in single-step form through estimates
made on the way, each reached from where the step began. With ``sde`` the noise's equation is solved in the
same way (section 5), and fresh noise is added.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from alphabar.errors import ConfigError, look_up
from alphabar.samplers.plan import Form, Row, Stepwise
from alphabar.samplers.quadrature import moments
from alphabar.samplers.steps import (
    Moments,
    check_order,
    compose,
    ddim_row,
    fresh_noise,
    multistep,
    sde_row,
    start_of,
    step,
    x_0_of,
)
from alphabar.schedule import Level, Spacing

__all__ = ["RULES", "DPMSolver"]


def taylor(z: float, count: int) -> list[float]:
    """μ_1 exact, and half of μ_2: the authors' ``taylor`` in multistep form."""
    return [integral / (k + 1) for k, integral in enumerate(moments(z, count))]


def midpoint(z: float, count: int) -> list[float]:
    """The same with μ_1 ≈ ½ μ_0 where it is the only one: the authors' ``dpmsolver`` in multistep form."""
    return [-math.expm1(z) / 2] if count == 1 else taylor(z, count)


RULES: dict[str, Moments] = {"midpoint": midpoint, "taylor": taylor, "exact": moments}
"""The integrals of a multistep solver. In single-step form the authors' code halves no μ_2."""


@dataclass(frozen=True)
class DPMSolver(Stepwise):
    """DPM-Solver++: algorithms 1 and 2 of Lu et al. 2022.

    >>> from alphabar import NoiseSchedule
    >>> [len(row.history) for row in DPMSolver(steps=5, order=3).plan(NoiseSchedule.linear()).rows]
    [1, 2, 3, 2, 1]

    Args:
        steps: evaluations of the network, 1 … T; None for all T, or for as many as ``spacing`` lists.
        order: 1 (this is DDIM), 2 or 3.
        multistep: remember estimates; otherwise make them on the way, ``order`` evaluations a step.
        sde: solve the stochastic equation; in multistep form only.
        rule: ``"midpoint"`` or ``"taylor"``, the integrals of the authors' code, with which a multistep
            order of 3 converges with order 2; or ``"exact"``. In single-step form ``"taylor"`` is exact.
        lower_order_final: let the order of a multistep solver fall to 1 over its last steps.
        spacing: a name in ``SPACINGS``, a function that spaces, or the list of t.

    Raises:
        ConfigError: another order, ``sde`` without ``multistep``, or steps as in :class:`Stepwise`.
        UnknownNameError, TimestepError: another rule or spacing.
    """

    steps: int | None = None
    order: int = 2
    multistep: bool = True
    sde: bool = False
    rule: str = "midpoint"
    lower_order_final: bool = True
    spacing: Spacing = "karras"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_order(self.order, 3)
        look_up(RULES, self.rule, "rule")
        if self.sde and not self.multistep:
            raise ConfigError("sde is solved in multistep form: leave multistep=True")

    def rows(self, levels: Sequence[Level]) -> Iterator[Row]:
        """Return the table on given levels, each noisier than the next."""
        return (self._multistep if self.multistep else self._single_step)(levels)

    def _multistep(self, levels: Sequence[Level]) -> Iterator[Row]:
        rule, speed = RULES[self.rule], 2 if self.sde else 1

        def integrals(t: Level, s: Level, count: int) -> list[float]:
            return [s.signal * mu for mu in rule(speed * (t.half_log_snr - s.half_log_snr), count)]

        return multistep(
            levels,
            self.order,
            lambda level: level.half_log_snr,
            integrals,
            x_0_of,
            lower_order_final=self.lower_order_final,
            first_order=sde_row if self.sde else ddim_row,
        )

    def _single_step(self, levels: Sequence[Level]) -> Iterator[Row]:
        last: Form = []
        for (t, s), (made, form, _) in zip(pairwise(levels), self.evaluations(levels), strict=True):
            yield Row.of(t, s, compose(form, start_of(last)) if made else form)
            last = form

    def evaluations(
        self,
        levels: Sequence[Level],
        orders: Sequence[int] = (),
        *,
        sde: bool = False,
        within: Moments = moments,
    ) -> Iterator[tuple[int, Form, float]]:
        """Return for each evaluation in single-step form where it leads from the start of its step.

        Args:
            levels: each noisier than the next.
            orders: for each evaluation its number within its step; 1 begins one. By default 1 … ``order``.
            sde: solve the stochastic equation.
            within: the integrals on the way, before a step's last evaluation; the authors' are exact.

        Returns:
            How many evaluations came before it, the form of the step's start, and the noise that is added.
        """
        orders = [*(orders or self._orders(len(levels) - 1)), 1]
        at_end = midpoint if self.rule == "midpoint" else moments
        for i, s in enumerate(levels[1:]):
            made = min(orders[i] - 1, i)
            t, known = levels[i - made], {k: levels[i - k] for k in range(made + 1)}
            integrals = at_end if orders[i + 1] == 1 else within
            if made == 2 and self.rule == "midpoint":  # DPM-Solver++(3S) leaves out the first one on the way
                known, integrals = {0: known[0], 2: known[2]}, moments
            form = step(t, s, known, integrals, base=made, speed=2 if sde else 1)
            yield made, form, fresh_noise(t, s) if sde else 0.0

    def _orders(self, count: int) -> list[int]:
        return [*(i % self.order + 1 for i in range(count - 1)), 1]
