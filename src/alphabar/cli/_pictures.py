"""Pictures of arrays: points of pairs, curves of signals, channels of fields, slices of volumes."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["pictures"]

SIDE = 64  # of a curve
POINTS = 192  # the side of the picture of all pairs
SLICES = 4  # of a volume
CHANNELS = 8  # that are shown at most


def pictures(x: Tensor) -> Tensor:
    """Return what a person looks at in place of arrays, (M, 1 or 3, H, W) in [−1, 1], on one scale for all.

    Args:
        x: (N, 2) pairs, of which all make one picture, M = 1; (N, C) or (N, C, L), each as curves;
            (N, C, H, W); or (N, C, D, H, W).
    """
    x = x.detach().double().cpu()
    low, high = x.min(), x.max()
    x = (x - low) / (high - low) * 2 - 1 if high > low else torch.zeros_like(x)
    if x.shape[1:] == (2,):
        return _points(x)
    if x.ndim <= 3:
        return torch.stack([_curves(each) for each in x.reshape(len(x), -1, x.shape[-1])[:, :CHANNELS]])
    if x.ndim == 5:
        places = torch.linspace(0, x.shape[2] - 1, min(SLICES, x.shape[2])).round().long()
        x = x[:, :, places].flatten(1, 2)
    if x.shape[1] in (1, 3) and x.ndim == 4:
        return x
    return torch.cat(x[:, : CHANNELS * SLICES].chunk(min(x.shape[1], CHANNELS * SLICES), dim=1), dim=-1)


def _points(x: Tensor) -> Tensor:
    """Return one picture of (N, 2) in [−1, 1], the second number upwards."""
    column, row = ((x * torch.tensor([1, -1]) + 1) / 2 * (POINTS - 1)).round().long().unbind(1)
    picture = torch.ones(POINTS, POINTS, dtype=x.dtype)
    picture[row, column] = -1
    return picture[None, None]


def _curves(x: Tensor) -> Tensor:
    """Return a picture (1, H, W) of (C, L) in [−1, 1], each channel a curve, later ones lighter."""
    across = torch.linspace(0, x.shape[1] - 1, SIDE).round().long()
    heights = ((1 - x[:, across]) / 2 * (SIDE - 1)).round()
    following = torch.cat([heights[:, 1:], heights[:, -1:]], 1)
    top, bottom = torch.minimum(heights, following), torch.maximum(heights, following)
    picture = torch.ones(SIDE, SIDE, dtype=x.dtype)
    rows = torch.arange(SIDE)[:, None]
    for number in reversed(range(len(x))):
        is_curve = (rows >= top[number]) & (rows <= bottom[number])
        picture[is_curve] = -1 + 1.5 * number / len(x)
    return picture[None]
