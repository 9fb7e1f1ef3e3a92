"""Where images are kept: each form of source has a reader, and every reader returns an Arrow table."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from alphabar.errors import DataError
from alphabar.training.images import translated

if TYPE_CHECKING:
    from pyarrow import Table

__all__ = ["Columns", "read_columns"]

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")  # a word alone is more likely a mistyped folder


class Columns(NamedTuple):
    """A table's images and labels."""

    images: Table
    """One column: paths, bytes, or structs of both."""
    labels: Tensor | None = None
    """(N,) int64, each an index into ``classes``; None where it has none that can be used."""
    classes: tuple[str, ...] | None = None
    unlabelled: str = ""
    """Why there are none, where there is a column of labels."""


def read_columns(source: str, split: str, image: str | None = None, label: str | None = None) -> Columns:
    """Return the images and labels of a source.

    Args:
        source: ``"digits"``, a folder, a .parquet file, or the name of a Hugging Face dataset.
        split: which part of a Hugging Face dataset.
        image: the column of the images; by default ``image``, or the first one of images.
        label: the column of the labels; by default ``label``, or the first one of class labels.

    Raises:
        DataError: no such source, one that cannot be read, or one without such columns.
        MissingExtraError: a package that reads it is not installed.
    """
    form, read = next((form, read) for form, fits, read in FORMS if fits(source))
    with translated(f"{source!r}, taken for {form}, cannot be read"):
        table = read(source, split)
        facts = json.loads((table.schema.metadata or {}).get(b"huggingface", '{"info": {"features": {}}}'))
        features = facts["info"]["features"]
        typed = {kind["_type"]: name for name, kind in reversed(features.items()) if "_type" in kind}
        image = _column(table, image, "image", typed.get("Image"), "--image-column")
        label = _column(table, label, "label", typed.get("ClassLabel"), "--label-column")
        if image is None:
            columns = ", ".join(table.column_names)
            raise ValueError(f"it has no column 'image', only {columns}: name one by --image-column")
        if label is None:
            return Columns(table.select([image]))
        values = table.column(label).to_pylist()
        return Columns(table.select([image]), *_labelled(values, features.get(label, {}).get("names")))


def _column(table: Table, given: str | None, usual: str, typed: str | None, flag: str) -> str | None:
    if given is not None and given not in table.column_names:
        raise ValueError(f"it has no column {given!r} ({flag}), only {', '.join(table.column_names)}")
    return given or (usual if usual in table.column_names else typed)


def _labelled(
    values: list[Any], names: list[str] | None
) -> tuple[Tensor | None, tuple[str, ...] | None, str]:
    """Number the labels as their names do, else in the order of their values.

    One that is unknown (nothing, or −1) or neither a whole number nor a word voids all.
    """
    wrong = [value for value in values if not isinstance(value, (int, str)) or value == -1]
    if wrong:
        found = f"{len(wrong)} of its {len(values)} labels are unusable, such as {wrong[0]!r}"
        return None, None, f"{found}: each must be a whole number of at least 0, or a word"
    known = range(len(names)) if names else sorted(set(values))
    numbers = {value: number for number, value in enumerate(known)}
    if nameless := set(values) - set(known):
        raise ValueError(f"its labels {sorted(nameless)} are without names: expected 0 … {len(known) - 1}")
    return torch.tensor([numbers[value] for value in values]), tuple(names or map(str, known)), ""


def _read_digits(source: str, split: str) -> Table:
    from pyarrow import table
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = (digits.images * (255 / 16)).round().astype("uint8")  # each is made a PGM file below
    return table({"image": [b"P5 8 8 255 " + image.tobytes() for image in pixels], "label": digits.target})


def _read_folder(source: str, split: str) -> Table:
    from pyarrow import table

    # unlike those of pathlib, this glob follows links and leaves out what is hidden
    if Path(source, "model_index.json").is_file():
        raise ValueError("it is a trained run: its samples are in the folder samples")
    found = (Path(name) for name in glob("**", root_dir=source, recursive=True))  # noqa: PTH207
    paths = sorted(path for path in found if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise ValueError(f"it holds no file with the suffix of an image, {', '.join(sorted(SUFFIXES))}")
    labels = {"label": [path.parts[0] for path in paths]} if all(path.parts[1:] for path in paths) else {}
    return table({"image": [str(Path(source, path)) for path in paths], **labels})


def _read_parquet(source: str, split: str) -> Table:
    from pyarrow.parquet import read_table

    return read_table(source)


def _read_hub(source: str, split: str) -> Table:
    from datasets import load_dataset

    return load_dataset(source, split=split).data


def _refuse(source: str, split: str) -> Table:
    path = Path(source)
    if source and path.exists():
        raise DataError(f"{source!r} is neither a folder of images nor a .parquet file")
    raise DataError(f"{source!r}: no such folder, nor a .parquet file. {KNOWN}")


def _is_hub_name(source: str) -> bool:
    is_file_name = Path(source).suffix.lower() in SUFFIXES | {".parquet"}
    return not is_file_name and HUB_NAME.fullmatch(source) is not None


KNOWN = "Give 'digits', a folder, a .parquet file, or a Hugging Face dataset as owner/name"
FORMS: tuple[tuple[str, Callable[[str], bool], Callable[[str, str], Table]], ...] = (
    ("the word 'digits'", lambda source: source == "digits", _read_digits),
    ("a folder", lambda source: source != "" and Path(source).is_dir(), _read_folder),
    ("a .parquet file", lambda source: source.endswith(".parquet") and Path(source).is_file(), _read_parquet),
    (
        "a Hugging Face dataset, as there is no such folder",
        lambda source: _is_hub_name(source) and not Path(source).exists(),
        _read_hub,
    ),
    ("nothing", lambda source: True, _refuse),
)
