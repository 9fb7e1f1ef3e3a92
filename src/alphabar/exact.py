r"""Problems whose answer is known: Gaussian-mixture data, whose denoiser has a closed form.

    x_0 ~ Σ_k w_k N(μ_k, c_k² I)
    E[x_0 | x_t] = Σ_k r_k(x_t) [ μ_k + √ᾱ c_k² / (ᾱ c_k² + 1 − ᾱ) · (x_t − √ᾱ μ_k) ]

r_k is the share of component k in the density at x_t. A sampler given this denoiser can be judged
without a network and without luck: what differs from the truth is the sampler's own error.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from alphabar.checks import check_float
from alphabar.denoiser import Denoiser
from alphabar.errors import ShapeError
from alphabar.samplers.plan import Plan
from alphabar.schedule import NoiseSchedule, noise_power

__all__ = ["GaussianMixture", "variance_reached"]


@dataclass(frozen=True, eq=False)
class GaussianMixture:
    """A mixture of round Gaussians in D dimensions.

    Args:
        means: (K, D).
        widths: (K,) standard deviations, ≥ 0; 0 is a point.
        weights: (K,) positive; scaled to sum to 1. Equal by default.

    Raises:
        ShapeError: shapes that do not fit, or widths or weights out of range.
        DtypeError: numbers that are not floating point.
    """

    means: Tensor
    widths: Tensor
    weights: Tensor | None = None

    def __post_init__(self) -> None:
        weights = torch.ones_like(self.widths) if self.weights is None else self.weights
        check_float(means=self.means, widths=self.widths, weights=weights)
        if self.means.ndim != 2 or not self.widths.shape == weights.shape == self.means.shape[:1]:
            raise ShapeError(
                f"means {tuple(self.means.shape)}, widths {tuple(self.widths.shape)}, weights "
                f"{tuple(weights.shape)}: they must be (K, D), (K,) and (K,)"
            )
        if not ((self.widths >= 0).all() and (weights > 0).all()):
            raise ShapeError("widths must be at least 0 and weights positive")

    @property
    def _shares(self) -> Tensor:
        weights = torch.ones_like(self.widths) if self.weights is None else self.weights
        return weights / weights.sum()

    def draw(self, count: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Return (count, D) independent samples."""
        k = torch.multinomial(self._shares, count, replacement=True, generator=generator)
        noise = torch.randn(count, self.means.shape[1], generator=generator, dtype=self.means.dtype)
        return self.means[k] + self.widths[k, None] * noise

    def mean_given(self, x_t: Tensor, log_alpha_bar: Tensor) -> Tensor:
        """Return E[x_0 | x_t], (B, D), at log ᾱ, (B,) or a number."""
        alpha_bar, of_noise = (part[..., None] for part in (log_alpha_bar.exp(), noise_power(log_alpha_bar)))
        power = alpha_bar * self.widths**2 + of_noise  # (B, K), the variance of x_t within a component
        away = x_t[:, None, :] - alpha_bar.sqrt()[..., None] * self.means  # (B, K, D)
        log_share = self._shares.log() - away.square().sum(-1) / (2 * power) - x_t.shape[1] / 2 * power.log()
        pull = alpha_bar.sqrt() * self.widths**2 / power
        return torch.einsum("bk,bkd->bd", log_share.softmax(-1), self.means + pull[..., None] * away)

    def denoiser(self, schedule: NoiseSchedule) -> Denoiser:
        """Return the exact denoiser of this data on a schedule; it takes x_t of shape (B, D)."""
        return Denoiser(lambda x_t, t: self.mean_given(x_t, schedule.log_alpha_bar_at(t)), schedule, "sample")


def variance_reached(plan: Plan, schedule: NoiseSchedule, width: float) -> float:
    """Return the variance at which a plan's samples arrive when the data are N(0, width²).

    The denoiser is linear then, x̂_0 = √ᾱ c²/(ᾱ c² + 1 − ᾱ) · x_t, so every state is a known linear
    combination of the initial noise and the noises of the rows: the variance follows with no sampling
    at all. The true answer is width².

    Args:
        plan: any plan without learned variances.
        schedule: the schedule it was made on.
        width: c > 0, the standard deviation of the data.
    """
    noises = 1 + len(plan)
    x_t = torch.zeros(noises, dtype=torch.float64)  # the coordinates of x_t in the noises drawn so far
    x_t[0] = 1
    history: list[Tensor] = []
    for i, row in enumerate(plan.rows, 1):
        log_alpha_bar = schedule.log_alpha_bar_at(row.t)
        alpha_bar = log_alpha_bar.exp()
        history.insert(
            0, alpha_bar.sqrt() * width**2 / (alpha_bar * width**2 + noise_power(log_alpha_bar)) * x_t
        )
        fresh = torch.zeros_like(x_t)
        fresh[i] = 1
        x_t = row.advance(x_t, history, fresh)
    return float(x_t.square().sum())
