"""Everything that is random of a batch, each number by its address (seed, number of the image, purpose)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from alphabar.process import addressed
from alphabar.training.augment import augmented
from alphabar.training.config import TrainConfig
from alphabar.training.data import Batch
from alphabar.training.images import to_x_0
from alphabar.training.streams import DROPOUT, NOISE, TIMESTEP
from alphabar.training.timesteps import TIMESTEPS, shares

__all__ = ["Draw", "Examples"]


class Examples(NamedTuple):
    """A batch with everything that is random of it."""

    x_0: Tensor
    """(B, C, H, W), images in [−1, 1]."""
    noise: Tensor
    """(B, C, H, W), standard normal."""
    t: Tensor
    """(B,) int64."""
    labels: Tensor | None
    """(B,) int64; a label that is withheld is the number of classes."""


@dataclass(frozen=True, eq=False)
class Draw:
    """Makes examples of images: augments them, withholds some labels, draws noise and t."""

    config: TrainConfig
    classes: int
    log_snr: Tensor
    """(T,), of the schedule."""

    def __call__(self, batch: Batch, first: int, out: Tensor) -> Examples:
        """Return the examples of images numbered from ``first``, their noise in ``out``."""
        config, count, device = self.config, len(batch.images), batch.images.device

        def uniform(stream: int) -> Tensor:
            return addressed.uniform(count, seed=config.seed, stream=stream, first=first, device=device)

        x_0 = augmented(to_x_0(batch.images), config, uniform)
        labels = None
        if self.classes and batch.labels is not None:
            labels = batch.labels.masked_fill(uniform(DROPOUT) <= config.label_dropout, self.classes)
        place = torch.arange(first, first + count, device=device) % config.batch_size
        numbers = shares(uniform(TIMESTEP), place, config.batch_size)
        t = TIMESTEPS[config.timesteps](numbers, self.log_snr)
        noise = addressed.normal(x_0.shape, seed=config.seed, stream=NOISE, first=first, out=out)
        return Examples(x_0, noise, t, labels)
