"""Sums in plain torch: in float64 where the device has it, rounded once.

Products of float32 data and rounded coefficients cancel: where two large terms nearly meet, float32
arithmetic leaves an error of many units in the last place of the small result. In float64 the only rounding
that remains is the last one. Large tensors are taken in blocks of rows whose float64 intermediates stay in
the cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from math import inf
from operator import add

import torch
from torch import Tensor

from alphabar.kernels.backend import Coefficient, Terms
from alphabar.kernels.philox import normal

__all__ = ["BLOCK", "drawn", "total", "work_dtype", "write"]

BLOCK = 1 << 16  # elements whose float64 intermediates fit in a core's cache


def work_dtype(device: torch.device) -> torch.dtype:
    """Return the precision of the arithmetic: float64 wherever the device has it."""
    return torch.float32 if device.type == "mps" else torch.float64


def drawn(terms: Terms, like: Tensor) -> Terms:
    """Return the terms with their noise, if any, as one more tensor: rounded to the dtype of the data."""
    if terms.noise is None:
        return terms
    z = torch.empty(like.shape, dtype=torch.float32, device=like.device)
    normal(z.view(len(z), -1) if z.numel() else z.view(0, 1), terms.noise)
    return terms._replace(tensors=(*terms.tensors, z.to(like.dtype)), noise=None)


def total(terms: Terms, like: Tensor) -> Tensor:
    """Return the sum in the working precision: differentiable, and free of writes."""
    work = work_dtype(like.device)
    products = (c * x.to(work) for c, x in zip(_columns(terms, like), terms.tensors, strict=True))
    result = reduce(add, products) if terms.tensors else torch.zeros_like(like, dtype=work)
    return result if terms.limit == inf else result.clamp(-terms.limit, terms.limit)


def write(terms: Terms, out: Tensor) -> None:
    """Write the sum into ``out``, which may be one of the tensors."""
    terms = terms._replace(coefficients=_columns(terms, out))
    for rows in _blocks(out):
        coefficients = tuple(_rows(c, rows) for c in terms.coefficients)
        part = terms._replace(coefficients=coefficients, tensors=tuple(x[rows] for x in terms.tensors))
        out[rows] = total(part, out[rows])


def _columns(terms: Terms, like: Tensor) -> tuple[Coefficient, ...]:
    """Return one coefficient a tensor, in the working precision, that broadcasts against the data."""
    coefficients, work = terms.coefficients, work_dtype(like.device)
    if isinstance(coefficients, Tensor):
        lead, count = coefficients.shape[:-1], coefficients.shape[-1]
        inner = [1] * (like.ndim - len(lead)) if lead else []
        coefficients = coefficients.reshape(*lead, *inner, count).unbind(-1)
    return tuple(c.to(like.device, work) if isinstance(c, Tensor) else c for c in coefficients)


def _blocks(data: Tensor) -> Iterator[slice | tuple[()]]:
    if data.numel() <= BLOCK or data.device.type != "cpu":
        yield ()
        return
    rows = max(1, BLOCK * len(data) // data.numel())
    for start in range(0, len(data), rows):
        yield slice(start, start + rows)


def _rows(coefficient: Coefficient, rows: slice | tuple[()]) -> Coefficient:
    if isinstance(coefficient, Tensor) and coefficient.ndim and len(coefficient) > 1:
        return coefficient[rows]
    return coefficient
