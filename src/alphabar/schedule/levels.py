"""Noise levels at any t, also between the integers: a monotone cubic through the schedule's log-SNR.

    log-SNR(t + u) = the cubic with the values and slopes of both neighbours, 0 ≤ u ≤ 1
    ᾱ = 1/(1 + e^{−log-SNR})

The slope at an integer is the harmonic mean of the differences on its two sides (Fritsch & Butland 1984,
SIAM J. Sci. Stat. Comput. 5, 300–304), so that log-SNR falls everywhere, as it does on the integers.
Solvers step between levels in half log-SNR, λ = log(√ᾱ/√(1−ᾱ)): +∞ at clean data, −∞ where ᾱ = 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from alphabar.errors import TimestepError
from alphabar.schedule.noise_schedule import NoiseSchedule

__all__ = ["CLEAN", "Level", "levels_at", "log_alpha_bar_between", "t_of_log_snr", "whole"]

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

    @cached_property
    def signal(self) -> float:
        """α in the papers on fast solvers, √ᾱ here."""
        return math.exp(self.log_alpha_bar / 2)

    @cached_property
    def sigma(self) -> float:
        """σ in these papers: √(1−ᾱ)."""
        return math.sqrt(abs(math.expm1(self.log_alpha_bar)))

    @cached_property
    def sigma_ve(self) -> float:
        """ρ = √(1−ᾱ)/√ᾱ: the noise in x/√ᾱ, ∞ where ᾱ = 0."""
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
    logs = log_alpha_bar_between(schedule, torch.tensor(timesteps, dtype=torch.float64))
    return tuple(Level(whole(t), log) for t, log in zip(timesteps, logs.tolist(), strict=True))


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
        TimestepError: a t outside 0 … T−1, or between T−2 and T−1 where ᾱ ends at 0.
    """
    if not (isinstance(t, float) or (isinstance(t, Tensor) and t.is_floating_point())):
        return schedule.log_alpha_bar_at(t)
    where = torch.as_tensor(t, dtype=torch.float64)
    is_whole = where == where.floor()
    on_table = schedule.log_alpha_bar_at(torch.where(is_whole, where, 0).long())
    last = _finite_knots(schedule)[0].numel() - 1
    if not (is_whole | ((where > 0) & (where < last))).all():
        raise TimestepError(
            f"t = {t} is outside 0 … {last}, where this schedule has log-SNR between its integers"
        )
    between = torch.where(is_whole, 0, where)
    return torch.where(is_whole, on_table, logsigmoid(_log_snr_between(schedule, between)))


def t_of_log_snr(schedule: NoiseSchedule, log_snr: Tensor) -> Tensor:
    """Return the t, float64, at which log-SNR has these values; beyond its finite ends, those ends."""
    knots = _finite_knots(schedule)[0]
    low = (torch.searchsorted(-knots, -log_snr, right=True) - 1).clamp(0, max(len(knots) - 2, 0)).double()
    high = (low + 1).clamp(max=len(knots) - 1)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        is_noisier = _log_snr_between(schedule, middle) < log_snr
        low, high = torch.where(is_noisier, low, middle), torch.where(is_noisier, middle, high)
    return (low + high) / 2


def _log_snr_between(schedule: NoiseSchedule, t: Tensor) -> Tensor:
    value, slope = (knots.to(t.device) for knots in _finite_knots(schedule))
    i = t.long().clamp(max=max(len(value) - 2, 0))
    j = (i + 1).clamp(max=len(value) - 1)
    u = t - i
    rise = value[j] - value[i]
    bend = slope[i] - rise, slope[j] - rise
    return value[i] + u * rise + u * (1 - u) * ((1 - u) * bend[0] - u * bend[1])


@lru_cache(maxsize=32)
def _finite_knots(schedule: NoiseSchedule) -> tuple[Tensor, Tensor]:
    value = schedule.log_snr[schedule.log_snr.isfinite()]
    if len(value) < 3:
        return value, value.diff().expand(len(value)) if len(value) == 2 else torch.zeros_like(value)
    before, after = value.diff()[:-1], value.diff()[1:]
    first = ((3 * before[0] - after[0]) / 2).clamp(3 * before[0], torch.zeros(()))
    last = ((3 * after[-1] - before[-1]) / 2).clamp(3 * after[-1], torch.zeros(()))
    return value, torch.cat([first[None], 2 * before * after / (before + after), last[None]])
