"""out = c_0 · x_0 + c_1 · x_1 + … + c · z: worked out in float64, rounded once.

Products of float32 data and rounded coefficients cancel: where two large terms nearly meet, float32
arithmetic leaves an error of many units in the last place of the small result. In float64 the only
rounding that remains is the last one. On the CPU a kernel does this in one pass, where it was built; in plain
torch the tensors are taken in blocks of rows that stay in the cache, so the wide intermediates never
travel to memory.

``torch.compile`` makes a sum one node of its graph where the coefficients are numbers, so that a chain of
many steps compiles soon; of other sums the reference is traced.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import inf
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from alphabar.errors import ConfigError
from alphabar.kernels import cpu
from alphabar.kernels.backend import backend, is_traced
from alphabar.kernels.cpu import Address, signed, unsigned
from alphabar.kernels.philox import normal

__all__ = ["at_once", "lincomb", "work_dtype"]

BLOCK = 1 << 16  # elements whose float64 intermediates fit in a core's cache

Coefficient = float | Tensor
Term = tuple[Coefficient, Tensor]


def lincomb(
    coefficients: Sequence[Coefficient] | Tensor,
    tensors: Sequence[Tensor],
    *,
    noise: Address | None = None,
    out: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Add up tensors with coefficients; a coefficient that is the number 0 leaves its tensor out.

    Differentiable where an input requires a gradient and ``out`` is not given.

    Args:
        coefficients: numbers, 0-d tensors, or tensors with as many dimensions as the data, each 1 or equal;
            or a table (…, n) whose rows belong to the leading dimensions. The noise's is the last.
        tensors: data of one shape.
        noise: the address of noise to add, drawn for the first dimension's samples; the CPU kernels make it
            on the way, and it never lies in memory.
        out: where to write; may be one of ``tensors``.
        dtype: of the result; by default that of the first tensor.

    Returns:
        ``out``, or a new tensor.

    Raises:
        ConfigError: not one coefficient for each tensor and the noise.
    """
    if isinstance(coefficients, tuple) and isinstance(tensors, tuple):
        result = at_once(coefficients, tensors, noise=noise, out=out, dtype=dtype)
        if result is not None:
            return result
    if torch.compiler.is_compiling():
        plain = out is None and not torch._C._are_functorch_transforms_active()
        if plain and not isinstance(coefficients, Tensor) and all(map(_is_number, coefficients)):
            numbers, address = list(coefficients), noise and signed(noise)
            total: Tensor = _operator(list(tensors), numbers, dtype or tensors[0].dtype, address)
            return total
    elif out is not None:
        increment_version(out)  # what autograd kept of it must not be used
    if isinstance(coefficients, Tensor):
        return _by_rows(coefficients, tensors, noise, out, dtype)
    count = len(tensors) + (noise is not None)
    if len(coefficients) != count:
        raise ConfigError(f"{len(coefficients)} coefficients for {count} tensors: give one each")
    like = tensors[0]
    grows = out is None and torch.is_grad_enabled() and any(map(_needs_grad, [*coefficients, *tensors]))
    result = torch.empty_like(like, dtype=dtype or like.dtype) if out is None else out
    if not grows and _in_one_pass(coefficients, tensors, result, noise):
        return result
    if noise is not None:
        tensors = *tensors, _drawn(noise, like)
    terms = [(c, x) for c, x in zip(coefficients, tensors, strict=True) if isinstance(c, Tensor) or c != 0]
    if grows:
        return _sum(terms, like).to(dtype or like.dtype)
    for rows in _blocks(like):
        result[rows] = _sum([(_rows(c, rows), x[rows]) for c, x in terms], like[rows])
    return result


def at_once(
    coefficients: Sequence[Coefficient] | Tensor,
    tensors: tuple[Tensor, ...],
    *,
    at: int | Tensor = 0,
    noise: Address | None = None,
    out: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor | None:
    """Add up tensors in one call of the CPU kernels, which trust no argument; None where that cannot be.

    Then the kernels do not serve, or something does not fit: checks can say what, and :func:`lincomb` do it.

    Args:
        coefficients: a tuple of numbers, or a (T, n) float64 table; the noise's is the last.
        tensors: data of one shape and dtype.
        at: the row of the table that all take, or (B, …) int64, rows for the leading dimensions of the data.
        noise: the address of noise to add.
        out: where to write, of that shape and dtype.
        dtype: of the result, if that matters.
    """
    like = tensors[0]
    if cpu.LIBRARY is None or is_traced() or not isinstance(like, Tensor) or not like.is_cpu:
        return None
    if dtype not in (None, like.dtype):
        return None
    result = torch.empty_like(like) if out is None else out
    if not cpu.LIBRARY.lincomb(coefficients, at, tensors, result, noise, inf):
        return None
    if out is not None:
        increment_version(out)
    return result


@torch.library.custom_op("alphabar::lincomb", mutates_args=())
def _operator(
    tensors: list[Tensor], coefficients: list[float], dtype: torch.dtype, address: list[int] | None
) -> Tensor:
    """What a compiled graph calls: one node that runs the kernels."""
    noise = None if address is None else unsigned(address)
    return lincomb(tuple(coefficients), tuple(tensors), noise=noise, dtype=dtype)


@_operator.register_fake
def _(tensors: list[Tensor], coefficients: list[float], dtype: torch.dtype, address: Any) -> Tensor:
    return torch.empty_like(tensors[0], dtype=dtype)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    tensors, ctx.coefficients, *_ = inputs
    ctx.dtypes = [tensor.dtype for tensor in tensors]


def _backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
    """A sum hands its gradient on to each tensor, times the coefficient."""
    pairs = zip(ctx.coefficients, ctx.dtypes, strict=False)  # the noise's coefficient is left over
    return [(c * gradient).to(dtype) for c, dtype in pairs], None, None, None


_operator.register_autograd(_backward, setup_context=_keep)


def work_dtype(device: torch.device) -> torch.dtype:
    """Return the precision of the arithmetic: float64 wherever the device has it."""
    return torch.float32 if device.type == "mps" else torch.float64


def _by_rows(
    table: Tensor,
    tensors: Sequence[Tensor],
    noise: Address | None,
    out: Tensor | None,
    dtype: torch.dtype | None,
) -> Tensor:
    like = tensors[0]
    if not torch.is_grad_enabled() or not any(tensor.requires_grad for tensor in tensors):
        result = torch.empty_like(like, dtype=dtype or like.dtype) if out is None else out
        kernels = backend(like.device)
        if kernels and kernels.by_rows(table, tensors, result, noise):
            return result
    lead, inner = table.shape[:-1], [1] * (like.ndim - table.ndim + 1)
    columns = table.reshape(*lead, *inner, table.shape[-1]).unbind(-1)
    return lincomb(list(columns), tensors, noise=noise, out=out, dtype=dtype)


def _in_one_pass(
    coefficients: Sequence[Coefficient],
    tensors: Sequence[Tensor],
    out: Tensor,
    noise: Address | None,
) -> bool:
    kernels = backend(out.device)
    return kernels is not None and bool(kernels.lincomb(coefficients, tensors, out, noise))


def _drawn(noise: Address, like: Tensor) -> Tensor:
    z = torch.empty(like.shape, dtype=torch.float32, device=like.device)
    normal(z.view(len(z), -1), noise)
    return z.to(like.dtype)


def _sum(terms: Sequence[Term], like: Tensor) -> Tensor:
    work = work_dtype(like.device)
    total = torch.zeros((), dtype=work, device=like.device)
    for coefficient, tensor in terms:
        total = total + _widened(coefficient, work, like.device) * tensor.to(work)
    return total


def _widened(coefficient: Coefficient, dtype: torch.dtype, device: torch.device) -> Coefficient:
    return coefficient.to(dtype).to(device) if isinstance(coefficient, Tensor) else coefficient


def _is_number(coefficient: Coefficient) -> bool:
    return isinstance(coefficient, int | float)


def _needs_grad(part: Coefficient) -> bool:
    return isinstance(part, Tensor) and part.requires_grad


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
