"""out = c_0 · x_0 + c_1 · x_1 + …: worked out in float64, rounded once.

Products of float32 data and rounded coefficients cancel: where two large terms nearly meet, float32
arithmetic leaves an error of many units in the last place of the small result. In float64 the only
rounding that remains is the last one. On the CPU a kernel does this in one pass, where it was built; in plain
torch the tensors are taken in blocks of rows that stay in the cache, so the wide intermediates never
travel to memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from alphabar.ops import native

__all__ = ["lincomb", "work_dtype"]

BLOCK = 1 << 16  # elements whose float64 intermediates fit in a core's cache

Coefficient = float | Tensor


def lincomb(
    coefficients: Sequence[Coefficient],
    tensors: Sequence[Tensor],
    *,
    out: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Add up tensors with coefficients; a coefficient that is the number 0 leaves its tensor out.

    Differentiable where an input requires a gradient and ``out`` is not given.

    Args:
        coefficients: numbers, 0-d tensors, or tensors with as many dimensions as the data, each 1 or equal.
        tensors: data of one shape.
        out: where to write; may be one of ``tensors``.
        dtype: of the result; by default that of the first tensor.

    Returns:
        ``out``, or a new tensor.
    """
    terms = [(c, x) for c, x in zip(coefficients, tensors, strict=True) if isinstance(c, Tensor) or c != 0]
    like = tensors[0]
    if out is None and torch.is_grad_enabled() and any(_needs_grad(term) for term in terms):
        return _sum(terms, like).to(dtype or like.dtype)
    result = torch.empty_like(like, dtype=dtype or like.dtype) if out is None else out
    if terms and native.lincomb([c for c, _ in terms], [x for _, x in terms], result):
        return result
    for rows in _blocks(like):
        result[rows] = _sum([(_rows(c, rows), x[rows]) for c, x in terms], like[rows])
    return result


def work_dtype(device: torch.device) -> torch.dtype:
    """Return the precision of the arithmetic: float64 wherever the device has it."""
    return torch.float32 if device.type == "mps" else torch.float64


def _sum(terms: Sequence[tuple[Coefficient, Tensor]], like: Tensor) -> Tensor:
    work = work_dtype(like.device)
    total = torch.zeros((), dtype=work, device=like.device)
    for coefficient, tensor in terms:
        total = total + _widened(coefficient, work, like.device) * tensor.to(work)
    return total


def _widened(coefficient: Coefficient, dtype: torch.dtype, device: torch.device) -> Coefficient:
    return coefficient.to(dtype).to(device) if isinstance(coefficient, Tensor) else coefficient


def _needs_grad(term: tuple[Coefficient, Tensor]) -> bool:
    return any(isinstance(part, Tensor) and part.requires_grad for part in term)


def _blocks(data: Tensor) -> Iterator[slice]:
    if data.numel() <= BLOCK or data.device.type != "cpu":
        yield slice(None)
        return
    rows = max(1, BLOCK * len(data) // data.numel())
    for start in range(0, len(data), rows):
        yield slice(start, start + rows)


def _rows(coefficient: Coefficient, rows: slice) -> Coefficient:
    if isinstance(coefficient, Tensor) and coefficient.ndim and len(coefficient) > 1:
        return coefficient[rows]
    return coefficient
