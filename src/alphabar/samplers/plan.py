r"""A plan: the whole of a sampler, as a table of coefficients. One row is one evaluation of the network.

    x_s = a · x_t + b_0 · x̂_0 + b_1 · x̂_0' + … + c · z

x̂_0 is what the denoiser says now, x̂_0' what it said a row before, z fresh noise; a, b, c are plain
numbers that depend on ᾱ alone. A plan never sees data, so it can be read, printed, compared, and tested
against exact answers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from alphabar.errors import ConfigError, NoAnswerError, ShapeError
from alphabar.levels import CLEAN, levels_at
from alphabar.ops import lincomb, work_dtype
from alphabar.schedule import NoiseSchedule
from alphabar.timesteps import Spacing, entered_at, visited

__all__ = ["Grid", "Plan", "Row", "Sampler", "grid"]


@dataclass(frozen=True)
class Row:
    """One evaluation of the network and the step it pays for."""

    t: int
    """Where the network is evaluated, 0 … T−1."""
    s: int
    """Where the step lands, s < t; −1 is clean data."""
    x: float
    """a: of x_t."""
    history: tuple[float, ...]
    """b: of x̂_0 and the estimates before it, newest first."""
    noise: float = 0.0
    """c: of fresh standard normal noise."""
    log_variance: tuple[float, float] | None = None
    """The log-variance where a network that learns it answers −1 and +1; between them it interpolates."""

    def advance(
        self,
        x_t: Tensor,
        history: Sequence[Tensor],
        noise: Tensor | None = None,
        variance: Tensor | None = None,
    ) -> Tensor:
        """Return x_s.

        Args:
            x_t: (B, …) the state at t.
            history: x̂_0 and the estimates before it, newest first, each like x_t.
            noise: standard normal, like x_t; may be None where the row adds none.
            variance: the network's answer on the variance, like x_t, where ``log_variance`` is set.

        Raises:
            ShapeError: ``log_variance`` is set and the network gave no answer on the variance.
            ConfigError: fewer estimates than the row needs, or no noise where it adds some.
        """
        if len(history) < len(self.history) or (self.is_random and noise is None):
            raise ConfigError(f"the row at t = {self.t} needs {len(self.history)} estimates and its noise")
        tensors = [x_t, *history[: len(self.history)]]
        coefficients: list[float | Tensor] = [self.x, *self.history]
        if noise is not None and self.is_random:
            coefficients.append(self._noise_scale(variance))
            tensors.append(noise)
        return lincomb(coefficients, tensors)

    @property
    def is_random(self) -> bool:
        """Whether the step adds noise."""
        return self.noise != 0 or self.log_variance is not None

    def _noise_scale(self, variance: Tensor | None) -> float | Tensor:
        if self.log_variance is None:
            return self.noise
        if variance is None:
            raise ShapeError(
                "this sampler takes its variance from the network, and the network returned none: give it "
                "twice the channels of x_t, or choose variance='fixed_small'"
            )
        low, high = self.log_variance
        share = (variance.to(work_dtype(variance.device)) + 1) / 2
        return (0.5 * (low + (high - low) * share)).exp()


@dataclass(frozen=True)
class Plan:
    """The rows of a sampler on a schedule, from the noisy end down.

    Raises:
        ConfigError: no rows, rows that do not join, or a history longer than what has been estimated.
        NoAnswerError: a coefficient that is not finite.
    """

    rows: tuple[Row, ...]

    def __post_init__(self) -> None:
        if not self.rows:
            raise ConfigError("a plan needs at least one row")
        for row, following in pairwise(self.rows):
            if row.s != following.t:
                raise ConfigError(
                    f"a row lands at t = {row.s}, the next one starts at {following.t}: they must join"
                )
        for i, row in enumerate(self.rows):
            if len(row.history) > i + 1:
                raise ConfigError(
                    f"row {i} remembers {len(row.history)} estimates, but only {i + 1} were made"
                )
            if not all(map(math.isfinite, (row.x, row.noise, *row.history, *(row.log_variance or ())))):
                raise NoAnswerError(
                    f"the step from t = {row.t} to {row.s} has coefficients that are not finite: {row}"
                )

    @property
    def timesteps(self) -> tuple[int, ...]:
        """Where the network is evaluated, in order."""
        return tuple(row.t for row in self.rows)

    @property
    def memory(self) -> int:
        """How many estimates the rows need at most, the newest included."""
        return max(len(row.history) for row in self.rows)

    def __len__(self) -> int:
        return len(self.rows)


class Sampler(Protocol):
    """What makes a plan: a small frozen object that holds a sampler's settings."""

    def plan(self, schedule: NoiseSchedule, t_start: int | None = None) -> Plan:
        """Return the rows on this schedule, entered at ``t_start`` (by default at the noisy end)."""


class Grid(NamedTuple):
    """Where the steps of a sampler start and land."""

    t: tuple[int, ...]
    s: tuple[int, ...]
    log_t: Tensor
    """log ᾱ_t, (n,) float64."""
    log_s: Tensor
    """log ᾱ_s, (n,) float64; the last is 0, clean data."""


def grid(schedule: NoiseSchedule, steps: int | None, spacing: Spacing, t_start: int | None) -> Grid:
    """Return the steps from the noisy end, or from ``t_start``, down to clean data.

    Raises:
        TimestepError, ConfigError, UnknownNameError: steps or a spacing that do not fit the schedule.
    """
    timesteps = entered_at(visited(schedule, steps, spacing), t_start)
    log_alpha_bar = torch.tensor([level.log_alpha_bar for level in (*levels_at(schedule, timesteps), CLEAN)], dtype=torch.float64)
    return Grid(timesteps, (*timesteps[1:], -1), log_alpha_bar[:-1], log_alpha_bar[1:])
