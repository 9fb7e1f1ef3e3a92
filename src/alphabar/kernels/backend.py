"""What a backend is: sums and noise for the tensors of one kind of device.

A backend is a module with the two functions of :class:`Backend`. It is given a sum in its normal form, so
that it checks only what it is limited to: layouts, dtypes, the number of tensors. What it declines the
reference does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.autograd import forward_ad

__all__ = ["Address", "Backend", "Coefficient", "Terms", "is_exported", "is_traced", "signed", "unsigned"]

Coefficient = float | Tensor


class Address(NamedTuple):
    """The address of the noise of a batch: that of its sample i is (seed, stream, first + i)."""

    seed: int
    stream: int
    first: int = 0


class Terms(NamedTuple):
    """c_0 · x_0 + … + c_{n−1} · x_{n−1} + c_n · z, within ±limit: a sum in its normal form."""

    coefficients: tuple[Coefficient, ...] | Tensor
    """Plain numbers; or a float64 table (…, n) on the device of the data, whose leading dimensions are those
    of the data, fewer than all; or, where one varies along every dimension, tensors that broadcast, and
    numbers. The noise's is the last."""
    tensors: tuple[Tensor, ...]
    """Of one shape and device."""
    noise: Address | None
    limit: float
    """At least 0; infinite for none."""


class Backend(Protocol):
    """Both return whether they did the work."""

    def lincomb(self, terms: Terms, out: Tensor) -> bool:
        """Write a sum into ``out``, of the shape and device of the tensors, which may be one of them."""

    def normal(self, out: Tensor, address: Address) -> bool:
        """Fill (samples, size) contiguous float32 with standard normals; row i is sample ``first + i``."""


def is_traced() -> bool:
    """Return whether operations are recorded or transformed: compiled, mapped, or differentiated forward."""
    return (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
    )


def is_exported() -> bool:
    """Return whether operations are recorded to run where this library may not be installed."""
    return hasattr(torch.compiler, "is_exporting") and torch.compiler.is_exporting()  # torch 2.7


def signed(address: Address) -> list[int]:
    """Return an address as torch's operators take it: their integers are signed."""
    seed, stream, first = address
    return [seed - 2**64 if seed >= 2**63 else seed, stream, first]


def unsigned(numbers: Sequence[int]) -> Address:
    """Return the address that :func:`signed` made these numbers of."""
    seed, stream, first = numbers
    return Address(seed % 2**64, stream, first)
