"""Wrappers of a denoiser that change its answer and are denoisers themselves."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from alphabar.denoiser import Denoise, Estimate
from alphabar.errors import ConfigError
from alphabar.schedule import NoiseSchedule

__all__ = ["Clipped"]


@dataclass(frozen=True)
class Clipped:
    """x̂_0 clipped to [−limit, limit] (Ho et al. 2020, official code): pixels cannot leave their range.

    Args:
        denoiser: what is wrapped.
        limit: > 0.

    Raises:
        ConfigError: limit ≤ 0.
    """

    denoiser: Denoise
    limit: float = 1.0

    def __post_init__(self) -> None:
        if not self.limit > 0:
            raise ConfigError(f"limit is {self.limit!r}: it must be positive, 1 for images in [-1, 1]")

    @property
    def schedule(self) -> NoiseSchedule:
        """The schedule of the denoiser inside."""
        return self.denoiser.schedule

    def __call__(self, x_t: Tensor, t: int) -> Estimate:
        """Return the estimate of the denoiser inside, x̂_0 clipped."""
        estimate = self.denoiser(x_t, t)
        return estimate._replace(x_0=estimate.x_0.clamp(-self.limit, self.limit))
