"""Diffusion in two dimensions, where the denoiser is exact: scores, flowing particles, the reverse density.

For data Σ_k w_k N(μ_k, c_k² I) one step back is, with q(x_s | x_t, x_0) = N(a·x_t + b·x_0, σ² I),

    q(x_s | x_t) = Σ_k r_k(x_t) N(a·x_t + b·m_k(x_t), (b² v_k + σ²) I)

r_k, m_k, v_k are the shares, means and variances of the components given x_t. What a sampler draws from
instead is one Gaussian, with the mean a·x_t + b·x̂_0 and the variance σ².
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from alphabar.errors import ConfigError, TimestepError, look_up
from alphabar.explorer.svg import Curve, Frame, arrows, axes, dots, number, plot, svg
from alphabar.process import normal
from alphabar.process.forward import posterior_coefficients
from alphabar.samplers import GaussianMixture, Sampler, iter_sample
from alphabar.schedule import NoiseSchedule, noise_power

__all__ = [
    "PRESETS",
    "ReverseDensity",
    "field",
    "flow",
    "mixture",
    "reverse_density",
    "reverse_plot",
    "score",
]

REACH = 3.5  # the plane is shown from −3.5 to 3.5
GRID = 13  # arrows a side
MOST_POINTS = 300
LEAST_WIDTH = 0.01
PLACES = 161  # of a density

Texts = Mapping[str, str]


def _ring(count: int) -> Tensor:
    angles = torch.arange(count, dtype=torch.float64) * 2 * math.pi / count
    return 1.6 * torch.stack([angles.cos(), angles.sin()], 1)


def _moons() -> Tensor:
    angles = torch.linspace(0, math.pi, 24, dtype=torch.float64)
    upper = torch.stack([angles.cos() - 0.5, angles.sin() - 0.2], 1)
    return 1.3 * torch.cat([upper, -upper])


PRESETS = {
    "two": torch.tensor([[-1.3, 0.0], [1.3, 0.0]], dtype=torch.float64),
    "ring": _ring(8),
    "moons": _moons(),
    "cross": torch.tensor([[0, 0], [1.5, 0], [-1.5, 0], [0, 1.5], [0, -1.5]], dtype=torch.float64),
}
"""Centres of mixtures by name, (K, 2)."""


def mixture(name: str, points: Sequence[Sequence[float]], width: float) -> GaussianMixture:
    """Return a mixture by the name of its centres, or around points drawn by hand.

    Args:
        name: a preset, or ``drawn``.
        points: the drawn ones, 1 … 300 pairs inside the plane.
        width: standard deviation around each, ≥ .01.

    Raises:
        UnknownNameError: another name.
        ConfigError: no points, too many, or points that are no pairs of numbers in the plane.
    """
    centres = _drawn(points) if name == "drawn" else look_up(PRESETS, name, "data")
    return GaussianMixture(centres, centres.new_full((len(centres),), max(width, LEAST_WIDTH)))


def _drawn(points: Sequence[Sequence[float]]) -> Tensor:
    if not 1 <= len(points) <= MOST_POINTS:
        raise ConfigError(f"{len(points)} points are drawn: draw 1 to {MOST_POINTS}")
    if not all(len(point) == 2 and all(abs(value) <= REACH for value in point) for point in points):
        raise ConfigError(f"points must be pairs of numbers in −{REACH} … {REACH}")
    return torch.tensor(points, dtype=torch.float64)


def score(data: GaussianMixture, schedule: NoiseSchedule, x_t: Tensor, t: int) -> Tensor:
    """Return ∇ log q(x_t) = (√ᾱ_t · x̂_0 − x_t)/(1−ᾱ_t), like x_t, (B, 2)."""
    x_0 = data.denoiser(schedule)(x_t, float(t)).x_0
    return (schedule.signal_scale[t] * x_0 - x_t) / schedule.noise_scale[t].square()


def field(data: GaussianMixture, schedule: NoiseSchedule, t: int, texts: Texts, at: Sequence[float]) -> str:
    """Return the plane: draws of the data, arrows along the score at t, and a chosen point x_t.

    An arrow is as long as the score times 1 − ᾱ_t, the way that the noise has come, up to the grid's mesh.
    """
    frame = Frame((-REACH, REACH), (-REACH, REACH), height=420.0)
    mesh = torch.linspace(-REACH, REACH, GRID + 2, dtype=torch.float64)[1:-1]
    starts = torch.cartesian_prod(mesh, mesh)
    steps = score(data, schedule, starts, t) * schedule.noise_scale[t].square()
    length = steps.norm(dim=1, keepdim=True)
    most = 2 * REACH / (GRID + 2)
    steps = steps * (most * (length / REACH).tanh() / length.clamp(min=1e-12))
    draws = data.draw(400, generator=torch.Generator().manual_seed(0))
    alt = texts["field_alt"].format(
        t=t,
        count=len(data.means),
        longest=number(float(length.max()), 3),
        x=number(at[0], 3),
        y=number(at[1], 3),
    )
    chosen = dots(frame, torch.tensor([list(at)], dtype=torch.float64), "chosen", 6)
    parts = [axes(frame), dots(frame, draws, "data"), arrows(frame, starts, steps), chosen]
    return svg(frame, parts, title=texts["field_title"].format(t=t), alt=alt)


class Flow(NamedTuple):
    """Particles on their way."""

    ts: list[float]
    """The level of each frame; −1 is clean."""
    frames: Tensor
    """(n+1, B, 2)."""
    distance: float
    """From each end point to the nearest centre, the mean."""


def flow(data: GaussianMixture, schedule: NoiseSchedule, sampler: Sampler, *, count: int, seed: int) -> Flow:
    """Return the states of particles under a sampler and the exact denoiser.

    Raises:
        AlphabarError: as :func:`alphabar.iter_sample`.
    """
    start = normal((count, 2), seed=seed).double()
    states = list(
        iter_sample(data.denoiser(schedule), (count, 2), sampler, seed=seed, x_t=start, dtype=torch.float64)
    )
    frames = torch.stack([state.x_t for state in states])
    distance = torch.cdist(frames[-1], data.means).min(1).values.mean()
    return Flow([state.t for state in states], frames, float(distance))


class ReverseDensity(NamedTuple):
    """q(x_s | x_t) of a mixture along one direction, and the Gaussian that a sampler puts in its place."""

    direction: Tensor
    """(2,) of length 1: along which q(x_s | x_t) is widest."""
    shares: Tensor
    """(K,) r_k."""
    means: Tensor
    """(K,) along the direction."""
    variances: Tensor
    """(K,)"""
    mean: float
    """Of the Gaussian, which is the mean of q(x_s | x_t) as well."""
    variance: float
    """Of the Gaussian: σ², the posterior's."""

    @property
    def variance_exact(self) -> float:
        """The variance of q(x_s | x_t) along the direction."""
        spread = (self.shares * (self.means - self.mean).square()).sum()
        return float(spread + (self.shares * self.variances).sum())

    def exact(self, x: Tensor) -> Tensor:
        """Return q(x_s | x_t) at places (P,) along the direction."""
        return (_gaussian(x[:, None], self.means, self.variances) * self.shares).sum(1)

    def gaussian(self, x: Tensor) -> Tensor:
        """Return the Gaussian there."""
        return _gaussian(x, x.new_tensor(self.mean), x.new_tensor(self.variance))


def _gaussian(x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    return (-(x - mean).square() / (2 * variance)).exp() / (2 * math.pi * variance).sqrt()


def reverse_density(
    data: GaussianMixture, schedule: NoiseSchedule, x_t: Sequence[float], t: int, s: int
) -> ReverseDensity:
    """Return q(x_s | x_t) along the direction in which it is widest.

    Args:
        data: the mixture.
        schedule: the noise schedule.
        x_t: two numbers.
        t: 1 … T−1.
        s: 0 … t−1.

    Raises:
        TimestepError: s ≥ t, or outside these ranges.
    """
    if not 0 <= s < t:
        raise TimestepError(f"s = {s} and t = {t}: s must be in 0 … t−1")
    log_s, log_t = schedule.log_alpha_bar_at(s), schedule.log_alpha_bar_at(t)
    of_x_t, of_x_0, variance = posterior_coefficients(log_s, log_t)
    shares, means, variances = _given(data, torch.tensor(x_t, dtype=torch.float64), log_t)
    centres = of_x_t * torch.tensor(x_t, dtype=torch.float64) + of_x_0 * means
    middle = shares @ centres
    offset = centres - middle
    direction = torch.linalg.eigh(torch.einsum("k,ki,kj->ij", shares, offset, offset)).eigenvectors[:, -1]
    direction = direction * (1.0 if direction[direction.abs().argmax()] > 0 else -1.0)
    return ReverseDensity(
        direction,
        shares,
        centres @ direction,
        of_x_0.square() * variances + variance,
        float(middle @ direction),
        float(variance),
    )


def _given(data: GaussianMixture, x_t: Tensor, log_alpha_bar: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return r_k, m_k and v_k: shares, means and variances of x_0's components given x_t."""
    signal, noise = (log_alpha_bar / 2).exp(), noise_power(log_alpha_bar)
    powers = data.widths.square()
    power = signal.square() * powers + noise
    offset = x_t - signal * data.means
    log_shares = -offset.square().sum(1) / (2 * power) - power.log()
    if data.weights is not None:
        log_shares = log_shares + data.weights.log()
    means = data.means + (signal * powers / power)[:, None] * offset
    return log_shares.softmax(0), means, powers * noise / power


def reverse_plot(density: ReverseDensity, t: int, s: int, texts: Texts) -> str:
    """Return the plot of the reverse density and its Gaussian."""
    wide = math.sqrt(max(density.variance_exact, density.variance))
    x = torch.linspace(density.mean - 4 * wide, density.mean + 4 * wide, PLACES, dtype=torch.float64)
    along = ", ".join(number(round(value, 2)) for value in density.direction.tolist())
    ratio = math.sqrt(density.variance_exact / density.variance)
    return plot(
        [
            Curve(texts["reverse_exact"], x, density.exact(x), 0),
            Curve(texts["reverse_gaussian"], x, density.gaussian(x), 1, is_dashed=True),
        ],
        title=texts["reverse_title"].format(t=t, s=s),
        alt=texts["reverse_alt"].format(
            t=t,
            s=s,
            exact=number(math.sqrt(density.variance_exact), 3),
            gaussian=number(math.sqrt(density.variance), 3),
            ratio=number(ratio, 3),
        ),
        x_label=texts["reverse_axis"].format(direction=along),
    )
