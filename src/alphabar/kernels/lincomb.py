"""The one primitive: out = c_0 · x_0 + c_1 · x_1 + … + c · z, as in float64, rounded once.

A call takes one road:

    fast call      the CPU kernels take the arguments as they are, verify them, decline what does not fit
    checks         the caller's, if any, then those of the arguments: named errors
    normal form    ``normal_form.py``: numbers or a table, tensors, noise, limit
    backend        ``cpu.py`` or ``cuda.py``, in one pass over memory; may decline
    reference      ``reference.py``, plain torch: also what is differentiated and traced

``torch.compile`` makes a sum with plain numbers one node of its graph, so that a chain of many steps compiles
soon; of other sums, and by ``torch.export``, the reference is traced.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from alphabar.errors import ConfigError
from alphabar.kernels import cpu, reference
from alphabar.kernels.backend import Address, Coefficient, Terms, is_exported, is_traced, signed, unsigned
from alphabar.kernels.devices import backend
from alphabar.kernels.normal_form import check_out, normal_form

__all__ = ["all_finite", "lincomb"]


def lincomb(
    coefficients: Sequence[Coefficient] | Tensor,
    tensors: Sequence[Tensor],
    *,
    rows: int | Tensor | None = None,
    noise: Address | None = None,
    out: Tensor | None = None,
    dtype: torch.dtype | None = None,
    limit: float = inf,
    check: Callable[[], object] | None = None,
) -> Tensor:
    """Return c_0 · x_0 + c_1 · x_1 + … + c · z, within ±limit; differentiable unless ``out`` is given.

    >>> x, z = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.ones(2, 2)
    >>> lincomb((0.5, 10), (x, z))
    tensor([[10.5000, 11.0000],
            [11.5000, 12.0000]])
    >>> table = torch.tensor([[0.0, 1.0], [2.0, 0.0], [3.0, 1.0]], dtype=torch.float64)
    >>> lincomb(table, (x, z), rows=torch.tensor([1, 2]), limit=9.5)
    tensor([[2.0000, 4.0000],
            [9.5000, 9.5000]])

    Args:
        coefficients: one for each tensor, the noise's last: numbers, or tensors that broadcast against the
            data; or a float64 table (…, n) whose leading dimensions are those of the data. The number 0
            leaves its tensor out, whatever it holds.
        tensors: (…) floating point, of one shape and device.
        rows: which row of a table (T, n) the data take: an integer, or integers whose shape broadcasts
            against the leading dimensions of the data: (B,) one a sample, (B, L) one a token.
        noise: the address of noise to add, drawn for the first dimension's samples in float32; the kernels
            make it on the way, and it never lies in memory.
        out: where to write, of the shape of the data; may be one of ``tensors``.
        dtype: of the result; by default that of ``out``, or of the first tensor.
        limit: the sum is clipped to [−limit, limit]; NaN stays.
        check: called once, before any check here, where the fast call declines: a caller's own checks, which
            so cost nothing where the kernels have verified all arguments.

    Raises:
        ConfigError: not one coefficient for each tensor and the noise, rows outside the table, a negative
            limit, or ``out`` where a gradient is required.
        ShapeError: tensors of different shapes, coefficients or rows that do not broadcast against them.
        DtypeError: integers where numbers with a fraction are meant or the reverse, devices that differ.
    """
    if cpu.LIBRARY is not None and not is_traced():
        grad = torch.is_grad_enabled()
        total = cpu.LIBRARY.lincomb(coefficients, tensors, rows, noise, out, dtype, limit, grad)
        if total is not None:
            if out is not None:
                increment_version(out)  # what autograd kept of it must not be used
            return total  # type: ignore[no-any-return]
    if check is not None:
        check()
    terms = normal_form(coefficients, tensors, rows, noise, limit)
    like = tensors[0]
    if out is not None:
        check_out(out, like, dtype)
        return _written(terms, like, out)
    dtype = dtype or like.dtype
    if is_traced() or _needs_grad(terms):
        return _functional(terms, like, dtype)
    return _written(terms, like, torch.empty_like(like, dtype=dtype))


def all_finite(x: Tensor) -> bool:
    """Return whether no element is infinite or NaN; waits for an accelerator.

    >>> all_finite(torch.zeros(3)), all_finite(torch.tensor([0.0, float("nan")]))
    (True, False)
    """
    finite = cpu.all_finite(x)
    return bool(x.isfinite().all()) if finite is None else finite


def _written(terms: Terms, like: Tensor, out: Tensor) -> Tensor:
    """Carry the sum out by the backend of the device, or in plain torch."""
    if _needs_grad(terms):
        raise ConfigError("out is given and a gradient required: omit out, or call under torch.no_grad()")
    if not torch.compiler.is_compiling():
        increment_version(out)
    kernels = backend(out.device)
    if kernels and kernels.lincomb(terms, out):
        return out
    terms = reference.drawn(terms, like)
    if not (kernels and kernels.lincomb(terms, out)):
        reference.write(terms, out)
    return out


def _functional(terms: Terms, like: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the sum without a write: what autograd, ``torch.func`` and ``torch.compile`` follow."""
    coefficients, tensors, noise, limit = terms
    compiled = torch.compiler.is_compiling() and not torch._C._are_functorch_transforms_active()
    compiled = compiled and not is_exported()
    if compiled and tensors and not any(isinstance(c, Tensor) for c in _given(terms)):
        total: Tensor = _operator(list(tensors), list(coefficients), dtype, noise and signed(noise))
        return total if limit == inf else total.clamp(-limit, limit)
    return reference.total(reference.drawn(terms, like), like).to(dtype)


def _needs_grad(terms: Terms) -> bool:
    parts = *_given(terms), *terms.tensors
    return torch.is_grad_enabled() and any(isinstance(part, Tensor) and part.requires_grad for part in parts)


def _given(terms: Terms) -> tuple[Coefficient, ...]:
    coefficients = terms.coefficients
    return (coefficients,) if isinstance(coefficients, Tensor) else coefficients


@torch.library.custom_op("alphabar::lincomb", mutates_args=())
def _operator(
    tensors: list[Tensor], coefficients: list[float], dtype: torch.dtype, address: list[int] | None
) -> Tensor:
    """What a compiled graph calls: one node that runs the kernels."""
    noise = None if address is None else unsigned(address)
    return lincomb(coefficients, tensors, noise=noise, dtype=dtype)


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
