"""Random orders of any number of images, place by place, without a list: a keyed bijection.

    x ← K_i − x  mod N   where the coin of round i for the pair {x, K_i − x} shows heads,   i = 1 … 64

Swap-or-not (Hoang, Morris & Rogaway 2012): a round exchanges the members of some pairs, so it is a bijection
of 0 … N−1 for every N. 64 rounds toss 32 coins an image; log₂ N!, what tells the orders of N = 10⁹ images
apart, is 28.5 bits an image. K_i, a_i and b_i come from Philox; the coin, the sign of
a_i · max(x, K_i − x) + b_i mod 2⁶⁴, is fair, and independent for every two pairs (Dietzfelbinger 1996).
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from alphabar.errors import ConfigError
from alphabar.kernels import philox4x32
from alphabar.process import addressed
from alphabar.training.streams import ORDER

__all__ = ["WINDOW", "permuted", "permuted_in_blocks"]

ROUNDS = 64
WINDOW = 8
"""Blocks whose images are mixed with each other."""


def permuted(places: Tensor, count: int | Tensor, *, seed: int, number: int | Tensor = 0) -> Tensor:
    """Return what stands at the given places of a random order of 0 … count − 1, as int64.

    >>> permuted(torch.arange(5), 5, seed=0).tolist()
    [1, 3, 2, 0, 4]

    Args:
        places: int64 of any shape, each in 0 … count − 1.
        count: how many are ordered, 1 … 2⁶²; a tensor of the shape of ``places`` where it differs.
        seed: 0 … 2⁶⁴−1.
        number: which of the orders of this seed, 0 … 2⁶³−1; a tensor of that shape where it differs.

    Raises:
        ConfigError: an argument outside its range.
    """
    counts = torch.as_tensor(count)
    if not ((counts >= 1) & (counts <= 2**62)).all():
        raise ConfigError(f"count is {counts.tolist()!s:.60}: it must lie in 1 … 2^62")
    if places.dtype != torch.int64 or ((places < 0) | (places >= counts)).any():
        raise ConfigError(f"places are {places.tolist()!s:.60}: each must be an integer in 0 … count - 1")
    numbers, which = torch.unique(torch.as_tensor(number), return_inverse=True)
    keys = _keys(seed, tuple(numbers.tolist()))
    x = places
    for pivot, slope, shift in keys if len(numbers) == 1 else keys[..., which]:
        partner = (pivot % counts - x) % counts
        x = torch.where(torch.maximum(x, partner) * slope + shift < 0, partner, x)
    return x


def permuted_in_blocks(places: Tensor, count: int, block: int, *, seed: int, number: Tensor) -> Tensor:
    """Return what stands at the given places of a random order that takes blocks of neighbours together.

    Blocks of ``block`` images come in a random order; those of eight blocks that follow each other come in a
    random order too. The order starts at a random place of its circle, so that the last, shorter block has no
    fixed one.

    Args:
        places: int64, each in 0 … count − 1.
        count: how many are ordered.
        block: how many neighbours lie together; 1 for :func:`permuted` itself.
        seed: 0 … 2⁶⁴−1.
        number: which of the orders of this seed, of the shape of ``places``.

    Raises:
        ConfigError: an argument outside its range.
    """
    if block == 1:
        return permuted(places, count, seed=seed, number=number)
    blocks, size = count // block, min(count, WINDOW * block)
    windows = -(-count // size)
    window, first = places // size, number * (windows + 2)  # an order for each window, the blocks, the start
    inner = permuted(places % size, (count - window * size).clamp(max=size), seed=seed, number=first + window)
    epochs, which = torch.unique(first + windows + 1, return_inverse=True)
    start = permuted(torch.zeros_like(epochs), count, seed=seed, number=epochs)[which]
    x = (window * size + inner + start) % count
    whole = x < blocks * block  # of a block that is not the last, shorter one
    moved = permuted(torch.where(whole, x // block, 0), max(blocks, 1), seed=seed, number=first + windows)
    return torch.where(whole, moved * block + x % block, x)


@lru_cache(maxsize=8)
def _keys(seed: int, numbers: tuple[int, ...]) -> Tensor:
    """Return K, a and b of each round of each order: (64, 3, orders) int64."""
    addresses = [addressed.address((1,), seed=seed, stream=ORDER, first=number) for number in numbers]
    low, high = torch.tensor([[each.first % 2**32, each.first >> 32] for each in addresses]).T
    blocks = torch.arange(2 * ROUNDS)[:, None].expand(-1, len(numbers))
    zero = torch.zeros_like(blocks)
    words = philox4x32((blocks, zero + ORDER, zero + low, zero + high), (seed % 2**32, seed >> 32))
    even, odd = torch.stack(words).view(4, ROUNDS, 2, -1).unbind(2)  # (4, ROUNDS, orders)
    pivot = (even[0] << 31) + (even[1] >> 1)
    return torch.stack([pivot, (even[2] << 32) + even[3], (odd[0] << 32) + odd[1]], 1)
