"""Images, from wherever they are kept, as uint8 batches: x = u / 127.5 − 1, u = round((x + 1) · 127.5).

    source ──reader──▶ store of encoded images ──decode──▶ uint8 (N, C, H, W) ──to_unit──▶ x_0 in [−1, 1]

A source is the word ``digits``, a folder, parquet files, tar shards or the name of a Hugging Face dataset;
each form has its reader, and every reader opens a store that gives any image alone. All images take the same
steps: turned upright, scaled to 8 bits, laid over white, cut to the central square, resized; once if they fit
in memory, else when asked for.
"""

from __future__ import annotations

import warnings
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from alphabar.errors import DataError
from alphabar.training.images import (
    GREY,
    CropWarning,
    check_form,
    open_picture,
    pixels,
    read_image,
    sample_photograph,
    to_uint8,
    to_unit,
    translated,
)
from alphabar.training.latents import Latents, is_latents, read_latents
from alphabar.training.sources import read_columns
from alphabar.training.stores import Store

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

__all__ = ["Batch", "ImageData", "load_data", "read_image", "sample_photograph", "to_uint8", "to_unit"]

Progress = Callable[[range], Iterable[int]]
REMEDY = " (repair it, remove it, or leave out all such images by skip_broken=True, --skip-broken)"


class Batch(NamedTuple):
    """Images, uint8 (B, C, H, W), their labels, int64 (B,), or ``None`` without any, and their conditions."""

    images: Tensor
    labels: Tensor | None
    conditions: Mapping[str, Tensor] = {}
    """(B, …) each, in the units of the data."""

    def rows(self, rows: slice | Sequence[int]) -> Batch:
        """Return the batch of some of its images."""
        labels = None if self.labels is None else self.labels[rows]
        return Batch(self.images[rows], labels, {name: each[rows] for name, each in self.conditions.items()})


@dataclass(frozen=True)
class _Encoded:
    """Stands for the tensor (N, C, H, W) that some images of a store would make, and can decode it."""

    store: Store
    rows: range | Tensor
    size: int = 0
    channels: int = 0

    @property
    def shape(self) -> torch.Size:
        return torch.Size((len(self.rows), self.channels, self.size, self.size))

    @property
    def block(self) -> int:
        return self.store.block

    def __getitem__(self, places: Sequence[int]) -> _Encoded:
        rows = [int(self.rows[place]) for place in places]
        return replace(self, rows=torch.tensor(rows, dtype=torch.int64))

    def decode(self, progress: Progress = iter) -> Tensor:
        images = torch.empty(self.shape, dtype=torch.uint8)
        for place in progress(range(len(self.rows))):
            images[place] = self.read(place, lambda picture: pixels(picture, self.size, self.channels))
        return images

    def name(self, place: int) -> str:
        return self.store.name(int(self.rows[place]))

    def read(self, place: int, use: Callable[[Picture], Any]) -> Any:
        row = int(self.rows[place])
        with (
            translated(f"{self.store.name(row)} cannot be read{REMEDY}"),
            open_picture(self.store.read(row)) as picture,
        ):
            return use(picture)

    def trouble(self, place: int) -> str:
        """Return why an image cannot be read; nothing where it can."""
        try:
            self.read(place, pixels)
        except DataError as error:
            return str(error.__cause__ or error)
        return ""


@dataclass(frozen=True, eq=False)
class ImageData(Dataset[Batch]):
    """Square images of one size, for a ``DataLoader(data, sampler=lists_of_indices, batch_size=None)``.

    >>> data = ImageData(torch.zeros(9, 1, 8, 8, dtype=torch.uint8), labels=torch.arange(9))
    >>> len(data), data.shape, data[[3, 5, 8]].labels
    (9, (1, 8, 8), tensor([3, 5, 8]))

    Args:
        images: uint8 (N, C, H, W), or what :func:`load_data` puts in its place when memory is too small; of
            latents float32 or bfloat16 (N, C', h, w).
        labels: int64 (N,), each an index into ``classes``; ``None`` when unlabelled.
        classes: names of the labels; ``None`` when unlabelled.
        skipped: the images that could not be read and were left out: why, by their names.
        unlabelled: why labels that are there cannot be used.
        source: what :func:`load_data` read them from; empty where it did not.
        latents: what decodes them, where they are latents and no images.
        conditions: (N, …) each, numbers, vectors, embeddings or images, that a network may be told.
    """

    images: Tensor | _Encoded | Latents = field(repr=False)
    labels: Tensor | None = field(default=None, repr=False)
    classes: tuple[str, ...] | None = None
    skipped: Mapping[str, str] = field(default_factory=dict)
    unlabelled: str = field(default="", repr=False)
    source: str = field(default="", repr=False)
    latents: Mapping[str, Any] = field(default_factory=dict, repr=False)
    conditions: Mapping[str, Tensor | _Encoded] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return self.images.shape[0]

    def __getitem__(self, indices: Iterable[int]) -> Batch:
        part = self.subset(indices)
        conditions = {name: _decoded(values) for name, values in part.conditions.items()}
        return Batch(_decoded(part.images), part.labels, conditions)

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W) of every image."""
        return tuple(self.images.shape[1:])

    @property
    def tensor(self) -> Tensor | None:
        """All images, uint8 (N, C, H, W), if they are in memory, else ``None``."""
        return self.images if isinstance(self.images, Tensor) else None

    @property
    def held(self) -> Batch | None:
        """All images with labels and conditions, if they are in memory, else ``None``."""
        told = {name: values for name, values in self.conditions.items() if isinstance(values, Tensor)}
        is_held = isinstance(self.images, Tensor) and len(told) == len(self.conditions)
        return Batch(self.images, self.labels, told) if is_held else None  # type: ignore[arg-type]

    @property
    def block(self) -> int:
        """How many neighbours are best read together: 1 where each image can be read alone."""
        return 1 if isinstance(self.images, Tensor) else self.images.block

    def subset(self, indices: Iterable[int]) -> ImageData:
        """Return the data set of these images alone, in this order."""
        try:
            rows = [range(len(self))[i] for i in indices]
        except (TypeError, IndexError):
            raise DataError(f"index is {indices!r:.60}: expected a list of integers < {len(self)}") from None
        labels = None if self.labels is None else self.labels[rows]
        source = self.source and f"{len(rows)} of {self.source}"
        conditions = {name: values[rows] for name, values in self.conditions.items()}
        return replace(self, images=self.images[rows], labels=labels, source=source, conditions=conditions)


def _decoded(images: Tensor | _Encoded | Latents) -> Tensor:
    return images if isinstance(images, Tensor) else images.decode()


def load_data(
    source: str,
    *,
    size: int | None = None,
    channels: int | None = None,
    split: str = "train",
    skip_broken: bool = False,
    memory_limit: int = 2**31,
    progress: Progress = iter,
    image_column: str | None = None,
    label_column: str | None = None,
    conditions: Sequence[str] = (),
) -> ImageData:
    """Load images, as squares of one size, from any of the forms of source below.

    >>> load_data("digits").shape
    (1, 8, 8)

    Args:
        source: ``"digits"``; a folder, labelled by its sub-folders if each image lies in one; .parquet files,
            or a Hugging Face dataset by its name or the folder it was saved in, by their columns ``image``
            and perhaps ``label``; WebDataset's .tar files, labelled by their .cls files; a folder of latents
            that ``alphabar encode`` wrote. ``*``, ``?`` and ``{000..099}`` in a name stand for many files.
        size: side of the squares; ``None`` means the shorter side of the first image.
        channels: 1 for grey, 3 for RGB; ``None`` means grey if all images are (on demand: the first 64).
        split: which part of a Hugging Face dataset.
        skip_broken: first decode every image once, and leave out those that cannot be read; where they do not
            fit in memory too, as a pass over all data before the first step.
        memory_limit: bytes for decoded images, beyond which each is read and decoded, or found broken, on
            demand.
        progress: wraps the range of images that is being read, for instance to draw a bar.
        image_column: of a table; by default ``image``, or the first column of images.
        label_column: of a table; by default ``label``, or the first column of class labels.
        conditions: columns of a table that a network is told: numbers, lists of them, or images, which are
            given the size of the others.

    Raises:
        DataError: if the source or an image cannot be read, or ``size`` or ``channels`` is out of range.
        MissingExtraError: if Pillow, pyarrow, datasets or scikit-learn is needed and missing.

    Warns:
        CropWarning: images that are not square, of which the middle is taken.
    """
    check_form(size, channels)
    if is_latents(source):
        return _latents(source, size, memory_limit)
    store, labels, classes, unlabelled, columns = read_columns(
        source, split, image_column, label_column, conditions
    )
    encoded, skipped = _readable(store, progress) if skip_broken else (_Encoded(store, range(len(store))), {})
    count = len(encoded.rows)
    if not count:
        raise DataError(f"{source!r} holds no image that can be read, and {len(skipped)} that cannot")
    size = size or encoded.read(0, lambda picture: min(picture.size))
    encoded = replace(encoded, size=size)
    images = _opened(encoded, channels, memory_limit, progress)
    labels = labels[encoded.rows] if skipped and labels is not None else labels
    told = {
        name: column[torch.as_tensor(encoded.rows)]
        if isinstance(column, Tensor)
        else _opened(replace(encoded, store=column), None, memory_limit, progress)
        for name, column in columns.items()
    }
    return ImageData(images, labels, classes, skipped, unlabelled, source, conditions=told)


def decoded(store: Store, shape: Sequence[int]) -> Tensor:
    """Return all images of a store, uint8 (N, C, H, W), for a shape (C, H, W) with H = W."""
    channels, size, *_ = shape
    return _Encoded(store, range(len(store)), size, channels).decode()


def _opened(
    encoded: _Encoded, channels: int | None, memory_limit: int, progress: Progress
) -> Tensor | _Encoded:
    """Return images decoded, if they fit in memory, else as they are; grey if all that are looked at are."""
    count = len(encoded.rows)
    sample = range(count if count * encoded.size**2 <= memory_limit else min(count, 64))
    seen = [encoded.read(place, lambda picture: (picture.mode, picture.size)) for place in sample]
    grey = channels is None and all(mode in GREY for mode, _ in seen)
    _warn_of_crops(sum(width != height for _, (width, height) in seen), len(sample), count)
    encoded = replace(encoded, channels=channels or (1 if grey else 3))
    return encoded.decode(progress) if encoded.shape.numel() <= memory_limit else encoded


def _latents(source: str, size: int | None, memory_limit: int) -> ImageData:
    """Return the latents of a folder, in memory if they fit."""
    if size is not None:
        raise DataError(f"size is {size}, and {source} holds latents: leave it out, and encode others")
    stored, labels = read_latents(source)
    about = stored.about
    fits = 4 * stored.shape.numel() <= memory_limit
    images = stored.decode() if fits else stored
    return ImageData(images, labels, tuple(about.classes) or None, source=source, latents=about.decoder)


def _readable(store: Store, progress: Progress) -> tuple[_Encoded, dict[str, str]]:
    """Return the images of a store that can be read; and by their names, why the others cannot."""
    encoded, kept, skipped = _Encoded(store, range(len(store))), array("q"), {}
    for place in progress(range(len(store))):
        if trouble := encoded.trouble(place):
            skipped[encoded.name(place)] = trouble
        else:
            kept.append(place)
    return replace(encoded, rows=torch.tensor(kept, dtype=torch.int64)), skipped


def _warn_of_crops(crops: int, looked_at: int, count: int) -> None:
    if crops:
        looked = f"{looked_at}" if looked_at == count else f"the first {looked_at}"
        warnings.warn(
            f"{crops} of {looked} images are not square: their middle is taken", CropWarning, stacklevel=3
        )
