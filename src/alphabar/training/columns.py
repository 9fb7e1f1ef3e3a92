"""Columns of labels, of numbers, or of nested lists of numbers, as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from alphabar.training.images import translated

if TYPE_CHECKING:
    from pyarrow import ChunkedArray

    from alphabar.training.stores import RowGroups, Table

__all__ = ["Lists", "is_lists", "is_numeric", "numbered"]


@dataclass(frozen=True, eq=False)
class Lists:
    """The rows of a column of numbers, or of lists of them, which are read when they are needed.

    Args:
        stored: the column.
        name: what messages call it.
        shape: (N, …).
        is_bytes: whether the numbers are uint8, of which none may be missing.
    """

    stored: Table | RowGroups
    name: str
    shape: torch.Size
    is_bytes: bool

    @classmethod
    def of(cls, stored: Table | RowGroups, name: str) -> Lists:
        """Return those of a column, of the shape of its first row.

        Raises:
            ValueError: no rows.
        """
        if not len(stored):
            raise ValueError(f"{name} has no rows")
        first = numbers_of(stored.cells([0]), [0])
        return cls(stored, name, torch.Size((len(stored), *first.shape[1:])), first.dtype == torch.uint8)

    @property
    def block(self) -> int:
        """How many neighbours are best read together."""
        return self.stored.block

    def read(self, numbers: list[int]) -> Tensor:
        """Return some rows, at least one; a number that is missing is NaN.

        Raises:
            DataError: a list that is missing or of another length than the first, with its row.
        """
        with translated(f"{self.name} cannot be read"):
            found = numbers_of(self.stored.cells(numbers), numbers)
            if found.shape[1:] != self.shape[1:]:
                raise ValueError(f"row {numbers[0]} has another length than the first")
            if self.is_bytes and found.dtype != torch.uint8:
                raise ValueError(f"a number is missing or no uint8 in rows {min(numbers)} … {max(numbers)}")
            return found


def numbers_of(values: ChunkedArray, numbers: Sequence[int]) -> Tensor:
    """Return rows of a column as (N, …); a number that is missing is NaN.

    Args:
        values: numbers, or lists of one length, of lists or of numbers.
        numbers: of the rows, for messages.

    Raises:
        ValueError: a list that is missing or of another length than the first of these, with its row.
    """
    from pyarrow import compute

    flat, shape = _plain(values.combine_chunks()), [len(values)]
    while _is_list(flat.type):
        lengths = compute.list_value_length(flat)
        first = lengths[0].as_py() if len(lengths) else 0
        wrong = compute.invert(compute.equal(lengths, first).fill_null(False))
        if first is None or compute.any(wrong).as_py():
            row = compute.index(wrong, True).as_py() * shape[0] // max(len(flat), 1)
            raise ValueError(f"row {numbers[row]} misses a list, or it has another length than the first")
        shape.append(first)
        flat = _plain(flat.flatten())
    found = flat.to_numpy(zero_copy_only=False)
    is_kept = found.dtype.kind in "if" or found.dtype == "uint8"
    return torch.tensor(found if is_kept else found.astype("float64")).reshape(shape)


def numbered(
    labels: ChunkedArray | Sequence[Any] | Tensor, names: list[str] | None = None
) -> tuple[Tensor | None, tuple[str, ...] | None, str]:
    """Return labels as (N,) int64, the names of their classes, and why there are none.

    They are numbered as ``names`` are, else in the order of their values. One that is unknown (nothing, or
    −1) or neither a whole number nor a word voids all.
    """
    import pyarrow as pa
    from pyarrow import compute

    given = labels.numpy() if isinstance(labels, Tensor) else labels
    values = given if isinstance(given, pa.ChunkedArray) else pa.chunked_array([pa.array(given)])
    kinds, kind = pa.types, values.type
    if kinds.is_dictionary(kind):
        values = values.cast(kind.value_type)
    if kinds.is_integer(values.type):
        values = values.cast(pa.int64())
        usable = compute.not_equal(values, -1).fill_null(False)
    else:
        usable = compute.and_(values.is_valid(), kinds.is_boolean(kind) or _is_text(values.type))
    if len(wrong := values.filter(compute.invert(usable))):
        found = f"{len(wrong)} of its {len(values)} labels are unusable, such as {wrong[0].as_py()!r}"
        return None, None, f"{found}: each must be a whole number of at least 0, or a word"
    different = compute.unique(values).to_pylist()
    known = list(range(len(names))) if names else sorted(different)
    if nameless := set(different) - set(known):
        raise ValueError(f"its labels {sorted(nameless)} are without names: expected 0 … {len(known) - 1}")
    numbers = compute.index_in(values, value_set=pa.array(known, values.type))
    return torch.tensor(numbers.to_numpy(), dtype=torch.int64), tuple(names or map(str, known)), ""


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_string(kind) or types.is_large_string(kind))


def is_numeric(kind: Any) -> bool:
    """Return whether an Arrow type is of numbers, or of lists of them."""
    from pyarrow import types

    kind = getattr(kind, "storage_type", kind)
    if _is_list(kind):
        return is_numeric(kind.value_type)
    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind))


def is_lists(kind: Any) -> bool:
    """Return whether an Arrow type is of lists of numbers."""
    return is_numeric(kind) and _is_list(getattr(kind, "storage_type", kind))


def _plain(array: Any) -> Any:
    return getattr(array, "storage", array)


def _is_list(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))
