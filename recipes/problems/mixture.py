"""Eight Gaussians on a ring: points of the plane, (N, 2).

    x ~ 1/8 Σ_k N(μ_k, .1² I),   μ_k = 2 (cos 2πk/8, sin 2πk/8)

Samples are judged by their energy distance to points of the mixture.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from recipes.problems._distances import energy_distance

__all__ = ["draw", "score"]

CENTRES, RADIUS, DEVIATION = 8, 2.0, 0.1
SETS = 10


def draw(count: int, seed: int) -> dict[str, Tensor]:
    """Return points of the mixture, ``x`` of (N, 2)."""
    random = torch.Generator().manual_seed(seed)
    centre = _centres()[torch.randint(CENTRES, (count,), generator=random)]
    return {"x": centre + DEVIATION * torch.randn(count, 2, generator=random)}


def score(found: Mapping[str, Tensor], true: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the energy distance to points of the mixture, and the share that lies between its Gaussians.

    energy: the mean over ten sets of N/10 points, each beside another tenth of the true ones.
    astray: the share of points farther than 4 deviations from every centre, exp(−8) = .0003 of the mixture.
    """
    pairs = zip(found["x"].chunk(SETS), true["x"].chunk(SETS), strict=True)
    distances = [energy_distance(a, b) for a, b in pairs]
    nearest = torch.cdist(found["x"].double(), _centres().double()).min(1).values
    return {
        "energy": sum(distances) / len(distances),
        "astray": float((nearest > 4 * DEVIATION).double().mean()),
    }


def _centres() -> Tensor:
    angle = 2 * math.pi * torch.arange(CENTRES) / CENTRES
    return RADIUS * torch.stack([angle.cos(), angle.sin()], dim=1)
