"""The numbers of a parameterisation at noise levels: at one t as plain numbers, at every t as tables.

They are worked out in float64 once for a schedule and kept. Whole t take theirs from the table, so that one
sample of a batch and a whole chain are given the same bits.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from alphabar.kernels import work_dtype
from alphabar.process.parameterisation import PARAMETERISATIONS, Number, Parameterisation
from alphabar.schedule import NoiseSchedule, levels_at, noise_power

__all__ = [
    "Coefficients",
    "Table",
    "coefficients_at",
    "coefficients_between",
    "coefficients_table",
    "scale_table",
    "table_of",
]

CPU = torch.device("cpu")


class Coefficients(NamedTuple):
    """The numbers of a parameterisation at one level."""

    noised: tuple[float, float]
    """Of (x_0, z): what the network is given, input · x."""
    target: tuple[float, float]
    """Of (x_0, z): what it is trained to return."""
    x_0: tuple[float, float]
    """Of (x, output): x̂_0."""
    eps: tuple[float, float]
    """Of (x, output): ε̂."""
    input: float
    """Of x: what the network is given."""
    time: float
    """Its input for time; NaN for t itself."""

    answers: bool
    """Whether x̂_0 follows from what the network returns here: whether all numbers it takes are finite."""


class Table(NamedTuple):
    """The same at many levels: (…, 2) or (…) float64 tensors."""

    noised: Tensor
    target: Tensor
    x_0: Tensor
    eps: Tensor
    input: Tensor
    time: Tensor


def coefficients_at(schedule: NoiseSchedule, kind: Parameterisation, t: float) -> Coefficients:
    """Return the numbers at one t, whole or fractional: no step of a chain then waits for its device.

    Raises:
        TimestepError: a t outside 0 … T−1.
    """
    return _coefficients_at(schedule, kind, t)


# All that torch.compiler.assume_constant_result does, which itself would load sympy and numpy: a second.
coefficients_at._dynamo_marked_constant = True  # type: ignore[attr-defined]


@lru_cache(maxsize=4096)
def _coefficients_at(schedule: NoiseSchedule, kind: Parameterisation, t: float) -> Coefficients:
    if isinstance(t, int) and 0 <= t < len(schedule):
        n0, n1, t0, t1, x0, x1, e0, e1, scale, time = _rows_of(schedule, kind)[t]
        answers = all(map(math.isfinite, (x0, x1, scale))) and not math.isinf(time)
        return Coefficients((n0, n1), (t0, t1), (x0, x1), (e0, e1), scale, time, answers)
    (level,) = levels_at(schedule, [t])
    a, s = level.signal, level.sigma  # a > 0: a level without signal is at a whole t
    scale = float(kind.input(a, s))
    time = math.nan if kind.time is None else float(kind.time(a, s))
    target, x_0, eps = (_floats(pair(a, s)) for pair in (kind.target, kind.x_0, kind.eps))
    return Coefficients((scale * a, scale * s), target, x_0, eps, scale, time, answers=True)


def _floats(pair: tuple[Number, Number]) -> tuple[float, float]:
    return float(pair[0]), float(pair[1])


@lru_cache(maxsize=32)
def _rows_of(schedule: NoiseSchedule, kind: Parameterisation) -> list[list[float]]:
    """Return the numbers at every whole t, in the order of :class:`Table`."""
    table = coefficients_table(schedule, kind)
    rows: list[list[float]] = torch.cat([column.reshape(len(schedule), -1) for column in table], 1).tolist()
    return rows


@lru_cache(maxsize=32)
def coefficients_table(schedule: NoiseSchedule, kind: Parameterisation, device: torch.device = CPU) -> Table:
    """Return the numbers at every whole t: (T, 2) and (T,) float64 tensors on the device."""
    table = coefficients_between(kind, schedule.log_alpha_bar_at(torch.arange(len(schedule))))
    return Table._make(column.to(device, work_dtype(device)) for column in table)


def coefficients_between(kind: Parameterisation, log_alpha_bar: Tensor) -> Table:
    """Return the numbers where log ᾱ, float64 of any shape, has these values."""
    a, s = (log_alpha_bar / 2).exp(), noise_power(log_alpha_bar).sqrt()

    def column(number: Number) -> Tensor:
        return torch.as_tensor(number, dtype=a.dtype, device=a.device).expand_as(a)

    def pair(numbers: tuple[Number, Number]) -> Tensor:
        return torch.stack([column(number) for number in numbers], -1)

    scale = kind.input(a, s)
    time = math.nan if kind.time is None else kind.time(a, s)
    of_noised = pair((a * scale, s * scale))
    return Table(
        of_noised,
        pair(kind.target(a, s)),
        pair(kind.x_0(a, s)),
        pair(kind.eps(a, s)),
        column(scale),
        column(time),
    )


def table_of(
    schedule: NoiseSchedule, kind: Parameterisation, which: str, device: torch.device = CPU
) -> Tensor:
    """Return one pair of coefficients at every t, (T, 2) float64, held on the device."""
    table: Tensor = getattr(coefficients_table(schedule, kind, device), which)
    return table


# As of coefficients_at; or a graph would work the table out again, and hold the schedule's own tensors.
table_of._dynamo_marked_constant = True  # type: ignore[attr-defined]


def scale_table(schedule: NoiseSchedule, device: torch.device = CPU) -> Tensor:
    """Return √ᾱ_t and √(1−ᾱ_t) at every t, (T, 2) float64, held on the device."""
    return _scale_table(schedule, device)


scale_table._dynamo_marked_constant = True  # type: ignore[attr-defined]


@lru_cache(maxsize=32)
def _scale_table(schedule: NoiseSchedule, device: torch.device) -> Tensor:
    return table_of(schedule, PARAMETERISATIONS["v_prediction"], "noised", device)
