"""DDIM: the same network, with as much fresh noise as one likes, down to none.

    x_s = √ᾱ_s · x̂_0 + √(1 − ᾱ_s − σ²) · ε̂ + σ · z,     σ² = η² (1−ᾱ_s)/(1−ᾱ_t) (1 − ᾱ_t/ᾱ_s)

Equations 12 and 16 of Song et al. 2021, arXiv 2010.02502. With ε̂ = (x_t − √ᾱ_t · x̂_0)/√(1−ᾱ_t)
this is a row of x_t, x̂_0 and z. η = 0 is deterministic, η = 1 is DDPM with the small variance.

The inversion climbs the same steps from an image to the noise it comes from: x_t from x_s, with the ε̂ of the
level it climbs to (section 4.3, equation 14, and appendix F of Dhariwal & Nichol 2021, arXiv 2105.05233).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from alphabar.errors import ConfigError
from alphabar.samplers.plan import Plan, Row
from alphabar.schedule import Level, NoiseSchedule, Spacing, stops

__all__ = ["DDIM"]


@dataclass(frozen=True)
class DDIM:
    """Denoising diffusion implicit models.

    >>> [row.z for row in DDIM(steps=2).plan(NoiseSchedule.linear()).rows]
    [0.0, 0.0]

    Args:
        steps: evaluations of the network, 1 … T; None for all T, or for as many as ``spacing`` lists.
        eta: η in [0, 1], how much of DDPM's noise is added.
        spacing: a name in ``SPACINGS``, a function that spaces, or the list of t.
        inverse: climb from clean data to noise, as far as ``t_start``; give the data as ``x_t``.

    Raises:
        ConfigError: η outside [0, 1], or an inversion of random steps.
    """

    steps: int | None = None
    eta: float = 0.0
    spacing: Spacing = "trailing"
    inverse: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ConfigError(
                f"eta is {self.eta!r}: it must lie in [0, 1], where 0 adds no noise and 1 is DDPM"
            )
        if self.inverse and self.eta:
            raise ConfigError(f"eta is {self.eta!r}: only the deterministic steps, eta=0, can be inverted")

    def plan(self, schedule: NoiseSchedule, t_start: float | None = None) -> Plan:
        """Return one row a step: equation 12 of Song et al. 2021; errors as in :class:`Sampler`."""
        return Plan(tuple(self.rows(stops(schedule, self.steps, self.spacing, t_start))))

    def rows(self, levels: Sequence[Level]) -> Iterator[Row]:
        """Return the table on given levels, each noisier than the next: what :meth:`plan` is made of."""
        if self.inverse:
            return (_climb(s, t) for s, t in pairwise(reversed(levels)))
        return (self._row(t, s) for t, s in pairwise(levels))

    def _row(self, t: Level, s: Level) -> Row:
        between = -math.expm1(t.log_alpha_bar - s.log_alpha_bar)
        ratio = s.sigma / t.sigma
        # 1 − ᾱ_s − σ², with the common factor taken out: a difference of nearly equal numbers loses digits.
        of_x_t = ratio * math.sqrt(1 + self.eta**2 * between / math.expm1(t.log_alpha_bar))
        return Row(t.t, s.t, of_x_t, (s.signal - of_x_t * t.signal,), self.eta * ratio * math.sqrt(between))


def _climb(s: Level, t: Level) -> Row:
    """x_t/√ᾱ_t = x_s/√ᾱ_s + (ρ_t − ρ_s) · ε̂, where ρ = √(1−ᾱ)/√ᾱ and ε̂ is what x_s shows at level t."""
    of_eps = t.sigma - t.signal * s.sigma_ve
    return Row(t.t, t.t, t.signal / s.signal + of_eps / t.sigma, (-of_eps * t.signal / t.sigma,))
