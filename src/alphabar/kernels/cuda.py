"""The kernels for CUDA, in Triton: the reference's numbers, in one pass over memory.

    out[r, i] = c_0[r] · x_0[r, i] + … + c_n[r] · z[r, i]        in float64, rounded once
    z = Box–Muller(Philox4x32-10(key = seed; counter = block, stream, sample))

One kernel does sums, sums with noise and noise alone. A program takes a piece of one row, in blocks of four
elements, as Philox makes them. Logarithm and cosine are the polynomials of ``philox.h``, since the device's
own are approximations; products and sums may be contracted here, so normals differ by units of rounding.
Loaded when the first tensor on a GPU asks for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from alphabar.kernels.backend import Address, Terms, signed

__all__ = ["lincomb", "normal"]

MOST = 6  # tensors in one sum
BLOCK = 256  # of four elements each, in one program
DTYPES = torch.float64, torch.float32, torch.bfloat16, torch.float16


@triton.jit
def _unit(word: Any) -> Any:
    return word.to(tl.float32) * 2.3283064365386963e-10 + 1.1641532182693481e-10


@triton.jit
def _log(u: Any) -> Any:
    shifted = u.to(tl.int32, bitcast=True) - 0x3F3504F3
    exponent = (shifted >> 23).to(tl.float32)
    m = ((shifted & 0x007FFFFF) + 0x3F3504F3).to(tl.float32, bitcast=True) - 1.0
    square = m * m
    p = 7.0376836292e-2 * m - 1.1514610310e-1
    p = p * m + 1.1676998740e-1
    p = p * m - 1.2420140846e-1
    p = p * m + 1.4249322787e-1
    p = p * m - 1.6668057665e-1
    p = p * m + 2.0000714765e-1
    p = p * m - 2.4999993993e-1
    p = p * m + 3.3333331174e-1
    p = p * m * square + exponent * -2.12194440e-4 - 0.5 * square
    return m + p + exponent * 0.693359375


@triton.jit
def _turn(u: Any) -> Any:
    quarter = tl.floor(u * 4.0 + 0.5)
    x = (u - quarter * 0.25) * 6.283185307179586
    square = x * x
    s = x + x * square * (-1.6666654611e-1 + square * (8.3321608736e-3 - square * 1.9515295891e-4))
    c = 4.166664568298827e-2 + square * (-1.388731625493765e-3 + square * 2.443315711809948e-5)
    c = 1.0 - 0.5 * square + square * square * c
    q = quarter.to(tl.int32)
    along = tl.where((q & 1) == 1, s, c)
    across = tl.where((q & 1) == 1, c, s)
    return tl.where(((q + 1) & 2) == 2, -along, along), tl.where((q & 2) == 2, -across, across)


@triton.jit
def _pair(radius: Any, angle: Any) -> Any:
    length = tl.sqrt(-2.0 * _log(_unit(radius)))
    cosine, sine = _turn(_unit(angle))
    return length * cosine, length * sine


@triton.jit
def _normals(seed: Any, block: Any, stream: Any, sample: Any, BLOCK: tl.constexpr) -> Any:
    zero = block * 0
    low = (zero + (sample & 0xFFFFFFFF)).to(tl.uint32)
    high = (zero + (sample >> 32)).to(tl.uint32)
    words = tl.philox(seed, block.to(tl.uint32), (zero + stream).to(tl.uint32), low, high)
    z0, z1 = _pair(words[0], words[1])
    z2, z3 = _pair(words[2], words[3])
    return tl.join(tl.join(z0, z2), tl.join(z1, z3)).reshape(BLOCK, 4)


@triton.jit(do_not_specialize=["seed", "stream", "first"])
def _kernel(
    out: Any,
    x_0: Any,
    x_1: Any,
    x_2: Any,
    x_3: Any,
    x_4: Any,
    x_5: Any,
    table: Any,
    limit: Any,  # by address: as a number Triton would round it to float32
    row_stride: Any,
    columns: Any,
    pieces: Any,
    seed: Any,
    stream: Any,
    first: Any,
    COUNT: tl.constexpr,
    NOISE: tl.constexpr,
    CLIPS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64) // pieces
    block = tl.program_id(0).to(tl.int64) % pieces * BLOCK + tl.arange(0, BLOCK).to(tl.int64)
    column = block[:, None] * 4 + tl.arange(0, 4)[None, :]
    inside = column < columns
    place = row * columns + column
    c = table + row * row_stride
    total = tl.zeros((BLOCK, 4), tl.float64)
    if COUNT > 0:
        total += tl.load(c) * tl.load(x_0 + place, mask=inside, other=0.0).to(tl.float64)
    if COUNT > 1:
        total += tl.load(c + 1) * tl.load(x_1 + place, mask=inside, other=0.0).to(tl.float64)
    if COUNT > 2:
        total += tl.load(c + 2) * tl.load(x_2 + place, mask=inside, other=0.0).to(tl.float64)
    if COUNT > 3:
        total += tl.load(c + 3) * tl.load(x_3 + place, mask=inside, other=0.0).to(tl.float64)
    if COUNT > 4:
        total += tl.load(c + 4) * tl.load(x_4 + place, mask=inside, other=0.0).to(tl.float64)
    if COUNT > 5:
        total += tl.load(c + 5) * tl.load(x_5 + place, mask=inside, other=0.0).to(tl.float64)
    if NOISE:
        z = _normals(seed, block, stream, first + row, BLOCK)
        total += tl.load(c + COUNT) * z.to(x_0.dtype.element_ty).to(tl.float64)
    if CLIPS:  # by comparisons, so that NaN stays
        most = tl.load(limit)
        total = tl.where(total > most, most, tl.where(total < -most, -most, total))
    if out.dtype.element_ty == tl.float64:
        tl.store(out + place, total, mask=inside)
    else:  # through float on the way to the half types, as torch rounds them
        tl.store(out + place, total.to(tl.float32).to(out.dtype.element_ty), mask=inside)


def lincomb(terms: Terms, out: Tensor) -> bool:
    """Write a sum into ``out``; for up to six dense tensors of one dtype and layout."""
    coefficients, tensors, noise, _ = terms
    if not isinstance(coefficients, Tensor):
        if any(isinstance(c, Tensor) for c in coefficients):
            return False  # a coefficient for each element
        coefficients = torch.tensor(coefficients, dtype=torch.float64, device=out.device)
    lead = coefficients.ndim - 1
    if (
        not tensors
        or (noise is not None and lead > 1)
        or not _have_one_layout(tensors, out, lead == 0, noise)
    ):
        return False
    table = coefficients.reshape(-1, coefficients.shape[-1])
    return _launch(table, len(out) if noise is not None else len(table), terms, out)


def normal(out: Tensor, address: Address) -> bool:
    """Fill (samples, size) contiguous float32 with standard normals."""
    ones = torch.ones(1, 1, dtype=torch.float64, device=out.device)
    return _launch(ones, len(out), Terms(ones, (), address, inf), out)


def _have_one_layout(tensors: Sequence[Tensor], out: Tensor, shared: bool, noise: Address | None) -> bool:
    """Whether all are dense, of one layout and, but for the result, of one dtype."""
    last = not out.is_contiguous()
    if last and not (shared and noise is None and out.is_contiguous(memory_format=torch.channels_last)):
        return False
    like = tensors[0]
    return (
        out.dtype in DTYPES
        and len(tensors) <= MOST
        and all(x.dtype == like.dtype and x.stride() == out.stride() for x in tensors)
    )


def _launch(table: Tensor, rows: int, terms: Terms, out: Tensor) -> bool:
    if not out.numel():
        return True
    columns = out.numel() // rows
    seed, stream, first = signed(terms.noise or Address(0, 0))  # Triton reads the sixty-four bits either way
    table, clips = table.contiguous(), terms.limit < inf
    data = [*terms.tensors, *[out] * (MOST - len(terms.tensors))]
    pieces = triton.cdiv(columns, 4 * BLOCK)
    _kernel[(rows * pieces,)](
        out,
        *data,
        table,
        torch.full((), terms.limit, dtype=torch.float64, device=out.device) if clips else table,
        table.shape[1] if len(table) > 1 else 0,
        columns,
        pieces,
        seed,
        stream,
        first,
        len(terms.tensors),
        terms.noise is not None,
        clips,
        BLOCK,
    )
    return True
