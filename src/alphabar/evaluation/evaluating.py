"""Scores of samples, each with an interval and beside the same score of real images at the same count.

    data ──split──▶ real (N)  and  reference (all others)
    score(samples, reference)  beside  score(real, reference)

Real images stand where samples do: what they reach is what to expect at best.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  its usual name

from alphabar.errors import ConfigError, DataError, ShapeError
from alphabar.evaluation.cache import cached, hash_of
from alphabar.evaluation.classifier import LARGEST
from alphabar.evaluation.distances import frechet_without, kernel_without
from alphabar.evaluation.features import Features
from alphabar.evaluation.intervals import BLOCKS, Interval, interval_of, wilson
from alphabar.evaluation.neighbours import MOST, nearest, nearest_other, neighbour_scores
from alphabar.samplers import track
from alphabar.training import ImageData, to_unit
from alphabar.training.engine import share_out, summed

__all__ = [
    "Copies",
    "Evaluation",
    "Nearest",
    "Scored",
    "batches",
    "content_digest",
    "evaluate",
    "features_of",
    "find_copies",
    "nearest_images",
    "record_of",
    "scores_of",
    "split",
]

BATCH = 64
NEAR = 0.01  # of real images, the share whose distance to the nearest training image counts as that of a copy
SHOWN = 8  # copies
SHARE = (0.0, 1.0)
POSITIVE = (0.0, math.inf)
BOUNDS = {
    "frechet": POSITIVE,
    "kernel": (-math.inf, math.inf),
    "precision": SHARE,
    "recall": SHARE,
    "density": POSITIVE,
    "coverage": SHARE,
}


@dataclass(frozen=True)
class Scored:
    """A score of samples, and the same of real images."""

    samples: Interval
    real: Interval

    def record(self) -> dict[str, float]:
        """Return it as JSON values."""
        return {
            "value": self.samples.value,
            "low": self.samples.low,
            "high": self.samples.high,
            "real": self.real.value,
            "real_low": self.real.low,
            "real_high": self.real.high,
            "samples_error": self.samples.samples_error,
            "reference_error": self.samples.reference_error,
        }


@dataclass(frozen=True)
class Copies:
    """How many samples are nearer to a training image than 99 % of the real images are."""

    value: float
    """Share of the samples; near .01 where nothing is memorised."""
    low: float
    high: float
    """Ends of the 95 % interval (Wilson 1927)."""
    real: float
    """The same share of the real images."""
    threshold: float
    """The distance below which one counts, in pixel values of [−1, 1] (root mean square)."""
    nearest: tuple[tuple[int, int, float], ...]
    """The nearest pairs: number of the sample, number of the reference image, distance."""


@dataclass(frozen=True, eq=False)
class Nearest:
    """Distances to the nearest training image, in pixel values of [−1, 1] (root mean square)."""

    samples: Tensor
    """(N,) float64."""
    numbers: Tensor
    """(N,) of that training image."""
    real: Tensor
    """(M,) the same distance of real images that are not trained on."""

    @property
    def threshold(self) -> float:
        """The distance that 1 % of the real images fall short of."""
        return float(self.real.quantile(NEAR))

    @property
    def copies(self) -> int:
        """How many samples are nearer than that: near N/100 where nothing is memorised."""
        return int((self.samples < self.threshold).sum())


@dataclass(frozen=True)
class Evaluation:
    """All scores of samples."""

    scores: dict[str, Scored]
    """By name: frechet, kernel, precision, recall, density, coverage."""
    copies: Copies
    dimensions: int
    """D of the features."""


def split(data: ImageData, num: int, *, seed: int = 0) -> tuple[ImageData, ImageData]:
    """Return (real, reference): ``num`` images at random, and all others.

    Args:
        data: all.
        num: how many stand beside as many samples.
        seed: of the choice.

    Raises:
        ConfigError: fewer others than that, or fewer than an interval needs.
    """
    least = 2 * BLOCKS
    if not least <= num <= len(data) // 2:
        raise ConfigError(
            f"num is {num}, of {len(data)} images: expected {least} … {len(data) // 2}, so that as many real "
            "ones and as many others are left to compare with"
        )
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed)).tolist()
    return data.subset(sorted(order[:num])), data.subset(sorted(order[num:]))


def content_digest(data: ImageData) -> str:
    """Return the SHA-256 of the pixels and labels, whatever they are stored as."""
    blocks = [hash_of(data[rows].images) for rows in batches(len(data))]
    return hash_of(*blocks, *([] if data.labels is None else [data.labels]))


def features_of(data: ImageData, features: Features, what: str = "features") -> Tensor:
    """Return the features of images, (N, D) float32; each process computes a share of them."""
    share, main = share_out(batches(len(data)))
    found = torch.zeros(len(data), features(data[[0]].images).shape[1])
    for rows in track(share, len(share), what, shown=None if main else False, every=60.0):
        found[rows.start : rows.stop] = features(data[rows].images)
    return summed(found)


def scores_of(samples: Tensor, reference: Tensor) -> dict[str, Interval]:
    """Return all scores of samples by name: frechet, kernel, precision, recall, density, coverage.

    Args:
        samples: (N, D) features.
        reference: (M, D).

    Raises:
        ShapeError: fewer than 20 vectors, or vectors of different lengths.
        ConfigError: numbers that are not finite.
    """
    scores = {
        "frechet": frechet_without(samples, reference),
        "kernel": kernel_without(samples, reference),
        **neighbour_scores(samples, reference),
    }
    return {name: interval_of(score, BOUNDS[name]) for name, score in scores.items()}


def evaluate(
    samples: Sequence[ImageData], real: ImageData, reference: ImageData, features: Features
) -> Evaluation:
    """Score samples of one generator against reference images, beside real images.

    Args:
        samples: of one seed or several, N each, of the reference's shape.
        real: N images that are not in the reference.
        reference: M images; copies are looked for among them: give those it was trained on.
        features: by which images are compared.

    Raises:
        ShapeError: images of different shapes.
        DataError: the features cannot be computed.
    """
    for data in (*samples, real):
        if data.shape != reference.shape:
            raise ShapeError(f"images of {data.shape} beside ones of {reference.shape}: expected one shape")
    if not samples:
        raise DataError("there are no samples")
    key = ("features", features.name, features.digest, features.resize, content_digest(reference))
    known = cached(key, lambda: {"features": features_of(reference, features, "reference")})["features"]
    of_real = scores_of(features_of(real, features, "real"), known)
    of_samples = [scores_of(features_of(data, features, "samples"), known) for data in samples]
    scores = {
        name: Scored(Interval.over_seeds([each[name] for each in of_samples]), of_real[name])
        for name in of_real
    }
    return Evaluation(scores, find_copies(samples[0], real, reference), known.shape[1])


def find_copies(samples: ImageData, real: ImageData, training: ImageData) -> Copies:
    """Look for samples that are nearer to a training image than real images are.

    Args:
        samples: (N, C, H, W).
        real: images that are not among the training images.
        training: the images that may have been memorised.
    """
    known = _small(training)
    distances, numbers = nearest(_small(samples), known)
    of_real, _ = nearest(_small(real), known)
    threshold = float(of_real.quantile(NEAR))
    count = int((distances < threshold).sum())
    low, high = wilson(count, len(samples))
    each = known.shape[1] ** 0.5
    order = distances.argsort()[:SHOWN].tolist()
    return Copies(
        count / len(samples),
        low,
        high,
        float((of_real < threshold).double().mean()),
        threshold / each,
        tuple((i, int(numbers[i]), float(distances[i]) / each) for i in order),
    )


def nearest_images(samples: ImageData, training: ImageData) -> Nearest:
    """Return how far samples are from the images that a network was trained on, beside real images.

    A training image and the nearest other one stand for a real image that was held out.

    Args:
        samples: (N, C, H, W).
        training: at least two images; 10,000 of them, at random, where there are more.

    Raises:
        ShapeError: images of different shapes.
        DataError: fewer than two training images, or no samples.
    """
    if samples.shape != training.shape:
        raise ShapeError(f"samples are {samples.shape}, training images {training.shape}: expected one shape")
    if not len(samples) or len(training) < 2:
        raise DataError(f"{len(samples)} samples beside {len(training)} images: expected 1 and 2 at least")
    order = torch.randperm(len(training), generator=torch.Generator().manual_seed(0))[:MOST].sort().values
    known = _small(training.subset(order.tolist()))
    distances, places = nearest(_small(samples), known)
    each = known.shape[1] ** 0.5
    return Nearest(distances / each, order[places], nearest_other(known) / each)


def _small(data: ImageData) -> Tensor:
    """Return (N, D) pixels in [−1, 1], of images averaged down to at most 32×32."""
    side = min(LARGEST, data.shape[-1])
    parts = [F.adaptive_avg_pool2d(to_unit(data[rows].images), side) for rows in batches(len(data))]
    return torch.cat(parts).flatten(1)


def batches(count: int) -> list[range]:
    """Return 0 … count−1 in ranges of 64, however many processes share them.

    What a network returns for an image depends in its last bits on the size of the batch.
    """
    return [range(first, min(first + BATCH, count)) for first in range(0, count, BATCH)]


def record_of(evaluation: Evaluation) -> dict[str, Any]:
    """Return the scores as JSON values."""
    copies = evaluation.copies
    return {
        **{name: scored.record() for name, scored in evaluation.scores.items()},
        "copies": {
            "value": copies.value,
            "low": copies.low,
            "high": copies.high,
            "real": copies.real,
            "threshold": copies.threshold,
            "nearest": [list(pair) for pair in copies.nearest],
        },
    }
