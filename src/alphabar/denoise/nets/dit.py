"""A diffusion transformer: patches as tokens, t and the label as scale, shift and gate of every block.

    h ← h + gate₁ · attention((1 + scale₁) · norm(h) + shift₁)
    h ← h + gate₂ · MLP((1 + scale₂) · norm(h) + shift₂)

Peebles & Xie 2023, arXiv 2212.09748, section 3.2 (adaLN-Zero): all gates begin at 0. The patches are as small
as gives at most 256 tokens; sides that they do not divide are padded with zeros, which are cut off again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from alphabar.denoise.nets._parts import (
    CONVOLUTIONS,
    Embedding,
    attend,
    check_input,
    cut,
    heads_of,
    padded,
    pooled,
    zeroed,
)

__all__ = ["DiT", "patch_of"]

BLOCKS = 6
TOKENS = 256
BACK = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


class DiT(nn.Module):
    """A transformer, called as ``network(x, t, class_labels)``, x (B, C, L), (B, C, H, W) or (B, C, D, H, W).

    Args:
        shape: of x, without the batch.
        classes: how many labels it takes, beside "no label"; 0: none.
        out_channels: of its answer, otherwise in the shape of x.
        width: of a token, a multiple of 8.
    """

    def __init__(self, shape: tuple[int, ...], *, classes: int, out_channels: int, width: int) -> None:
        super().__init__()
        self.shape, (channels, *sides) = shape, shape
        self.patch = patch = patch_of(sides)
        self.grid = tuple(math.ceil(side / patch) for side in sides)
        self.embedding = Embedding(width, classes)
        self.enter = CONVOLUTIONS[len(sides)](channels, width, patch, stride=patch)
        self.places = nn.Parameter(_places(self.grid, width))
        self.blocks = nn.ModuleList(_Block(width) for _ in range(BLOCKS))
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.modulation = nn.Sequential(nn.SiLU(), zeroed(nn.Linear(width, 2 * width)))
        self.leave = zeroed(BACK[len(sides)](width, out_channels, patch, stride=patch))

    def forward(
        self, x: Tensor, t: Tensor, class_labels: Tensor | None = None, embedding: Tensor | None = None
    ) -> Tensor:
        """Return (B, out_channels, …), the rest in the shape of x."""
        check_input(x, self.shape, t)
        told = self._spread(self.embedding(t, class_labels, embedding))
        h = self.enter(padded(x, self.patch)).flatten(2).mT + self.places
        for block in self.blocks:
            h = block(h, told)
        scale, shift = self.modulation(told).chunk(2, dim=-1)
        h = self.norm(h) * (1 + scale) + shift
        answer: Tensor = self.leave(h.mT.unflatten(2, self.grid))
        return cut(answer, self.shape[1:])

    def _spread(self, told: Tensor) -> Tensor:
        """Return (B, 1, width), or (B, N, width) of a t for each place: for each token the mean."""
        if told.ndim == 2:
            return told[:, None]
        told = pooled(told, self.patch, self.grid)
        told = told.reshape(*told.shape[:-1], *[1] * (len(self.grid) + 2 - told.ndim), told.shape[-1])
        return told.expand(-1, *self.grid, -1).flatten(1, -2)


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = heads_of(width)
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.modulation = nn.Sequential(nn.SiLU(), zeroed(nn.Linear(width, 6 * width)))
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width)
        )

    def forward(self, h: Tensor, told: Tensor) -> Tensor:
        scales, shifts, gates = self.modulation(told).unflatten(-1, (3, 2, -1)).unbind(2)
        attended = self.out(attend(self.qkv(self._told(h, scales, shifts, 0)), self.heads))
        h = h + gates[..., 0, :] * attended
        changed: Tensor = h + gates[..., 1, :] * self.mlp(self._told(h, scales, shifts, 1))
        return changed

    def _told(self, h: Tensor, scales: Tensor, shifts: Tensor, which: int) -> Tensor:
        told: Tensor = self.norm(h) * (1 + scales[..., which, :]) + shifts[..., which, :]
        return told


def patch_of(sides: Sequence[int]) -> int:
    """Return the side of the smallest patches, a power of two, of which there are few enough."""
    patch = 1
    while math.prod(math.ceil(side / patch) for side in sides) > TOKENS:
        patch *= 2
    return patch


def _places(grid: Sequence[int], width: int) -> Tensor:
    """Return (1, N, width), where training begins: sines and cosines of the place along each axis in turn."""
    each = width // (2 * len(grid))
    powers = torch.arange(each) / max(1, each)
    axes = torch.meshgrid(*(torch.arange(side, dtype=torch.float32) for side in grid), indexing="ij")
    angles = [axis.reshape(-1, 1) * 10_000**-powers for axis in axes]
    waves = [wave for angle in angles for wave in (angle.sin(), angle.cos())]
    return functional.pad(torch.cat(waves, dim=1), (0, width - 2 * each * len(grid)))[None]
