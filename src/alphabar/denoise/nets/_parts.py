"""What the networks share: t and labels as a vector, attention, the check of their input."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from alphabar.errors import ConfigError, ShapeError

__all__ = ["CONVOLUTIONS", "Embedding", "attend", "check_input", "cut", "heads_of", "padded", "zeroed"]

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
"""By the number of dimensions beside the channels."""

SINUSOIDS = 64  # frequencies of t, from 1 down to 1/10,000
HEAD = 64  # channels of an attention's head, where they divide the width


class Embedding(nn.Module):
    """A vector of t, plus a learned one of the label: MLP(sin ω t, cos ω t) + e[label], (B, width).

    Vaswani et al. 2017, section 3.5, for the sinusoids; their angles are made in float32.

    Args:
        width: of the vector.
        classes: how many labels there are, beside "no label", which is the last; 0: it takes none.
    """

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.width, self.classes = width, classes
        self.mlp = nn.Sequential(nn.Linear(2 * SINUSOIDS, width), nn.SiLU(), nn.Linear(width, width))
        self.labels = nn.Embedding(classes + 1, width) if classes else None

    def forward(self, t: Tensor, class_labels: Tensor | None, embedding: Tensor | None = None) -> Tensor:
        """Return (B, width).

        Args:
            t: (B,), of any kind of numbers.
            class_labels: (B,) int64, where it takes labels.
            embedding: (B, width) of another condition, which is added.

        Raises:
            ConfigError: labels are missing, or it takes none.
        """
        if (class_labels is None) == bool(self.classes):
            takes = f"takes labels, (B,) in 0 … {self.classes}" if self.classes else "takes no labels"
            raise ConfigError(f"this network {takes}: {'give' if self.classes else 'leave out'} class_labels")
        powers = torch.arange(SINUSOIDS, device=t.device, dtype=torch.float32) / (SINUSOIDS - 1)
        angles = t.to(torch.float32)[:, None] * torch.exp(-math.log(10_000) * powers)
        dtype = next(self.mlp.parameters()).dtype
        told: Tensor = self.mlp(torch.cat([angles.sin(), angles.cos()], dim=1).to(dtype))
        if self.labels is not None:
            told = told + self.labels(class_labels)
        return told if embedding is None else told + embedding


def attend(qkv: Tensor, heads: int) -> Tensor:
    """Return softmax(q kᵀ/√d) v, (B, N, W), of queries, keys and values, (B, N, 3W)."""
    batch, places, _ = qkv.shape
    q, k, v = qkv.reshape(batch, places, 3, heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
    return functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, places, -1)


def heads_of(width: int) -> int:
    """Return the number of heads: of 64 channels each, or of the largest power of two that divides."""
    return width // math.gcd(width, HEAD)


def padded(x: Tensor, multiple: int) -> Tensor:
    """Return x, (B, C, …), its sides padded with zeros to multiples."""
    return functional.pad(x, [n for side in reversed(x.shape[2:]) for n in (0, -side % multiple)])


def cut(x: Tensor, sides: Sequence[int]) -> Tensor:
    """Return the first places of x, (B, C, …), along each side."""
    for dimension, side in enumerate(sides, 2):
        x = x.narrow(dimension, 0, side)
    return x


def zeroed(layer: nn.Module) -> nn.Module:
    """Return a layer whose parameters are set to 0, so that a residual branch begins as nothing."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def check_input(x: Tensor, shape: Sequence[int]) -> None:
    """Require x of shape (B, *shape).

    Raises:
        ShapeError: another shape.
    """
    if tuple(x.shape[1:]) != tuple(shape):
        sides = ", ".join(map(str, shape))
        raise ShapeError(f"x has shape {tuple(x.shape)}: this network takes (B, {sides})")
