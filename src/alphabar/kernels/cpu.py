"""The CPU backend: the C++ kernels, if they were built; :data:`REASON` says why they are missing.

``LIBRARY.lincomb(coefficients, tensors, rows, noise, out, dtype, limit, grad)`` takes the arguments of
:func:`~alphabar.lincomb` as they are, verifies every one, and returns the sum; or None where they do not fit,
the kernels do not cover them, or, with ``grad``, one requires a gradient.
"""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from alphabar.kernels.backend import Address, Terms

__all__ = ["LIBRARY", "REASON", "all_finite", "lincomb", "normal"]

VERSION = 5


def _load() -> tuple[ModuleType | None, str]:
    try:
        import alphabar.kernels._native as library  # type: ignore[import-not-found]
    except ImportError as error:
        return None, f"not built when the package was installed, or not loadable here: {error}"
    if library.VERSION != VERSION:
        return None, f"built from version {library.VERSION} of its source, not {VERSION}: install it again"
    dtypes = torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64
    library.begin((Tensor, torch.nn.Parameter), dtypes, torch.channels_last, torch.empty_like)
    return library, ""


LIBRARY, REASON = _load()


def lincomb(terms: Terms, out: Tensor) -> bool:
    """Write a sum into ``out``; for up to six dense tensors of one dtype and layout, and noise in float32."""
    if LIBRARY is None:
        return False
    coefficients, tensors, noise, limit = terms
    if isinstance(coefficients, Tensor):
        coefficients = coefficients.contiguous()
    total = LIBRARY.lincomb(coefficients, tensors, None, noise, out, out.dtype, limit, False)
    return total is not None


def normal(out: Tensor, address: Address) -> bool:
    """Fill (samples, size) contiguous float32 with standard normals."""
    if LIBRARY is None:
        return False
    LIBRARY.normal(*out.shape, *address, out.data_ptr())
    return True


def all_finite(x: Tensor) -> bool | None:
    """Return whether no element is infinite or NaN; None for what is not dense, or not on the CPU."""
    if LIBRARY is None:
        return None
    finite: bool | None = LIBRARY.all_finite(x)
    return finite
