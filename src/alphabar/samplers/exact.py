r"""Problems whose answer is known: Gaussian-mixture data, whose denoiser has a closed form.

    x_0 ~ Σ_k w_k N(μ_k, c_k² I)
    E[x_0 | x_t] = Σ_k r_k(x_t) [ μ_k + √ᾱ c_k² / (ᾱ c_k² + 1 − ᾱ) · (x_t − √ᾱ μ_k) ]

r_k is the share of component k in the density at x_t. A sampler given this denoiser is judged without a
network: what differs from the truth is the sampler's own error.

One step back, :func:`reverse_density`, is a mixture too; a sampler draws from one Gaussian in its place,
which is right where the step is short.

For a single Gaussian around 0 the denoiser is linear, so a plan's rows multiply up to one number and the
error is known with no sampling at all: :func:`gaussian_error`, and :func:`ranking` of the solvers by it. For
mixtures a sampler's end points are compared with those of a very fine run: :func:`mixture_error`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from alphabar.checks import check_float
from alphabar.denoise import Estimate
from alphabar.errors import ConfigError, NoAnswerError, ShapeError, TimestepError
from alphabar.process.forward import posterior_coefficients
from alphabar.samplers.euler import Heun
from alphabar.samplers.fitted import Fitted
from alphabar.samplers.loop import sample
from alphabar.samplers.plan import Plan, Sampler
from alphabar.samplers.registry import SOLVERS
from alphabar.schedule import NoiseSchedule, log_alpha_bar_between, noise_power

__all__ = [
    "WIDTHS",
    "Distance",
    "ExactDenoiser",
    "GaussianMixture",
    "Moments",
    "Score",
    "gaussian_error",
    "mixture_error",
    "ranking",
    "reverse_density",
    "variances_reached",
]

WIDTHS = torch.linspace(0.05, 1.5, 64, dtype=torch.float64)
"""Standard deviations of the data of :func:`gaussian_error`: pixels have about .5, details .05."""


class Moments(NamedTuple):
    """Mean and covariance of a distribution in D dimensions."""

    mean: Tensor
    """(D,)"""
    covariance: Tensor
    """(D, D)"""


@dataclass(frozen=True, eq=False)
class GaussianMixture:
    """A mixture of round Gaussians in D dimensions.

    Args:
        means: (K, D).
        widths: (K,) standard deviations, ≥ 0; 0 is a point.
        weights: (K,) ≥ 0 and not all 0; scaled to sum to 1. Equal by default.

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
        if not ((self.widths >= 0).all() and (weights >= 0).all() and weights.sum() > 0):
            raise ShapeError("widths and weights must be at least 0, and one weight positive")

    @property
    def _normalised_weights(self) -> Tensor:
        weights = torch.ones_like(self.widths) if self.weights is None else self.weights
        return weights / weights.sum()

    def draw(self, count: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Return (count, D) independent samples."""
        k = torch.multinomial(self._normalised_weights, count, replacement=True, generator=generator)
        noise = torch.randn(count, self.means.shape[1], generator=generator, dtype=self.means.dtype)
        return self.means[k] + self.widths[k, None] * noise

    @property
    def moments(self) -> Moments:
        """Mean and covariance, Σ_k w_k [ (μ_k − mean)(μ_k − mean)ᵀ + c_k² I ]."""
        shares = self._normalised_weights
        mean = shares @ self.means
        offset = self.means - mean
        within = torch.eye(len(mean)).to(mean) * (shares @ self.widths**2)
        return Moments(mean, (shares[:, None] * offset).T @ offset + within)

    def density(self, x: Tensor) -> Tensor:
        """Return the density at x, (B, D), as (B,).

        Raises:
            NoAnswerError: a component of width 0, which has none.
        """
        if not (self.widths > 0).all():
            raise NoAnswerError("a component has width 0, a point, and so no density: give widths above 0")
        power = self.widths**2
        squared = (x[:, None, :] - self.means).square().sum(-1)  # (B, K)
        each = (-squared / (2 * power)).exp() / (2 * torch.pi * power) ** (x.shape[1] / 2)
        return each @ self._normalised_weights

    def along(self, direction: Tensor) -> GaussianMixture:
        """Return the distribution of the part along a (D,) direction of length 1, in one dimension."""
        return GaussianMixture((self.means @ direction)[:, None], self.widths, self.weights)

    def mean_given(self, x_t: Tensor, log_alpha_bar: Tensor) -> Tensor:
        """Return E[x_0 | x_t], (B, D), at log ᾱ, (B,) or a number."""
        shares, means, _ = self._given(x_t, log_alpha_bar)
        return torch.einsum("bk,bkd->bd", shares, means)

    def given(self, x_t: Tensor, log_alpha_bar: Tensor) -> GaussianMixture:
        """Return q(x_0 | x_t) for one x_t, (D,), at log ᾱ, a number: a mixture again."""
        shares, means, powers = self._given(x_t[None], log_alpha_bar)
        return GaussianMixture(means[0], powers[0].sqrt(), shares[0])

    def _given(self, x_t: Tensor, log_alpha_bar: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return r_k, (B, K), with mean, (B, K, D), and variance, (B, K), of x_0 in component k given x_t."""
        alpha_bar, of_noise = (part[..., None] for part in (log_alpha_bar.exp(), noise_power(log_alpha_bar)))
        power = alpha_bar * self.widths**2 + of_noise  # (B, K), the variance of x_t within a component
        offset = x_t[:, None, :] - alpha_bar.sqrt()[..., None] * self.means  # (B, K, D)
        log_share = (
            self._normalised_weights.log()
            - offset.square().sum(-1) / (2 * power)
            - x_t.shape[1] / 2 * power.log()
        )
        gain = alpha_bar.sqrt() * self.widths**2 / power
        means = self.means + gain[..., None] * offset
        return log_share.softmax(-1), means, (of_noise * self.widths**2 / power).expand_as(log_share)

    def denoiser(self, schedule: NoiseSchedule) -> ExactDenoiser:
        """Return the exact denoiser of this data on a schedule; it takes x_t of shape (B, D)."""
        return ExactDenoiser(self, schedule)


@dataclass(frozen=True, eq=False)
class ExactDenoiser:
    """E[x_0 | x_t] of a mixture, at any t, whole or fractional: one in all, or (B,)."""

    mixture: GaussianMixture
    schedule: NoiseSchedule

    def __call__(self, x_t: Tensor, t: float | Tensor) -> Estimate:
        """Estimate x_0 from x_t, (B, D), at level t.

        Raises:
            ShapeError: a t for each of the D dimensions.
        """
        if isinstance(t, Tensor) and t.ndim > 1:
            raise ShapeError(f"t has shape {tuple(t.shape)}: a mixture takes one in all, or (B,)")
        return Estimate(self.mixture.mean_given(x_t, log_alpha_bar_between(self.schedule, t).to(x_t)))


def reverse_density(
    mixture: GaussianMixture, schedule: NoiseSchedule, x_t: Tensor, t: int, s: int
) -> GaussianMixture:
    """Return q(x_s | x_t) of data from a mixture, exactly: a mixture again.

        q(x_s | x_t) = Σ_k r_k(x_t) N(a·x_t + b·m_k, (b² v_k + σ²) I)

    where q(x_s | x_t, x_0) = N(a·x_t + b·x_0, σ² I), and m_k, v_k are mean and variance of x_0 in component k
    given x_t.

    Args:
        mixture: the data.
        schedule: the noise schedule.
        x_t: (D,) where one comes from.
        t: s+1 … T−1.
        s: −1 … T−2, where −1 is clean data.

    Raises:
        TimestepError: s ≥ t, or outside these ranges.
        ShapeError, DtypeError: another x_t than (D,) in the precision of the mixture.
    """
    check_float(x_t=x_t)
    if x_t.shape != mixture.means.shape[1:]:
        raise ShapeError(f"x_t has shape {tuple(x_t.shape)}: it must be ({mixture.means.shape[1]},)")
    log_s, log_t = schedule.log_alpha_bar_at(s, lowest=-1), schedule.log_alpha_bar_at(t)
    if s >= t:
        raise TimestepError(f"s = {s} and t = {t}: s must be smaller than t")
    of_x_t, of_x_0, variance = posterior_coefficients(log_s, log_t)
    x_0 = mixture.given(x_t, log_t)
    widths = (of_x_0.square() * x_0.widths**2 + variance).sqrt()
    return GaussianMixture(of_x_t * x_t + of_x_0 * x_0.means, widths, x_0.weights)


def variances_reached(plan: Plan, schedule: NoiseSchedule, widths: Tensor) -> Tensor:
    """Return the variances at which a plan's samples arrive, for many widths at once.

    The denoiser of N(0, c²) is linear, x̂_0 = √ᾱ c²/(ᾱ c² + 1 − ᾱ) · x_t, so every state is a known linear
    combination of the initial noise and the noises of the rows: the variance follows with no sampling.

    Args:
        plan: any plan without learned variances.
        schedule: the schedule it was made on.
        widths: (W,) standard deviations of the data, > 0.

    Returns:
        (W,) float64.
    """
    powers = widths.double() ** 2
    x_t = torch.ones(1, len(widths), dtype=torch.float64)  # (N, W), in terms of the noises drawn so far
    kept: list[Tensor] = []
    for row in plan.rows:
        level = log_alpha_bar_between(schedule, row.t)
        x_0 = (level / 2).exp() * powers / (level.exp() * powers + noise_power(level)) * x_t
        if row.is_random:
            x_t, x_0, *kept = (pad(past, (0, 0, 0, 1)) for past in (x_t, x_0, *kept))
        fresh = torch.zeros_like(x_t)
        fresh[-1] = 1
        x_s = row.advance(x_t, (x_0, *kept), fresh)
        kept = [row.kept(x_t, x_0), *kept][: plan.memory]
        x_t = x_s
    return x_t.square().sum(0)


def gaussian_error(sampler: Sampler, schedule: NoiseSchedule, widths: Tensor = WIDTHS) -> float:
    """Return the mean over the widths c of |std reached / c − 1|, from noise of standard deviation 1.

    Exact: nothing is drawn. Noise that a sampler adds counts with its variance.

    >>> from alphabar import Euler
    >>> schedule = NoiseSchedule.linear()
    >>> [round(gaussian_error(Euler(steps), schedule), 3) for steps in (10, 100, 1000)]
    [0.271, 0.038, 0.004]

    Args:
        sampler: what is judged.
        schedule: the schedule it runs on.
        widths: (W,) standard deviations of the data, > 0.
    """
    variances = variances_reached(sampler.plan(schedule), schedule, widths)
    return float((variances.sqrt() / widths - 1).abs().mean())


class Distance(NamedTuple):
    """How far a sampler's end points lie from the true ones."""

    median: float
    rms: float
    """Root mean square."""

    @property
    def product(self) -> float:
        """Median times root mean square: far ends count, but a few of them do not decide."""
        return self.median * self.rms

    @classmethod
    def of(cls, distances: Tensor) -> Distance:
        """Return what these distances, (B,), come to."""
        return cls(float(distances.median()), float(distances.square().mean().sqrt()))


def mixture_error(
    sampler: Sampler, schedule: NoiseSchedule, mixture: GaussianMixture, x_t: Tensor, reference: int = 500
) -> Distance:
    """Return the distance of each end point to that of a fine Heun run from the same start.

    Args:
        sampler: what is judged; deterministic.
        schedule: the schedule it runs on.
        mixture: the data, whose exact denoiser takes the place of the network.
        x_t: (B, D) starts, standard normal.
        reference: steps of the Heun run, which is of second order: its own error is negligible.

    Raises:
        ConfigError: a sampler that adds noise, whose end points have no reference.
    """
    if any(row.is_random for row in sampler.plan(schedule).rows):
        raise ConfigError(f"{sampler} adds noise: its end points are random, so compare their distribution")
    denoiser, start = mixture.denoiser(schedule), x_t.double()
    reached, true = (
        sample(denoiser, start.shape, each, x_t=start, dtype=torch.float64, progress=False)
        for each in (sampler, Heun(reference, spacing="log_snr"))
    )
    return Distance.of((reached - true).norm(dim=1))


class Score(NamedTuple):
    """One line of a ranking."""

    evaluations: int
    """Of the network, as counted in the plan; at most what was asked for."""
    error: float
    """:func:`gaussian_error`."""
    solver: str
    spacing: str


def ranking(
    schedule: NoiseSchedule,
    evaluations: int,
    *,
    spacings: Sequence[str] = ("trailing", "karras", "log_snr"),
    widths: Tensor = WIDTHS,
) -> list[Score]:
    """Return every solver with every spacing at so many evaluations of the network, the best first.

    :class:`Fitted` is among them, with the spacing ``"fitted"``, where it has a table.

    >>> for score in ranking(NoiseSchedule.linear(), 10)[:2]:
    ...     print(score)
    Score(evaluations=10, error=0.00012..., solver='Fitted', spacing='fitted')
    Score(evaluations=10, error=0.0014..., solver='DEIS 4 to the end', spacing='log_snr')

    Args:
        schedule: the noise schedule.
        evaluations: at most so many, ≥ 1.
        spacings: names in ``SPACINGS``.
        widths: as in :func:`gaussian_error`.

    Raises:
        ConfigError, TimestepError, UnknownNameError: evaluations or a spacing that do not fit.
    """
    scores = []
    for solver, with_evaluations in SOLVERS.items():
        for spacing in spacings:
            sampler = with_evaluations(evaluations, spacing)
            error = gaussian_error(sampler, schedule, widths)
            scores.append(Score(len(sampler.plan(schedule)), error, solver, spacing))
    with suppress(ConfigError, NoAnswerError):  # another number of evaluations, another schedule
        error = gaussian_error(Fitted(evaluations), schedule, widths)
        scores.append(Score(evaluations, error, "Fitted", "fitted"))
    return sorted(scores, key=lambda score: score.error)
