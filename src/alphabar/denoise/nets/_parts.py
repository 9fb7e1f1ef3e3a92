"""What the networks share: t and labels as a vector, attention, the check of their input."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from alphabar.errors import ConfigError, ShapeError

__all__ = [
    "CONVOLUTIONS",
    "Embedding",
    "attend",
    "check_input",
    "cut",
    "heads_of",
    "padded",
    "pooled",
    "zeroed",
]

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
"""By the number of dimensions beside the channels."""

SINUSOIDS = 64  # frequencies of t, from 1 down to 1/10,000
HEAD = 64  # channels of an attention's head, where they divide the width


class Embedding(nn.Module):
    """A vector of t, plus a learned one of the label: MLP(sin ω t, cos ω t) + e[label], (B, …, width).

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
        """Return (B, width), or (B, …, width) of a t for each place.

        Args:
            t: (B,), or (B, 1, …) as :func:`check_input` allows it, of any kind of numbers.
            class_labels: (B,) int64, where it takes labels.
            embedding: (B, width) of another condition, which is added.

        Raises:
            ConfigError: labels are missing, or it takes none.
        """
        if (class_labels is None) == bool(self.classes):
            takes = f"takes labels, (B,) in 0 … {self.classes}" if self.classes else "takes no labels"
            raise ConfigError(f"this network {takes}: {'give' if self.classes else 'leave out'} class_labels")
        powers = torch.arange(SINUSOIDS, device=t.device, dtype=torch.float32) / (SINUSOIDS - 1)
        places = t if t.ndim < 2 else t.flatten(0, 1)
        angles = places.to(torch.float32)[..., None] * torch.exp(-math.log(10_000) * powers)
        dtype = next(self.mlp.parameters()).dtype
        told: Tensor = self.mlp(torch.cat([angles.sin(), angles.cos()], dim=-1).to(dtype))
        if self.labels is not None:
            told = told + _over_places(self.labels(class_labels), told)
        return told if embedding is None else told + _over_places(embedding, told)


def _over_places(vector: Tensor, told: Tensor) -> Tensor:
    """Return (B, width) so that it is added at each place of (B, …, width)."""
    return vector.reshape(vector.shape[0], *[1] * (told.ndim - 2), -1)


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


def pooled(told: Tensor, size: int, sides: Sequence[int]) -> Tensor:
    """Return (B, …, width) of groups of places along each side: the mean of each group.

    Args:
        told: (B, …, width), over no more dimensions than there are sides; one of 1 stands for all its places.
        size: places of a group.
        sides: of the groups.
    """
    for dimension, side in enumerate(sides[: told.ndim - 2], 1):
        if told.shape[dimension] > 1 and size > 1:
            last = told.narrow(dimension, told.shape[dimension] - 1, 1)
            missing = side * size - told.shape[dimension]
            whole = torch.cat([told, last.repeat_interleave(missing, dimension)], dimension)
            groups = whole.reshape(*told.shape[:dimension], side, size, *told.shape[dimension + 1 :])
            told = groups.mean(dimension + 1)
    return told


def zeroed(layer: nn.Module) -> nn.Module:
    """Return a layer whose parameters are set to 0, so that a residual branch begins as nothing."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def check_input(x: Tensor, shape: Sequence[int], t: Tensor) -> None:
    """Require x of shape (B, *shape), and t of shape (B,) or (B, 1, …), which broadcasts over the sides of x.

    Raises:
        ShapeError: another shape.
    """
    if tuple(x.shape[1:]) != tuple(shape):
        sides = ", ".join(map(str, shape))
        raise ShapeError(f"x has shape {tuple(x.shape)}: this network takes (B, {sides})")
    fits = zip(t.shape[1:], (1, *shape[1:]), strict=False)
    if not 0 < t.ndim <= max(1, (len(shape) > 1) * x.ndim) or any(n not in (1, m) for n, m in fits):
        takes = "(B,)" if len(shape) == 1 else f"(B,), or (B, 1, …) along the sides of x, {tuple(shape[1:])}"
        raise ShapeError(f"t has shape {tuple(t.shape)}: this network takes {takes}")
