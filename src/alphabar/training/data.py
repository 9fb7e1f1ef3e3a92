"""Images, from wherever they are kept, as uint8 batches: x = u / 127.5 − 1, u = round((x + 1) · 127.5).

    source ──reader──▶ table of encoded images ──decode──▶ uint8 (N, C, H, W) ──to_unit──▶ x_0 in [−1, 1]

A source is the word ``digits``, a folder, a parquet file or the name of a Hugging Face dataset; each form has
its reader, and every reader returns an Arrow table. All images take the same steps: turned upright, scaled to
8 bits, laid over white, cut to the central square, resized; once if they fit in memory, else when asked for.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from glob import glob
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from alphabar.checks import check_float
from alphabar.errors import DataError, DtypeError, MissingExtraError

if TYPE_CHECKING:
    from PIL.Image import Image as Picture
    from pyarrow import Table

__all__ = ["Batch", "ImageData", "load_data", "read_image", "sample_photograph", "to_uint8", "to_unit"]

Progress = Callable[[Iterable[int]], Iterable[int]]
SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
GREY = frozenset({"1", "L", "LA", "I", "I;16", "I;16B", "I;16L", "I;16N"})
MODES = {1: "L", 3: "RGB"}
REMEDY = " (repair it, remove it, or leave out all such images by skip_broken=True, --skip-broken)"


def to_unit(images: Tensor) -> Tensor:
    """Return uint8 images of any shape as float32 in [−1, 1], as networks see them: u / 127.5 − 1.

    >>> to_unit(torch.tensor([0, 255], dtype=torch.uint8))
    tensor([-1.,  1.])

    Raises:
        DtypeError: if ``images`` are not uint8.
    """
    if images.dtype != torch.uint8:
        raise DtypeError(f"images are {images.dtype}: expected torch.uint8, 0 … 255")
    return images.to(torch.float32).div_(127.5).sub_(1)


def to_uint8(x: Tensor) -> Tensor:
    """Return floating-point samples of any shape, clamped to [−1, 1], as the nearest uint8 images.

    >>> to_uint8(torch.tensor([-1.0, 0.5, 7.0]))
    tensor([  0, 191, 255], dtype=torch.uint8)

    Raises:
        DtypeError: if ``x`` is not floating point.
        DataError: if ``x`` holds a NaN or an infinity.
    """
    check_float(x=x)
    if not (finite := x.isfinite()).all():
        raise DataError(f"{int((~finite).sum())} of {x.numel()} values are NaN or infinite: expected −1 … 1")
    return x.to(torch.float32).add(1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)


@contextmanager
def _translated(trouble: str) -> Iterator[None]:
    """Turn whatever goes wrong inside into an error of this library."""
    try:
        yield
    except ImportError as missing:
        raise MissingExtraError("reading images", "train") from missing
    except Exception as cause:  # a decoder that is fed with arbitrary bytes raises whatever it likes
        raise DataError(f"{trouble}: {cause}") from cause


def read_image(path: str | Path, *, size: int | None = None, channels: int | None = None) -> Tensor:
    """Read one image as uint8 (C, H, W), by the steps of :func:`load_data`; without a ``size`` all of it.

    Raises:
        DataError: if ``path`` is no image that can be read, or ``size`` or ``channels`` is out of range.
    """
    _check(size, channels)
    with _translated(f"{path} cannot be read"), _open(path) as picture:
        return _pixels(picture, size, channels).contiguous()


def sample_photograph() -> Tensor:
    """Return a photograph that comes with scikit-learn, a Chinese temple: uint8 (3, 427, 640)."""
    with _translated("scikit-learn's sample photograph cannot be read"):
        from sklearn.datasets import load_sample_image

        return torch.tensor(load_sample_image("china.jpg")).permute(2, 0, 1).contiguous()


def _check(size: int | None, channels: int | None) -> None:
    if size is not None and size < 1:
        raise DataError(f"size is {size}: expected at least 1 pixel")
    if channels is not None and channels not in MODES:
        raise DataError(f"channels is {channels}: expected 1 (grey) or 3 (RGB)")


def _open(stored: str | Path | bytes) -> Picture:
    from PIL import Image, UnidentifiedImageError

    try:
        return Image.open(BytesIO(stored) if isinstance(stored, bytes) else stored)
    except UnidentifiedImageError:
        raise ValueError("it is empty, or in no image format that Pillow knows") from None


def _pixels(picture: Picture, size: int | None = None, channels: int | None = None) -> Tensor:
    """Return uint8 (C, H, W): the central square, box-reduced then Lanczos, or without a size all of it."""
    from PIL import Image, ImageOps

    channels = channels or (1 if picture.mode in GREY else 3)
    picture = _opaque(ImageOps.exif_transpose(picture)).convert(MODES[channels])
    if size:
        side = min(picture.size)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        square = picture.crop((left, top, left + side, top + side))
        picture = square.resize((size, size), Image.Resampling.LANCZOS, reducing_gap=3.0)
    flat = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    return flat.view(picture.height, picture.width, channels).permute(2, 0, 1)


def _opaque(picture: Picture) -> Picture:
    """Return the picture in 8 bits a channel, laid over white where it is transparent."""
    from PIL import Image

    if picture.mode == "F":
        raise ValueError("its pixels are floating-point numbers, and no file states their range")
    if picture.mode.startswith("I"):  # 16 bits, which Pillow's own conversion would clip
        return picture.convert("I").point(lambda value: value * (1 / 257) + 0.5).convert("L")
    if picture.mode in ("LA", "PA", "RGBA", "RGBa") or "transparency" in picture.info:
        return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture.convert("RGBA"))
    return picture


class Batch(NamedTuple):
    """Images, uint8 (B, C, H, W), and their labels, int64 (B,), or ``None`` where they have none."""

    images: Tensor
    labels: Tensor | None


@dataclass(frozen=True)
class _Encoded:
    """Stands for the tensor (N, C, H, W) that some rows of a table would make, and can decode it."""

    table: Table
    source: str
    rows: Sequence[int]
    size: int = 0
    channels: int = 0

    @property
    def shape(self) -> torch.Size:
        return torch.Size((len(self.rows), self.channels, self.size, self.size))

    def __getitem__(self, indices: Sequence[int]) -> _Encoded:
        return replace(self, rows=[self.rows[k] for k in indices])

    def decode(self, progress: Progress = iter) -> Tensor:
        images = torch.empty(self.shape, dtype=torch.uint8)
        for row, image in zip(progress(self.rows), images, strict=True):
            image.copy_(self.read(row, lambda picture: _pixels(picture, self.size, self.channels)))
        return images

    def entry(self, row: int) -> tuple[str, str | bytes]:
        """Return the name of an image and its path or its bytes, whichever of them is stored."""
        stored = self.table.column(0)[row].as_py()
        if isinstance(stored, dict):
            stored = stored["path"] if stored["bytes"] is None else stored["bytes"]
        return stored if isinstance(stored, str) else f"{self.source} row {row}", stored or b""

    def read(self, row: int, use: Callable[[Picture], Any]) -> Any:
        name, stored = self.entry(row)
        with _translated(f"{name} cannot be read{REMEDY}"), _open(stored) as picture:
            return use(picture)

    def is_broken(self, row: int) -> bool:
        with suppress(DataError):
            self.read(row, _pixels)
            return False
        return True


@dataclass(frozen=True, eq=False)
class ImageData(Dataset[Batch]):
    """Square images of one size, for a ``DataLoader(data, sampler=lists_of_indices, batch_size=None)``.

    >>> data = ImageData(torch.zeros(9, 1, 8, 8, dtype=torch.uint8), labels=torch.arange(9))
    >>> len(data), data.shape, data[[3, 5, 8]].labels
    (9, (1, 8, 8), tensor([3, 5, 8]))

    Args:
        images: uint8 (N, C, H, W), or what :func:`load_data` puts in its place when memory is too small.
        labels: int64 (N,), each an index into ``classes``; ``None`` when unlabelled.
        classes: names of the labels; ``None`` when unlabelled.
        skipped: names of the images that could not be read and were left out.
    """

    images: Tensor | _Encoded = field(repr=False)
    labels: Tensor | None = field(default=None, repr=False)
    classes: tuple[str, ...] | None = None
    skipped: tuple[str, ...] = ()

    def __len__(self) -> int:
        return self.images.shape[0]

    def __getitem__(self, indices: Iterable[int]) -> Batch:
        part = self.subset(indices)
        return Batch(part.images if isinstance(part.images, Tensor) else part.images.decode(), part.labels)

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W) of every image."""
        return tuple(self.images.shape[1:])

    @property
    def tensor(self) -> Tensor | None:
        """All images, uint8 (N, C, H, W), if they are in memory, else ``None``."""
        return self.images if isinstance(self.images, Tensor) else None

    def subset(self, indices: Iterable[int]) -> ImageData:
        """Return the data set of these images alone, in this order."""
        try:
            rows = [range(len(self))[i] for i in indices]
        except (TypeError, IndexError):
            raise DataError(f"index is {indices!r:.60}: expected a list of integers < {len(self)}") from None
        labels = None if self.labels is None else self.labels[rows]
        return replace(self, images=self.images[rows], labels=labels)


def load_data(
    source: str,
    *,
    size: int | None = None,
    channels: int | None = None,
    split: str = "train",
    skip_broken: bool = False,
    memory_limit: int = 2**31,
    progress: Progress = iter,
) -> ImageData:
    """Load images, as squares of one size, from any of the forms of source below.

    >>> load_data("digits").shape
    (1, 8, 8)

    Args:
        source: ``"digits"``; a folder, labelled by its sub-folders if each image lies in one; a .parquet file
            or the name of a Hugging Face dataset, by their columns ``image`` and perhaps ``label``.
        size: side of the squares; ``None`` means the shorter side of the first image.
        channels: 1 for grey, 3 for RGB; ``None`` means grey if all images are (on demand: the first 64).
        split: which part of a Hugging Face dataset.
        skip_broken: first read every image, and leave out those that cannot be read.
        memory_limit: bytes for decoded images, beyond which each is decoded, or found broken, on demand.
        progress: wraps the range of images that is being read, for instance to draw a bar.

    Raises:
        DataError: if the source or an image cannot be read, or ``size`` or ``channels`` is out of range.
        MissingExtraError: if Pillow, pyarrow, datasets or scikit-learn is needed and missing.
    """
    _check(size, channels)
    encoded, labels, classes = _encoded(source, split)
    broken = {row for row in progress(encoded.rows) if encoded.is_broken(row)} if skip_broken else set()
    kept = [row for row in encoded.rows if row not in broken]
    if not kept:
        raise DataError(f"{source!r} holds no image that can be read, and {len(broken)} that cannot")
    size = size or encoded.read(kept[0], lambda picture: min(picture.size))
    sample = kept if len(kept) * size * size <= memory_limit else kept[:64]
    grey = channels is None and all(encoded.read(row, lambda picture: picture.mode) in GREY for row in sample)
    encoded = replace(encoded, rows=kept, size=size, channels=channels or (1 if grey else 3))
    images = encoded.decode(progress) if encoded.shape.numel() <= memory_limit else encoded
    labels = None if labels is None else labels[kept]
    return ImageData(images, labels, classes, skipped=tuple(encoded.entry(row)[0] for row in sorted(broken)))


def _encoded(source: str, split: str) -> tuple[_Encoded, Tensor | None, tuple[str, ...] | None]:
    form, read = next((form, read) for form, fits, read in FORMS if fits(source))
    with _translated(f"{source!r}, taken for {form}, cannot be read"):
        table = read(source, split)
        facts = json.loads((table.schema.metadata or {}).get(b"huggingface", '{"info": {"features": {}}}'))
        features = facts["info"]["features"]
        typed = {kind["_type"]: name for name, kind in reversed(features.items()) if "_type" in kind}
        image = "image" if "image" in table.column_names else typed.get("Image")
        label = "label" if "label" in table.column_names else typed.get("ClassLabel")
        if image is None:
            raise ValueError(f"it has no column 'image', only {', '.join(table.column_names)}")
        values = table.column(label).to_pylist() if label else [None]
        known = _labelled(values, features.get(label, {}).get("names"))
        return _Encoded(table.select([image]), source, range(len(table))), *known


def _labelled(values: list[Any], names: list[str] | None) -> tuple[Tensor | None, tuple[str, ...] | None]:
    """Number the labels as their names do, else in the order of their values; one unknown (−1) voids all."""
    if not all(isinstance(value, (int, str)) and value != -1 for value in values):
        return None, None
    known = range(len(names)) if names else sorted(set(values))
    numbers = {value: number for number, value in enumerate(known)}
    if nameless := set(values) - set(known):
        raise ValueError(f"its labels {sorted(nameless)} are without names: expected 0 … {len(known) - 1}")
    return torch.tensor([numbers[value] for value in values]), tuple(names or map(str, known))


def _read_digits(source: str, split: str) -> Table:
    from pyarrow import table
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = (digits.images * (255 / 16)).round().astype("uint8")  # each is made a PGM file below
    return table({"image": [b"P5 8 8 255 " + image.tobytes() for image in pixels], "label": digits.target})


def _read_folder(source: str, split: str) -> Table:
    from pyarrow import table

    # unlike those of pathlib, this glob follows links and leaves out what is hidden
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


FORMS: tuple[tuple[str, Callable[[str], bool], Callable[[str, str], Table]], ...] = (
    ("the word 'digits'", lambda source: source == "digits", _read_digits),
    ("a folder", lambda source: source != "" and Path(source).is_dir(), _read_folder),
    ("a .parquet file", lambda source: source.endswith(".parquet") and Path(source).is_file(), _read_parquet),
    ("a Hugging Face dataset (not 'digits', a folder or a .parquet file)", lambda source: True, _read_hub),
)
