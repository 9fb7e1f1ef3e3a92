r"""The variational bound, by which a network learns its variance (Nichol & Dhariwal 2021, arXiv 2102.09672).

    L_t = KL(q(x_{t−1} | x_t, x_0) ‖ p(x_{t−1} | x_t)),   t > 0     equations 4 and 6
    L_0 = −log p(x_0 | x_1)                                         equation 5

Both distributions have the coefficients of ancestral sampling, so x_t cancels from the difference of their
means: it is b_t · (x̂_0 − x_0), b_t the coefficient of x̂_0 in the sampler's row. The variance of p is

    log σ² = v · log β_t + (1 − v) · log β̃_t,   v = (answer + 1)/2     equation 15

p(x_0 | x_1) is the share of the Gaussian that falls on the pixel's own of 256 values (Ho et al. 2020,
equation 13), with the cumulative distribution that the code of both papers approximates it by.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from alphabar.process import spread
from alphabar.samplers import DDPM
from alphabar.schedule import NoiseSchedule

__all__ = ["Range", "bits_per_dimension", "variance_range"]

HALF_BIN = 1 / 255  # of the pixel values −1, −1 + 2/255, … 1
EDGE = 0.999  # beyond which a pixel is black or white, and its bin is open
FLOOR = 1e-12  # the smallest probability whose logarithm is taken


class Range(NamedTuple):
    """What ancestral sampling with a learned variance knows of each t: (T,) float64."""

    x_0: Tensor
    """The coefficient of x̂_0 in the mean."""
    low: Tensor
    """log β̃_t, the least log-variance; at t = 0, where β̃ is 0, that of t = 1."""
    high: Tensor
    """log β_t, the greatest."""


def variance_range(schedule: NoiseSchedule, device: torch.device | str = "cpu") -> Range:
    """Return the numbers of the rows that :class:`~alphabar.samplers.DDPM` samples with, at every t."""
    rows = DDPM(variance="learned_range").plan(schedule).rows[::-1]
    ranges = [row.log_variance for row in rows[1:] if row.log_variance is not None]
    last = math.log(schedule.beta[0])  # the step to clean data adds no noise, and its row holds no variance
    low, high = zip((ranges[0][0] if ranges else last, last), *ranges, strict=True)
    columns = [row.history[0] for row in rows], low, high
    return Range(*(torch.tensor(column, dtype=torch.float64, device=device) for column in columns))


def bits_per_dimension(levels: Range, t: Tensor, x_0: Tensor, error: Tensor, answer: Tensor) -> Tensor:
    """Return L_t of each sample in bits a dimension, (B,): ``_vb_terms_bpd`` in the authors' code.

    Args:
        levels: of the schedule.
        t: (B,) int64.
        x_0: (B, …) clean data, 8-bit images in [−1, 1].
        error: (B, …) x̂_0 − x_0.
        answer: (B, …) the network's answer on the variance: −1 is the least, +1 the greatest.
    """
    scale, low, high = (spread(column[t], x_0).to(x_0.dtype) for column in levels)
    shift, log_variance = scale * error, low + (high - low) * (answer + 1) / 2
    terms = torch.where(
        spread(t, x_0) == 0,
        -_log_probability(x_0, -shift, log_variance),
        _kl(shift, low, log_variance),
    )
    return terms.flatten(1).mean(1) / math.log(2)


def _kl(shift: Tensor, log_q: Tensor, log_p: Tensor) -> Tensor:
    """Return KL(N(0, q) ‖ N(shift, p)) of each element."""
    ratio = log_q - log_p
    return (torch.expm1(ratio) - ratio + shift.square() * torch.exp(-log_p)) / 2


def _log_probability(x_0: Tensor, centred: Tensor, log_variance: Tensor) -> Tensor:
    """Return the log-probability of each pixel's bin, ``centred`` = x_0 − mean."""
    precision = torch.exp(-log_variance / 2)
    above, below = _cdf(precision * (centred + HALF_BIN)), _cdf(precision * (centred - HALF_BIN))
    inside = torch.where(x_0 > EDGE, 1 - below, above - below)
    return torch.where(x_0 < -EDGE, above, inside).clamp(min=FLOOR).log()


def _cdf(x: Tensor) -> Tensor:
    """½ (1 + tanh(√(2/π) (x + .044715 x³))): the normal distribution's, to 3e-4."""
    return (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2
