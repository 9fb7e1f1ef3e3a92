"""DDIM: the same network, with as much fresh noise as one likes, down to none.

    x_s = √ᾱ_s · x̂_0 + √(1 − ᾱ_s − σ²) · ε̂ + σ · z,     σ² = η² (1−ᾱ_s)/(1−ᾱ_t) (1 − ᾱ_t/ᾱ_s)

Equations 12 and 16 of Song et al. 2021, arXiv 2010.02502. With ε̂ = (x_t − √ᾱ_t · x̂_0)/√(1−ᾱ_t)
this is a row of x_t, x̂_0 and z. η = 0 is deterministic, η = 1 is DDPM with the small variance.

The inversion takes the same steps upwards, from an image to the noise it comes from (equation 14):

    x_t/√ᾱ_t = x_s/√ᾱ_s + (ρ_t − ρ_s) · ε̂,     ρ = √(1−ᾱ)/√ᾱ

The network is asked with x_s at t, the level that the step goes to, as DDIM asks with x_t at t on the way
down: where both find the same ε̂, DDIM undoes the step exactly. ``ddim_reverse_sample`` of guided-diffusion
(Dhariwal & Nichol 2021, arXiv 2105.05233) asks at s, the level of x_s itself; but at clean data, s = −1, no
network can be asked. Both err by the change of ε̂ over a step: first order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from alphabar.errors import ConfigError
from alphabar.samplers.plan import Row, Stepwise
from alphabar.samplers.steps import check_eta, ddim_row
from alphabar.schedule import Level, Spacing

__all__ = ["DDIM"]


@dataclass(frozen=True)
class DDIM(Stepwise):
    """Denoising diffusion implicit models: equation 12 of Song et al. 2021.

    >>> from alphabar import NoiseSchedule
    >>> [row.z for row in DDIM(steps=2).plan(NoiseSchedule.linear()).rows]
    [0.0, 0.0]

    Args:
        steps: evaluations of the network, 1 … T; None for all T, or for as many as ``spacing`` lists.
        eta: η in [0, 1], how much of DDPM's noise is added.
        spacing: a name in ``SPACINGS``, a function that spaces, or the list of t.
        inverse: go from clean data up to noise, as far as ``t_start``; give the data as ``x_t``.

    Raises:
        ConfigError: η outside [0, 1], an inversion of random steps, or steps as in :class:`Stepwise`.
        UnknownNameError, TimestepError: another spacing.
    """

    steps: int | None = None
    eta: float = 0.0
    spacing: Spacing = "trailing"
    inverse: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_eta(self.eta)
        if self.inverse and self.eta:
            raise ConfigError(f"eta is {self.eta!r}: only the deterministic steps, eta=0, can be inverted")

    def rows(self, levels: Sequence[Level]) -> Iterator[Row]:
        """Return the table on given levels, each noisier than the next."""
        if self.inverse:
            return (_inverse_row(s, t) for s, t in pairwise(reversed(levels)))
        return (ddim_row(t, s, self.eta) for t, s in pairwise(levels))


def _inverse_row(s: Level, t: Level) -> Row:
    of_eps = t.sigma - t.signal * s.sigma_ve
    return Row(t.t, t.t, t.signal / s.signal + of_eps / t.sigma, (-of_eps * t.signal / t.sigma,))
