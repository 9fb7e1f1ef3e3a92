"""Distances between samples and a distribution, for data of which the distribution is known."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["energy_distance", "kolmogorov_smirnov"]


def energy_distance(x: Tensor, y: Tensor) -> float:
    """Return 2 E‖x − y‖ − E‖x − x'‖ − E‖y − y'‖ over all pairs (Székely & Rizzo 2004), in float64.

    Of two sets of N from one distribution its mean is 2/N · E‖x − x'‖, since x = x' is among the pairs.

    Args:
        x: (N, D).
        y: (M, D).
    """
    x, y = x.double(), y.double()
    between, of_x, of_y = (torch.cdist(a, b).mean() for a, b in ((x, y), (x, x), (y, y)))
    return float(2 * between - of_x - of_y)


def kolmogorov_smirnov(x: Tensor, low: float, high: float) -> float:
    """Return the largest distance between the distribution function of numbers and that of U(low, high).

    Args:
        x: (N,).
        low: where the uniform distribution begins.
        high: where it ends.
    """
    share = ((x.double().sort().values - low) / (high - low)).clamp(0, 1)
    steps = torch.arange(len(x) + 1, dtype=torch.float64) / len(x)
    return float(torch.maximum(steps[1:] - share, share - steps[:-1]).max())
