r"""Distances between two sets of feature vectors.

The Fréchet distance of two Gaussians (Dowson & Landau 1982), fitted to features (Heusel et al. 2017, eq. 6):

    d² = ‖μ_a − μ_b‖² + tr(Σ_a + Σ_b − 2 (Σ_a Σ_b)^{1/2})

With Σ_a = AᵀA and Σ_b = BᵀB the eigenvalues of Σ_a Σ_b are the squares of the singular values of A Bᵀ, so
tr (Σ_a Σ_b)^{1/2} is their sum: the same for both orders, and right to rounding where Σ is singular. Moments
are kept as the mean and the root A, which is never squared.

The kernel distance (Bińkowski et al. 2018, section 3) is the unbiased estimate of the squared maximum mean
discrepancy with k(x, y) = (x·y/D + 1)³,

    1/(N(N−1)) Σ_{i≠j} k(x_i, x_j) + 1/(M(M−1)) Σ_{i≠j} k(y_i, y_j) − 2/(NM) Σ_{i,j} k(x_i, y_j),

of all pairs, where the authors average over random subsets. It may be slightly negative.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from alphabar.errors import ConfigError, ShapeError
from alphabar.evaluation.intervals import BLOCKS, Without, check_sets, shuffled_blocks

__all__ = ["Moments", "frechet_distance", "frechet_without", "kernel_distance", "kernel_without"]

ROWS = 1024  # of a kernel matrix at a time


@dataclass(frozen=True, eq=False)
class Moments:
    """Number, mean and covariance of vectors of length D; those of two sets add up, in float64."""

    count: int
    mean: Tensor
    """(D,)."""
    root: Tensor
    """(R, D), R ≤ D: rootᵀ · root = Σ_i (x_i − mean)(x_i − mean)ᵀ."""

    @classmethod
    def of(cls, x: Tensor) -> Moments:
        """Return the moments of vectors (N, …); what follows the first dimension is one vector.

        Raises:
            ConfigError: numbers whose squares are not finite.
        """
        x = x.flatten(1).double()
        if not x.square().sum().isfinite():
            raise ConfigError("the images or features hold NaN or infinity, or overflow when squared")
        mean = x.mean(0)
        return cls(len(x), mean, _triangle(x - mean))

    @classmethod
    def together(cls, parts: Sequence[Moments]) -> Moments:
        """Return the moments of all vectors of some sets (Chan, Golub & LeVeque 1979, equation 2.1)."""
        count = sum(part.count for part in parts)
        mean = torch.stack([part.mean * (part.count / count) for part in parts]).sum(0)
        apart = torch.stack([(part.mean - mean) * part.count**0.5 for part in parts])
        return cls(count, mean, _triangle(torch.cat([apart, *(part.root for part in parts)])))

    def distance(self, other: Moments) -> float:
        """Return d² to other vectors.

        Raises:
            ShapeError: fewer than 2 vectors, or vectors of different lengths.
        """
        if min(self.count, other.count) < 2 or self.mean.shape != other.mean.shape:
            raise ShapeError(
                f"{self.count} vectors of length {len(self.mean)} and {other.count} of length "
                f"{len(other.mean)}: give at least 2 of each, of one length"
            )
        root_a, root_b = (each.root / (each.count - 1) ** 0.5 for each in (self, other))
        apart = (self.mean - other.mean).square().sum()
        within = root_a.square().sum() + root_b.square().sum()
        cross = torch.linalg.svdvals(root_a @ root_b.T).sum()
        return max(0.0, float(apart + within - 2 * cross))  # below 0 by rounding alone: 2 cross ≤ within


def _triangle(x: Tensor) -> Tensor:
    """Return R with Rᵀ R = xᵀ x: by QR, since the square of x would lose digits."""
    root: Tensor = torch.linalg.qr(x, mode="r").R
    return root


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Return d² between Gaussians fitted to two sets of vectors, in float64.

    Args:
        a: (N, …) finite numbers, N ≥ 2; what follows the first dimension is one vector.
        b: (M, …) likewise, M ≥ 2.

    Raises:
        ShapeError: fewer than 2 vectors, or vectors of different lengths.
        ConfigError: numbers whose squares are not finite.
    """
    return Moments.of(a).distance(Moments.of(b))


def frechet_without(samples: Tensor, reference: Tensor) -> Without:
    """Return the Fréchet distance as a function of the blocks that are left out.

    Args:
        samples: (N, D).
        reference: (M, D).

    Raises:
        ShapeError, ConfigError: as :func:`frechet_distance`; fewer than 20 vectors.
    """
    check_sets(samples, reference)
    sets = [[Moments.of(x[rows]) for rows in shuffled_blocks(len(x))] for x in (samples, reference)]

    @cache
    def moments(which: int, left_out: int | None) -> Moments:
        return Moments.together([part for block, part in enumerate(sets[which]) if block != left_out])

    return lambda a, b: moments(0, a).distance(moments(1, b))


def kernel_distance(a: Tensor, b: Tensor) -> float:
    """Return the unbiased squared maximum mean discrepancy of two sets of vectors, in float64.

    Args:
        a: (N, D), N ≥ 20.
        b: (M, D), M ≥ 20.

    Raises:
        ShapeError: fewer vectors, or vectors of different lengths.
        ConfigError: numbers whose kernels are not finite.
    """
    return kernel_without(a, b)(None, None)


def kernel_without(samples: Tensor, reference: Tensor) -> Without:
    """Return the kernel distance as a function of the blocks that are left out.

    Args:
        samples: (N, D).
        reference: (M, D).

    Raises:
        ShapeError, ConfigError: as :func:`kernel_distance`.
    """
    check_sets(samples, reference)
    sets = [[x[rows].double() for rows in shuffled_blocks(len(x))] for x in (samples, reference)]
    kept = [torch.tensor([len(block) for block in blocks], dtype=torch.float64) for blocks in sets]
    alike = [_sums(blocks, blocks) for blocks in sets]
    alike = [sums - torch.diag(_own(blocks)) for sums, blocks in zip(alike, sets, strict=True)]
    across = _sums(*sets)
    if not all(sums.isfinite().all() for sums in (*alike, across)):
        raise ConfigError("the features hold NaN or infinity, or their kernels overflow")

    def score(a: int | None, b: int | None) -> float:
        stay = [torch.tensor([float(block != out) for block in range(BLOCKS)]).double() for out in (a, b)]
        n, m = (float(counts @ mask) for counts, mask in zip(kept, stay, strict=True))
        within = [mask @ sums @ mask for sums, mask in zip(alike, stay, strict=True)]
        between = stay[0] @ across @ stay[1]
        return float(within[0] / (n * (n - 1)) + within[1] / (m * (m - 1)) - 2 * between / (n * m))

    return score


def _sums(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Return Σ k(x, y) over each pair of blocks, (BLOCKS, BLOCKS)."""
    return torch.stack([torch.stack([_sum(x, y) for y in b]) for x in a])


def _sum(x: Tensor, y: Tensor) -> Tensor:
    rows = [(part @ y.T / x.shape[1] + 1).pow(3).sum() for part in torch.split(x, ROWS)]
    return torch.stack(rows).sum()


def _own(blocks: Sequence[Tensor]) -> Tensor:
    """Return Σ k(x, x) over each block, (BLOCKS,)."""
    return torch.stack([(x.square().sum(1) / x.shape[1] + 1).pow(3).sum() for x in blocks])
