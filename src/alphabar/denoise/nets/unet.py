"""A U-Net for signals, pictures and volumes: one class for one, two or three dimensions.

    down:    two residual blocks a level, halved from one to the next      32, 64, 128, 128 … channels
    middle:  attention over all places, where they are at most 1,024
    up:      doubled, beside what came down at this level, two residual blocks

Ho et al. 2020, appendix B, with t as scale and shift (Dhariwal & Nichol 2021). A side of n is halved to ⌈n/2⌉
and brought back to n, so that every size will do.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from alphabar.denoise.nets._parts import CONVOLUTIONS, Embedding, attend, check_input, heads_of, zeroed

__all__ = ["UNet"]

SMALLEST = 8  # the longest side at the lowest level is at most this, where levels suffice
LEVELS = 5
WIDEST = 4  # channels of a level at most, as a multiple of the first's
PLACES = 1024  # over which attention is affordable
GROUPS = 8


class UNet(nn.Module):
    """A U-Net, called as ``network(x, t, class_labels)`` with x (B, C, L), (B, C, H, W) or (B, C, D, H, W).

    Args:
        shape: of x, without the batch.
        classes: how many labels it takes, beside "no label"; 0: none.
        out_channels: of its answer, otherwise in the shape of x.
        width: channels of the first level, a multiple of 8.
    """

    def __init__(self, shape: tuple[int, ...], *, classes: int, out_channels: int, width: int) -> None:
        super().__init__()
        self.shape, (channels, *sides) = shape, shape
        convolution, sizes = CONVOLUTIONS[len(sides)], list(_halved(sides))
        widths = [width * min(2**level, WIDEST) for level in range(len(sizes))]
        steps, d, told = list(pairwise(widths)), len(sides), 4 * width
        self.embedding = Embedding(told, classes)
        self.enter = convolution(channels, width, 3, padding=1)
        self.down = nn.ModuleList(_Level(d, of, to, told) for of, to in pairwise([width, *widths]))
        self.shrink = nn.ModuleList(convolution(of, of, 3, stride=2, padding=1) for of, _ in steps)
        self.middle = _Attention(widths[-1]) if math.prod(sizes[-1]) <= PLACES else nn.Identity()
        self.last = _Block(d, widths[-1], widths[-1], told)
        self.grow = nn.ModuleList(convolution(to, of, 3, padding=1) for of, to in steps)
        self.up = nn.ModuleList(_Level(d, 2 * of, of, told) for of, _ in steps)
        self.leave = nn.Sequential(
            nn.GroupNorm(GROUPS, width), nn.SiLU(), zeroed(convolution(width, out_channels, 3, padding=1))
        )

    def forward(
        self, x: Tensor, t: Tensor, class_labels: Tensor | None = None, embedding: Tensor | None = None
    ) -> Tensor:
        """Return (B, out_channels, …), the rest in the shape of x."""
        check_input(x, self.shape)
        told, h, beside = self.embedding(t, class_labels, embedding), self.enter(x), []
        for level, shrink in zip(self.down, [*self.shrink, None], strict=True):
            h = level(h, told)
            if shrink is not None:
                beside.append(h)
                h = shrink(h)
        h = self.last(self.middle(h), told)
        for level, grow in zip(reversed(self.up), reversed(self.grow), strict=True):
            there = beside.pop()
            h = grow(functional.interpolate(h, size=there.shape[2:]))
            h = level(torch.cat([h, there], dim=1), told)
        answer: Tensor = self.leave(h)
        return answer


def _halved(sides: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Yield the sides of each level."""
    for _ in range(LEVELS):
        yield tuple(sides)
        if max(sides) <= SMALLEST:
            return
        sides = [math.ceil(side / 2) for side in sides]


class _Level(nn.Module):
    """Two residual blocks."""

    def __init__(self, dimensions: int, of: int, to: int, told: int) -> None:
        super().__init__()
        self.first, self.second = _Block(dimensions, of, to, told), _Block(dimensions, to, to, told)

    def forward(self, h: Tensor, told: Tensor) -> Tensor:
        changed: Tensor = self.second(self.first(h, told), told)
        return changed


class _Block(nn.Module):
    """h + conv(SiLU(scale · norm(conv(SiLU(norm(h)))) + shift)), with scale and shift of t."""

    def __init__(self, dimensions: int, of: int, to: int, told: int) -> None:
        super().__init__()
        convolution, self.ones = CONVOLUTIONS[dimensions], (1,) * dimensions
        self.into = nn.Sequential(nn.GroupNorm(GROUPS, of), nn.SiLU(), convolution(of, to, 3, padding=1))
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(told, 2 * to))
        self.norm = nn.GroupNorm(GROUPS, to, affine=False)
        self.out = nn.Sequential(nn.SiLU(), zeroed(convolution(to, to, 3, padding=1)))
        self.past = convolution(of, to, 1) if of != to else nn.Identity()

    def forward(self, h: Tensor, told: Tensor) -> Tensor:
        scale, shift = self.modulation(told).unflatten(1, (-1, *self.ones)).chunk(2, dim=1)
        changed: Tensor = self.past(h) + self.out(self.norm(self.into(h)) * (1 + scale) + shift)
        return changed


class _Attention(nn.Module):
    """h + W attention(norm(h)), over all places."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = heads_of(channels)
        self.norm = nn.GroupNorm(GROUPS, channels)
        self.qkv, self.out = nn.Linear(channels, 3 * channels), zeroed(nn.Linear(channels, channels))

    def forward(self, h: Tensor) -> Tensor:
        attended = self.out(attend(self.qkv(self.norm(h).flatten(2).mT), self.heads))
        changed: Tensor = h + attended.mT.unflatten(2, h.shape[2:])
        return changed
