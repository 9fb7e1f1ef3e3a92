"""Files of arrays: one of them, several with their rows one after the other, or many of one row each.

    x.npy            mapped into memory
    x.npz            held in memory
    x.safetensors    read row by row

The last two may hold labels and conditions too, each under its name. Nothing that is read is unpickled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import torch
from torch import Tensor

from alphabar.errors import DataError
from alphabar.training.arrays import Held, NumpyFile, TensorFile, mapped, opened_tensors, to_tensor
from alphabar.training.images import translated
from alphabar.training.statistics import Rows

if TYPE_CHECKING:
    from numpy import ndarray

__all__ = ["READERS", "ArrayColumn", "array_columns", "sample_columns"]

BYTES = "arrays of bytes may be images, so all files or none must hold them"


class ArrayColumn(NamedTuple):
    """One array of a file, or of several."""

    shape: tuple[int, ...]
    rows: Callable[[], Rows]
    values: Callable[[int | None], ndarray]
    """Returns so many of its first rows, or all, as NumPy has them."""


def array_columns(paths: Sequence[str]) -> dict[str, ArrayColumn]:
    """Return the arrays of .npy, .npz or .safetensors files by name, of which no more than needed is read.

    Args:
        paths: of one file, or of several whose rows follow each other.

    Raises:
        DataError: a file that is damaged, holds objects, or other arrays than the first.
        MissingExtraError: a package that reads it is not installed.
    """
    files = [_read(path) for path in paths]
    arrays = {name: column for name, column in files[0].items() if column.shape}
    if len(files) == 1:
        return arrays
    for name, first in arrays.items():
        for path, columns in zip(paths, files, strict=True):
            _check_same(name, path, columns, paths[0], first.shape[1:], rows_from=1)
    return {name: _joined(paths, [columns[name] for columns in files]) for name in arrays}


def sample_columns(paths: Sequence[str]) -> dict[str, ArrayColumn]:
    """Return the arrays of files that hold one row each, (C, …), under the names that the first file has.

    Args:
        paths: of the files, in the order of the rows; but for the first they are opened when they are needed.

    Raises:
        DataError: the first is damaged, or holds objects.
        MissingExtraError: a package that reads it is not installed.
    """

    def column(name: str, first: ArrayColumn) -> ArrayColumn:
        shape = torch.Size((len(paths), *first.shape))
        rows = SampleFiles(tuple(paths), name, shape, first.values(None).dtype == "uint8")
        return ArrayColumn(rows.shape, lambda: rows, rows.values)

    return {name: column(name, first) for name, first in _read(paths[0]).items()}


@dataclass(frozen=True, eq=False)
class SampleFiles:
    """The rows that files hold, one each.

    Args:
        paths: of the files.
        name: of the array.
        shape: (N, C, …).
        is_bytes: whether the numbers are uint8.
    """

    paths: tuple[str, ...] = field(repr=False)
    name: str
    shape: torch.Size
    is_bytes: bool
    block: ClassVar[int] = 1

    def read(self, numbers: list[int]) -> Tensor:
        """Return some rows; other files are not opened.

        Raises:
            DataError: a file that is damaged, or holds another array than the first.
        """
        return torch.stack([to_tensor(self._value(number), self.paths[number]) for number in numbers])

    def values(self, count: int | None) -> ndarray:
        """Return so many of the first rows, or all, as NumPy has them."""
        import numpy as np

        return np.stack([self._value(number) for number in range(len(self.paths))[:count]])

    def _value(self, number: int) -> ndarray:
        path, columns = self.paths[number], _read(self.paths[number])
        _check_same(self.name, path, columns, self.paths[0], tuple(self.shape[1:]), rows_from=0)
        value = columns[self.name].values(None)
        if (value.dtype == "uint8") != self.is_bytes:
            raise DataError(f"{path} holds {value.dtype}, and {self.paths[0]} does not: {BYTES}")
        return value


@dataclass(frozen=True, eq=False)
class Joined:
    """The rows of several files, one after the other.

    Args:
        parts: of each file.
        starts: the number of the first row of each, and at the end that of all.
    """

    parts: tuple[Rows, ...] = field(repr=False)
    starts: Tensor = field(repr=False)
    block: ClassVar[int] = 1

    @property
    def shape(self) -> torch.Size:
        """(N, C, …)."""
        return torch.Size((int(self.starts[-1]), *self.parts[0].shape[1:]))

    def read(self, numbers: list[int]) -> Tensor:
        """Return some rows; other files are not read."""
        asked = torch.tensor(numbers)
        part = torch.searchsorted(self.starts, asked, right=True) - 1
        read, places = [], []
        for number in sorted(set(part.tolist())):
            places.append((part == number).nonzero()[:, 0])
            read.append(self.parts[number].read((asked[places[-1]] - self.starts[number]).tolist()))
        return torch.cat(read)[torch.cat(places).argsort()]


def _joined(paths: Sequence[str], columns: Sequence[ArrayColumn]) -> ArrayColumn:
    import numpy as np

    def rows() -> Joined:
        parts = tuple(column.rows() for column in columns)
        kinds = {part.read([0]).dtype: path for path, part in zip(paths, parts, strict=True) if part.shape[0]}
        if torch.uint8 in kinds and len(kinds) > 1:
            raise DataError(f"{kinds[torch.uint8]} holds uint8, and others do not: {BYTES}")
        return Joined(parts, starts)

    starts = torch.tensor([0, *accumulate(column.shape[0] for column in columns)])
    shape = (int(starts[-1]), *columns[0].shape[1:])
    return ArrayColumn(
        shape, rows, lambda count: np.concatenate([column.values(count) for column in columns])[:count]
    )


def _check_same(
    name: str,
    path: str,
    columns: Mapping[str, ArrayColumn],
    first: str,
    shape: tuple[int, ...],
    *,
    rows_from: int,
) -> None:
    """Require an array as the first file has it, whose rows begin after ``rows_from`` axes."""
    if name not in columns:
        raise DataError(f"{path} has no array {name!r}, as {first} has")
    found = columns[name].shape[rows_from:]
    if tuple(found) != shape:
        raise DataError(
            f"{path} holds rows of shape {tuple(found)}, {first} of {shape}: give all the same. Files of a "
            "folder hold one row each, and those that are named as FOLDER/*.npy any number"
        )


def _read(path: str) -> dict[str, ArrayColumn]:
    with translated(f"{path} cannot be read"):
        return READERS[Path(path).suffix.lower()](path)


def _npy(source: str) -> dict[str, ArrayColumn]:
    rows = NumpyFile(source, torch.Size(mapped(source).shape))
    return {"x": ArrayColumn(rows.shape, lambda: rows, lambda count: _head(mapped(source), count))}


def _head(array: ndarray, count: int | None) -> ndarray:
    return array[:count] if count else array  # one without axes has no first rows


def _npz(source: str) -> dict[str, ArrayColumn]:
    import numpy as np

    def column(name: str, array: ndarray) -> ArrayColumn:
        return ArrayColumn(array.shape, lambda: Held(to_tensor(array, name)), partial(_head, array))

    with np.load(source, allow_pickle=False) as file:
        return {name: column(name, file[name]) for name in file.files}


def _safetensors(source: str) -> dict[str, ArrayColumn]:
    def column(name: str, shape: list[int]) -> ArrayColumn:
        rows = TensorFile(source, name, torch.Size(shape))
        return ArrayColumn(rows.shape, lambda: rows, partial(_first, source, name))

    with opened_tensors(source) as file:
        return {name: column(name, file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def _first(source: str, name: str, count: int | None) -> ndarray:
    with opened_tensors(source) as file:
        tensor: Tensor = file.get_slice(name)[:count] if count else file.get_tensor(name)
        found: ndarray = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
        return found


READERS: Mapping[str, Callable[[str], dict[str, ArrayColumn]]] = {
    ".npy": _npy,
    ".npz": _npz,
    ".safetensors": _safetensors,
}
"""By the suffix of a file."""
