"""Arrays as data, of which single rows can be read, in memory, in a file, or in a dataset of the user's.

(N, C) vectors, (N, C, L) signals, (N, C, H, W) fields, (N, C, D, H, W) volumes
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from alphabar.denoise.scaling import Scaling
from alphabar.errors import DataError
from alphabar.training.images import translated
from alphabar.training.statistics import Rows

if TYPE_CHECKING:
    from numpy import ndarray

__all__ = [
    "Arrays",
    "Held",
    "check_shape",
    "from_items",
    "is_pictures",
    "mapped",
    "opened_tensors",
    "read_rows",
    "to_tensor",
]

MOST = 4  # dimensions beside the rows
AT_ONCE = 2**20  # numbers that are scaled together
PICTURES = (1, 3)  # channels of uint8 arrays that are images


@dataclass(frozen=True, eq=False)
class Arrays:
    """Stands for the tensor (N, C, …) that some rows make once they are scaled, and can read it.

    Args:
        stored: all rows.
        rows: the numbers of those that count.
        scaling: of the channels; None for what is trained on as it is stored, as images and latents are.
    """

    stored: Rows
    rows: range | Tensor
    scaling: Scaling | None = None

    @property
    def block(self) -> int:
        """How many neighbours are best read together."""
        return self.stored.block

    @property
    def shape(self) -> torch.Size:
        """(N, C, …)."""
        return torch.Size((len(self.rows), *self.stored.shape[1:]))

    def __getitem__(self, places: Sequence[int]) -> Arrays:
        rows = [int(self.rows[place]) for place in places]
        return replace(self, rows=torch.tensor(rows, dtype=torch.int64))

    def name(self, place: int) -> str:
        """Return what messages call a row."""
        return f"row {int(self.rows[place])}"

    def decode(self) -> Tensor:
        """Return them, scaled to float32; without a scaling as they are stored."""
        at_once = max(1, AT_ONCE // math.prod(self.shape[1:]))
        numbers = torch.as_tensor(self.rows).tolist()
        found = torch.empty(self.shape if not numbers else 0)
        for at in range(0, len(numbers), at_once):
            read = self.stored.read(numbers[at : at + at_once])
            part = self.scaling(read) if self.scaling else read
            if not at:
                found = part.new_empty(self.shape)
            found = found.to(torch.promote_types(found.dtype, part.dtype))  # of numbers, some are missing
            found[at : at + at_once] = part
        return found


@dataclass(frozen=True, eq=False)
class Held:
    """Rows in memory."""

    values: Tensor = field(repr=False)
    block: ClassVar[int] = 1

    @classmethod
    def of(cls, values: Any) -> Held | None:
        """Return those of a tensor or a NumPy array; None of anything else.

        Raises:
            DataError: no real numbers.
        """
        if isinstance(values, Tensor) and values.is_complex():
            raise DataError("the values are complex: give real and imaginary part as channels")
        if isinstance(values, Tensor):
            return cls(values.detach())
        return cls(to_tensor(values, "the array")) if hasattr(values, "dtype") else None

    @property
    def shape(self) -> torch.Size:
        """(N, C, …)."""
        return self.values.shape

    def read(self, numbers: list[int]) -> Tensor:
        """Return some rows."""
        return self.values[numbers]


@dataclass(frozen=True, eq=False)
class NumpyFile:
    """The rows of a .npy file, which is mapped into memory each time some are read."""

    path: str
    shape: torch.Size
    block: ClassVar[int] = 1

    def read(self, numbers: list[int]) -> Tensor:
        """Return some rows; others are not read."""
        with translated(f"{self.path} cannot be read"):
            return to_tensor(mapped(self.path)[numbers], self.path)


@dataclass(frozen=True, eq=False)
class TensorFile:
    """The rows of one tensor of a safetensors file."""

    path: str
    name: str
    shape: torch.Size
    block: ClassVar[int] = 1

    def read(self, numbers: list[int]) -> Tensor:
        """Return some rows; others are not read."""
        return read_rows(self.path, self.name, numbers)


@dataclass(frozen=True, eq=False)
class Items:
    """The rows of a dataset of the user's, whose items are x, or (x, label)."""

    dataset: Any
    shape: torch.Size
    block: ClassVar[int] = 1

    def read(self, numbers: list[int]) -> Tensor:
        """Return some rows."""
        return torch.stack([self.item(number)[0] for number in numbers])

    def item(self, number: int) -> tuple[Tensor, Any]:
        """Return x, (C, …), and the label; None without one.

        Raises:
            DataError: no numbers, or another shape than the first item has.
        """
        return _item(self.dataset, number, self.shape[1:])


def check_shape(shape: Sequence[int]) -> None:
    """Require (N, C), (N, C, L), (N, C, H, W) or (N, C, D, H, W), none of them 0.

    Raises:
        DataError: another shape.
    """
    if not 2 <= len(shape) <= 1 + MOST or 0 in shape:
        remedy = ", numbers as x[:, None]" if len(shape) == 1 else ""
        raise DataError(
            f"the array has shape {tuple(shape)}: expected (N, C), (N, C, L), (N, C, H, W) or (N, C, D, H, W)"
            f"{remedy}, with at least one row"
        )


def is_pictures(rows: Rows) -> bool:
    """Return whether rows are images of 8 bits: uint8 (N, C, H, W), C = 1 or 3."""
    is_image = len(rows.shape) == 4 and rows.shape[1] in PICTURES
    return is_image and rows.read([0]).dtype == torch.uint8


def from_items(
    dataset: Any, memory_limit: int, progress: Callable[[range], Iterable[int]] = iter
) -> tuple[Rows, list[Any] | None]:
    """Return the rows of a map-style dataset, such as a ``torch.utils.data.Dataset``, and its labels.

    Args:
        dataset: whose items are x, or (x, label), x a tensor or an array (C, …).
        memory_limit: bytes, beyond which an item is asked for each time that it is needed.
        progress: wraps the range of items that are read.

    Raises:
        DataError: another kind of dataset, or an item of another kind or shape than the first.
    """
    if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
        raise DataError(
            f"data is a {type(dataset).__name__}: expected what load_data returns, or a dataset with "
            "__len__ and __getitem__"
        )
    if not len(dataset):
        raise DataError("the dataset has no items")
    first, label = _item(dataset, 0)
    items = Items(dataset, torch.Size((len(dataset), *first.shape)))
    check_shape(items.shape)
    fits = first.element_size() * items.shape.numel() <= memory_limit
    if label is None and not fits:
        return items, None
    values, labels = torch.empty(items.shape if fits else 0, dtype=first.dtype), []
    for number in progress(range(len(dataset))):
        x, label = items.item(number)
        labels.append(label)
        if fits:
            values[number] = x
    return Held(values) if fits else items, None if label is None else _words(labels)


def _item(dataset: Any, number: int, shape: Sequence[int] | None = None) -> tuple[Tensor, Any]:
    item = dataset[number]
    x, label = item if isinstance(item, (tuple, list)) and len(item) == 2 else (item, None)
    try:
        values = torch.as_tensor(x)
    except (TypeError, ValueError, RuntimeError):
        raise DataError(
            f"item {number} is a {type(x).__name__}: expected a tensor or an array of numbers, or it and its "
            "label"
        ) from None
    if values.is_complex():
        raise DataError(f"item {number} holds complex numbers: give real and imaginary part as channels")
    if shape is not None and values.shape != shape:
        raise DataError(
            f"item {number} has shape {tuple(values.shape)}, the first {tuple(shape)}: give all the same"
        )
    return values.detach(), label


def _words(labels: Sequence[Any]) -> list[Any]:
    """Return labels as numbers and words, of whatever type they were."""
    return [label.item() if hasattr(label, "item") else label for label in labels]


def mapped(path: str) -> ndarray:
    """Return the array of a .npy file, mapped into memory."""
    import numpy as np

    mapped: ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    return mapped


def to_tensor(array: ndarray, name: str) -> Tensor:
    """Return numbers of any real type and byte order as a tensor: of bytes and floats as they are."""
    import numpy as np

    if array.dtype.kind not in "biuf":
        raise DataError(f"{name} holds {array.dtype}: expected real numbers")
    is_kept = array.dtype.name in ("uint8", "float16", "float32")
    return torch.from_numpy(np.array(array, dtype=array.dtype.name if is_kept else "float64", order="C"))


def read_rows(path: str | Path, name: str, numbers: Iterable[int]) -> Tensor:
    """Return some rows of a tensor of a safetensors file; errors as of :func:`opened_tensors`."""
    with opened_tensors(path) as file:
        stored = file.get_slice(name)
        return torch.cat([stored[number : number + 1] for number in numbers])


@contextmanager
def opened_tensors(path: str | Path) -> Iterator[Any]:
    """Open a safetensors file; what goes wrong within the block is an error that names it.

    Raises:
        DataError: it is damaged, or lacks what is asked for.
    """
    from safetensors import safe_open

    try:
        with safe_open(path, "pt") as opened:
            yield opened
    except Exception as error:  # the library's own, of a damaged file
        raise DataError(f"{path} cannot be read: {error}") from error
