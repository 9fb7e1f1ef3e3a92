"""Which images a batch holds: every epoch a permutation of its own, batches running on across the seam."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch.utils.data import DataLoader

from alphabar.process import addressed
from alphabar.training.data import Batch, ImageData
from alphabar.training.streams import ORDER

__all__ = ["Order", "batches"]


@dataclass(frozen=True)
class Order:
    """The numbers of the images of each batch of one process.

    Args:
        images: how many there are.
        seed: of the permutations.
        steps: batches.
        batch_size: images a batch, over all processes.
        offset: where the share of this process starts in a batch.
        share: images a batch of this process.
    """

    images: int
    seed: int
    steps: int
    batch_size: int
    offset: int
    share: int

    def first(self, step: int) -> int:
        """Return the number of the first image of this process's share, counted from the start of the run."""
        return step * self.batch_size + self.offset

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.steps):
            first = self.first(step)
            yield [self._image(number) for number in range(first, first + self.share)]

    def _image(self, number: int) -> int:
        epoch, place = divmod(number, self.images)
        return _permutation(self.images, self.seed, epoch)[place]


@lru_cache(maxsize=2)
def _permutation(count: int, seed: int, epoch: int) -> list[int]:
    draws = addressed.uniform(count, seed=seed, stream=ORDER, first=epoch * count)
    return list(draws.argsort(stable=True).tolist())


def batches(data: ImageData, order: Order, device: torch.device) -> Iterator[Batch]:
    """Yield the batches on the device; data that fit in memory are moved there once, as bytes."""
    if data.tensor is not None:
        held, known = data.tensor.to(device), None if data.labels is None else data.labels.to(device)
        for indices in order:
            yield Batch(held[indices], None if known is None else known[indices])
        return
    workers = min(4, os.cpu_count() or 1)
    pinned = device.type == "cuda"
    for images, labels in DataLoader(data, None, sampler=order, num_workers=workers, pin_memory=pinned):
        yield Batch(images.to(device, non_blocking=True), None if labels is None else labels.to(device))
