"""Random numbers by address: Philox4x32-10 (Salmon et al. 2011) and Box–Muller, in plain torch.

    bits = Philox(key = seed; counter = block, stream, sample)      four 32-bit words a block
    u = (word + ½) / 2³²,   z = √(−2 log u₀) · (cos 2πu₁, sin 2πu₁)   four normals a block

A counter-based generator has no state: the noise of sample 17 in stream 400 is the same whatever the batch,
the order of work, the number of processes and the device (to the last units of rounding in log and cos).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from alphabar.kernels.backend import Address, signed, unsigned
from alphabar.kernels.devices import backend

__all__ = ["normal", "philox4x32", "uniform"]

ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)  # the golden ratio and √3 − 1: what the key grows by at each round
MASK = 0xFFFFFFFF
BLOCKS_AT_ONCE = 1 << 16  # so that the intermediates stay in the cache

Words = tuple[Tensor, Tensor, Tensor, Tensor]


def philox4x32(counter: Words, key: tuple[int, int]) -> Words:
    """Return the four output words of Philox4x32-10.

    Args:
        counter: four int64 tensors of one shape, each holding 32-bit words.
        key: two 32-bit words.

    Returns:
        Four int64 tensors of the same shape, each holding 32-bit words.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        (high0, low0), (high1, low1) = _product(MULTIPLIERS[0], c0), _product(MULTIPLIERS[1], c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + WEYL[0]) & MASK, (k1 + WEYL[1]) & MASK
    return c0, c1, c2, c3


def normal(out: Tensor, address: Address) -> Tensor:
    """Fill (samples, size) contiguous float32 with standard normals; row i is sample ``first + i``."""
    if torch.compiler.is_compiling():
        _normal_operator(out, signed(address))
        return out
    kernels = backend(out.device)
    if kernels and kernels.normal(out, address):
        return out
    samples, size = out.shape
    return out.copy_(_addressed(_box_muller, samples, size, address, out.device))


@torch.library.custom_op("alphabar::normal", mutates_args={"out"})
def _normal_operator(out: Tensor, address: list[int]) -> None:
    """What a compiled graph calls: one node in place of ten rounds."""
    normal(out, unsigned(address))


def uniform(samples: int, size: int, address: Address, device: torch.device | None = None) -> Tensor:
    """Return (samples, size) float32 numbers, uniform in (0, 1]; row i belongs to sample ``first + i``."""
    return _addressed(_uniforms, samples, size, address, device)


def _addressed(
    numbers: Callable[[Words], Tensor], samples: int, size: int, address: Address, device: torch.device | None
) -> Tensor:
    seed, stream, first = address
    key = (seed & MASK, seed >> 32)
    blocks = math.ceil(size / 4)
    out = torch.empty(samples, blocks, 4, device=device)
    rows = max(1, BLOCKS_AT_ONCE // max(blocks, 1))
    for start in range(0, samples, rows):
        ids = torch.arange(start, min(start + rows, samples), device=device)[:, None] + first
        for left in range(0, blocks, BLOCKS_AT_ONCE):
            block = torch.arange(left, min(left + BLOCKS_AT_ONCE, blocks), device=device)
            word = torch.zeros_like(ids + block)
            counter = (word + block, word + stream, word + (ids & MASK), word + (ids >> 32))
            out[start : start + rows, left : left + BLOCKS_AT_ONCE] = numbers(philox4x32(counter, key))
    return out.view(samples, blocks * 4)[:, :size]


def _product(multiplier: int, word: Tensor) -> tuple[Tensor, Tensor]:
    # The 64-bit product wraps into int64's sign bit; the mask after the shift takes the copies of it away.
    product = word * multiplier
    return (product >> 32) & MASK, product & MASK


def _unit(word: Tensor) -> Tensor:
    return word.to(torch.float32) * 2**-32 + 2**-33


def _uniforms(words: Words) -> Tensor:
    return torch.stack([_unit(word) for word in words], -1)


def _box_muller(words: Words) -> Tensor:
    pairs = []
    for radius_word, angle_word in (words[:2], words[2:]):
        radius, angle = (-2 * _unit(radius_word).log()).sqrt(), 2 * math.pi * _unit(angle_word)
        pairs += [radius * angle.cos(), radius * angle.sin()]
    return torch.stack(pairs, -1)
