"""Where encoded images lie: each store gives image k alone, whatever the number of images.

    Table       an Arrow table in memory, or mapped into it (Hugging Face datasets)
    RowGroups   parquet files; row groups are read when they are needed, and a few are kept
    Files       a folder; only the paths are held

A store can be pickled, and opens its files in the process that reads. :mod:`alphabar.training.shards` adds
tar files.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from alphabar.training.permutation import WINDOW

if TYPE_CHECKING:
    from pyarrow import Array, ChunkedArray
    from pyarrow import Table as ArrowTable

__all__ = ["Files", "RowGroups", "Store", "Table"]


class Store(Protocol):
    """Encoded images, each by its number."""

    @property
    def block(self) -> int:
        """How many neighbours are best read together: 1 where each can be read alone."""

    def __len__(self) -> int: ...

    def name(self, number: int) -> str:
        """Return what messages call an image."""

    def read(self, number: int) -> str | bytes:
        """Return the path of an image, or its bytes; empty where there is none."""


@dataclass(frozen=True, eq=False)
class Table:
    """The images in a table of one column: paths, bytes, or structs of both."""

    table: ArrowTable
    source: str
    block: ClassVar[int] = 1

    def __len__(self) -> int:
        return len(self.table)

    def name(self, number: int) -> str:
        """Return the number of the row."""
        return f"{self.source} row {number}"

    def read(self, number: int) -> str | bytes:
        """Return what the row holds."""
        return _content(self.table.column(0)[number].as_py())

    def cells(self, numbers: Sequence[int]) -> ChunkedArray:
        """Return some rows of the column as they are stored."""
        return self.table.column(0).take(_indices(numbers))


@dataclass(frozen=True, eq=False)
class RowGroups:
    """The images in a column of parquet files, whose row groups are read one by one.

    Args:
        paths: the files.
        column: of the images.
        groups: the number of its file, and its own number there, of each row group.
        starts: the number of the first image of each row group, and at the end that of all.
    """

    paths: tuple[str, ...]
    column: str
    groups: Sequence[tuple[int, int]] = field(repr=False)
    starts: Sequence[int] = field(repr=False)
    held: dict[int, ChunkedArray] = field(default_factory=dict, repr=False)
    """The row groups that were read last, in this process."""

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"held": {}}

    def __len__(self) -> int:
        return self.starts[-1]

    @property
    def block(self) -> int:
        """The images of the first row group."""
        return max(1, self.starts[1]) if self.groups else 1

    def name(self, number: int) -> str:
        """Return the file and the number of the row in it."""
        group = self._group(number)
        file, inside = self.groups[group]
        return f"{self.paths[file]} row {number - self.starts[group - inside]}"

    def read(self, number: int) -> str | bytes:
        """Return what the row holds; its row group is read unless it is held."""
        group = self._group(number)
        return _content(self._held(group)[number - self.starts[group]].as_py())

    def cells(self, numbers: Sequence[int]) -> ChunkedArray:
        """Return some rows of the column as they are stored, at least one."""
        import pyarrow as pa

        parts = [
            self._held(group).take(_indices([number - self.starts[group] for number in some]))
            for group, some in groupby(numbers, self._group)
        ]
        tables = [pa.table({self.column: part}) for part in parts]
        return pa.concat_tables(tables, promote_options="permissive").column(0)  # files of other types

    def _group(self, number: int) -> int:
        return bisect_right(self.starts, number) - 1

    def _held(self, group: int) -> ChunkedArray:
        """Return a row group, which is read unless it is held."""
        if group not in self.held:
            rows = self._rows(group)
            while len(self.held) >= 2 * WINDOW:  # a block that is cut by a border lies in two groups
                self.held.pop(next(iter(self.held)))
            self.held[group] = rows
        return self.held[group]

    def _rows(self, group: int) -> ChunkedArray:
        from pyarrow.parquet import ParquetFile

        file, inside = self.groups[group]
        with ParquetFile(self.paths[file]) as parquet:
            # Arrow's own threads would be lost where a process was forked.
            return parquet.read_row_group(inside, [self.column], use_threads=False).column(0)


@dataclass(frozen=True, eq=False)
class Files:
    """The image files of a folder.

    Args:
        root: the folder.
        paths: within it, as the bytes that the file system knows.
    """

    root: str
    paths: Array = field(repr=False)
    block: ClassVar[int] = 1

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, number: int) -> str:
        """Return the path."""
        return str(Path(self.root, os.fsdecode(self.paths[number].as_py())))

    def read(self, number: int) -> str:
        """Return the path."""
        return self.name(number)


def _indices(numbers: Sequence[int]) -> Array:
    import pyarrow as pa

    return pa.array(numbers, pa.int64())


def _content(value: Any) -> str | bytes:
    """Return the path or the bytes that a cell holds; empty bytes where it holds neither."""
    if isinstance(value, dict):
        value = value.get("path") if value.get("bytes") is None else value["bytes"]
    return b"" if value is None else value
