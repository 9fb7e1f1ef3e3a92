"""Noise levels at any t, also between the integers.

A family with a formula is its formula there (``formulas.py``). Every other schedule, and a formula where β
was clipped, is a monotone cubic through log-SNR (``cubic.py``): ᾱ = 1/(1 + e^{−log-SNR}).

Solvers step between levels in half log-SNR, λ = log(√ᾱ/√(1−ᾱ)): +∞ at clean data, −∞ where ᾱ = 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from alphabar.checks import require, unwrapped
from alphabar.errors import TimestepError
from alphabar.schedule import cubic
from alphabar.schedule.formulas import Formula
from alphabar.schedule.noise_schedule import NoiseSchedule

__all__ = ["CLEAN", "Level", "levels_at", "log_alpha_bar_between", "t_of_log_snr", "whole"]

FEW = 8  # up to as many t are looked up faster one by one
HALVINGS = 54  # of an interval of length 1: one more than float64 has binary digits


@dataclass(frozen=True)
class Level:
    """A noise level, with the names that solvers' papers give to its numbers.

    >>> round(Level(300, math.log(0.8)).half_log_snr, 4)  # log √(.8/.2)
    0.6931
    """

    t: float
    """Where it is, −1 for clean data."""
    log_alpha_bar: float

    @property  # cheaper than to hold it: a cached property takes a lock
    def signal(self) -> float:
        """α in the papers on fast solvers, √ᾱ here."""
        return math.exp(self.log_alpha_bar / 2)

    @property
    def sigma(self) -> float:
        """σ in these papers: √(1−ᾱ)."""
        return math.sqrt(abs(math.expm1(self.log_alpha_bar)))

    @cached_property
    def sigma_ve(self) -> float:
        """√(1−ᾱ)/√ᾱ: the noise in x/√ᾱ, ∞ where ᾱ = 0."""
        return self.sigma / self.signal if self.signal else math.inf

    @cached_property
    def half_log_snr(self) -> float:
        """λ = log(√ᾱ/√(1−ᾱ)), ∞ at clean data."""
        return self.log_alpha_bar / 2 - math.log(self.sigma) if self.sigma else math.inf


CLEAN = Level(-1, 0.0)
"""Where every sampler ends."""


def levels_at(schedule: NoiseSchedule, timesteps: Sequence[float]) -> tuple[Level, ...]:
    """Return the levels at these t.

    Raises:
        TimestepError: a t outside 0 … T−1.
    """
    if len(timesteps) <= FEW:
        logs = [_at_number(schedule, float(t)).item() for t in timesteps]
    elif all(type(t) is int for t in timesteps):
        logs = schedule.log_alpha_bar_at(torch.tensor(timesteps)).tolist()
    else:
        logs = log_alpha_bar_between(schedule, torch.tensor(timesteps, dtype=torch.float64)).tolist()
    return tuple(Level(whole(t), log) for t, log in zip(timesteps, logs, strict=True))


def whole(t: float) -> float:
    """Return a whole t as int, so that the network is asked with the integers it was trained on."""
    return int(t) if t == int(t) else float(t)


def log_alpha_bar_between(schedule: NoiseSchedule, t: float | Tensor) -> Tensor:
    """Return log ᾱ at t, float64, in the shape and on the device of t.

    At whole t it is the schedule's own number, bit for bit.

    >>> schedule = NoiseSchedule.linear()
    >>> [round(float(log_alpha_bar_between(schedule, t).exp()), 5) for t in (0, 0.5, 1)]
    [0.9999, 0.99985, 0.99978]

    Args:
        schedule: the noise schedule.
        t: 0 … T−1, whole or fractional: a number or a tensor of any shape.

    Raises:
        TimestepError: a t outside 0 … T−1, or between T−2 and T−1 where ᾱ ends at 0 and no
            formula says how.
    """
    if isinstance(t, float) and not torch.compiler.is_compiling():
        return _at_number(schedule, t)
    if not (isinstance(t, float) or (isinstance(t, Tensor) and t.is_floating_point())):
        return schedule.log_alpha_bar_at(t)
    where = torch.as_tensor(t, dtype=torch.float64)
    is_whole = where == where.floor()
    on_table = schedule.log_alpha_bar_at(torch.where(is_whole, where, 0).long())
    between = torch.where(is_whole, 0, where)
    _check_all_between(schedule, between)
    return torch.where(is_whole, on_table, _log_alpha_bar(schedule, between))


def t_of_log_snr(schedule: NoiseSchedule, log_snr: Tensor) -> Tensor:
    """Return the t, float64, at which log-SNR has these values; beyond its finite ends, those ends."""
    knots, end = schedule._knots.value, _end(schedule)
    low = (torch.searchsorted(-knots, -log_snr, right=True) - 1).clamp(0, max(end - 1, 0)).double()
    high = (low + 1).clamp(max=end)
    interpolated = cubic.pieces(schedule._knots, low)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        is_noisier = _log_snr(schedule, middle, interpolated) < log_snr
        low, high = torch.where(is_noisier, low, middle), torch.where(is_noisier, middle, high)
    return (low + high) / 2


def _at_number(schedule: NoiseSchedule, t: float) -> Tensor:
    """The same for one number, at a fraction of the cost and with the same bits."""
    if t.is_integer():
        return schedule.log_alpha_bar_at(int(t))
    _check_between(schedule, t)
    formula = schedule._tables.formula
    if formula is not None and not any(low < t < high for low, high in formula.gaps):
        return -formula.sigma_ve_squared(torch.tensor(t, dtype=torch.float64)).log1p()
    values, slopes = _numbers(schedule)
    i = int(t)
    log_snr = cubic.between(values[i], values[i + 1], slopes[i], slopes[i + 1], t - i)
    return logsigmoid(torch.tensor(log_snr, dtype=torch.float64))


@lru_cache(maxsize=32)
def _numbers(schedule: NoiseSchedule) -> tuple[list[float], list[float]]:
    return schedule._knots.value.tolist(), schedule._knots.slope.tolist()


def _check_between(schedule: NoiseSchedule, t: float) -> None:
    end = _end(schedule)
    if not 0 <= t <= end:
        raise TimestepError(
            f"t = {t} is outside 0 … {end}, where this schedule has log-SNR between its integers"
        )


def _check_all_between(schedule: NoiseSchedule, t: Tensor) -> None:
    end = _end(schedule)
    if torch.compiler.is_compiling():
        require((t >= 0) & (t <= end), f"t must be in 0 … {end}", TimestepError)
    elif t.numel():
        for place in unwrapped(t).aminmax():
            _check_between(schedule, float(place))


def _end(schedule: NoiseSchedule) -> int:
    """The t up to which there are levels between the integers: T−2 where ᾱ ends at 0 without a formula."""
    return (len(schedule) if schedule._tables.formula else len(schedule._knots.value)) - 1


def _log_alpha_bar(schedule: NoiseSchedule, t: Tensor) -> Tensor:
    formula = schedule._tables.formula
    if formula is None:
        return logsigmoid(cubic.at(schedule._knots, t))
    by_formula = -formula.sigma_ve_squared(t).log1p()
    if not formula.gaps:
        return by_formula
    return torch.where(_in_gap(formula, t), logsigmoid(cubic.at(schedule._knots, t)), by_formula)


def _log_snr(schedule: NoiseSchedule, t: Tensor, interpolated: Callable[[Tensor], Tensor]) -> Tensor:
    formula = schedule._tables.formula
    if formula is None:
        return interpolated(t)
    by_formula = -formula.sigma_ve_squared(t).log()
    return torch.where(_in_gap(formula, t), interpolated(t), by_formula) if formula.gaps else by_formula


def _in_gap(formula: Formula, t: Tensor) -> Tensor:
    return torch.stack([(low < t) & (t < high) for low, high in formula.gaps]).any(0)
