"""DDPM, ancestral sampling: x_s is drawn from q(x_s | x_t, x_0 = x̂_0) (Ho et al. 2020, algorithm 2).

    x_s = √(ᾱ_t/ᾱ_s) (1−ᾱ_s)/(1−ᾱ_t) · x_t + √ᾱ_s β/(1−ᾱ_t) · x̂_0 + σ · z,     β = 1 − ᾱ_t/ᾱ_s

Equations 6 and 7 there, with any s < t in place of t−1. The variance σ² is a choice:

    fixed_small     (1−ᾱ_s)/(1−ᾱ_t) β    exact when all data are one point
    fixed_large     β                    exact when the data are standard normal
    learned_range   between the two, in the logarithm, by the network (Nichol & Dhariwal 2021, equation 15)
    learned         its logarithm is the network's answer
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from alphabar.errors import look_up
from alphabar.forward import posterior_coefficients
from alphabar.samplers.plan import Plan, Row, grid
from alphabar.schedule import NoiseSchedule, noise_power
from alphabar.timesteps import Spacing

__all__ = ["DDPM", "VARIANCES"]

Variance = Callable[[float, float], dict[str, Any]]

VARIANCES: dict[str, Variance] = {
    "fixed_small": lambda small, large: {"noise": small**0.5},
    "fixed_large": lambda small, large: {"noise": large**0.5},
    "learned_range": lambda small, large: {"log_variance": (math.log(small), math.log(large))},
    "learned": lambda small, large: {"log_variance": (-1.0, 1.0)},
}
"""What a row holds, by the smallest and the largest variance. No row adds noise to clean data."""


@dataclass(frozen=True)
class DDPM:
    """Ancestral sampling.

    >>> DDPM(steps=2).plan(NoiseSchedule.linear()).timesteps
    (999, 499)

    Args:
        steps: evaluations of the network, 1 … T; None for all T, or for as many as ``spacing`` lists.
        variance: ``"fixed_small"``, ``"fixed_large"``, ``"learned_range"`` or ``"learned"``; the last
            two take a network with twice the channels.
        spacing: ``"trailing"``, ``"leading"``, ``"linspace"``, or the list of t.

    Raises:
        UnknownNameError: another variance.
    """

    steps: int | None = None
    variance: str = "fixed_small"
    spacing: Spacing = "trailing"

    def __post_init__(self) -> None:
        look_up(VARIANCES, self.variance, "variance")

    def plan(self, schedule: NoiseSchedule, t_start: int | None = None) -> Plan:
        """Return one row a step: equations 6 and 7 of Ho et al. 2020.

        Raises:
            TimestepError, ConfigError, UnknownNameError: steps or a spacing that do not fit the schedule.
        """
        t, s, log_t, log_s = grid(schedule, self.steps, self.spacing, t_start)
        of_x_t, of_x_0, small = posterior_coefficients(log_s, log_t)
        large = noise_power(log_t - log_s)
        table = zip(t, s, *map(Tensor.tolist, (of_x_t, of_x_0, small, large)), strict=True)
        return Plan(tuple(Row(t, s, a, (b,), **self._noise(s, low, high)) for t, s, a, b, low, high in table))

    def _noise(self, s: int, small: float, large: float) -> dict[str, Any]:
        return VARIANCES[self.variance](small, large) if s >= 0 else {}
