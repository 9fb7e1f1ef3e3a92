"""Fitted: a table found by descent on problems with known answers, instead of by an expansion in the step.

    x_s = σ_s/σ_t · x_t + b_0 · x̂_0 + √ᾱ_s Σ_k w_k · x̂_0⁽ᵏ⁾,     b_0 + √ᾱ_s Σ_k w_k = √ᾱ_s − σ_s/σ_t √ᾱ_t

The rows are those of DPM-Solver++ in multistep form, of order 3 or 4 (``steps.py``). Fitted are the t and the
weights w, for each number of evaluations, on Gaussian data and mixtures. The second equation is kept, so that
a row is exact while x̂_0 does not change. The numbers come from ``research/fit.py``:
see ``docs/en/fitted.md``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from itertools import pairwise
from typing import Any

import torch

from alphabar.checks import check_count
from alphabar.errors import ConfigError, NoAnswerError
from alphabar.samplers.dpm import DPMSolver
from alphabar.samplers.plan import Plan, Row, cached_plan
from alphabar.schedule import CLEAN, FAMILIES, NoiseSchedule, entered_at, levels_at

__all__ = ["Fitted", "is_close"]

CLOSE = 1e-4  # in log ᾱ: a schedule that was rounded to float32 on its way is still the same schedule
INSTEAD = "DEIS(steps, order=4, lower_order_final=False, spacing='log_snr')"


@dataclass(frozen=True)
class Fitted:
    """The least error for few evaluations, on the schedules it was fitted to.

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
        _look_up(next(iter(_tables().values())), self.steps)

    @cached_plan
    def plan(self, schedule: NoiseSchedule, t_start: float | None = None) -> Plan:
        """Return one row an evaluation.

        From a ``t_start`` on the way, where the estimates that the fitted weights multiply are missing, it
        takes the fitted t with the coefficients of DPM-Solver++ of order 3.

        Raises:
            NoAnswerError: a schedule it was not fitted to.
            TimestepError: a ``t_start`` that does not fit the schedule.
        """
        table = _look_up(_tables()[_name(schedule)], self.steps)
        t, weights = table["t"], table["w"]
        if t_start is not None and t_start != t[0]:
            return DPMSolver(order=3, rule="exact", spacing=entered_at(tuple(t), t_start)).plan(schedule)
        return Plan(tuple(_rows(schedule, t, weights)))


def _rows(schedule: NoiseSchedule, t: Sequence[float], weights: Sequence[Sequence[float]]) -> list[Row]:
    rows = []
    for (start, end), of_step in zip(pairwise((*levels_at(schedule, t), CLEAN)), weights, strict=True):
        of_x_t = end.sigma / start.sigma
        earlier = [end.signal * w for w in of_step]
        newest = end.signal - of_x_t * start.signal - sum(earlier)
        rows.append(Row.of(start, end, [of_x_t, newest, *earlier]))
    return rows


@lru_cache(maxsize=1)
def _tables() -> Mapping[str, Any]:
    """The numbers, by schedule and number of evaluations; read when first asked for."""
    text = resources.files("alphabar.samplers").joinpath("fitted.json").read_text(encoding="utf-8")
    tables: Mapping[str, Any] = json.loads(text)["tables"]
    return tables


def _look_up(tables: Mapping[str, Any], steps: int) -> Any:
    if str(steps) not in tables:
        known = sorted(map(int, tables))
        raise ConfigError(
            f"steps is {steps}: tables are fitted for {known[0]} … {known[-1]}; beyond, take {INSTEAD}"
        )
    return tables[str(steps)]


@lru_cache(maxsize=32)
def _name(schedule: NoiseSchedule) -> str:
    for name in _tables():
        if is_close(schedule, FAMILIES[name](1000)):
            return name
    known = ", ".join(f"NoiseSchedule.{name}()" for name in _tables())
    raise NoAnswerError(
        f"no table is fitted to {schedule}: there are some for {known}; otherwise take {INSTEAD}"
    )


def is_close(schedule: NoiseSchedule, other: NoiseSchedule) -> bool:
    """Return whether two schedules are the same but for a rounding to float32."""
    one, two = (each.log_alpha_bar_at(torch.arange(len(each))) for each in (schedule, other))
    return one.shape == two.shape and torch.allclose(one, two, rtol=CLOSE, atol=0)
