"""Data, from wherever they are kept, as batches of tensors.

    source ──reader──▶ store of encoded images ──decode──▶ uint8 (N, C, H, W) ──u/127.5 − 1──▶ x_0
    source ──reader──▶ rows of numbers (N, C, …) ──statistics──▶ s · (x − m), float32 (N, C, …) = x_0

A source is the word ``digits``, a folder, a file of arrays, parquet files, tar shards or the name of a
Hugging Face dataset; each form has its reader, and what it opens gives any image or row alone. All images
take the same steps: turned upright, scaled to 8 bits, laid over white, cut to the central square, resized;
once if they fit in memory, else when asked for. All arrays are scaled by shift m and scale s of each channel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from alphabar.denoise.scaling import Scaling
from alphabar.errors import DataError, look_up
from alphabar.process import SIGMA_DATA
from alphabar.training.arrays import Arrays, Held, check_shape, from_items, is_pictures
from alphabar.training.columns import numbered
from alphabar.training.encoded import Encoded, Progress, opened, readable
from alphabar.training.images import check_form, read_image, sample_photograph, to_uint8, to_unit
from alphabar.training.latents import is_latents, read_latents
from alphabar.training.sources import Columns, read_columns
from alphabar.training.statistics import SCALINGS, Rows, deviation, measured, scaling_of

__all__ = [
    "Batch",
    "ImageData",
    "array_data",
    "load_data",
    "read_image",
    "sample_photograph",
    "to_uint8",
    "to_unit",
]


OpenImages = Callable[["Encoded", "int | None"], "Tensor | Encoded"]


class Batch(NamedTuple):
    """Images, uint8 (B, C, H, W), or scaled arrays (B, C, …); their labels, int64 (B,); their conditions."""

    images: Tensor
    labels: Tensor | None
    """``None`` without any."""
    conditions: Mapping[str, Tensor] = {}
    """(B, …) each, in the units of the data."""

    def rows(self, rows: slice | Sequence[int]) -> Batch:
        """Return the batch of some of its images."""
        labels = None if self.labels is None else self.labels[rows]
        return Batch(self.images[rows], labels, {name: each[rows] for name, each in self.conditions.items()})


@dataclass(frozen=True, eq=False)
class ImageData(Dataset[Batch]):
    """Images or arrays of one shape, for a ``DataLoader(data, sampler=lists_of_indices, batch_size=None)``.

    >>> data = ImageData(torch.zeros(9, 1, 8, 8, dtype=torch.uint8), labels=torch.arange(9))
    >>> len(data), data.shape, data[[3, 5, 8]].labels
    (9, (1, 8, 8), tensor([3, 5, 8]))

    Args:
        images: uint8 (N, C, H, W), or what :func:`load_data` puts in its place when memory is too small; of
            latents float32 or bfloat16 (N, C', h, w), of other arrays float32 (N, C, …), scaled.
        labels: int64 (N,), each an index into ``classes``; ``None`` when unlabelled.
        classes: names of the labels; ``None`` when unlabelled.
        skipped: the images that could not be read and were left out: why, by their names.
        unlabelled: why labels that are there cannot be used.
        source: what :func:`load_data` read them from; empty where it did not.
        latents: what decodes them, where they are latents and no images.
        conditions: (N, …) each, numbers, vectors, embeddings or images, that a network may be told.
        scaling: how they were scaled, where they are arrays and no images.
        offered: what other columns of the source hold that a network could be told, by their names.
        sigma_data: the standard deviation of what a network sees, which EDM's preconditioning asks for.
    """

    images: Tensor | Encoded | Arrays = field(repr=False)
    labels: Tensor | None = field(default=None, repr=False)
    classes: tuple[str, ...] | None = None
    skipped: Mapping[str, str] = field(default_factory=dict)
    unlabelled: str = field(default="", repr=False)
    source: str = field(default="", repr=False)
    latents: Mapping[str, Any] = field(default_factory=dict, repr=False)
    conditions: Mapping[str, Tensor | Encoded] = field(default_factory=dict, repr=False)
    scaling: Scaling | None = field(default=None, repr=False)
    offered: Mapping[str, str] = field(default_factory=dict, repr=False)
    sigma_data: float = field(default=SIGMA_DATA, repr=False)

    def __len__(self) -> int:
        return self.images.shape[0]

    def __getitem__(self, indices: Iterable[int]) -> Batch:
        part = self.subset(indices)
        conditions = {name: _decoded(values) for name, values in part.conditions.items()}
        return Batch(_decoded(part.images), part.labels, conditions)

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W) of every image, (C, …) of every array."""
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


def _decoded(images: Tensor | Encoded | Arrays) -> Tensor:
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
    scaling: str = "variance",
    decode: bool = True,
) -> ImageData:
    """Load images, as squares of one size, or arrays as they are, from any of the forms of source below.

    >>> load_data("digits").shape
    (1, 8, 8)

    Args:
        source: ``"digits"``; a folder, labelled by its sub-folders if each image lies in one; .parquet files,
            or a Hugging Face dataset by its name or the folder it was saved in, by their columns ``image``
            and perhaps ``label``, the first of which may also hold lists of numbers; WebDataset's .tar files,
            labelled by their .cls files; a folder of latents that ``alphabar encode`` wrote; .npy, .npz or
            .safetensors files of arrays (N, C), (N, C, L), (N, C, H, W) or (N, C, D, H, W), or a folder of
            such, one row each. ``*``, ``?`` and ``{000..099}`` in a name stand for many files.
        size: side of the squares; ``None`` means the shorter side of the first image.
        channels: 1 for grey, 3 for RGB; ``None`` means grey if all images are (on demand: the first 64).
        split: which part of a Hugging Face dataset.
        skip_broken: first decode every image once, and leave out those that cannot be read; where they do not
            fit in memory too, as a pass over all data before the first step; and rows that hold a NaN or an
            infinity.
        memory_limit: bytes for decoded data, beyond which each is read and decoded, or found broken, on
            demand.
        progress: wraps the range of images that is being read, for instance to draw a bar.
        image_column: of a table, or the name of the array in a file of several; by default ``image``, or the
            first column of images, or else of lists of numbers.
        label_column: likewise; by default ``label``, ``labels``, ``y``, or the first column of class labels.
        conditions: columns of a table that a network is told: numbers, lists of them, or images, which are
            given the size of the others.
        scaling: what each channel of arrays is scaled to: "variance" 1 and mean 0, "range" −1 … 1, or "none".
            8-bit arrays of 1 or 3 channels are images.
        decode: False leaves all where it lies, to be read and decoded on demand, whatever the memory limit.

    Raises:
        UnknownNameError: another scaling.
        DataError: if the source or an image cannot be read, or ``size`` or ``channels`` is out of range.
        MissingExtraError: if Pillow, pyarrow, datasets or scikit-learn is needed and missing.

    Warns:
        CropWarning: images that are not square, of which the middle is taken.
        ScalingWarning: a channel that is the same in all rows.
    """
    look_up(SCALINGS, scaling, "scaling")
    check_form(size, channels)
    limit = memory_limit if decode else 0
    if is_latents(source):
        return _latents(source, size, limit)
    found = read_columns(source, split, image_column, label_column, conditions)
    open_images = partial(opened, memory_limit=memory_limit, progress=progress, decode=decode)
    if isinstance(found.images, Rows):
        if size is not None or channels is not None:
            raise DataError(
                f"{source} holds arrays, which are taken as they are: leave out size and channels"
            )
        data, rows = _arrays(found, source, scaling, skip_broken, limit, progress)
    else:
        data, rows = _images(found, source, size, channels, skip_broken, progress, open_images)
    told = _conditions(found.conditions, rows, data.shape, open_images)
    return replace(data, conditions=told, offered=found.offered)


def _images(
    found: Columns,
    source: str,
    size: int | None,
    channels: int | None,
    skip_broken: bool,
    progress: Progress,
    open_images: OpenImages,
) -> tuple[ImageData, range | Tensor]:
    """Return images of one size, and the numbers of their rows in the source."""
    store: Any = found.images
    encoded, skipped = readable(store, progress) if skip_broken else (Encoded(store, range(len(store))), {})
    if not len(encoded.rows):
        raise DataError(f"{source!r} holds no image that can be read, and {len(skipped)} that cannot")
    size = size or encoded.read(0, lambda picture: min(picture.size))
    images = open_images(replace(encoded, size=size), channels)
    labels = found.labels
    labels = labels[encoded.rows] if skipped and labels is not None else labels
    data = ImageData(*(images, labels, found.classes, skipped, found.unlabelled, source))
    return data, encoded.rows


def _conditions(
    columns: Mapping[str, Any],
    rows: range | Tensor,
    shape: Sequence[int],
    open_images: OpenImages,
) -> dict[str, Tensor | Encoded]:
    """Return some rows of conditions: numbers, and images in the size of data of a shape."""
    told: dict[str, Tensor | Encoded] = {}
    for name, column in columns.items():
        if isinstance(column, Tensor):
            told[name] = column[torch.as_tensor(rows)]
        elif len(shape) == 3 and shape[1] == shape[2]:
            told[name] = open_images(Encoded(column, rows, shape[1]), None)
        else:
            raise DataError(
                f"condition {name} is a column of images, which are read as squares, and the data have shape "
                f"{tuple(shape)}: give it as lists of numbers"
            )
    return told


def array_data(
    values: Any,
    labels: Sequence[Any] | Tensor | None = None,
    *,
    scaling: str = "variance",
    skip_broken: bool = False,
    memory_limit: int = 2**31,
    progress: Progress = iter,
) -> ImageData:
    """Return arrays, or a dataset of the user's, as data to train on.

    >>> data = array_data(torch.tensor([[0.0, 5.0], [2.0, 9.0]]))
    >>> data[[0, 1]].images, data.scaling
    (tensor([[-1., -1.],
            [ 1.,  1.]]), Scaling(shift=(1.0, 7.0), scale=(1.0, 0.5)))

    Args:
        values: a tensor or NumPy array (N, C), (N, C, L), (N, C, H, W) or (N, C, D, H, W); or a map-style
            ``torch.utils.data.Dataset`` with items x or (x, label), x of one of these shapes without N.
        labels: (N,) numbers or words, of a tensor or array.
        scaling: as of :func:`load_data`, like all that follow.
        skip_broken: leave out rows that hold a NaN or an infinity.
        memory_limit: bytes, beyond which a dataset is asked for each item when it is needed.
        progress: wraps the range of rows that are read.

    Raises:
        DataError: another shape, no real numbers, or such as are not finite.
        UnknownNameError: another scaling.

    Warns:
        ScalingWarning: a channel that is the same in all rows.
    """
    look_up(SCALINGS, scaling, "scaling")
    rows: Any = Held.of(values)
    if rows is None:
        rows, labels = from_items(values, memory_limit, progress)
    check_shape(rows.shape)
    if labels is not None and len(labels) != rows.shape[0]:
        raise DataError(f"there are {len(labels)} labels for {rows.shape[0]} rows: give one each")
    columns = Columns(rows, *((None, None, "") if labels is None else numbered(labels)))
    return _arrays(columns, "", scaling, skip_broken, memory_limit, progress)[0]


def _arrays(
    found: Columns, source: str, name: str, skip_broken: bool, memory_limit: int, progress: Progress
) -> tuple[ImageData, range | Tensor]:
    """Return rows scaled, in memory if they fit, and their numbers in the source."""
    rows: Any = found.images
    kept: range | Tensor = range(rows.shape[0])
    scaling, broken, sigma_data = None, list[int](), SIGMA_DATA
    if not is_pictures(rows):
        statistics, broken = measured(rows, skip_broken=skip_broken, progress=progress)
        scaling = scaling_of(statistics, name)
        sigma_data = deviation(statistics, scaling)
    if broken:
        without = set(broken)
        kept = torch.tensor([number for number in kept if number not in without])
    arrays = Arrays(rows, kept, scaling)
    images = arrays.decode() if 4 * arrays.shape.numel() <= memory_limit else arrays
    labels = None if found.labels is None else found.labels[torch.as_tensor(kept)]
    skipped = {f"row {number}": "a NaN or an infinity" for number in broken}
    columns = (images, labels, found.classes, skipped, found.unlabelled, source)
    return ImageData(*columns, scaling=scaling, sigma_data=sigma_data), kept


def _latents(source: str, size: int | None, memory_limit: int) -> ImageData:
    """Return the latents of a folder, in memory if they fit."""
    if size is not None:
        raise DataError(f"size is {size}, and {source} holds latents: leave it out, and encode others")
    stored, labels = read_latents(source)
    about = stored.about
    fits = 4 * stored.shape.numel() <= memory_limit
    arrays = Arrays(stored, range(about.images))
    images = arrays.decode() if fits else arrays
    return ImageData(images, labels, tuple(about.classes) or None, source=source, latents=about.decoder)
