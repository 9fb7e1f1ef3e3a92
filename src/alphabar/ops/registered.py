"""The two primitives as operators of torch: ``torch.compile`` makes each call one node that runs the kernels.

Neither their arithmetic nor ten rounds of Philox are traced, so that a chain of many steps compiles soon, and
returns what the plain calls return. Of sums whose coefficients are tensors the reference is traced.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from alphabar import ops
from alphabar.ops.native import Address

__all__ = ["lincomb", "normal", "signed"]


def signed(address: Address) -> list[int]:
    """Return an address as operators take it: their integers are signed."""
    seed, stream, first = address
    return [seed - 2**64 if seed >= 2**63 else seed, stream, first]


@torch.library.custom_op("alphabar::normal", mutates_args={"out"})
def normal(out: Tensor, address: list[int]) -> None:
    """Fill (samples, size) float32 with normals."""
    seed, *rest = address
    ops.normal(out, Address(seed % 2**64, *rest))


@torch.library.custom_op("alphabar::lincomb", mutates_args=())
def lincomb(
    tensors: list[Tensor], coefficients: list[float], dtype: torch.dtype, address: list[int] | None
) -> Tensor:
    """Return the sum; with an address the last coefficient is that of the noise there."""
    noise = None if address is None else Address(address[0] % 2**64, *address[1:])
    return ops.lincomb(tuple(coefficients), tuple(tensors), noise=noise, dtype=dtype)


@lincomb.register_fake
def _(tensors: list[Tensor], coefficients: list[float], dtype: torch.dtype, address: Any) -> Tensor:
    return torch.empty_like(tensors[0], dtype=dtype)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    tensors, ctx.coefficients, *_ = inputs
    ctx.dtypes = [tensor.dtype for tensor in tensors]


def _backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
    """A sum hands its gradient on to each tensor, times the coefficient."""
    pairs = zip(ctx.coefficients, ctx.dtypes, strict=False)  # the noise's coefficient is left over
    return [(c * gradient).to(dtype) for c, dtype in pairs], None, None, None


lincomb.register_autograd(_backward, setup_context=_keep)
