"""The CPU kernels of ``native.cpp``, if they were built: the reference's numbers, in one pass over memory.

Pointers and plain numbers cross over by ctypes. What the kernels do not cover (other devices and layouts,
gradients, tracing) is left to the reference; :data:`REASON` says why they are missing altogether.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

__all__ = ["LIBRARY", "REASON", "lincomb", "normal"]

VERSION = 1
MOST = 6  # tensors in one sum
KINDS = {
    (torch.float64, torch.float64): 0,
    (torch.float32, torch.float32): 1,
    (torch.bfloat16, torch.bfloat16): 2,
    (torch.bfloat16, torch.float32): 3,
    (torch.float16, torch.float16): 4,
    (torch.float16, torch.float32): 5,
}
"""The kernels' numbers by the dtypes of what goes in and comes out."""


def _load() -> tuple[ctypes.CDLL | None, str]:
    try:
        library = ctypes.CDLL(str(Path(__file__).with_name("libnative.so")))
        version = library.alphabar_version()
    except (OSError, AttributeError) as error:
        return None, f"not built when the package was installed, or not loadable here: {error}"
    if version != VERSION:
        return None, f"built from version {version} of its source, not {VERSION}: install the package again"
    i64, pointer = ctypes.c_int64, ctypes.c_void_p
    library.alphabar_lincomb.argtypes = [
        ctypes.c_int,
        ctypes.c_int,
        i64,
        i64,
        pointer,
        pointer,
        ctypes.c_int,
        pointer,
    ]
    library.alphabar_normal.argtypes = [ctypes.c_uint64, ctypes.c_uint32, ctypes.c_uint64, i64, i64, pointer]
    return library, ""


LIBRARY, REASON = _load()


def lincomb(coefficients: Sequence[float | Tensor], tensors: Sequence[Tensor], out: Tensor) -> bool:
    """Write the sum into ``out`` and return True, or return False where the kernels do not cover it."""
    kind = KINDS.get((tensors[0].dtype, out.dtype))
    if LIBRARY is None or kind is None or not out.numel() or len(tensors) > MOST:
        return False
    table = _table(coefficients, out) if _are_plain([*tensors, out]) else None
    if table is None:
        return False
    rows, numbers, shared = table
    count, columns = len(tensors), out.numel() // max(rows, 1)
    pointers = (ctypes.c_void_p * count)(*(tensor.data_ptr() for tensor in tensors))
    place = numbers.data_ptr() if isinstance(numbers, Tensor) else numbers
    return not LIBRARY.alphabar_lincomb(kind, count, rows, columns, pointers, place, shared, out.data_ptr())


def normal(samples: int, size: int, *, seed: int, stream: int, first: int) -> Tensor | None:
    """Return (samples, size) float32 normals on the CPU, or None where there are no kernels."""
    if LIBRARY is None or torch.compiler.is_compiling():
        return None
    out = torch.empty(samples, size)
    LIBRARY.alphabar_normal(seed, stream, first, samples, size, out.data_ptr())
    return out


def _are_plain(tensors: Sequence[Tensor]) -> bool:
    """Whether all lie alike and densely in CPU memory, of one dtype but for the last, and nobody traces."""
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return False
    first = tensors[0]
    if not (first.is_contiguous() or first.is_contiguous(memory_format=torch.channels_last)):
        return False
    return all(
        type(tensor) in (Tensor, torch.nn.Parameter)
        and tensor.device.type == "cpu"
        and tensor.shape == first.shape
        and tensor.stride() == first.stride()
        and (tensor.dtype == first.dtype or tensor is tensors[-1])
        for tensor in tensors
    )


def _table(coefficients: Sequence[float | Tensor], out: Tensor) -> tuple[int, object, bool] | None:
    """Return the number of rows, their coefficients as float64 in memory, and whether all rows share them."""
    lead = max((_leading(c) for c in coefficients if isinstance(c, Tensor)), default=0)
    if not lead:
        return 1, (ctypes.c_double * len(coefficients))(*map(float, coefficients)), True
    if lead == out.ndim > 1 or (lead > 1 and not out.is_contiguous()):
        return None  # a coefficient for each element, or rows that do not follow one another in memory
    shape = out.shape[:lead]
    return shape.numel(), torch.stack([_spread(c, shape) for c in coefficients], -1), False


def _spread(coefficient: float | Tensor, shape: torch.Size) -> Tensor:
    """Return a coefficient for each row, float64."""
    if isinstance(coefficient, Tensor) and coefficient.ndim:
        return coefficient.to("cpu", torch.float64).reshape(coefficient.shape[: len(shape)]).expand(shape)
    return torch.full(shape, float(coefficient), dtype=torch.float64)


def _leading(coefficient: Tensor) -> int:
    """How many leading dimensions a coefficient varies over."""
    return max((axis + 1 for axis, size in enumerate(coefficient.shape) if size > 1), default=0)
