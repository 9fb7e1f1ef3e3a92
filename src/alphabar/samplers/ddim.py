"""DDIM: the same network, with as much fresh noise as one likes, down to none.

    x_s = √ᾱ_s · x̂_0 + √(1 − ᾱ_s − σ²) · ε̂ + σ · z,     σ² = η² (1−ᾱ_s)/(1−ᾱ_t) (1 − ᾱ_t/ᾱ_s)

Equations 12 and 16 of Song et al. 2021, arXiv 2010.02502. With ε̂ = (x_t − √ᾱ_t · x̂_0)/√(1−ᾱ_t)
this is a row of x_t, x̂_0 and z. η = 0 is deterministic, η = 1 is DDPM with the small variance.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from alphabar.errors import ConfigError
from alphabar.forward import posterior_coefficients
from alphabar.samplers.plan import Plan, Row, grid
from alphabar.schedule import NoiseSchedule, noise_power
from alphabar.timesteps import Spacing

__all__ = ["DDIM"]


@dataclass(frozen=True)
class DDIM:
    """Denoising diffusion implicit models.

    >>> [row.noise for row in DDIM(steps=2).plan(NoiseSchedule.linear()).rows]
    [0.0, 0.0]

    Args:
        steps: evaluations of the network, 1 … T; None for all T, or for as many as ``spacing`` lists.
        eta: η in [0, 1], how much of DDPM's noise is added.
        spacing: ``"trailing"``, ``"leading"``, ``"linspace"``, or the list of t.

    Raises:
        ConfigError: η outside [0, 1].
    """

    steps: int | None = None
    eta: float = 0.0
    spacing: Spacing = "trailing"

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ConfigError(
                f"eta is {self.eta!r}: it must lie in [0, 1], where 0 adds no noise and 1 is DDPM"
            )

    def plan(self, schedule: NoiseSchedule, t_start: int | None = None) -> Plan:
        """Return one row a step: equation 12 of Song et al. 2021.

        Raises:
            TimestepError, ConfigError, UnknownNameError: steps or a spacing that do not fit the schedule.
        """
        t, s, log_t, log_s = grid(schedule, self.steps, self.spacing, t_start)
        *_, small = posterior_coefficients(log_s, log_t)
        power_s, power_t, between = map(noise_power, (log_s, log_t, log_t - log_s))
        # 1 − ᾱ_s − σ², with the common factor taken out: a difference of nearly equal numbers loses digits.
        of_x_t = (power_s / power_t * (1 - self.eta**2 * between / power_t)).sqrt()
        of_x_0 = (log_s / 2).exp() - of_x_t * (log_t / 2).exp()
        noise = self.eta * small.sqrt()
        table = zip(t, s, *map(Tensor.tolist, (of_x_t, of_x_0, noise)), strict=True)
        return Plan(tuple(Row(t, s, a, (b,), c) for t, s, a, b, c in table))
