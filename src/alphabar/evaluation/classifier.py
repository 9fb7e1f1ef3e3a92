"""A small classifier that is trained on the spot, whose last layer but one gives features.

Where images have no labels, it learns by how many right angles they were turned (Gidaris et al. 2018).
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  its usual name

from alphabar.denoise.files import digest
from alphabar.errors import DataError, ShapeError
from alphabar.evaluation.cache import cached, hash_of
from alphabar.training import to_unit

__all__ = ["LARGEST", "Classifier", "fit_classifier", "fitted", "turned"]

BATCH = 64
UPDATES = 2000  # at most
LARGEST = 32  # pixels of a side; larger images are averaged down to it


class Classifier(nn.Module):
    """A small convolutional classifier of small images; its 48 features are the last layer but one.

    Args:
        shape: (C, H, W) of the images, H and W at least 2.
        classes: how many.

    Raises:
        ShapeError: images of one pixel's height or width.
    """

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        depth, *sides = shape
        if min(sides) < 2:
            raise ShapeError(f"images of {sides[0]}×{sides[1]} pixels: expected at least 2×2")
        height, width = (min(side, LARGEST) for side in sides)
        smaller: nn.Module = nn.Identity()
        if max(sides) > LARGEST:
            smaller = nn.AdaptiveAvgPool2d((height, width))
        self.features = nn.Sequential(
            smaller,
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
        epochs: passes over the images, which end after 2,000 updates.
        seed: of the start, the order and the dropout.

    Raises:
        DataError: no image.
    """
    if not len(images):
        raise DataError("there is no image to train a classifier on")
    depth, height, width = images.shape[1:]
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        network = Classifier((depth, height, width), int(labels.max()) + 1)
        optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
        batches = max(1, len(images) // BATCH)
        updates = min(epochs * batches, UPDATES)
        rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=updates)
        while rate.last_epoch < updates:
            for rows in torch.randperm(len(images)).chunk(batches)[: updates - rate.last_epoch]:
                loss = F.cross_entropy(network(images[rows]), labels[rows], label_smoothing=0.1)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                rate.step()
    return network.eval()


def turned(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return square images (N, C, H, H) turned by 0 to 3 right angles in turn, and by how many, (N,)."""
    turns = torch.arange(len(images)) % 4
    made = torch.empty_like(images)
    for turn in range(4):
        made[turns == turn] = images[turns == turn].rot90(turn, (2, 3))
    return made, turns


def fitted(images: Tensor, labels: Tensor | None) -> Classifier:
    """Return the classifier of images, trained now or before.

    Args:
        images: uint8 (N, C, H, W); square where there are no labels.
        labels: (N,) int64 from 0; where there are none, it learns how the images were turned.
    """
    x_0, targets = turned(to_unit(images)) if labels is None else (to_unit(images), labels)
    key = ("classifier", str(torch.__version__), digest(Path(__file__)), hash_of(images, targets))
    state = cached(key, lambda: dict(fit_classifier(x_0, targets).state_dict()))
    depth, height, width = images.shape[1:]
    network = Classifier((depth, height, width), int(targets.max()) + 1)
    network.load_state_dict(state)
    return network.eval()
