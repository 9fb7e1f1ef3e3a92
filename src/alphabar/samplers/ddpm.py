"""DDPM, ancestral sampling: x_s is drawn from q(x_s | x_t, x_0 = x̂_0) (Ho et al. 2020, algorithm 2).

    x_s = √(ᾱ_t/ᾱ_s) (1−ᾱ_s)/(1−ᾱ_t) · x_t + √ᾱ_s β/(1−ᾱ_t) · x̂_0 + σ · z,     β = 1 − ᾱ_t/ᾱ_s

Equations 6 and 7 there, with any s < t in place of t−1. The variance σ² is a choice:

    fixed_small     (1−ᾱ_s)/(1−ᾱ_t) β    exact when all data are one point
    fixed_large     β                    exact when the data are standard normal
    learned_range   between the two, in the logarithm, by the network (Nichol & Dhariwal 2021, equation 15)
    learned         its logarithm is the network's answer

``fixed_small_log`` and ``fixed_large_log``, known from files, are the same numbers by way of their logarithm.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from alphabar.errors import look_up
from alphabar.process import posterior_coefficients
from alphabar.samplers.plan import Row, Stepwise
from alphabar.schedule import Level, Spacing, noise_power

__all__ = ["DDPM", "VARIANCES"]

Variance = Callable[[float, float], dict[str, Any]]
SMALLEST = 1e-20  # in place of a variance of 0, whose logarithm is −∞


def _log(variance: float) -> float:
    return math.log(max(variance, SMALLEST))


VARIANCES: dict[str, Variance] = {
    "fixed_small": lambda small, large: {"z": small**0.5},
    "fixed_small_log": lambda small, large: {"z": math.exp(_log(small) / 2)},
    "fixed_large": lambda small, large: {"z": large**0.5},
    "fixed_large_log": lambda small, large: {"z": math.exp(_log(large) / 2)},
    "learned_range": lambda small, large: {"log_variance": (_log(small), _log(large))},
    "learned": lambda small, large: {"log_variance": (-1.0, 1.0)},
}
"""What a row holds, by the smallest and the largest variance. No row adds noise to clean data."""


@dataclass(frozen=True)
class DDPM(Stepwise):
    """Ancestral sampling: equations 6 and 7 of Ho et al. 2020.

    >>> from alphabar import NoiseSchedule
    >>> DDPM(steps=2).plan(NoiseSchedule.linear()).timesteps
    (999, 499)

    Args:
        steps: evaluations of the network, 1 … T; None for all T, or for as many as ``spacing`` lists.
        variance: a name in ``VARIANCES``; the learned ones take a network with twice the channels.
        spacing: a name in ``SPACINGS``, a function that spaces, or the list of t.

    Raises:
        UnknownNameError: another variance or spacing.
        ConfigError, TimestepError: steps or a list of t as in :class:`Stepwise`.
    """

    steps: int | None = None
    variance: str = "fixed_small"
    spacing: Spacing = "trailing"

    def __post_init__(self) -> None:
        super().__post_init__()
        look_up(VARIANCES, self.variance, "variance")

    def rows(self, levels: Sequence[Level]) -> Iterator[Row]:
        """Return the table on given levels, each noisier than the next."""
        logs = torch.tensor([level.log_alpha_bar for level in levels], dtype=torch.float64)
        of_x_t, of_x_0, small = posterior_coefficients(logs[1:], logs[:-1])
        large, noise = noise_power(-logs.diff()), VARIANCES[self.variance]
        numbers = zip(*map(Tensor.tolist, (of_x_t, of_x_0, small, large)), strict=True)
        for (t, s), (a, b, low, high) in zip(pairwise(levels), numbers, strict=True):
            yield Row(t.t, s.t, a, (b,), **(noise(low, high) if s.log_alpha_bar else {}))
