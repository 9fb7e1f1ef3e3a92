"""The arguments of ``lincomb``, checked and brought into one form that every backend takes."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real

import torch
from torch import Tensor

from alphabar.checks import check_float, require
from alphabar.errors import ConfigError, DtypeError, ShapeError
from alphabar.kernels.backend import Address, Coefficient, Terms
from alphabar.kernels.reference import work_dtype

__all__ = ["check_out", "normal_form"]


def normal_form(
    coefficients: Sequence[Coefficient] | Tensor,
    tensors: Sequence[Tensor],
    rows: int | Tensor | None,
    noise: Address | None,
    limit: float,
) -> Terms:
    """Return the sum in its normal form; arguments and errors as in :func:`lincomb`."""
    tensors = tuple(tensors)
    _check_tensors(tensors)
    like = tensors[0]
    _check_noise(noise, like)
    if not limit >= 0:
        raise ConfigError(f"limit is {limit}: sums stay within -limit … limit, so give a number from 0 on")
    given = coefficients.shape[-1:].numel() if isinstance(coefficients, Tensor) else len(coefficients)
    count = len(tensors) + (noise is not None)
    if given != count:
        also = " and the noise" if noise is not None else ""
        raise ConfigError(f"{given} coefficients for {len(tensors)} tensors{also}: give one each")
    if isinstance(coefficients, Tensor):
        form = _form(_table(coefficients, rows, like), like)
    elif rows is None:
        coefficients, tensors, noise = _without_zeros([*map(_checked, coefficients)], tensors, noise)
        form = _listed(coefficients, like)
    else:
        raise ConfigError("rows are given, but coefficients are no table: pass a (T, n) tensor")
    return Terms(form, tensors, noise, limit)


def check_out(out: Tensor, like: Tensor, dtype: torch.dtype | None) -> None:
    """Require a place for the result: of the shape and device of the tensors, and of the dtype asked for.

    Raises:
        ShapeError, DtypeError: it does not fit.
    """
    check_float(out=out)
    if out.shape != like.shape:
        raise ShapeError(
            f"out has shape {tuple(out.shape)}, the tensors {tuple(like.shape)}: make them equal"
        )
    if out.device != like.device:
        raise DtypeError(f"out is on {out.device}, the tensors are on {like.device}: move one of them")
    if dtype not in (None, out.dtype):
        raise DtypeError(f"out is {out.dtype}, dtype is {dtype}: give one of them, or make them equal")


def _check_tensors(tensors: tuple[Tensor, ...]) -> None:
    if not tensors:
        raise ConfigError("no tensors: give at least one")
    check_float(**{f"tensors[{k}]": tensor for k, tensor in enumerate(tensors)})
    like = tensors[0]
    for k, tensor in enumerate(tensors):
        if tensor.shape != like.shape:
            raise ShapeError(
                f"tensors[{k}] has shape {tuple(tensor.shape)}, others {tuple(like.shape)}: make them equal"
            )
        if tensor.device != like.device:
            raise DtypeError(
                f"tensors[{k}] is on {tensor.device}, tensors[0] on {like.device}: move one of them"
            )


def _check_noise(noise: Address | None, like: Tensor) -> None:
    if noise is None:
        return
    if not like.ndim:
        raise ShapeError("noise for a tensor of shape (): noise has at least a batch dimension")
    for name, number, bits in zip(Address._fields, noise, (64, 32, 63), strict=True):
        if not isinstance(number, int) or not 0 <= number < 2**bits:
            raise ConfigError(f"{name} of the noise is {number!r}: it must be an integer in 0 … 2^{bits} - 1")


def _checked(coefficient: Coefficient) -> Coefficient:
    if isinstance(coefficient, float | int | Tensor):
        return coefficient
    if isinstance(coefficient, Real):  # a scalar of numpy, say
        return float(coefficient)
    raise DtypeError(f"a coefficient is {coefficient!r}: pass a number or a tensor")


def _without_zeros(
    coefficients: Sequence[Coefficient], tensors: tuple[Tensor, ...], noise: Address | None
) -> tuple[tuple[Coefficient, ...], tuple[Tensor, ...], Address | None]:
    """Leave out what the number 0 multiplies."""
    kept = [k for k, c in enumerate(coefficients) if isinstance(c, Tensor) or c != 0]
    if noise is not None and len(tensors) not in kept:
        noise = None
    data = tuple(tensors[k] for k in kept if k < len(tensors))
    return tuple(coefficients[k] for k in kept), data, noise


def _listed(coefficients: tuple[Coefficient, ...], like: Tensor) -> tuple[Coefficient, ...] | Tensor:
    """Return numbers as they are; with tensors among them a table, or what broadcasts if one is as large."""
    if not any(isinstance(c, Tensor) for c in coefficients):
        return coefficients
    wide = [_aligned(c, like) for c in coefficients]
    lead = max(_leading(c.shape) for c in wide)
    if lead == like.ndim > 0:
        return tuple(wide)
    shape = like.shape[:lead]
    return torch.stack([c.reshape(c.shape[:lead]).expand(shape) for c in wide], -1)


def _aligned(coefficient: Coefficient, like: Tensor) -> Tensor:
    """Return a coefficient in the working precision, with as many dimensions as the data."""
    c = torch.as_tensor(coefficient, dtype=work_dtype(like.device), device=like.device)
    c = c.reshape((1,) * (like.ndim - c.ndim) + c.shape)
    if c.ndim > like.ndim or any(n not in (1, m) for n, m in zip(c.shape, like.shape, strict=True)):
        raise ShapeError(
            f"a coefficient has shape {tuple(c.shape)}, the tensors {tuple(like.shape)}: it must broadcast "
            "against them"
        )
    return c


def _leading(shape: torch.Size) -> int:
    """Return how many leading dimensions a coefficient of this shape varies over."""
    return max([0, *(axis + 1 for axis, size in enumerate(shape) if size != 1)])


def _table(table: Tensor, rows: int | Tensor | None, like: Tensor) -> Tensor:
    """Return (…, n) coefficients in the working precision, with leading dimensions of the data or none."""
    check_float(coefficients=table)
    table = table.to(like.device, work_dtype(like.device))
    if rows is not None:
        if table.ndim != 2:
            raise ShapeError(f"coefficients have shape {tuple(table.shape)}: rows need a table (T, n)")
        table = _looked_up(table, rows)
    lead = table.shape[:-1]
    if len(lead) > like.ndim or any(n not in (1, m) for n, m in zip(lead, like.shape, strict=False)):
        raise ShapeError(
            f"{'rows' if rows is not None else 'coefficients'} have leading dimensions {tuple(lead)}, the "
            f"tensors {tuple(like.shape)}: they must broadcast against the leading dimensions of the tensors"
        )
    if lead.numel() == 1:
        return table.reshape(-1)
    return table.expand(*like.shape[: len(lead)], -1)


def _looked_up(table: Tensor, rows: int | Tensor) -> Tensor:
    if isinstance(rows, bool) or not isinstance(rows, int | Tensor):
        raise DtypeError(f"rows is {rows!r}: pass an integer or a tensor of integers")
    height = len(table)
    if isinstance(rows, int):
        if not 0 <= rows < height:
            raise ConfigError(f"rows is {rows}: the table has rows 0 … {height - 1}")
        return table[rows]
    if rows.dtype == torch.bool or rows.is_floating_point() or rows.is_complex():
        raise DtypeError(f"rows have dtype {rows.dtype}: pass integers, for instance rows.long()")
    place = rows.to(table.device, torch.int64)
    require((place >= 0) & (place < height), f"rows must be in 0 … {height - 1}", ConfigError)
    return table.index_select(0, place.reshape(-1)).reshape(*rows.shape, table.shape[1])


def _form(table: Tensor, like: Tensor) -> tuple[Coefficient, ...] | Tensor:
    """Return a table as it is; one with a row for each element as tensors of their own."""
    return table.unbind(-1) if table.ndim > like.ndim > 0 else table
