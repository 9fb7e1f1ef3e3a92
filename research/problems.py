"""Problems with known answers for ``fit.py``: many Gaussian mixtures at once, with diagonal covariances.

    E[x_0 | x_t] = Σ_k r_k [ μ_k + √ᾱ c_k² / (ᾱ c_k² + 1 − ᾱ) · (x_t − √ᾱ μ_k) ]        (per coordinate)

In the directions that no mean reaches, a round mixture knows only the length of x_t: these directions are one
coordinate here, with their number as its multiplicity. So 768 dimensions cost as much as 17. Levels are λ,
half the log-SNR; everything is float64 and can be differentiated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

WIDTHS = torch.linspace(0.05, 1.5, 64, dtype=torch.float64)
COORDINATES = 17
COMPONENTS = COORDINATES - 1


@dataclass(frozen=True, eq=False)
class Problems:
    """M mixtures with B starts each."""

    means: Tensor  # (M, K, R)
    log_weights: Tensor  # (M, K), −∞ where there is no component
    powers: Tensor  # (M, K, R), c²
    multiplicity: Tensor  # (M, 1, R)
    dimensions: Tensor  # (M,)
    start: Tensor  # (M, B, R)
    waves: Tensor  # (M, R + 2, F): frequencies in x and in λ, phases
    pushes: Tensor  # (M, F, R)

    def denoise(self, x: Tensor, level: Tensor) -> Tensor:
        """Return E[x_0 | x_t], (M, B, R)."""
        alpha_bar, of_noise = torch.sigmoid(2 * level), torch.sigmoid(-2 * level)
        signal = alpha_bar.sqrt()
        power = alpha_bar * self.powers + of_noise
        means = self.means / power
        constant = self.log_weights - (self.multiplicity * power.log()).sum(-1) / 2
        constant = constant - alpha_bar / 2 * (self.means * means).sum(-1)
        log_share = constant[:, None] - torch.bmm(x.square(), (1 / power).transpose(1, 2)) / 2
        share = (log_share + signal * torch.bmm(x, means.transpose(1, 2))).softmax(-1)
        pull = signal * self.powers / power
        exact = torch.bmm(share, self.means * (1 - signal * pull)) + torch.bmm(share, pull) * x
        if not self.waves.shape[-1]:
            return exact
        R = x.shape[-1]
        at = torch.bmm(x, self.waves[:, :R]) + level * self.waves[:, None, R] + self.waves[:, None, R + 1]
        return exact + of_noise.sqrt() * torch.bmm(at.cos(), self.pushes)


def gaussian(x: Tensor, level: Tensor) -> Tensor:
    """E[x_0 | x_t] of N(0, c²) for the 64 widths c."""
    alpha_bar = torch.sigmoid(2 * level)
    return alpha_bar.sqrt() * WIDTHS**2 / (alpha_bar * WIDTHS**2 + torch.sigmoid(-2 * level)) * x


def joined(*parts: Problems) -> Problems:
    """All of them, as one."""
    fields = ("means", "log_weights", "powers", "multiplicity", "dimensions", "start", "waves", "pushes")
    return Problems(*(torch.cat([getattr(part, field) for part in parts]) for field in fields))


def fitted_on(seed: int, starts: int, crowded: int = 0) -> Problems:
    """What the tables are fitted on: 38 mixtures of four families, and crowded ones of many components."""
    return joined(
        round_mixtures(seed, 21, starts, (2, 3, 4, 8, 16, 32, 64), (0.3, 1.5)),
        round_mixtures(seed + 1000, 6, starts, (128, 256, 768), (0.2, 0.8)),
        round_mixtures(seed + 4000, crowded, starts, (2, 4, 6, 12, 24, 48), (0.7, 1.3), fewest=10),
        of_falling_width(seed + 2000, 5, starts),
        clusters_of_clusters(seed + 3000, 6, starts),
    )


def round_mixtures(
    seed: int,
    count: int,
    starts: int,
    dimensions: tuple[int, ...],
    spread: tuple[float, float],
    fewest: int = 2,
) -> Problems:
    """``fewest`` … 16 round components of widths .03 … .8, equal or not, normal or uniform means."""
    draw = torch.Generator().manual_seed(seed)
    made = _empty(count, starts)
    for i in range(count):
        D = dimensions[i % len(dimensions)]
        K = int(torch.randint(fewest, COMPONENTS + 1, (1,), generator=draw))
        scale = spread[0] * (spread[1] / spread[0]) ** _u(draw, 1)
        normal = _u(draw, 1) < 0.5
        means = _n(draw, K, D) * scale if normal else (2 * _u(draw, K, D) - 1) * scale * 1.5
        widths = 0.03 * (0.8 / 0.03) ** _u(draw, 1) * torch.exp((_u(draw, K) - 0.5) * 2 * _u(draw, 1))
        weights = torch.exp(_n(draw, K) * _u(draw, 1))
        noise = _n(draw, starts, D)
        R = min(K, D)
        basis = torch.linalg.qr(means.T)[0][:, :R]
        made.means[i, :K, :R] = means @ basis
        made.powers[i, :K] = widths[:, None] ** 2
        made.log_weights[i, :K] = (weights / weights.sum()).log()
        made.dimensions[i] = D
        made.multiplicity[i, 0, R:] = 0
        made.start[i] = 0
        made.start[i, :, :R] = noise @ basis
        if D > R:
            made.multiplicity[i, 0, R] = D - R
            made.start[i, :, R] = (noise - noise @ basis @ basis.T).norm(dim=1)
    return made


def of_falling_width(seed: int, count: int, starts: int) -> Problems:
    """Means and widths that fall with the coordinate as those of photographs do with frequency."""
    draw = torch.Generator().manual_seed(seed)
    made = _empty(count, starts)
    made.start[:] = _n(draw, count, starts, COORDINATES)
    for i in range(count):
        K = int(torch.randint(2, COMPONENTS + 1, (1,), generator=draw))
        fall = torch.arange(1, COORDINATES + 1.0, dtype=torch.float64) ** -(0.4 + 1.6 * _u(draw, 1))
        top, share = 0.5 + 1.5 * _u(draw, 1), 0.1 + 0.6 * _u(draw, 1)
        made.means[i, :K] = _n(draw, K, COORDINATES) * fall * top * (1 - share**2).sqrt()
        uneven = torch.exp((_u(draw, K, COORDINATES) - 0.5) * 0.8)
        made.powers[i, :K] = (fall * top * share * uneven).clamp(0.02) ** 2
        weights = torch.exp(_n(draw, K) * 0.5)
        made.log_weights[i, :K] = (weights / weights.sum()).log()
    return made


def clusters_of_clusters(seed: int, count: int, starts: int) -> Problems:
    """Sixteen components as a tree of four generations: decisions at every level of noise."""
    draw = torch.Generator().manual_seed(seed)
    made = _empty(count, starts)
    made.start[:] = _n(draw, count, starts, COORDINATES)
    made.log_weights[:] = -math.log(COMPONENTS)
    for i in range(count):
        fall = torch.arange(1, COORDINATES + 1.0, dtype=torch.float64) ** -(0.2 + _u(draw, 1))
        scale, ratio = 0.6 + 1.2 * _u(draw, 1), 0.3 + 0.4 * _u(draw, 1)
        means, along = torch.zeros(1, COORDINATES, dtype=torch.float64), fall
        for _ in range(4):
            children = _n(draw, len(means), 2, COORDINATES) * along * scale
            means = (means[:, None] + children).reshape(-1, COORDINATES)
            scale, along = scale * ratio, fall[torch.randperm(COORDINATES, generator=draw)]
        made.means[i] = means
        width = scale * (0.5 + 1.5 * _u(draw, 1)) * torch.exp((_u(draw, COMPONENTS, 1) - 0.5) * 0.8)
        made.powers[i] = (fall * width).clamp(0.01) ** 2
    return made


def roughened(problems: Problems, seed: int, by: tuple[float, float], waves: int = 8) -> Problems:
    """The same with errors like those of a network, σ times a sum of waves in x and λ, of sizes ``by``."""
    draw, (M, _, R) = torch.Generator().manual_seed(seed), problems.start.shape
    size = by[0] * (by[1] / by[0]) ** _u(draw, M, 1, 1)
    along = _n(draw, M, R, waves) / R**0.5
    over = _n(draw, M, 1, waves)
    phase = 2 * math.pi * _u(draw, M, 1, waves)
    pushes = size * (2 / waves) ** 0.5 * _n(draw, M, waves, R) * (problems.multiplicity > 0)
    return replace(problems, waves=torch.cat([along, over, phase], 1), pushes=pushes)


def _empty(count: int, starts: int) -> Problems:
    shape = (count, COMPONENTS, COORDINATES)
    return Problems(
        torch.zeros(shape, dtype=torch.float64),
        torch.full(shape[:2], -math.inf, dtype=torch.float64),
        torch.ones(shape, dtype=torch.float64),
        torch.ones(count, 1, COORDINATES, dtype=torch.float64),
        torch.full((count,), float(COORDINATES), dtype=torch.float64),
        torch.zeros(count, starts, COORDINATES, dtype=torch.float64),
        torch.zeros(count, COORDINATES + 2, 0, dtype=torch.float64),
        torch.zeros(count, 0, COORDINATES, dtype=torch.float64),
    )


def _u(draw: torch.Generator, *shape: int) -> Tensor:
    return torch.rand(*shape, generator=draw, dtype=torch.float64)


def _n(draw: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=draw, dtype=torch.float64)
