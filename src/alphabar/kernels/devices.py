"""Which backend serves a device: the CPU kernels the CPU, Triton a GPU of NVIDIA."""

from __future__ import annotations

from functools import lru_cache

import torch

from alphabar.kernels import cpu
from alphabar.kernels.backend import Backend, is_traced

__all__ = ["backend"]


def backend(device: torch.device) -> Backend | None:
    """Return the kernels for a device; None without any, and while operations are traced."""
    if is_traced():
        return None
    return cpu if device.type == "cpu" else _triton() if device.type == "cuda" else None


@lru_cache(maxsize=1)
def _triton() -> Backend | None:
    """Triton comes with torch where there are NVIDIA GPUs; it takes a second to load."""
    try:
        from alphabar.kernels import cuda
    except ImportError:
        return None
    triton: Backend = cuda
    return triton
