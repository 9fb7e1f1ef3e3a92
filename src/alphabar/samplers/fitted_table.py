"""A table that was fitted to one network: its rows, what it was fitted on, its error before and after.

:func:`alphabar.fit` makes one; it is a sampler like the others, and a JSON file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alphabar.checks import check_count
from alphabar.denoise.files import read_json, whole_file
from alphabar.errors import CheckpointError, ConfigError, NoAnswerError, TimestepError
from alphabar.samplers.dpm import DPMSolver
from alphabar.samplers.exact import Distance
from alphabar.samplers.fitted import is_close
from alphabar.samplers.plan import Plan
from alphabar.schedule import NoiseSchedule, entered_at

__all__ = ["FittedTable"]

MADE_BY = "alphabar fit"


@dataclass(frozen=True)
class FittedTable:
    """A table for one network, as :func:`alphabar.fit` returns it.

    Args:
        table: its rows: deterministic, from noise to clean data.
        schedule: the schedule of the network.
        start: the table that the descent began from, by sampler and spacing.
        before: error of that table on noises that nothing was fitted to.
        after: error of this one on the same noises, among which the best of some tables was chosen.
        about: JSON values: the settings of the fit, and what its caller adds, such as the network's digest.

    Raises:
        ConfigError: rows that add noise, or that do not end at clean data.
        TimestepError: a t outside 0 … T−1 of the schedule.
    """

    table: Plan
    schedule: NoiseSchedule
    start: str
    before: Distance
    after: Distance
    about: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if any(row.is_random for row in self.table.rows) or self.table.rows[-1].s != -1:
            raise ConfigError("the rows of a fitted table must add no noise and end at clean data, s = -1")
        last = len(self.schedule) - 1
        for t in self.table.timesteps:
            if not 0 <= t <= last:
                raise TimestepError(f"a row is at t = {t}: it must lie in 0 … {last}")

    @property
    def evaluations(self) -> int:
        """How often the network is asked."""
        return len(self.table)

    @property
    def is_improved(self) -> bool:
        """Whether the descent brought anything; otherwise the table is the one it started from."""
        return self.after != self.before

    def plan(self, schedule: NoiseSchedule, t_start: float | None = None) -> Plan:
        """Return its rows.

        From a ``t_start`` on the way, where the estimates that the coefficients multiply are missing, it
        takes the t of the table with the coefficients of DPM-Solver++ of order 3.

        Raises:
            NoAnswerError: another schedule than the one it was fitted on.
            TimestepError: a ``t_start`` that does not fit the schedule.
        """
        if not is_close(schedule, self.schedule):
            raise NoAnswerError(
                f"this table was fitted on {self.schedule}, not on {schedule}: fit one again, by "
                "alphabar.fit or the command alphabar fit"
            )
        timesteps = self.table.timesteps
        if t_start is not None and t_start != timesteps[0]:
            return DPMSolver(order=3, rule="exact", spacing=entered_at(timesteps, t_start)).plan(schedule)
        return self.table

    def to_json(self) -> dict[str, Any]:
        """Return the table as JSON values; :meth:`from_json` reads them back."""
        return {
            "made_by": MADE_BY,
            "evaluations": self.evaluations,
            "schedule": self.schedule.to_config(),
            "start": self.start,
            "before": self.before._asdict(),
            "after": self.after._asdict(),
            "about": dict(self.about),
            "rows": self.table.to_json(),
        }

    @classmethod
    def from_json(cls, content: Any) -> FittedTable:
        """Return the table that :meth:`to_json` described, the same to the last bit.

        Raises:
            ConfigError: anything else, with what is wrong in it.
        """
        if not isinstance(content, Mapping) or content.get("made_by") != MADE_BY:
            raise ConfigError("it is no fitted table: write one by alphabar fit")
        try:
            return cls._read(content)
        except (AttributeError, LookupError, OverflowError, TypeError, ValueError) as error:
            raise ConfigError(f"it has no {error}" if isinstance(error, KeyError) else str(error)) from error

    def save(self, path: str | Path) -> Path:
        """Write the table as JSON, whole or not at all; :meth:`load` reads it back, to the last bit.

        Raises:
            CheckpointError: a place that cannot be written.
            ConfigError: what ``about`` holds is not JSON.
        """
        try:
            text = json.dumps(self.to_json(), indent=1, allow_nan=False) + "\n"
        except (TypeError, ValueError) as error:
            raise ConfigError(f"about holds what JSON cannot: {error}") from None
        try:
            with whole_file(path) as draft:
                draft.write_text(text, encoding="utf-8")
        except OSError as error:
            raise CheckpointError(f"{path} cannot be written: {error.strerror or error}") from error
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> FittedTable:
        """Read a table that :meth:`save` wrote.

        Raises:
            CheckpointError: no such file, or one that is damaged or of another kind, and why.
        """
        content = read_json(Path(path))
        try:
            return cls.from_json(content)
        except ConfigError as error:
            raise CheckpointError(f"{path} cannot be read: {error}") from error

    @classmethod
    def _read(cls, content: Mapping[str, Any]) -> FittedTable:
        check_count(evaluations=content["evaluations"])
        table = Plan.from_json(content["rows"])
        if len(table) != content["evaluations"]:
            raise ConfigError(f"it has {len(table)} rows for {content['evaluations']} evaluations")
        start, about = content["start"], content["about"]
        if not isinstance(start, str) or not isinstance(about, Mapping):
            raise ConfigError("start must be a text and about an object")
        before, after = (_read_distance(content[name]) for name in ("before", "after"))
        return cls(table, NoiseSchedule.from_config(content["schedule"]), start, before, after, about)


def _read_distance(given: Mapping[str, Any]) -> Distance:
    numbers = [given[name] for name in Distance._fields]
    if not all(type(number) in (int, float) and 0 <= number < math.inf for number in numbers):
        raise ConfigError(f"an error is {given!s:.60}: it must be finite numbers of at least 0")
    return Distance(*numbers)
