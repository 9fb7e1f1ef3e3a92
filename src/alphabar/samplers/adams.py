"""Methods that remember ε̂: LMS, DEIS and PNDM, each of them Adams–Bashforth for d(x/√ᾱ)/dρ = ε̂.

    x_s = DDIM(x_t, x̂_0) + Σ_k w_k · (ε̂⁽ᵏ⁾ − ε̂),     ρ = √(1−ᾱ)/√ᾱ

They differ in what they take ε̂ to be a polynomial of: ρ itself (LMS), log ρ (DEIS), or the number of the
step (PNDM). With DDIM written first, nothing is infinite at zero terminal SNR.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, pairwise

from alphabar.errors import ConfigError, NoAnswerError, look_up
from alphabar.samplers.dpm import RULES
from alphabar.samplers.plan import Plan, Row
from alphabar.samplers.quadrature import weights
from alphabar.samplers.steps import check_order
from alphabar.schedule import Level, NoiseSchedule, Spacing, levels_at, stops

__all__ = ["DEIS", "LMS", "PNDM"]


@dataclass(frozen=True)
class LMS:
    """Linear multistep: the latest ε̂ as a polynomial in ρ.

    Args:
        steps: evaluations of the network, 1 … T; None for all T, or for as many as ``spacing`` lists.
        order: how many ε̂ the polynomial goes through, 1 … 4.
        spacing: a name in ``SPACINGS``, a function that spaces, or the list of t.

    Raises:
        ConfigError: another order.
    """

    steps: int | None = None
    order: int = 4
    spacing: Spacing = "karras"

    def __post_init__(self) -> None:
        check_order(self.order, 4)

    def plan(self, schedule: NoiseSchedule, t_start: float | None = None) -> Plan:
        """Return one row a step: ``sample_lms`` of k-diffusion; errors as in :class:`Sampler`."""
        return Plan(tuple(self.rows(stops(schedule, self.steps, self.spacing, t_start))))

    def rows(self, levels: Sequence[Level]) -> Iterator[Row]:
        """Return the table on given levels, each noisier than the next: what :meth:`plan` is made of."""
        return (self._row(levels[: i + 1][-self.order :], s) for i, s in enumerate(levels[1:]))

    def _row(self, known: Sequence[Level], s: Level) -> Row:
        nodes = _nodes(known, s, lambda level: level.sigma_ve)
        reach = s.signal * (s.sigma_ve - known[-1].sigma_ve)
        return _row(known[-1], s, weights(nodes, [reach / (j + 2) for j in range(len(nodes))]))


@dataclass(frozen=True)
class DEIS:
    """Diffusion exponential integrator sampler: the latest ε̂ as a polynomial in log ρ.

    Args:
        steps: as in :class:`LMS`.
        order: how many ε̂ the polynomial goes through, 1 … 4.
        lower_order_final: let the order fall to 1 over the last steps.
        spacing: as in :class:`LMS`.
        rule: a name in ``RULES``, the integrals; with ``"midpoint"`` and ``"taylor"`` this is the multistep
            DPM-Solver of Lu et al. 2022, arXiv 2206.00927, which DPM-Solver++ was made from.
        sde: solve the stochastic equation: twice the pull of ε̂, and fresh noise.

    Raises:
        ConfigError: another order.
        UnknownNameError: another rule.
    """

    steps: int | None = None
    order: int = 3
    lower_order_final: bool = True
    spacing: Spacing = "karras"
    rule: str = "exact"
    sde: bool = False

    def __post_init__(self) -> None:
        check_order(self.order, 4)
        look_up(RULES, self.rule, "rule")

    def plan(self, schedule: NoiseSchedule, t_start: float | None = None) -> Plan:
        """Return one row a step: equation 15 of Zhang & Chen 2023, arXiv 2204.13902, as tAB in log ρ."""
        return Plan(tuple(self.rows(stops(schedule, self.steps, self.spacing, t_start))))

    def rows(self, levels: Sequence[Level]) -> Iterator[Row]:
        """Return the table on given levels, each noisier than the next: what :meth:`plan` is made of."""
        return (self._row(levels, i) for i in range(len(levels) - 1))

    def _row(self, levels: Sequence[Level], i: int) -> Row:
        left = len(levels) - 1 - i if self.lower_order_final else self.order
        t, s = levels[i : i + 2]
        nodes = _nodes(levels[: i + 1][-min(self.order, left) :], s, lambda level: level.half_log_snr)
        h = s.half_log_snr - t.half_log_snr
        w = weights(nodes, [s.sigma * integral for integral in RULES[self.rule](h, len(nodes))])
        if not self.sde:
            return _row(t, s, w)
        twice = [2 * weight for weight in w]
        row = _eps_row(t, s, [s.signal / t.signal, 2 * _reach(t, s) - sum(twice), *twice])
        return replace(row, z=s.sigma * math.sqrt(math.expm1(2 * h)))


@dataclass(frozen=True)
class PNDM:
    """Pseudo numerical methods: Adams–Bashforth with the weights of even steps, whatever the steps.

    Args:
        steps: steps, at least 4 with Runge–Kutta; else as in :class:`LMS`.
        runge_kutta: begin with 3 steps of Runge–Kutta, n + 9 evaluations in all, as in the paper; otherwise
            with one of Heun, n + 1 evaluations (PLMS).
        spacing: as in :class:`LMS`.
    """

    steps: int | None = None
    runge_kutta: bool = False
    spacing: Spacing = "trailing"

    def plan(self, schedule: NoiseSchedule, t_start: float | None = None) -> Plan:
        """Return algorithm 2 of Liu et al. 2022, arXiv 2202.09778, with equations 9, 12 and 13.

        Raises:
            ConfigError: fewer than 4 steps with Runge–Kutta.
            NoAnswerError: Runge–Kutta from ᾱ = 0.
        """
        steps = list(pairwise(stops(schedule, self.steps, self.spacing, t_start)))
        halfway = levels_at(schedule, [(t.t + s.t) / 2 for t, s in steps[:3]]) if self.runge_kutta else ()
        return Plan(tuple(self.rows(steps, halfway)))

    def rows(self, steps: Sequence[tuple[Level, Level]], halfway: Sequence[Level] = ()) -> Iterator[Row]:
        """Return the table of given steps; ``halfway`` are the middles of the first 3, for Runge–Kutta."""
        if not self.runge_kutta:
            begin = list(_heun_start(*steps[0]))
            return chain(begin, _adams_bashforth(steps[1:], [0], len(begin)))
        if len(steps) < 4:
            raise ConfigError(f"{len(steps)} steps: Runge–Kutta begins with 3, so take at least 4")
        if math.isinf(steps[0][0].sigma_ve):
            raise NoAnswerError("Runge–Kutta from ᾱ = 0, where ρ = ∞: leave runge_kutta=False")
        begin = [
            row for (t, s), mid in zip(steps[:3], halfway, strict=True) for row in _runge_kutta(t, mid, s)
        ]
        return chain(begin, _adams_bashforth(steps[3:], [0, 4, 8], 12))


ADAMS_BASHFORTH: Sequence[list[float]] = ([], [-1 / 2], [-16 / 12, 5 / 12], [-59 / 24, 37 / 24, -9 / 24])
"""The weights of the earlier ε̂, by how many there are."""


def _adams_bashforth(steps: Sequence[tuple[Level, Level]], made: list[int], row: int) -> Iterator[Row]:
    """The steps after the first ones, whose ε̂ came in the rows ``made``."""
    for t, s in steps:
        fixed = ADAMS_BASHFORTH[min(len(made), 3)]
        ago = {row - place: _reach(t, s) * w for place, w in zip(reversed(made), fixed, strict=False)}
        yield _row(t, s, [ago.get(k, 0.0) for k in range(1, max(ago, default=0) + 1)])
        made, row = [*made, row], row + 1


def _heun_start(t: Level, s: Level) -> Iterator[Row]:
    yield _row(t, s, [])
    if s.sigma and math.isfinite(t.sigma_ve):
        yield _eps_row(s, s, [1, _reach(t, s) / 2, -_reach(t, s) / 2])


def _runge_kutta(t: Level, mid: Level, s: Level) -> Iterator[Row]:
    """Equation 13: each stage again from the step's start, which is linear in the stage before."""
    half, whole, onward = _reach(t, mid), _reach(t, s), s.signal / mid.signal
    yield _row(t, mid, [])
    yield _eps_row(mid, mid, [1, half, -half])
    yield _eps_row(mid, s, [onward, whole, -onward * half])
    yield _eps_row(s, s, [1, whole / 6, whole / 3 - whole, whole / 3, whole / 6])


def _reach(t: Level, s: Level) -> float:
    """√ᾱ_s (ρ_s − ρ_t): what multiplies ε̂ in a step from t to s, equation 9 of Liu et al. 2022."""
    return s.sigma - s.signal * t.sigma_ve


def _nodes(known: Sequence[Level], s: Level, place: Callable[[Level], float]) -> list[float]:
    """Where the earlier levels lie, newest first, when t is at 0 and s at 1; none where that is infinite."""
    here, length = place(known[-1]), place(s) - place(known[-1])
    earlier = [place(level) for level in reversed(known[:-1])]
    return [(p - here) / length for p in earlier if math.isfinite(length) and math.isfinite(p)]


def _row(t: Level, s: Level, weights: Sequence[float]) -> Row:
    """DDIM, and on it Σ_k w_k · (ε̂⁽ᵏ⁾ − ε̂)."""
    ratio = s.sigma / t.sigma
    of_eps = [(-sum(weights)) * part for part in _eps(t)]
    return Row(
        t.t, s.t, ratio + of_eps[0], (s.signal - t.signal * ratio + of_eps[1], *weights), keeps=_eps(t)
    )


def _eps_row(t: Level, s: Level, form: Sequence[float]) -> Row:
    """The row of a form of x_t, ε̂ and the ε̂ before it."""
    of_x_t, of_x_0 = (form[1] * part for part in _eps(t))
    return Row(t.t, s.t, form[0] + of_x_t, (of_x_0, *form[2:]), keeps=_eps(t))


def _eps(t: Level) -> tuple[float, float]:
    """ε̂ = (x_t − √ᾱ_t · x̂_0)/√(1−ᾱ_t)."""
    return 1 / t.sigma, -t.signal / t.sigma
