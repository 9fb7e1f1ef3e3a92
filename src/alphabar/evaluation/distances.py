r"""How good samples are, in numbers that mean something beside the same numbers of real images.

    d² = ‖μ_a − μ_b‖² + tr(Σ_a + Σ_b − 2 (Σ_a Σ_b)^{1/2})

is the Fréchet distance of two Gaussians (Dowson & Landau 1982), fitted to pixels or to the features of a
classifier (Heusel et al. 2017, equation 6). It depends on the number of images: it does not vanish even
between two halves of one data set, so the distance of real images to real ones is always given beside it.

With Σ_a = AᵀA and Σ_b = BᵀB the eigenvalues of Σ_a Σ_b are the squares of the singular values of A Bᵀ, so
tr (Σ_a Σ_b)^{1/2} is their sum: the same for both orders, and right to rounding where Σ is singular.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  its usual name

from alphabar.errors import ConfigError, ShapeError

__all__ = ["Classifier", "Score", "fit_classifier", "frechet_distance", "score"]


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Return d² between Gaussians fitted to two sets of vectors, in float64.

    Args:
        a: (N, …) finite numbers, N ≥ 2; what follows the first dimension is one vector.
        b: (M, …) likewise, M ≥ 2.

    Raises:
        ShapeError: fewer than 2 vectors, or vectors of different lengths.
        ConfigError: numbers whose squares are not finite.
    """
    a, b = a.flatten(1).double(), b.flatten(1).double()
    if len(a) < 2 or len(b) < 2 or a.shape[1] != b.shape[1]:
        raise ShapeError(
            f"sets of {tuple(a.shape)} and {tuple(b.shape)}: give at least 2 vectors of one length each"
        )
    if not (_has_square(a) and _has_square(b)):
        raise ConfigError("the images or features hold NaN or infinity, or overflow when squared")
    root_a, root_b = _root(a), _root(b)
    apart = (a.mean(0) - b.mean(0)).square().sum()
    within = root_a.square().sum() + root_b.square().sum()
    cross = torch.linalg.svdvals(root_a @ root_b.T).sum()
    return max(0.0, float(apart + within - 2 * cross))  # below 0 by rounding alone: 2 cross ≤ within


def _has_square(x: Tensor) -> bool:
    return bool(x.square().sum().isfinite())


def _root(x: Tensor) -> Tensor:
    """Return R with Rᵀ R = Σ: by QR of the centred data, since their square would lose digits."""
    centred = (x - x.mean(0)) / (len(x) - 1) ** 0.5
    root: Tensor = torch.linalg.qr(centred, mode="r").R
    return root


class Classifier(nn.Module):
    """A small convolutional classifier of small images; its 48 features are the last layer but one.

    Args:
        shape: (C, H, W) of the images, H and W even.
        classes: how many.
    """

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        depth, height, width = shape
        self.features = nn.Sequential(
            nn.Conv2d(depth, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(64, 64, 3, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.Linear(64 * (height // 2) * (width // 2), 48),
            nn.ReLU(),
        )
        self.head = nn.Linear(48, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, classes) logits for images (B, C, H, W) in [−1, 1]."""
        logits: Tensor = self.head(self.features(x))
        return logits


def fit_classifier(images: Tensor, labels: Tensor, *, epochs: int = 20, seed: int = 0) -> Classifier:
    """Train a :class:`Classifier`; the same seed gives the same one.

    Args:
        images: (N, C, H, W) in [−1, 1].
        labels: (N,) int64 from 0.
        epochs: passes over the images.
        seed: of the start, the order and the dropout.
    """
    depth, height, width = images.shape[1:]
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        network = Classifier((depth, height, width), int(labels.max()) + 1)
        optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
        batches = max(1, len(images) // 64)
        rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=epochs * batches)
        for _ in range(epochs):
            for rows in torch.randperm(len(images)).chunk(batches):
                loss = F.cross_entropy(network(images[rows]), labels[rows], label_smoothing=0.1)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                rate.step()
    return network.eval()


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
