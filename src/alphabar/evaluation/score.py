"""The score of the demo: distances of generated digits beside the same distances of real ones."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from alphabar.evaluation.classifier import Classifier
from alphabar.evaluation.distances import frechet_distance

__all__ = ["Score", "score"]


@dataclass(frozen=True)
class Score:
    """Distances of samples to real images, each beside the distance of other real images to those."""

    pixels: float
    """Fréchet distance on pixels in [−1, 1]."""
    pixels_real: float
    features: float
    """Fréchet distance on the features of the classifier."""
    features_real: float
    read_right: float
    """Share of the samples that the classifier assigns to the class that was asked for."""
    read_right_real: float
    """Share of the other real images that it assigns to their own class."""


@torch.no_grad()
def score(
    samples: Tensor,
    asked: Tensor,
    real: Tensor,
    real_labels: Tensor,
    held_out: Tensor,
    classifier: Classifier,
) -> Score:
    """Compare samples with images that neither the generator nor they have seen.

    Args:
        samples: (N, C, H, W) in [−1, 1].
        asked: (N,) the class each was asked to be.
        real: (M, C, H, W) other real images: their distance to ``held_out`` is what to expect at best.
        real_labels: (M,).
        held_out: (K, C, H, W) real images; the classifier was trained on these, the generator was not.
        classifier: assigns the images to classes.
    """
    features = [classifier.features(x) for x in (samples, real, held_out)]
    return Score(
        pixels=frechet_distance(samples, held_out),
        pixels_real=frechet_distance(real, held_out),
        features=frechet_distance(features[0], features[2]),
        features_real=frechet_distance(features[1], features[2]),
        read_right=float((classifier(samples).argmax(1) == asked).float().mean()),
        read_right_real=float((classifier(real).argmax(1) == real_labels).float().mean()),
    )
