"""Everything that is random of a batch, each number by its address (seed, number of the image, purpose)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from alphabar.denoise.conditions import Condition
from alphabar.kernels import uniform
from alphabar.process import addressed
from alphabar.training.augment import augmented
from alphabar.training.config import TrainConfig
from alphabar.training.data import Batch
from alphabar.training.images import to_x_0
from alphabar.training.streams import CONDITION, DROPOUT, NOISE, TIMESTEP
from alphabar.training.timesteps import TIMESTEPS, shares

__all__ = ["Draw", "Examples", "grid_of", "over_places"]


class Examples(NamedTuple):
    """A batch with everything that is random of it."""

    x_0: Tensor
    """(B, C, H, W), images in [−1, 1]."""
    noise: Tensor
    """(B, C, H, W), standard normal."""
    t: Tensor
    """(B,) int64; of tokens (B, 1, …), which broadcasts over the sides of x_0."""
    labels: Tensor | None
    """(B,) int64; a label that is withheld is the number of classes."""
    conditions: Mapping[str, Tensor]
    """The codes, (B, …); of those that are withheld zeros."""


def grid_of(token: Sequence[int], sides: Sequence[int]) -> tuple[int, ...]:
    """Return how many tokens of these sides cover data along each side."""
    return tuple(-(-side // size) for size, side in zip(token, sides, strict=True))


def over_places(t: Tensor, token: Sequence[int], sides: Sequence[int]) -> Tensor:
    """Return t of tokens, (B, 1, …), at all places of sides that several tokens share; else it is 1 long."""
    for dimension, (size, side) in enumerate(zip(token, sides, strict=True), 2):
        if size < side:
            t = t.repeat_interleave(size, dimension).narrow(dimension, 0, side)
    return t


@dataclass(frozen=True, eq=False)
class Draw:
    """Makes examples: augments images, withholds some labels and conditions, draws noise and t."""

    config: TrainConfig
    classes: int
    log_snr: Tensor
    """(T,), of the schedule."""
    conditions: Mapping[str, Condition] = field(default_factory=dict)
    token: tuple[int, ...] = ()
    """The sides of a token that has a t of its own; empty where each image has one."""

    def __call__(self, batch: Batch, first: int, out: Tensor) -> Examples:
        """Return the examples of images numbered from ``first``, their noise in ``out``."""
        config, count, device = self.config, len(batch.images), batch.images.device

        def drawn(stream: int) -> Tensor:
            return addressed.uniform(count, seed=config.seed, stream=stream, first=first, device=device)

        x_0 = augmented(to_x_0(batch.images), config, drawn)
        codes = self._codes(batch, drawn)
        labels = None
        if self.classes and batch.labels is not None:
            labels = batch.labels.masked_fill(drawn(DROPOUT) <= config.label_dropout, self.classes)
        t = self._t(x_0, first)
        noise = addressed.normal(x_0.shape, seed=config.seed, stream=NOISE, first=first, out=out)
        return Examples(x_0, noise, t, labels, codes)

    def _t(self, x_0: Tensor, first: int) -> Tensor:
        """Return t of each image, or of each token at all places that it covers."""
        count, device, batch = len(x_0), x_0.device, self.config.batch_size
        grid = grid_of(self.token, x_0.shape[2:]) if self.token else ()
        where = addressed.address((count,), seed=self.config.seed, stream=TIMESTEP, first=first)
        u = uniform(count, math.prod(grid), where, device)
        place = torch.arange(first, first + count, device=device) % batch
        numbers = shares(u if grid else u[:, 0], place, batch)
        t = TIMESTEPS[self.config.timesteps](numbers, self.log_snr)
        return over_places(t.view(count, 1, *grid), self.token, x_0.shape[2:]) if grid else t

    def _codes(self, batch: Batch, drawn: Callable[[int], Tensor]) -> dict[str, Tensor]:
        """Return the codes of the conditions, zeros where all of them, or one of several, are withheld."""
        share, codes = self.config.condition_dropout, {}
        alone = share if len(self.conditions) + bool(self.classes) > 1 else 0.0
        for number, (name, condition) in enumerate(self.conditions.items()):
            code = condition.code(batch.conditions[name])
            if condition.kind == "image":
                code = augmented(code, self.config, drawn, in_colour=False)
            is_withheld = (drawn(DROPOUT) <= share) | (drawn(CONDITION + number) <= alone)
            codes[name] = code.masked_fill(is_withheld.reshape(-1, *[1] * (code.ndim - 1)), 0.0)
        return codes
