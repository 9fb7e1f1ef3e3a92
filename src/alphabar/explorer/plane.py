"""Diffusion in two dimensions, where the denoiser is exact: scores, flowing particles, one step back.

What is exact comes from :mod:`alphabar.samplers.exact`; here it is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from alphabar.errors import ConfigError, look_up
from alphabar.explorer.svg import Curve, Frame, arrows, axes, dots, number, plot, svg
from alphabar.process import normal
from alphabar.process.forward import posterior_coefficients
from alphabar.samplers import GaussianMixture, Sampler, iter_sample, reverse_density
from alphabar.schedule import NoiseSchedule

__all__ = [
    "PRESETS",
    "StepBack",
    "field",
    "flow",
    "mixture",
    "score",
    "step_back",
    "step_back_plot",
    "step_back_told",
]

REACH = 3.5  # the plane is shown from −3.5 to 3.5
GRID = 13  # arrows a side
MOST_POINTS = 300
LEAST_WIDTH = 0.01
PLACES = 240  # of a density

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


class StepBack(NamedTuple):
    """q(x_s | x_t) along the direction in which it is widest, and the Gaussian that a sampler draws from."""

    direction: Tensor
    """(2,) of length 1."""
    exact: GaussianMixture
    """In one dimension."""
    gaussian: GaussianMixture
    """Likewise, of one component: the same mean, and the variance of q(x_s | x_t, x_0)."""


def step_back(
    data: GaussianMixture, schedule: NoiseSchedule, x_t: Sequence[float], t: int, s: int
) -> StepBack:
    """Return the distribution of one step back, and the sampler's.

    Args:
        data: the mixture.
        schedule: the noise schedule.
        x_t: two numbers.
        t: 1 … T−1.
        s: 0 … t−1.

    Raises:
        TimestepError: s ≥ t, or outside these ranges.
    """
    q = reverse_density(data, schedule, torch.tensor(x_t, dtype=torch.float64), t, s)
    mean, covariance = q.moments
    direction = torch.linalg.eigh(covariance).eigenvectors[:, -1]
    direction = direction * (1.0 if direction[direction.abs().argmax()] > 0 else -1.0)
    *_, variance = posterior_coefficients(schedule.log_alpha_bar_at(s), schedule.log_alpha_bar_at(t))
    return StepBack(
        direction, q.along(direction), GaussianMixture((mean @ direction).view(1, 1), variance.sqrt()[None])
    )


def deviation(one: GaussianMixture) -> float:
    """Return the standard deviation of a mixture in one dimension."""
    return math.sqrt(float(one.moments.covariance))


def step_back_plot(found: StepBack, t: int, s: int, texts: Texts) -> str:
    """Return the plot of the distribution one step back, and of the sampler's Gaussian."""
    exact, gaussian = deviation(found.exact), deviation(found.gaussian)
    spread = torch.linspace(-4, 4, PLACES // 2, dtype=torch.float64)
    offsets = torch.cat([exact * spread, gaussian * spread]).sort().values  # the narrower has places enough
    x = (found.exact.moments.mean + offsets)[:, None]
    along = ", ".join(number(round(value, 2)) for value in found.direction.tolist())
    return plot(
        [
            Curve(texts["reverse_exact"], x[:, 0], found.exact.density(x), 0),
            Curve(texts["reverse_gaussian"], x[:, 0], found.gaussian.density(x), 1, is_dashed=True),
        ],
        title=texts["reverse_title"].format(t=t, s=s),
        alt=texts["reverse_alt"].format(t=t, s=s, told=step_back_told(found, texts)),
        x_label=texts["reverse_axis"].format(direction=along),
    )


def step_back_told(found: StepBack, texts: Texts) -> str:
    """Return how wide both are, in a sentence."""
    exact, gaussian = deviation(found.exact), deviation(found.gaussian)
    numbers = {"exact": exact, "gaussian": gaussian, "ratio": exact / gaussian}
    return texts["reverse_told"].format(**{name: number(value, 3) for name, value in numbers.items()})
