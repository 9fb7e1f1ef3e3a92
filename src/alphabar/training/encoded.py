"""Encoded images of a store, decoded when they are asked for, each by the same steps."""

from __future__ import annotations

import warnings
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from alphabar.errors import DataError
from alphabar.training.images import GREY, CropWarning, open_picture, pixels, translated
from alphabar.training.stores import Store

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

__all__ = ["Encoded", "Progress", "decoded", "opened", "readable"]

Progress = Callable[[range], Iterable[int]]
REMEDY = " (repair it, remove it, or leave out all such images by skip_broken=True, --skip-broken)"


@dataclass(frozen=True)
class Encoded:
    """Stands for the tensor (N, C, H, W) that some images of a store would make, and can decode it."""

    store: Store
    rows: range | Tensor
    size: int = 0
    channels: int = 0

    @property
    def shape(self) -> torch.Size:
        """(N, C, H, W)."""
        return torch.Size((len(self.rows), self.channels, self.size, self.size))

    @property
    def block(self) -> int:
        """How many neighbours are best read together."""
        return self.store.block

    def __getitem__(self, places: Sequence[int]) -> Encoded:
        rows = [int(self.rows[place]) for place in places]
        return replace(self, rows=torch.tensor(rows, dtype=torch.int64))

    def decode(self, progress: Progress = iter) -> Tensor:
        """Return them, uint8 (N, C, H, W)."""
        images = torch.empty(self.shape, dtype=torch.uint8)
        for place in progress(range(len(self.rows))):
            images[place] = self.read(place, lambda picture: pixels(picture, self.size, self.channels))
        return images

    def name(self, place: int) -> str:
        """Return what messages call an image."""
        return self.store.name(int(self.rows[place]))

    def read(self, place: int, use: Callable[[Picture], Any]) -> Any:
        """Return what ``use`` makes of an image; a DataError names one that cannot be read."""
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


def decoded(store: Store, shape: Sequence[int]) -> Tensor:
    """Return all images of a store, uint8 (N, C, H, W), for a shape (C, H, W) with H = W."""
    channels, size, *_ = shape
    return Encoded(store, range(len(store)), size, channels).decode()


def opened(
    encoded: Encoded, channels: int | None, memory_limit: int, progress: Progress, *, decode: bool = True
) -> Tensor | Encoded:
    """Return images decoded, if they fit in memory, else as they are; grey if all that are looked at are."""
    count = len(encoded.rows)
    sample = range(count if count * encoded.size**2 <= memory_limit else min(count, 64))
    seen = [encoded.read(place, lambda picture: (picture.mode, picture.size)) for place in sample]
    grey = channels is None and all(mode in GREY for mode, _ in seen)
    _warn_of_crops(sum(width != height for _, (width, height) in seen), len(sample), count)
    encoded = replace(encoded, channels=channels or (1 if grey else 3))
    fits = encoded.shape.numel() <= memory_limit
    return encoded.decode(progress) if decode and fits else encoded


def readable(store: Store, progress: Progress) -> tuple[Encoded, dict[str, str]]:
    """Return the images of a store that can be read; and by their names, why the others cannot."""
    encoded, kept, skipped = Encoded(store, range(len(store))), array("q"), {}
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
            f"{crops} of {looked} images are not square: their middle is taken", CropWarning, stacklevel=4
        )
