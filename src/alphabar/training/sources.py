"""Sources of data by name: each form has a reader, which opens images or arrays, and their labels."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from alphabar.errors import DataError
from alphabar.training.array_files import READERS, ArrayColumn, array_columns, sample_columns
from alphabar.training.arrays import Arrays, Held, check_shape, to_tensor
from alphabar.training.columns import Lists, is_lists, is_numeric, numbered
from alphabar.training.images import translated
from alphabar.training.paths import are_files, files_below, files_of
from alphabar.training.shards import Shards, indexed
from alphabar.training.statistics import Rows
from alphabar.training.stores import Files, RowGroups, Store, Table

if TYPE_CHECKING:
    from pyarrow import ChunkedArray, Schema
    from pyarrow import Table as ArrowTable

__all__ = ["Columns", "read_columns", "read_conditions"]

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")  # a word alone is more likely a mistyped folder
USUAL = ("x", "data", "image", "images", "samples", "arr_0")  # names of arrays
LABELS = ("label", "labels", "y", "arr_1")


class Columns(NamedTuple):
    """The images or arrays of a source, and their labels."""

    images: Store | Rows
    labels: Tensor | None = None
    """(N,) int64, each an index into ``classes``; None where it has none that can be used."""
    classes: tuple[str, ...] | None = None
    unlabelled: str = ""
    """Why there are none, where there is a column of labels."""
    conditions: Mapping[str, Tensor | Store] = {}
    """(N, …) numbers, or images, by the names of their columns."""
    offered: Mapping[str, str] = {}
    """What the other columns hold that a network could be told, by their names."""


class Opened(NamedTuple):
    """A source as a table of which nothing is read yet."""

    schema: Schema
    images: Callable[[str], Store]
    """Of a column by its name."""
    values: Callable[[str], ChunkedArray]
    """All of a column."""
    rows: Callable[[str], Rows]
    """Of a column of numbers, or of lists of them."""
    is_table: bool = True
    """Whether a column of single numbers holds no data."""

    def lists(self) -> list[str]:
        """Return the names of the columns of lists of numbers, those that are usual first."""
        found = [column.name for column in self.schema if is_lists(column.type)]
        return sorted(found, key=lambda name: name not in USUAL)


def read_columns(
    source: str,
    split: str,
    image: str | None = None,
    label: str | None = None,
    conditions: Sequence[str] = (),
) -> Columns:
    """Return the images or arrays and the labels of a source.

    Args:
        source: ``"digits"``, a folder, .parquet, .tar, .npy, .npz or .safetensors files, or the name of a
            Hugging Face dataset.
        split: which part of a Hugging Face dataset.
        image: the column of the images; by default ``image``, or the first one of images, or else of lists.
        label: the column of the labels; by default ``label`` or the like, or the first one of class labels.
        conditions: the columns of what a network is told.

    Raises:
        DataError: no such source, one that cannot be read, or one without such columns.
        MissingExtraError: a package that reads it is not installed.
    """
    with _opening(source, split) as opened:
        known = (opened.schema.metadata or {}).get(b"huggingface", b"{}")
        features = json.loads(known).get("info", {}).get("features", {})
        typed = {kind["_type"]: name for name, kind in reversed(features.items()) if "_type" in kind}
        names = opened.schema.names
        image = _column(names, image, ("image",), typed.get("Image"), "--image-column")
        label = _column(
            [each for each in names if each != image],
            label,
            LABELS,
            typed.get("ClassLabel"),
            "--label-column",
        )
        others = (each for each in opened.lists() if each not in (label, *conditions))
        image = image or next(others, None)
        if image is None:
            raise ValueError(f"it has no column 'image', only {', '.join(names)}: name one by --image-column")
        told = {name: _condition(opened, name) for name in conditions}
        found = Columns(_data(opened, image), conditions=told)
        if label is not None:
            names = features.get(label, {}).get("names")
            labels, classes, unlabelled = numbered(opened.values(label), names)
            found = found._replace(labels=labels, classes=classes, unlabelled=unlabelled)
        used = (image,) if found.labels is None else (image, label)
        kinds = {field.name: _kind(field.type) for field in opened.schema if field.name not in used}
        return found._replace(offered={name: kind for name, kind in kinds.items() if kind})


def read_conditions(source: str, names: Sequence[str]) -> dict[str, Tensor | Store]:
    """Return those columns of a source that it has; errors as of :func:`read_columns`."""
    with _opening(source, "train") as opened:
        return {name: _condition(opened, name) for name in names if name in opened.schema.names}


@contextmanager
def _opening(source: str, split: str) -> Iterator[Opened]:
    form, read = next((form, read) for form, fits, read in FORMS if fits(source))
    with translated(f"{source!r}, taken for {form}, cannot be read"):
        yield read(source, split)


def _data(opened: Opened, name: str) -> Store | Rows:
    kind = opened.schema.field(name).type
    if not is_numeric(kind):
        return opened.images(name)
    if opened.is_table and not is_lists(kind):
        raise ValueError(f"its column {name!r} holds {kind}: expected images, or lists of numbers")
    rows = opened.rows(name)
    check_shape(rows.shape)
    return rows


def _condition(opened: Opened, name: str) -> Tensor | Store:
    """Return a column of numbers, or of lists of them, as a tensor, and one of images as their store."""
    _column(opened.schema.names, name, (), None, "--condition")
    kind = opened.schema.field(name).type
    if not _kind(kind):
        raise ValueError(
            f"its column {name!r} holds {kind}: a condition is a number, a list of them, or an image"
        )
    if not is_numeric(kind):
        return opened.images(name)
    rows = opened.rows(name)
    return Arrays(rows, range(rows.shape[0])).decode()


def _kind(kind: Any) -> str:
    """Return what a column of an Arrow type is as a condition; empty where it can be none."""
    from pyarrow import types

    if is_numeric(kind):
        return "a list of numbers" if is_lists(kind) else "a number"
    is_image = types.is_struct(kind) or types.is_binary(kind) or types.is_large_binary(kind)
    return "an image" if is_image else ""


def _column(
    names: list[str], given: str | None, usual: Sequence[str], typed: str | None, flag: str
) -> str | None:
    if given is not None and given not in names:
        raise ValueError(f"it has no column {given!r} ({flag}), only {', '.join(names)}")
    return given or next((name for name in usual if name in names), typed)


def _read_digits(source: str, split: str) -> Opened:
    from pyarrow import table
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = (digits.images * (255 / 16)).round().astype("uint8")  # each is made a PGM file below
    columns = {"image": [b"P5 8 8 255 " + image.tobytes() for image in pixels], "label": digits.target}
    return _of_table(table(columns), source)


def _read_folder(source: str, split: str) -> Opened:
    import pyarrow as pa

    if any(Path(source, name).is_file() for name in ("model_index.json", "alphabar.json")):
        raise ValueError("it is a trained run: its samples are in the folder samples")
    paths = [os.fsencode(path) for path in files_below(source, SUFFIXES)]
    if not paths:
        return _read_samples(source)
    columns = {"image": pa.array(paths)}
    if all(b"/" in path for path in paths):
        columns["label"] = pa.array([os.fsdecode(path.split(b"/", 1)[0]) for path in paths])
    return _of_table(pa.table(columns), source)._replace(images=lambda name: Files(source, columns[name]))


def _read_samples(source: str) -> Opened:
    """Return the arrays of a folder without images, one row a file."""
    import numpy as np

    paths = list(files_below(source, READERS))
    if not paths:
        raise ValueError(
            f"it holds no file with the suffix of an image, {', '.join(sorted(SUFFIXES))}, or of an array, "
            f"{', '.join(READERS)}; .parquet and .tar files are named as {source}/*.parquet, {source}/*.tar"
        )
    if len(paths) == 1:
        raise ValueError(f"its one file would be one row: name the file, {source}/{paths[0]}")
    columns = sample_columns([str(Path(source, path)) for path in paths])
    if all("/" in path for path in paths) and "label" not in columns:
        folders = np.array([path.split("/", 1)[0] for path in paths])
        rows = partial(to_tensor, folders, "label")
        columns["label"] = ArrayColumn(folders.shape, lambda: Held(rows()), lambda count: folders[:count])
    return _of_arrays(columns, source)


def _read_parquet(source: str, split: str) -> Opened:
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile, read_table

    paths, schemas, groups, rows = files_of(source), [], [], [0]
    for number, path in enumerate(paths):
        with translated(f"{path} cannot be read"), ParquetFile(path) as file:
            schemas.append(file.schema_arrow)
            if missing := set(schemas[0].names) - set(schemas[-1].names):
                raise ValueError(f"it has no column {sorted(missing)[0]!r}, as {paths[0]} has")
            groups += [(number, group) for group in range(file.num_row_groups)]
            rows += [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    starts = list(accumulate(rows))

    def values(name: str) -> ChunkedArray:
        parts = [read_table(path, columns=[name], partitioning=None) for path in paths]
        return pa.concat_tables(parts, promote_options="permissive").column(0)

    def stored(name: str) -> RowGroups:
        return RowGroups(tuple(paths), name, groups, starts)

    return Opened(schemas[0], stored, values, lambda name: Lists.of(stored(name), _called(source, name)))


def _read_shards(source: str, split: str) -> Opened:
    import pyarrow as pa

    paths = tuple(files_of(source))
    index = indexed(paths, SUFFIXES)
    if not len(index):
        raise ValueError(f"it holds no file with the suffix of an image, {', '.join(sorted(SUFFIXES))}")
    known = [index.schema.field("label")] if "label" in index.schema.names else []
    stored = index.select(["shard", "offset", "size", "name"])
    schema = pa.schema([("image", pa.binary()), *known])
    return _of_table(index, source)._replace(schema=schema, images=lambda _: Shards(paths, stored))


def _read_saved(source: str, split: str) -> Opened:
    from datasets import load_from_disk

    found = load_from_disk(source)
    return _of_table((found[split] if isinstance(found, dict) else found).data, source)


def _read_hub(source: str, split: str) -> Opened:
    from datasets import load_dataset

    return _of_table(load_dataset(source, split=split).data, source)


def _read_arrays(source: str, split: str) -> Opened:
    return _of_arrays(array_columns(files_of(source)), source)


def _of_arrays(columns: Mapping[str, ArrayColumn], source: str) -> Opened:
    import pyarrow as pa

    def kind(name: str) -> Any:
        column = columns[name]
        return pa.list_(pa.float64()) if len(column.shape) > 1 else pa.array(column.values(1)).type

    schema = pa.schema([(name, kind(name)) for name in columns])
    return Opened(
        schema,
        images=lambda name: Table(pa.table({"": columns[name].values(None)}), source),
        values=lambda name: pa.chunked_array([pa.array(columns[name].values(None))]),
        rows=lambda name: columns[name].rows(),
        is_table=False,
    )


def _of_table(table: ArrowTable, source: str) -> Opened:
    def stored(name: str) -> Table:
        return Table(table.select([name]), source)

    def rows(name: str) -> Rows:
        return Lists.of(stored(name), _called(source, name))

    return Opened(table.schema, stored, table.column, rows)


def _called(source: str, name: str) -> str:
    return f"column {name!r} of {source}"


def _refuse(source: str, split: str) -> Opened:
    if source and Path(source).exists():
        raise DataError(f"{source!r} is neither a folder of images nor a .parquet or .tar file")
    missing = [path for path in files_of(source) if path != source and not Path(path).is_file()]
    if missing:
        raise DataError(f"{source!r}: there is no file {missing[0]}")
    if Path(source).suffix.lower() in READERS:
        raise DataError(f"{source!r}: there is no file {source}")
    raise DataError(f"{source!r}: no such folder, nor a .parquet or .tar file. {KNOWN}")


def _is_saved(source: str) -> bool:
    return any(Path(source, name).is_file() for name in ("dataset_dict.json", "state.json"))


def _is_hub_name(source: str) -> bool:
    is_file_name = Path(source).suffix.lower() in SUFFIXES | READERS.keys() | {".parquet", ".tar"}
    return not is_file_name and HUB_NAME.fullmatch(source) is not None


KNOWN = (
    "Give 'digits', a folder, a .npy, .npz, .safetensors, .parquet or .tar file, or a Hugging Face dataset "
    "as owner/name"
)
FORMS: tuple[tuple[str, Callable[[str], bool], Callable[[str, str], Opened]], ...] = (
    ("the word 'digits'", lambda source: source == "digits", _read_digits),
    ("a saved Hugging Face dataset", lambda source: source != "" and _is_saved(source), _read_saved),
    ("a folder", lambda source: source != "" and Path(source).is_dir(), _read_folder),
    (".parquet files", lambda source: are_files(source, {".parquet"}), _read_parquet),
    (
        "files of arrays",
        lambda source: are_files(source, READERS),
        _read_arrays,
    ),
    (".tar files", lambda source: are_files(source, {".tar"}), _read_shards),
    (
        "a Hugging Face dataset, as there is no such folder",
        lambda source: _is_hub_name(source) and not Path(source).exists(),
        _read_hub,
    ),
    ("nothing", lambda source: True, _refuse),
)
