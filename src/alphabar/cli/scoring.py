"""Scores of the averaged network at chosen steps of a training, for its log."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from alphabar.checks import check_count
from alphabar.errors import AlphabarError, ConfigError
from alphabar.evaluation import features_by_name, features_of, scores_of, split
from alphabar.evaluation.drawing import draw
from alphabar.evaluation.intervals import BLOCKS
from alphabar.samplers import DDIM
from alphabar.training import ImageData, TrainingWarning, TrainStep

__all__ = ["Scores"]

NUM = 256
MOST = 10_000  # reference images that samples are compared with
SAMPLER = DDIM(steps=20)


@dataclass(frozen=True)
class Scores:
    """Scores 256 samples of the averaged network at chosen steps, from the same noise each time.

    Their noise is addressed apart from the training's, so that training goes on as without.

    Args:
        data: the images of the training, of which some are compared with others and with the samples.
        every: updates between scores; None for none.
        features: by which images are compared, as :func:`~alphabar.evaluation.features_by_name` takes it.

    Raises:
        ConfigError: every is not positive, or there are fewer than 40 images.
    """

    data: ImageData
    every: int | None
    features: str = "train"

    def __post_init__(self) -> None:
        if self.every is not None:
            check_count(evaluate_every=self.every)
            if self.data.latents or self.data.scaling:
                what = "latents" if self.data.latents else "arrays"
                raise ConfigError(f"evaluate_every scores images, and the data are {what}: leave it out")
            if self._num < 2 * BLOCKS:
                raise ConfigError(f"there are {len(self.data)} images, too few to score samples beside them")

    @property
    def _num(self) -> int:
        return min(NUM, len(self.data) // 2)

    @cached_property
    def _known(self) -> Any:
        """The features, those of the reference images, and the scores of real images."""
        order = torch.randperm(len(self.data), generator=torch.Generator().manual_seed(0))
        some = self.data.subset(sorted(order[: MOST + self._num].tolist()))
        real, reference = split(some, self._num)
        features = features_by_name(self.features, reference)
        known = features_of(reference, features, "reference")
        return features, known, scores_of(features_of(real, features, "real"), known)

    def __call__(self, step: TrainStep) -> Mapping[str, Any]:
        """Return the scores for the log where they are due. All processes must take part.

        Warns:
            TrainingWarning: samples that cannot be drawn or scored; training goes on.
        """
        if self.every is None or step.step % self.every:
            return {}
        result = step.snapshot()
        try:
            features, known, of_real = self._known
            there = self.data[range(self._num)].conditions if result.conditions else {}
            drawn = draw(result, SAMPLER, self._num, conditions={k: there[k] for k in result.conditions})
            found = scores_of(features_of(drawn, features), known)
        except AlphabarError as error:
            warnings.warn(f"no scores at step {step.step}: {error}", TrainingWarning, stacklevel=2)
            return {}
        scores = {
            name: {"value": each.value, "low": each.low, "high": each.high, "real": of_real[name].value}
            for name, each in found.items()
        }
        return {"scores": scores}
