"""The CPU kernels of ``kernels.h``, if they were built: the reference's numbers, in one pass over memory.

What the kernels do not cover (other devices and layouts, gradients, tracing) is left to the reference;
:data:`REASON` says why they are missing altogether.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from math import inf
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["LIBRARY", "REASON", "Address", "by_rows", "lincomb", "normal", "signed", "unsigned"]

VERSION = 4
Coefficient = float | Tensor


class Address(NamedTuple):
    """Where the noise of a batch lies: that of its row i at (seed, stream, first + i)."""

    seed: int
    stream: int
    first: int = 0


def signed(address: Address) -> list[int]:
    """Return an address as torch's operators take it: their integers are signed."""
    seed, stream, first = address
    return [seed - 2**64 if seed >= 2**63 else seed, stream, first]


def unsigned(numbers: Sequence[int]) -> Address:
    """Return the address that :func:`signed` made these numbers of."""
    seed, stream, first = numbers
    return Address(seed % 2**64, stream, first)


def _load() -> tuple[ModuleType | None, str]:
    try:
        library = import_module("alphabar.kernels._native")
    except ImportError as error:
        return None, f"not built when the package was installed, or not loadable here: {error}"
    if library.VERSION != VERSION:
        return None, f"built from version {library.VERSION} of its source, not {VERSION}: install it again"
    dtypes = torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64
    library.begin((Tensor, torch.nn.Parameter), dtypes, torch.channels_last)
    return library, ""


LIBRARY, REASON = _load()


def lincomb(
    coefficients: Sequence[Coefficient], tensors: Sequence[Tensor], out: Tensor, noise: Address | None = None
) -> bool:
    """Write the sum into ``out`` and return True, or return False where the kernels do not cover it.

    Args:
        coefficients: one for each tensor, and the noise's last.
        tensors: one to six.
        out: where to write.
        noise: the address of noise to add; for contiguous float32 data.
    """
    if LIBRARY is None:
        return False
    done = LIBRARY.lincomb(tuple(coefficients), None, tuple(tensors), out, noise, inf)
    if done is not None:
        return bool(done)
    lead = max(map(leading, coefficients))
    if not lead:
        return lincomb([float(c) for c in coefficients], tensors, out, noise)
    coefficients, tensors = without_zeros(coefficients, tensors)
    if lead == out.ndim > 1:
        return False  # a coefficient for each element
    return by_rows(table_of(coefficients, out.shape[:lead], out.device), tensors, out, noise)


def by_rows(table: Tensor, tensors: Sequence[Tensor], out: Tensor, noise: Address | None = None) -> bool:
    """The same with a (…, n) float64 table whose rows belong to the leading dimensions of the data."""
    return LIBRARY is not None and LIBRARY.lincomb(table, None, tuple(tensors), out, noise, inf)


def normal(out: Tensor, address: Address) -> bool:
    """Fill (samples, size) float32 with normals and return True, or return False without kernels."""
    if LIBRARY is None:
        return False
    LIBRARY.normal(*out.shape, *address, out.data_ptr())
    return True


def without_zeros(
    coefficients: Sequence[Coefficient], tensors: Sequence[Tensor]
) -> tuple[list[Coefficient], list[Tensor]]:
    """Leave out the tensors whose coefficient is the number 0; a noise's, the last, stays."""
    kept = [k for k in range(len(tensors)) if isinstance(coefficients[k], Tensor) or coefficients[k] != 0]
    return [coefficients[k] for k in kept] + list(coefficients[len(tensors) :]), [tensors[k] for k in kept]


def table_of(coefficients: Sequence[Coefficient], shape: torch.Size, device: torch.device) -> Tensor:
    """Return (…, n) float64 coefficients for these leading dimensions."""

    def spread(coefficient: Coefficient) -> Tensor:
        c = torch.as_tensor(coefficient, dtype=torch.float64, device=device)
        return (c.reshape(c.shape[: len(shape)]) if c.ndim else c).expand(shape)

    return torch.stack([spread(c) for c in coefficients], -1)


def leading(coefficient: Coefficient) -> int:
    """How many leading dimensions a coefficient varies over."""
    if not isinstance(coefficient, Tensor):
        return 0
    return max((axis + 1 for axis, size in enumerate(coefficient.shape) if size != 1), default=0)
