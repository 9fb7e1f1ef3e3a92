"""What data are like, found in one pass: sizes, statistics of each channel, rows that are there twice.

Rows are the same where the bytes are that a network sees, before they are scaled: their BLAKE2b digests of 64
bits are compared, which N different rows share by chance with probability N²/2⁶⁵.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter
from dataclasses import dataclass, replace
from functools import reduce
from hashlib import blake2b
from operator import add

import torch
from torch import Tensor

from alphabar.errors import DataError
from alphabar.training.arrays import AT_ONCE, Arrays
from alphabar.training.data import ImageData
from alphabar.training.encoded import Encoded, Progress
from alphabar.training.images import pixels, to_unit, upright
from alphabar.training.statistics import Statistics

__all__ = ["Survey", "survey"]

Size = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Survey:
    """What data are like."""

    kind: str
    """Images, latents or arrays."""
    sizes: Counter[Size]
    """How many pictures of the source have which height and width; empty of other data."""
    statistics: Statistics
    """Of each channel: of images in [−1, 1], of arrays in their units, of latents as they are stored."""
    repeats: list[tuple[int, int]]
    """Places of rows that are the same as an earlier one, and that of the first such."""


def survey(data: ImageData, *, progress: Progress = iter) -> Survey:
    """Return what data are like, of which a few are in memory at a time.

    Args:
        data: as :func:`alphabar.training.load_data` returns them, with ``decode=False`` for the sizes of
            pictures.
        progress: wraps the range of the blocks that are read.

    Raises:
        DataError: there are none, or an image that cannot be read.
    """
    if not len(data):
        raise DataError("there is no image to describe")
    kind = "latents" if data.latents else "images" if data.scaling is None else "arrays"
    at_once = max(1, AT_ONCE // math.prod(data.shape))
    sizes, digests, found = Counter[Size](), array("q"), list[Statistics]()
    for number in progress(range(-(-len(data) // at_once))):
        places = range(number * at_once, min((number + 1) * at_once, len(data)))
        rows, pictured = _stored(data.images, places)
        sizes.update(pictured)
        found.append(Statistics.of(to_unit(rows) if kind == "images" else rows))
        content = rows.contiguous().view(torch.uint8).reshape(len(rows), -1).numpy()
        digests.extend(
            int.from_bytes(blake2b(row, digest_size=8).digest(), "big", signed=True) for row in content
        )
    return Survey(kind, sizes, reduce(add, found), _repeats(torch.frombuffer(digests, dtype=torch.int64)))


def _stored(images: Tensor | Encoded | Arrays, places: range) -> tuple[Tensor, list[Size]]:
    """Return some rows as they are stored, (B, C, …), and height and width of their pictures."""
    if isinstance(images, Encoded):
        form = (images.size, images.channels)
        read = [
            images.read(place, lambda picture: (pixels(picture, *form), upright(picture))) for place in places
        ]
        return torch.stack([image for image, _ in read]), [size for _, size in read]
    if isinstance(images, Arrays):
        return replace(images, scaling=None)[places].decode(), []
    return images[places.start : places.stop], []


def _repeats(digests: Tensor) -> list[tuple[int, int]]:
    """Return the places of numbers that were there before, and where first."""
    number: Tensor = torch.unique(digests, return_inverse=True)[1]
    place = torch.arange(len(digests))
    first = place.scatter_reduce(0, number, place, "amin", include_self=False)[number]
    repeated = (first < place).nonzero()[:, 0]
    return list(zip(repeated.tolist(), first[repeated].tolist(), strict=True))
