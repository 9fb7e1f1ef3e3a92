"""Everything that is random of a batch, each number by its address (seed, number of the image, purpose)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from alphabar.denoise.conditions import Condition
from alphabar.process import addressed
from alphabar.training.augment import augmented
from alphabar.training.config import TrainConfig
from alphabar.training.data import Batch
from alphabar.training.images import to_x_0
from alphabar.training.streams import CONDITION, DROPOUT, NOISE, TIMESTEP
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
    conditions: Mapping[str, Tensor]
    """The codes, (B, …); of those that are withheld zeros."""


@dataclass(frozen=True, eq=False)
class Draw:
    """Makes examples: augments images, withholds some labels and conditions, draws noise and t."""

    config: TrainConfig
    classes: int
    log_snr: Tensor
    """(T,), of the schedule."""
    conditions: Mapping[str, Condition] = field(default_factory=dict)

    def __call__(self, batch: Batch, first: int, out: Tensor) -> Examples:
        """Return the examples of images numbered from ``first``, their noise in ``out``."""
        config, count, device = self.config, len(batch.images), batch.images.device

        def uniform(stream: int) -> Tensor:
            return addressed.uniform(count, seed=config.seed, stream=stream, first=first, device=device)

        x_0 = augmented(to_x_0(batch.images), config, uniform)
        codes = self._codes(batch, uniform)
        labels = None
        if self.classes and batch.labels is not None:
            labels = batch.labels.masked_fill(uniform(DROPOUT) <= config.label_dropout, self.classes)
        place = torch.arange(first, first + count, device=device) % config.batch_size
        numbers = shares(uniform(TIMESTEP), place, config.batch_size)
        t = TIMESTEPS[config.timesteps](numbers, self.log_snr)
        noise = addressed.normal(x_0.shape, seed=config.seed, stream=NOISE, first=first, out=out)
        return Examples(x_0, noise, t, labels, codes)

    def _codes(self, batch: Batch, uniform: Callable[[int], Tensor]) -> dict[str, Tensor]:
        """Return the codes of the conditions, zeros where all of them, or one of several, are withheld."""
        share, codes = self.config.condition_dropout, {}
        alone = share if len(self.conditions) + bool(self.classes) > 1 else 0.0
        for number, (name, condition) in enumerate(self.conditions.items()):
            code = condition.code(batch.conditions[name])
            if condition.kind == "image":
                code = augmented(code, self.config, uniform, in_colour=False)
            is_withheld = (uniform(DROPOUT) <= share) | (uniform(CONDITION + number) <= alone)
            codes[name] = code.masked_fill(is_withheld.reshape(-1, *[1] * (code.ndim - 1)), 0.0)
        return codes
