"""Columns of numbers, or of nested lists of numbers, as tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from pyarrow import ChunkedArray

__all__ = ["is_numeric", "numbers_of"]


def numbers_of(values: ChunkedArray, name: str) -> Tensor:
    """Return a column as (N, …); a number that is missing is NaN.

    Args:
        values: numbers, or lists of one length, of lists or of numbers.
        name: of the column, for messages.

    Raises:
        ValueError: a list that is missing or of another length than the first, with its row.
    """
    from pyarrow import compute

    flat, shape = _plain(values.combine_chunks()), [len(values)]
    while _is_list(flat.type):
        lengths = compute.list_value_length(flat)
        first = lengths[0].as_py() if len(lengths) else 0
        wrong = compute.invert(compute.equal(lengths, first).fill_null(False))
        if first is None or compute.any(wrong).as_py():
            row = compute.index(wrong, True).as_py() * shape[0] // max(len(flat), 1)
            raise ValueError(
                f"column {name!r}: row {row} misses a list, or it has another length than the first"
            )
        shape.append(first)
        flat = _plain(flat.flatten())
    numbers = flat.to_numpy(zero_copy_only=False)
    kind = numbers.dtype.kind if numbers.dtype.kind in "if" or numbers.dtype == "uint8" else ""
    return torch.tensor(numbers if kind else numbers.astype("float64")).reshape(shape)


def is_numeric(kind: Any) -> bool:
    """Return whether an Arrow type is of numbers, or of lists of them."""
    from pyarrow import types

    kind = getattr(kind, "storage_type", kind)
    if _is_list(kind):
        return is_numeric(kind.value_type)
    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind))


def _plain(array: Any) -> Any:
    return getattr(array, "storage", array)


def _is_list(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))
