"""Which kernels serve a device: ``cpu`` the CPU, ``cuda`` a GPU of NVIDIA. The rest is the reference's.

A backend is a module of three functions that say whether they did the work:

    lincomb(coefficients, tensors, out, noise)    by_rows(table, tensors, out, noise)    normal(out, address)
"""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module
from types import ModuleType

import torch

from alphabar.kernels import cpu

__all__ = ["backend", "is_traced"]


def backend(device: torch.device) -> ModuleType | None:
    """Return the kernels for a device; None without any, while tracing and under functorch."""
    if is_traced():
        return None
    return cpu if device.type == "cpu" else _triton() if device.type == "cuda" else None


def is_traced() -> bool:
    """Return whether what runs now is recorded or transformed rather than carried out."""
    return torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()


@lru_cache(maxsize=1)
def _triton() -> ModuleType | None:
    """Triton comes with torch where there are NVIDIA GPUs; it takes a second to load."""
    try:
        return import_module("alphabar.kernels.cuda")
    except ImportError:
        return None
