"""Fitted: a table found by descent on problems with known answers, instead of by an expansion in the step.

    x_s = σ_s/σ_t · x_t + b_0 · x̂_0 + √ᾱ_s Σ_k w_k · x̂_0⁽ᵏ⁾,     b_0 + √ᾱ_s Σ_k w_k = √ᾱ_s − σ_s/σ_t √ᾱ_t

The rows are those of DPM-Solver++ in multistep form, of order 3 or 4 (``steps.py``). Fitted are the levels
and the weights w, for each number of evaluations, on Gaussian data and mixtures. The second equation is kept,
so that a row is exact while x̂_0 does not change. The numbers come from ``research/fit.py``:
see ``docs/en/fitted.md``.

They were fitted on four schedules, but depend on a schedule only by the log-SNR of its levels, 2λ. With
y = x/√ᾱ and σ/√ᾱ = e^{−λ} a row is

    y_s = e^{λ_t − λ_s} y_t + (1 − e^{λ_t − λ_s} − Σ_k w_k) x̂_0 + Σ_k w_k x̂_0⁽ᵏ⁾

so the w serve every schedule that has the same λ somewhere. Only the ends are the schedule's own: the first
level is T−1, where a state is pure noise and x̂_0 hardly changes, if √ᾱ is small; the last one is t = 0 where
the schedule has nothing cleaner.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from itertools import pairwise
from typing import Any, NamedTuple

import torch

from alphabar.checks import check_count
from alphabar.errors import ConfigError, NoAnswerError
from alphabar.samplers.dpm import DPMSolver
from alphabar.samplers.plan import Plan, Row, cached_plan
from alphabar.schedule import CLEAN, FAMILIES, NoiseSchedule, entered_at, levels_at
from alphabar.schedule.levels import t_of_log_snr, whole

__all__ = ["Fitted", "is_close"]

CLOSE = 1e-4  # in log ᾱ: a schedule that was rounded to float32 on its way is still the same schedule
NEAR = 0.05  # in √ᾱ at the first level
DIGITS = 6  # of t
INSTEAD = "DEIS(steps, order=4, lower_order_final=False, spacing='log_snr')"


@dataclass(frozen=True)
class Fitted:
    """The least error for few evaluations, on the schedules it was fitted to and those like them.

    >>> [len(row.history) for row in Fitted(steps=5).plan(NoiseSchedule.linear()).rows]
    [1, 2, 3, 3, 3]

    Args:
        steps: evaluations of the network, 5 … 50.

    Raises:
        ConfigError: another number of evaluations.
    """

    steps: int

    def __post_init__(self) -> None:
        check_count(steps=self.steps)
        _tables(self.steps)

    @cached_plan
    def plan(self, schedule: NoiseSchedule, t_start: float | None = None) -> Plan:
        """Return one row an evaluation.

        From a ``t_start`` on the way, where the estimates that the fitted weights multiply are missing, it
        takes the fitted levels with the coefficients of DPM-Solver++ of order 3.

        Raises:
            NoAnswerError: a schedule that lacks the levels of every table, with those that it would need.
            TimestepError: a ``t_start`` that does not fit the schedule.
        """
        table = _nearest(schedule, self.steps)
        later = t_of_log_snr(schedule, 2 * torch.tensor(table.levels[1:], dtype=torch.float64)).tolist()
        t = (len(schedule) - 1, *(whole(float(f"{each:.{DIGITS}g}")) for each in later))
        if t_start is not None and t_start != t[0]:
            return DPMSolver(order=3, rule="exact", spacing=entered_at(t, t_start)).plan(schedule)
        return Plan(tuple(_rows(schedule, t, table.weights)))


class Table(NamedTuple):
    """The numbers of one table."""

    name: str
    """The schedule that it was fitted on, with T = 1000."""
    signal: float
    """√ᾱ of its first level."""
    levels: tuple[float, ...]
    """(N,) λ."""
    weights: tuple[tuple[float, ...], ...]
    """(N, …) the w of each row."""

    def serves(self, schedule: NoiseSchedule) -> bool:
        """Whether the schedule has the levels between its ends, and begins with nearly as much noise."""
        low, high = _range(schedule)
        is_near = abs(self.signal - _first_signal(schedule)) <= NEAR
        return is_near and low < 2 * self.levels[1] and 2 * self.levels[-2] < high


def _rows(schedule: NoiseSchedule, t: Sequence[float], weights: Sequence[Sequence[float]]) -> list[Row]:
    rows = []
    for (start, end), of_step in zip(pairwise((*levels_at(schedule, t), CLEAN)), weights, strict=True):
        of_x_t = end.sigma / start.sigma
        earlier = [end.signal * w for w in of_step]
        newest = end.signal - of_x_t * start.signal - sum(earlier)
        rows.append(Row.of(start, end, [of_x_t, newest, *earlier]))
    return rows


@lru_cache(maxsize=1)
def _numbers() -> Mapping[str, Any]:
    """The numbers, by schedule and number of evaluations; read when first asked for."""
    text = resources.files("alphabar.samplers").joinpath("fitted.json").read_text(encoding="utf-8")
    tables: Mapping[str, Any] = json.loads(text)["tables"]
    return tables


@lru_cache(maxsize=64)
def _tables(steps: int) -> tuple[Table, ...]:
    """The tables of so many evaluations.

    Raises:
        ConfigError: there are none.
    """
    found = []
    for name, numbers in _numbers().items():
        if str(steps) not in numbers:
            known = sorted(map(int, numbers))
            raise ConfigError(
                f"steps is {steps}: tables are fitted for {known[0]} … {known[-1]}; beyond, take {INSTEAD}"
            )
        of_steps = numbers[str(steps)]
        levels = levels_at(FAMILIES[name](1000), of_steps["t"])
        found.append(
            Table(
                name,
                levels[0].signal,
                tuple(level.half_log_snr for level in levels),
                tuple(map(tuple, of_steps["w"])),
            )
        )
    return tuple(found)


def _nearest(schedule: NoiseSchedule, steps: int) -> Table:
    """Return the table that serves a schedule and whose first level is nearest in √ᾱ."""
    signal = _first_signal(schedule)
    ranked = sorted(_tables(steps), key=lambda table: abs(table.signal - signal))
    for table in ranked:
        if table.serves(schedule):
            return table
    low, high = _range(schedule)
    needed = "; ".join(
        f"{2 * each.levels[1]:.3g} … {2 * each.levels[-2]:.3g} and {each.signal:.2g} ± {NEAR} ({each.name})"
        for each in ranked
    )
    raise NoAnswerError(
        f"no table of {steps} evaluations serves {schedule}, which has log-SNR {low:.3g} … {high:.3g} and "
        f"√ᾱ of {signal:.2g} at T−1: needed are {needed}; otherwise take {INSTEAD}"
    )


def _range(schedule: NoiseSchedule) -> tuple[float, float]:
    """Return the least and the largest finite log-SNR."""
    finite = schedule.log_snr[schedule.log_snr.isfinite()]
    return (float(finite[-1]), float(finite[0])) if len(finite) else (math.inf, -math.inf)


def _first_signal(schedule: NoiseSchedule) -> float:
    """Return √ᾱ at T−1."""
    return levels_at(schedule, [len(schedule) - 1])[0].signal


def is_close(schedule: NoiseSchedule, other: NoiseSchedule) -> bool:
    """Return whether two schedules are the same but for a rounding to float32."""
    one, two = (each.log_alpha_bar_at(torch.arange(len(each))) for each in (schedule, other))
    return one.shape == two.shape and torch.allclose(one, two, rtol=CLOSE, atol=0)
