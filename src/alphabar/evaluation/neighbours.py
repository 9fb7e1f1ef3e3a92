r"""Scores by nearest neighbours: is a sample where data are, and are there samples wherever data are?

Each vector has a ball that reaches to its k-th nearest neighbour in its own set.

    precision   share of samples inside a ball of the reference          Kynkäänniemi et al. 2019, equation 1
    recall      share of the reference inside a ball of the samples      ibid.
    density     balls of the reference around a sample, mean over k      Naeem et al. 2020, equation 4
    coverage    share of the reference with a sample inside its ball     ibid., equation 5

Precision and recall take k = 3, density and coverage k = 5, as their authors do. A distance to a neighbour is
not smooth in the data, so the jackknife's intervals are wider than need be: up to twice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from alphabar.evaluation.intervals import Without, check_sets, shuffled_blocks

__all__ = ["MOST", "SCORES", "nearest", "nearest_other", "neighbour_scores"]

MOST = 10_000  # vectors of a set that are compared: the distances of all pairs are held in memory
K = 3
K_DENSITY = 5
ROWS = 1024


@dataclass(frozen=True, eq=False)
class _Balls:
    """Distances between samples and reference, and the reach of the balls of both."""

    between: Tensor
    """(N, M)."""
    samples: Tensor
    """(N,) to the K-th neighbour."""
    reference: Tensor
    """(M,)."""
    wide: Tensor
    """(M,) of the reference, to the K_DENSITY-th neighbour."""


SCORES: dict[str, Callable[[_Balls], Tensor]] = {
    "precision": lambda balls: (balls.between <= balls.reference).any(1),
    "recall": lambda balls: (balls.samples >= balls.between.T).any(1),
    "density": lambda balls: (balls.between <= balls.wide).sum(1).double() / K_DENSITY,
    "coverage": lambda balls: balls.between.amin(0) <= balls.wide,
}
"""What each score is the mean of, over samples or reference."""


def neighbour_scores(samples: Tensor, reference: Tensor) -> dict[str, Without]:
    """Return the scores by name, as functions of the blocks that are left out.

    Args:
        samples: (N, D), of which the first 10,000 count.
        reference: (M, D), likewise.

    Raises:
        ShapeError: fewer than 20 vectors, or vectors of different lengths.
    """
    check_sets(samples, reference)
    x, y = samples[:MOST], reference[:MOST].double()
    blocks = [shuffled_blocks(len(vectors)) for vectors in (x, y)]
    between, of_x, of_y = _distances(x, y), _distances(x, x.double()), _distances(y, y)

    @cache
    def scores(a: int | None, b: int | None) -> dict[str, float]:
        rows, columns = (_kept(parts, left_out) for parts, left_out in zip(blocks, (a, b), strict=True))
        inside = of_y[columns][:, columns]
        reaches = _reach(of_x[rows][:, rows], K), _reach(inside, K), _reach(inside, K_DENSITY)
        balls = _Balls(between[rows][:, columns], *reaches)
        return {name: float(each(balls).double().mean()) for name, each in SCORES.items()}

    def score(name: str) -> Without:
        return lambda a, b: scores(a, b)[name]

    return {name: score(name) for name in SCORES}


def _kept(blocks: list[Tensor], left_out: int | None) -> Tensor:
    return torch.cat([part for block, part in enumerate(blocks) if block != left_out])


def _distances(a: Tensor, b: Tensor) -> Tensor:
    """Return (N, M) Euclidean distances, in float64: matrix products cancel where vectors are near."""
    return torch.cat([torch.cdist(part, b) for part in torch.split(a.double(), ROWS)])


def _reach(distances: Tensor, k: int) -> Tensor:
    """Return (N,) the distance to the k-th nearest other vector; the nearest one is the vector itself."""
    return distances.kthvalue(k + 1).values


def nearest(samples: Tensor, training: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distance from each sample to the nearest training vector, (N,), and its number, (N,).

    Args:
        samples: (N, D).
        training: (M, D).
    """
    found = [_distances(part, training.double()).min(1) for part in torch.split(samples, ROWS)]
    return torch.cat([each.values for each in found]), torch.cat([each.indices for each in found])


def nearest_other(vectors: Tensor) -> Tensor:
    """Return the distance from each of (N, D) vectors to the nearest other one, (N,), N ≥ 2."""
    parts = torch.split(vectors, ROWS)
    return torch.cat([_reach(_distances(part, vectors.double()), 1) for part in parts])
