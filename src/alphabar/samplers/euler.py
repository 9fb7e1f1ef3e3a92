"""Euler's method, with and without noise, and Heun's (Karras et al. 2022, arXiv 2206.00364).

    d(x/√ᾱ)/dρ = ε̂,     ρ = √(1−ᾱ)/√ᾱ        (equation 1; their σ is ρ)

In x itself Euler's step is DDIM's with η = 0, and the ancestral one DDIM's with η = 1, to the last digit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from alphabar.samplers.plan import Row, Stepwise
from alphabar.samplers.quadrature import moments
from alphabar.samplers.steps import compose, ddim_row, start_of, step
from alphabar.schedule import Level, Spacing

__all__ = ["Euler", "EulerAncestral", "Heun"]


@dataclass(frozen=True)
class Euler(Stepwise):
    """x_s/√ᾱ_s = x_t/√ᾱ_t + (ρ_s − ρ_t) · ε̂: algorithm 1 of Karras et al., lines 4, 5; DDIM with η = 0.

    Args:
        steps: evaluations of the network, 1 … T; None for all T, or for as many as ``spacing`` lists.
        spacing: a name in ``SPACINGS``, a function that spaces, or the list of t.

    Raises:
        ConfigError, UnknownNameError, TimestepError: steps or a spacing as in :class:`Stepwise`.
    """

    eta: ClassVar[float] = 0.0

    steps: int | None = None
    spacing: Spacing = "trailing"

    def rows(self, levels: Sequence[Level]) -> Iterator[Row]:
        """Return the table on given levels, each noisier than the next."""
        return (ddim_row(t, s, self.eta) for t, s in pairwise(levels))


@dataclass(frozen=True)
class EulerAncestral(Euler):
    """Euler's step down to ρ_s²/ρ_t, and noise up to ρ_s; arguments as in :class:`Euler`. DDIM with η = 1.

    Equation 47 of Song et al. 2021, arXiv 2011.13456, for ρ.
    """

    eta: ClassVar[float] = 1.0


@dataclass(frozen=True)
class Heun(Stepwise):
    """Euler's step, a second evaluation where it lands, and the step again with the mean of both ε̂.

    Algorithm 1 of Karras et al., lines 4 to 8.

    Args:
        steps: two evaluations each but one for the last, so 2n − 1 in all; else as in :class:`Euler`.
        spacing: as in :class:`Euler`.

    Raises:
        ConfigError, UnknownNameError, TimestepError: steps or a spacing as in :class:`Stepwise`.
    """

    steps: int | None = None
    spacing: Spacing = "karras"

    def rows(self, levels: Sequence[Level]) -> Iterator[Row]:
        """Return the table on given levels, each noisier than the next: two rows a step."""
        for t, s in pairwise(levels):
            euler = step(t, s, {0: t}, moments)
            yield Row.of(t, s, euler)
            if math.isfinite(s.half_log_snr - t.half_log_snr):
                both = step(t, s, {0: s, 1: t}, trapezoid, base=1)
                yield Row.of(s, s, compose(both, start_of(euler)))


def trapezoid(z: float, count: int) -> list[float]:
    """μ_1 = ½(ρ_t/ρ_s − 1) = ½(e^h − 1): the mean of ε̂ at both ends, written with x̂_0."""
    return [math.expm1(-z) / 2] * count
