"""A U-Net for signals, pictures and volumes: one class for one, two or three dimensions.

    enter:   sides of more than 16 are folded: 2, 2×2 or 2×2×2 places become one, of as many more channels
    down:    two residual blocks a level, halved from one to the next; W channels on two levels, 2 W below
    middle:  attention over all places, where they are at most 1,024
    up:      doubled, beside what came down at this level, two residual blocks

Ho et al. 2020, appendix B, made for processors, where reading and writing take longer than products: folding
(Shi et al. 2016, arXiv 1609.05158, section 3) leaves a quarter of an image's places; the channels of a place
lie next to each other in memory; a block has one norm, over the channels of a place, and one SiLU. A side of
n is halved to ⌈n/2⌉ and brought back to n, so that every size will do.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise

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

__all__ = ["UNet"]

FOLDED = 16  # sides that are longer are folded
SMALLEST = 8  # the longest side at the lowest level is at most this, where levels suffice
LEVELS = 5
PLACES = 1024  # over which attention is affordable


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
        self.fold = 2 if max(sides) > FOLDED else 1
        self.sizes = sizes = list(_halved([math.ceil(side / self.fold) for side in sides]))
        widths = [width if level < 2 else 2 * width for level in range(len(sizes))]
        steps, d, told = list(pairwise(widths)), len(sides), 4 * width
        convolution, folded = CONVOLUTIONS[d], self.fold**d
        self.embedding = Embedding(told, classes)
        self.enter = convolution(folded * channels, width, 3, padding=1)
        self.down = nn.ModuleList(_Level(d, of, to, told) for of, to in pairwise([width, *widths]))
        self.shrink = nn.ModuleList(convolution(of, of, 3, stride=2, padding=1) for of, _ in steps)
        self.middle = _Attention(widths[-1]) if math.prod(sizes[-1]) <= PLACES else nn.Identity()
        self.last = _Block(d, widths[-1], widths[-1], told)
        self.grow = nn.ModuleList(convolution(to, of, 3, padding=1) for of, to in steps)
        self.up = nn.ModuleList(_Level(d, 2 * of, of, told) for of, _ in steps)
        self.leave = zeroed(convolution(width, folded * out_channels, 3, padding=1))

    def forward(
        self, x: Tensor, t: Tensor, class_labels: Tensor | None = None, embedding: Tensor | None = None
    ) -> Tensor:
        """Return (B, out_channels, …), the rest in the shape of x."""
        check_input(x, self.shape, t)
        told = self._told(self.embedding(t, class_labels, embedding))
        h, beside = _over(self.enter, _folded(x, self.fold)), []
        for level, e, shrink in zip(self.down, told, [*self.shrink, None], strict=True):
            h = level(h, e)
            if shrink is not None:
                beside.append(h)
                h = _over(shrink, h)
        h = self.last(self.middle(h), told[-1])
        for level, grow, e in zip(reversed(self.up), reversed(self.grow), told[-2::-1], strict=True):
            there = beside.pop()
            h = _over(grow, _doubled(h, there.shape[1:-1]))
            h = level(torch.cat([h, there], dim=-1), e)
        return _unfolded(_over(self.leave, functional.silu(_norm(h))), self.fold, self.shape[1:])

    def _told(self, told: Tensor) -> list[Tensor]:
        """Return what each level is told; of a t for each place the mean over the places that it joins."""
        first = pooled(told, self.fold, self.sizes[0])
        levels = accumulate(self.sizes[1:], lambda e, sides: pooled(e, 2, sides), initial=first)
        return [functional.silu(e) for e in levels]


def _halved(sides: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Yield the sides of each level."""
    for _ in range(LEVELS):
        yield tuple(sides)
        if max(sides) <= SMALLEST:
            return
        sides = [math.ceil(side / 2) for side in sides]


def _folded(x: Tensor, fold: int) -> Tensor:
    """Return (B, …, C · foldᵈ) of x, (B, C, …), its sides padded with zeros to multiples of fold."""
    x = padded(x, fold)
    for dimension in range(2, x.ndim):  # each time the places of one side join the channels
        x = _split(x, dimension, fold).movedim(dimension + 1, 2).flatten(1, 2)
    return x.movedim(1, -1).contiguous()


def _unfolded(h: Tensor, fold: int, sides: Sequence[int]) -> Tensor:
    """Return what was folded, (B, C, …), its sides cut."""
    x = h.movedim(-1, 1)
    for dimension in reversed(range(2, x.ndim)):
        x = _split(x, 1, fold).movedim(2, dimension + 1).flatten(dimension, dimension + 1)
    return cut(x, sides).contiguous()


def _split(x: Tensor, dimension: int, fold: int) -> Tensor:
    """Return x with a dimension of n as two, n / fold and fold."""
    return x.reshape(*x.shape[:dimension], -1, fold, *x.shape[dimension + 1 :])


def _doubled(h: Tensor, sides: Sequence[int]) -> Tensor:
    """Return h, (B, …, C), with each place repeated along each side, cut to sides."""
    for dimension, side in enumerate(sides, 1):
        h = h.repeat_interleave(2, dimension).narrow(dimension, 0, side)
    return h


def _over(convolution: nn.Module, h: Tensor) -> Tensor:
    """Return a convolution of h, (B, …, C), whose channels are in the last dimension."""
    answer: Tensor = convolution(h.movedim(-1, 1))
    return answer.movedim(1, -1)


def _norm(h: Tensor) -> Tensor:
    return functional.layer_norm(h, h.shape[-1:])


class _Level(nn.Module):
    """Two residual blocks."""

    def __init__(self, dimensions: int, of: int, to: int, told: int) -> None:
        super().__init__()
        self.first, self.second = _Block(dimensions, of, to, told), _Block(dimensions, to, to, told)

    def forward(self, h: Tensor, told: Tensor) -> Tensor:
        changed: Tensor = self.second(self.first(h, told), told)
        return changed


class _Block(nn.Module):
    """h + conv(SiLU(conv(norm(h)) + W e)), with e the vector of t."""

    def __init__(self, dimensions: int, of: int, to: int, told: int) -> None:
        super().__init__()
        convolution = CONVOLUTIONS[dimensions]
        self.into, self.out = convolution(of, to, 3, padding=1), zeroed(convolution(to, to, 3, padding=1))
        self.told = nn.Linear(told, to)
        self.past = nn.Linear(of, to) if of != to else nn.Identity()

    def forward(self, h: Tensor, told: Tensor) -> Tensor:
        e = self.told(told)
        e = e.reshape(*e.shape[:-1], *[1] * (h.ndim - e.ndim), e.shape[-1])
        inside = _over(self.into, _norm(h)) + e
        changed: Tensor = self.past(h) + _over(self.out, functional.silu(inside))
        return changed


class _Attention(nn.Module):
    """h + W attention(norm(h)), over all places."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = heads_of(channels)
        self.qkv, self.out = nn.Linear(channels, 3 * channels), zeroed(nn.Linear(channels, channels))

    def forward(self, h: Tensor) -> Tensor:
        attended = self.out(attend(self.qkv(_norm(h).flatten(1, -2)), self.heads))
        changed: Tensor = h + attended.view_as(h)
        return changed
