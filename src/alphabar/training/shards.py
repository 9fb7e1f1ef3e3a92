"""WebDataset's tar shards: any image by its number, through an index of where each lies.

    0001.jpg, 0001.cls, 0001.json, 0002.jpg …       files of one sample share their name up to its first dot

A shard is gone through once; its index is kept in the user's cache (``$XDG_CACHE_HOME`` or ~/.cache), and
holds as long as the shard's size and time do.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, ClassVar

from alphabar.denoise.files import whole_file
from alphabar.training.images import translated

if TYPE_CHECKING:
    from pyarrow import Table

__all__ = ["Shards", "indexed"]

LABEL = ".cls"
STAMP = b"alphabar"
LARGEST = 2**28  # bytes of one file in a shard, which is read whole
END = bytes(512)  # how a tar file ends


@dataclass(frozen=True, eq=False)
class Shards:
    """The images in tar files.

    Args:
        paths: the shards.
        index: columns shard, offset, size and name, a row an image.
    """

    paths: tuple[str, ...]
    index: Table = field(repr=False)
    block: ClassVar[int] = 256  # neighbours lie in one stretch of the disk

    def __len__(self) -> int:
        return len(self.index)

    def name(self, number: int) -> str:
        """Return the shard and the file in it."""
        return f"{self.paths[self._cell('shard', number)]}, {self._cell('name', number)}"

    def read(self, number: int) -> bytes:
        """Return the bytes of the image."""
        offset, size = self._cell("offset", number), self._cell("size", number)
        if size > LARGEST:
            raise ValueError(f"it has {size:,} bytes: at most {LARGEST:,} are read")
        with Path(self.paths[self._cell("shard", number)]).open("rb") as file:
            file.seek(offset)
            return file.read(size)

    def _cell(self, column: str, number: int) -> Any:
        return self.index.column(column)[number].as_py()


def indexed(paths: Sequence[str], suffixes: frozenset[str]) -> Table:
    """Return the index of the images in some shards, with a column ``label`` where there are ``.cls`` files.

    Args:
        paths: tar files, uncompressed.
        suffixes: of images.

    Raises:
        DataError: a file that is no tar file, or is damaged or cut off.
    """
    import pyarrow as pa
    from pyarrow import compute

    parts = [
        part.append_column("shard", pa.array([number] * len(part), pa.int32()))
        for number, part in enumerate(_index(path, suffixes) for path in paths)
    ]
    index = pa.concat_tables([part.replace_schema_metadata() for part in parts]).combine_chunks()
    label = index.column("label")
    index = index.drop_columns(["label"])
    if label.null_count == len(label):
        return index
    with suppress(pa.ArrowInvalid):  # they are words
        label = compute.cast(label, pa.int64())
    return index.append_column("label", label)


def _index(path: str, suffixes: frozenset[str]) -> Table:
    """Return the index of one shard, from the cache where it still holds."""
    import pyarrow as pa
    from pyarrow import feather

    place, facts = Path(path).resolve(), Path(path).stat()
    stamp = f"{place} {facts.st_size} {facts.st_mtime_ns} {sorted(suffixes)}".encode()
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "alphabar")
    kept = folder / f"{sha256(bytes(place)).hexdigest()}.feather"
    with suppress(Exception):  # missing or damaged: it is made again
        table = feather.read_table(kept)
        if (table.schema.metadata or {}).get(STAMP) == stamp:
            return table
    kinds = (("offset", pa.int64()), ("size", pa.int64()), ("name", pa.string()), ("label", pa.string()))
    with translated(f"{path} cannot be read"):
        rows = [dict(zip(dict(kinds), image, strict=True)) for image in _images(path, suffixes)]
    table = pa.Table.from_pylist(rows, pa.schema(kinds, {STAMP: stamp}))
    with suppress(OSError), whole_file(kept) as draft:  # where nothing can be kept, it is made each time
        feather.write_feather(table, str(draft))
    return table


def _images(path: str, suffixes: frozenset[str]) -> Iterator[tuple[int, int, str, str | None]]:
    """Yield offset, size, name and label of each image of a shard."""
    with tarfile.open(path, "r:") as tar:
        for _, sample in groupby(_members(tar), lambda member: member.name[: _end_of_key(member.name)]):
            members = list(sample)
            label = next((_text(tar, each) for each in members if _suffix(each.name) == LABEL), None)
            for each in members:
                if _suffix(each.name) in suffixes:
                    yield each.offset_data, each.size, each.name, label


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yield the files of a shard that are not hidden.

    Raises:
        ValueError: what follows the last of them is not the end of a tar file.
    """
    while member := tar.next():
        tar.members = []  # type: ignore[attr-defined]  # tarfile would keep every file's
        if member.isreg() and not PurePosixPath(member.name).name.startswith("."):
            yield member
    file: Any = tar.fileobj
    file.seek(tar.offset)
    if file.read(len(END)) != END:
        raise ValueError(f"it is damaged or cut off at byte {tar.offset:,}")


def _end_of_key(name: str) -> int:
    return name.find(".", name.rfind("/") + 1)


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _text(tar: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    file: Any = tar.extractfile(member)
    return str(file.read(1024).decode()).strip()
