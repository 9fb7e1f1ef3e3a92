"""The table of any sampler, and its error on Gaussian data, which is known exactly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

from alphabar.errors import ConfigError, NoAnswerError, TimestepError
from alphabar.explorer.asking import RefusedError
from alphabar.explorer.reverse import Chosen, made_sampler
from alphabar.explorer.svg import Curve, number, plot
from alphabar.samplers import REGISTRY, gaussian_error
from alphabar.schedule import NoiseSchedule

__all__ = ["COUNTS", "error_curve", "error_plot", "table"]

COUNTS = (5, 7, 10, 14, 20, 28, 40, 50)
"""Evaluations of the network at which an error is drawn."""
ROWS = 60  # shown; of longer tables the first and the last ones

Texts = Mapping[str, str]


class Table(NamedTuple):
    """A plan as it is shown."""

    head: list[str]
    rows: list[list[str]]
    left_out: int
    """How many rows are not shown, after the first half."""
    evaluations: int


def table(chosen: Chosen, schedule: NoiseSchedule) -> Table:
    """Return the rows of a sampler as text.

    Raises:
        AlphabarError: settings that do not fit the sampler or the schedule.
    """
    columns = made_sampler(chosen).plan(schedule).columns
    rows = [[number(value, 6) for value in row] for row in zip(*columns.values(), strict=True)]
    left_out = max(0, len(rows) - ROWS)
    shown = rows if not left_out else rows[: ROWS // 2] + rows[-ROWS // 2 :]
    return Table(list(columns), shown, left_out, len(rows))


def error_curve(chosen: Chosen, schedule: NoiseSchedule) -> list[tuple[int, float]]:
    """Return (evaluations, error) at the counts that the sampler can do."""
    points = {}
    for count in sorted({*COUNTS, min(chosen.evaluations, COUNTS[-1])}):
        found = _error(replace(chosen, evaluations=count), schedule)
        if found is not None:
            points[found[0]] = found[1]
    return sorted(points.items())


@lru_cache(maxsize=512)
def _error(chosen: Chosen, schedule: NoiseSchedule) -> tuple[int, float] | None:
    try:
        sampler = made_sampler(chosen)
        return len(sampler.plan(schedule)), gaussian_error(sampler, schedule)
    except (ConfigError, TimestepError, NoAnswerError):  # a count that this sampler has no table for
        return None


def error_plot(chosen: Sequence[Chosen], schedule: NoiseSchedule, texts: Texts) -> str:
    """Return the error curves of samplers, both axes logarithmic.

    Raises:
        RefusedError: none of them has an error at any count.
    """
    found = {each: error_curve(each, schedule) for each in chosen}
    drawn = [
        Curve(label(each), [n for n, _ in points], [error for _, error in points], colour, has_dots=True)
        for colour, (each, points) in enumerate(found.items())
        if points
    ]
    if not drawn:
        raise RefusedError("no_error")
    told = "; ".join(
        texts["error_at"].format(name=label(each), evaluations=n, error=number(error, 3))
        for each, points in found.items()
        for n, error in points[-1:]
    )
    return plot(
        drawn,
        title=texts["error_title"],
        alt=texts["error_alt"].format(told=told),
        x_label=texts["evaluations"],
        log_x=True,
        log_y=True,
        x_ticks=(5, 10, 20, 50),
    )


def label(chosen: Chosen) -> str:
    """Return what a legend calls a sampler."""
    noise = f", η = {chosen.eta:g}" if chosen.name == "ddim" and chosen.eta else ""
    spacing = f", {chosen.spacing}" if chosen.spacing and REGISTRY[chosen.name].spaced else ""
    return f"{chosen.name}{noise}{spacing}"
