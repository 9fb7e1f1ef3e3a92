"""Methods that remember ε̂: LMS, DEIS and PNDM, each of them Adams–Bashforth for d(x/√ᾱ)/dρ = ε̂.

    x_s = DDIM(x_t, x̂_0) + Σ_k w_k · (ε̂⁽ᵏ⁾ − ε̂),     ρ = √(1−ᾱ)/√ᾱ

They differ in what they take ε̂ to be a polynomial of: ρ itself (LMS), log ρ (DEIS), or the number of the
step (PNDM). With DDIM written first, nothing is infinite at zero terminal SNR.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise

from alphabar.errors import ConfigError, NoAnswerError, look_up
from alphabar.samplers.dpm import RULES
from alphabar.samplers.plan import Form, Plan, Row, Stepwise, cached_plan
from alphabar.samplers.steps import add_change, check_order, ddim_row, eps_of, in_eps, multistep
from alphabar.schedule import Level, NoiseSchedule, Spacing, levels_at, stops

__all__ = ["DEIS", "LMS", "PNDM"]


@dataclass(frozen=True)
class LMS(Stepwise):
    """Linear multistep: the latest ε̂ as a polynomial in ρ (``sample_lms`` of k-diffusion).

    Args:
        steps: evaluations of the network, 1 … T; None for all T, or for as many as ``spacing`` lists.
        order: how many ε̂ the polynomial goes through, 1 … 4.
        spacing: a name in ``SPACINGS``, a function that spaces, or the list of t.

    Raises:
        ConfigError: another order, or steps as in :class:`Stepwise`.
        UnknownNameError, TimestepError: another spacing.
    """

    steps: int | None = None
    order: int = 4
    spacing: Spacing = "karras"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_order(self.order, 4)

    def rows(self, levels: Sequence[Level]) -> Iterator[Row]:
        """Return the table on given levels, each noisier than the next."""

        def integrals(t: Level, s: Level, count: int) -> list[float]:
            return [_length(t, s) / (j + 2) for j in range(count)]

        return multistep(levels, self.order, lambda level: level.sigma_ve, integrals, eps_of)


@dataclass(frozen=True)
class DEIS(Stepwise):
    """Diffusion exponential integrator sampler: the latest ε̂ as a polynomial in log ρ.

    Equation 15 of Zhang & Chen 2023, arXiv 2204.13902, as tAB in log ρ = −λ: the multistep form of
    DPM-Solver++ with √ᾱ and √(1−ᾱ) exchanged.

    Args:
        steps: as in :class:`LMS`.
        order: how many ε̂ the polynomial goes through, 1 … 4.
        lower_order_final: let the order fall to 1 over the last steps.
        spacing: as in :class:`LMS`.
        rule: a name in ``RULES``, the integrals; with ``"midpoint"`` and ``"taylor"`` this is the multistep
            DPM-Solver of Lu et al. 2022, arXiv 2206.00927, which DPM-Solver++ was made from.

    Raises:
        ConfigError: another order, or steps as in :class:`Stepwise`.
        UnknownNameError, TimestepError: another rule or spacing.
    """

    steps: int | None = None
    order: int = 3
    lower_order_final: bool = True
    spacing: Spacing = "karras"
    rule: str = "exact"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_order(self.order, 4)
        look_up(RULES, self.rule, "rule")

    def rows(self, levels: Sequence[Level]) -> Iterator[Row]:
        """Return the table on given levels, each noisier than the next."""
        rule = RULES[self.rule]

        def integrals(t: Level, s: Level, count: int) -> list[float]:
            return [s.sigma * mu for mu in rule(s.half_log_snr - t.half_log_snr, count)]

        return multistep(
            levels,
            self.order,
            lambda level: level.half_log_snr,
            integrals,
            eps_of,
            lower_order_final=self.lower_order_final,
        )


@dataclass(frozen=True)
class PNDM(Stepwise):
    """Pseudo numerical methods: Adams–Bashforth with the weights of even steps, whatever the steps.

    Algorithm 2 of Liu et al. 2022, arXiv 2202.09778, with equations 9, 12 and 13.

    Args:
        steps: steps, at least 4 with Runge–Kutta; else as in :class:`LMS`.
        runge_kutta: begin with 3 steps of Runge–Kutta, n + 9 evaluations in all, as in the paper; otherwise
            with one of Heun, n + 1 evaluations (PLMS).
        spacing: as in :class:`LMS`.

    Raises:
        ConfigError: fewer than 4 steps with Runge–Kutta, or steps as in :class:`Stepwise`.
        UnknownNameError, TimestepError: another spacing.
    """

    steps: int | None = None
    runge_kutta: bool = False
    spacing: Spacing = "trailing"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.runge_kutta and self.steps is not None:
            _check_runge_kutta(self.steps)

    @cached_plan
    def plan(self, schedule: NoiseSchedule, t_start: float | None = None) -> Plan:
        """Return the rows on this schedule.

        Raises:
            ConfigError: fewer than 4 steps with Runge–Kutta are left below ``t_start``.
            NoAnswerError: Runge–Kutta from ᾱ = 0.
            TimestepError: as in :class:`Sampler`.
        """
        levels = stops(schedule, self.steps, self.spacing, t_start)
        starts = pairwise(levels[:4]) if self.runge_kutta else ()
        return Plan(tuple(self.rows(levels, levels_at(schedule, [(t.t + s.t) / 2 for t, s in starts]))))

    def rows(self, levels: Sequence[Level], middles: Sequence[Level] = ()) -> Iterator[Row]:
        """Return the table on given levels, each noisier than the next.

        Args:
            levels: where it stops.
            middles: halfway through each of the first 3 steps, for Runge–Kutta.
        """
        steps = list(pairwise(levels))
        if not self.runge_kutta:
            begin = list(_heun_start(*steps[0]))
            return chain(begin, _adams_bashforth(steps[1:], [0], len(begin)))
        _check_runge_kutta(len(steps))
        if math.isinf(levels[0].sigma_ve):
            raise NoAnswerError("Runge–Kutta from ᾱ = 0, where ρ = ∞: leave runge_kutta=False")
        begin = [
            row for (t, s), mid in zip(steps[:3], middles, strict=True) for row in _runge_kutta(t, mid, s)
        ]
        return chain(begin, _adams_bashforth(steps[3:], [0, 4, 8], 12))


def _check_runge_kutta(steps: int) -> None:
    if steps < 4:
        raise ConfigError(f"{steps} steps: Runge–Kutta begins with 3, so take at least 4")


ADAMS_BASHFORTH: Sequence[list[float]] = ([], [-1 / 2], [-16 / 12, 5 / 12], [-59 / 24, 37 / 24, -9 / 24])
"""The weights of the earlier ε̂, by how many there are."""


def adams_bashforth(t: Level, s: Level, earlier: int) -> Row:
    """Return the step that uses the ε̂ of the rows before it, 0 … 3 of them, as if all steps were even."""
    return _row(t, s, [_length(t, s) * weight for weight in ADAMS_BASHFORTH[earlier]])


def _adams_bashforth(steps: Sequence[tuple[Level, Level]], made: list[int], row: int) -> Iterator[Row]:
    """The steps after the first ones, whose ε̂ came in the rows ``made``."""
    for t, s in steps:
        fixed = ADAMS_BASHFORTH[min(len(made), 3)]
        ago = {row - place: _length(t, s) * w for place, w in zip(reversed(made), fixed, strict=False)}
        yield _row(t, s, [ago.get(k, 0.0) for k in range(1, max(ago, default=0) + 1)])
        made, row = [*made, row], row + 1


def _heun_start(t: Level, s: Level) -> Iterator[Row]:
    yield _row(t, s, [])
    if s.sigma and math.isfinite(t.sigma_ve):
        yield _eps_row(s, s, [1, _length(t, s) / 2, -_length(t, s) / 2])


def _runge_kutta(t: Level, middle: Level, s: Level) -> Iterator[Row]:
    """Equation 13: each stage again from the step's start, which is linear in the stage before."""
    half, whole, onward = _length(t, middle), _length(t, s), s.signal / middle.signal
    yield _row(t, middle, [])
    yield _eps_row(middle, middle, [1, half, -half])
    yield _eps_row(middle, s, [onward, whole, -onward * half])
    yield _eps_row(s, s, [1, whole / 6, whole / 3 - whole, whole / 3, whole / 6])


def _length(t: Level, s: Level) -> float:
    """√ᾱ_s (ρ_s − ρ_t): what multiplies ε̂ in a step from t to s, equation 9 of Liu et al. 2022."""
    return s.sigma - s.signal * t.sigma_ve


def _row(t: Level, s: Level, weights: Sequence[float]) -> Row:
    """DDIM, and on it Σ_k w_k · (ε̂⁽ᵏ⁾ − ε̂)."""
    return add_change(ddim_row(t, s), weights, eps_of(t))


def _eps_row(t: Level, s: Level, form: Form) -> Row:
    return in_eps(Row.of(t, s, form), t)
