"""Which images a batch holds: every epoch a permutation of its own, batches running on across the seam."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from alphabar.training.data import Batch, ImageData
from alphabar.training.permutation import permuted_in_blocks

__all__ = ["Order", "batches", "cores"]

Step = TypeVar("Step", int, Tensor)
AHEAD = 4096  # images whose order is computed at once: it costs about as much as that of ten


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
        start: the first step that is iterated over, where a run is resumed.
        block: images that lie together where they are read, and are therefore taken shortly after each other.
    """

    images: int
    seed: int
    steps: int
    batch_size: int
    offset: int
    share: int
    start: int = 0
    block: int = 1

    def first(self, step: Step) -> Step:
        """Return the number of the first image of this process's share, counted from the start of the run."""
        return step * self.batch_size + self.offset

    def __len__(self) -> int:
        return self.steps - self.start

    def __iter__(self) -> Iterator[list[int]]:
        at_once = -(-AHEAD // self.share)
        for start in range(self.start, self.steps, at_once):
            steps = torch.arange(start, min(start + at_once, self.steps))
            numbers = self.first(steps)[:, None] + torch.arange(self.share)
            epoch, place = numbers // self.images, numbers % self.images
            images = permuted_in_blocks(place, self.images, self.block, seed=self.seed, number=epoch)
            yield from images.tolist()


def cores() -> int:
    """Return how many processors this process may use, which taskset or SLURM can make few."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS and Windows
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def batches(data: ImageData, order: Order, device: torch.device) -> Iterator[Batch]:
    """Yield the batches on the device; data that fit in memory are moved there once, as bytes."""
    if data.held is not None:
        held = moved(data.held, device)
        for indices in order:
            yield held.rows(indices)
        return
    workers = min(4, cores())
    pinned = device.type == "cuda"
    ahead = 4  # batches a worker: where a window of blocks begins, its row groups are read first
    loader = DataLoader(
        data, None, sampler=order, num_workers=workers, pin_memory=pinned, prefetch_factor=ahead
    )
    for batch in loader:
        yield moved(batch, device)


def moved(batch: Batch, device: torch.device) -> Batch:
    """Return a batch on a device."""
    labels = None if batch.labels is None else batch.labels.to(device)
    conditions = {name: values.to(device, non_blocking=True) for name, values in batch.conditions.items()}
    return Batch(batch.images.to(device, non_blocking=True), labels, conditions)
