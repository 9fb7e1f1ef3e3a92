"""What goes wrong in a training and can be seen while it goes on, each with its remedy.

Pure functions of the lines of a log, the newest last, of a batch of images, and of how many there are. A line
knows loss and norm of the gradient, how far weights and averages moved since the line before, and the mean of
samples and of data. Thresholds lie far outside what ordinary runs show: a finding that is often wrong is not
read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

import torch
from torch import Tensor

from alphabar.training.augment import fitting

__all__ = ["Finding", "TrainingWarning", "examine", "examine_count", "examine_images"]

Entries = Sequence[Mapping[str, Any]]

LINES = 10  # whose mean is compared with the best
FACTOR = 3.0  # between losses
SPIKE = 20.0  # between norms of the gradient
MOVED = 1e-4  # of their size that weights move, before averages must move too
ERRORS = 4.0  # standard errors that samples may be off in the mean
FEW = 1000  # images, of which a network can learn each by heart


class TrainingWarning(UserWarning):
    """Something that is probably wrong with a training, which goes on."""


@dataclass(frozen=True)
class Finding:
    """One thing that is probably wrong."""

    name: str
    seen: str
    """The numbers."""
    remedy: str

    def __str__(self) -> str:
        return f"{self.name}: {self.seen}; {self.remedy}"


def examine(entries: Entries) -> list[Finding]:
    """Return what is wrong at the newest line of a log; the lines as :func:`read_log` returns them."""
    return [finding for check in CHECKS for finding in check(entries)] if entries else []


def examine_images(images: Tensor) -> list[Finding]:
    """Return what is wrong with a batch of images.

    Args:
        images: (B, C, H, W), uint8 in 0 … 255, or floating-point numbers in [−1, 1].
    """
    return [finding for check in IMAGE_CHECKS for finding in check(images)] if images.numel() else []


def examine_count(
    images: int, shape: Sequence[int] = (3, 1, 1), *, are_latents: bool = False, are_arrays: bool = False
) -> list[Finding]:
    """Return what is wrong with a number of images, latents or arrays to train on.

    Args:
        images: how many there are.
        shape: of each, which decides what helps.
        are_latents: whether they are latents.
        are_arrays: whether they are arrays, scaled by channel.
    """
    if images >= FEW:
        return []
    is_image = not (are_latents or are_arrays)
    flags = fitting(shape, are_latents=are_latents, are_arrays=are_arrays)
    return [
        Finding(
            "few images" if is_image else "few rows",
            f"{images}, which a network learns by heart and then returns",
            f"try {', '.join((*flags, 'more data', 'fewer --steps'))} or --class-conditional; compare "
            f"samples with the training data nearest to them{': alphabar report' if is_image else ''}",
        )
    ]


def _loss_rose(entries: Entries) -> Iterator[Finding]:
    losses = [float(entry["loss"]) for entry in entries]
    if len(losses) < 2 * LINES:
        return
    best = min(fmean(losses[at : at + LINES]) for at in range(len(losses) - 2 * LINES + 1))
    now = fmean(losses[-LINES:])
    if now > FACTOR * best:
        yield Finding(
            "the loss rose",
            f"{now:.3g} in the last {LINES} lines, and {best:.3g} at its best",
            "go on from an earlier checkpoint with a lower --learning-rate",
        )


def _norm_spiked(entries: Entries) -> Iterator[Finding]:
    *before, last = (entry.get("norm") for entry in entries[-2 * LINES - 1 :])
    known = [norm for norm in before if norm is not None]
    if last is None or (len(known) >= LINES and last > SPIKE * median(known)):
        usual = f", and {median(known):.3g} before" if known else ""
        yield Finding(
            "the gradient exploded",
            f"its norm is {'not finite' if last is None else f'{last:.3g}'}{usual}",
            "lower --learning-rate or --clip-norm, lengthen --warmup, or train in --precision float32",
        )


def _norm_is_zero(entries: Entries) -> Iterator[Finding]:
    if entries[-1].get("norm") == 0:
        yield Finding(
            "the network does not learn",
            "the norm of its gradient is 0",
            "let its output depend on parameters that require a gradient",
        )


def _averages_stand(entries: Entries) -> Iterator[Finding]:
    moved = entries[-1].get("moved")
    if moved and moved["network"] > MOVED and moved["averages"] == 0:
        yield Finding(
            "the averages stand still",
            f"the weights moved by {moved['network']:.2g} of their size, their averages by nothing",
            "lower --ema-decay: changes below the precision of the averages are lost",
        )


def _samples_drift(entries: Entries) -> Iterator[Finding]:
    """Three grids, each further from the data in the mean, and the last beyond the standard error."""
    grids = [entry["samples"] for entry in entries if "samples" in entry][-3:]
    pixels = entries[-1].get("pixels")
    if len(grids) < 3 or not pixels or "samples" not in entries[-1]:
        return
    off = [abs(grid["mean"] - pixels["mean"]) for grid in grids]
    allowed = max(0.1, ERRORS * pixels["spread"] / math.sqrt(grids[-1]["count"]))
    if off[0] < off[1] < off[2] and off[2] > allowed:
        yield Finding(
            "the samples drift",
            f"their mean is {grids[-1]['mean']:.2f}, of the data {pixels['mean']:.2f}, and each time further",
            "lower --learning-rate, or predict v_prediction in place of epsilon",
        )


CHECKS: tuple[Callable[[Entries], Iterator[Finding]], ...] = (
    *(_loss_rose, _norm_spiked, _norm_is_zero, _averages_stand, _samples_drift),
)


def _outside(images: Tensor) -> Iterator[Finding]:
    if images.is_floating_point() and not (images.abs() <= 1).all():
        low, high = float(images.min()), float(images.max())
        yield Finding(
            "images outside [−1, 1]",
            f"their values lie in {low:.3g} … {high:.3g}",
            "scale them by x = u / 127.5 − 1, u in 0 … 255",
        )


def _all_equal(images: Tensor) -> Iterator[Finding]:
    if len(images) > 1 and torch.equal(images, images[:1].expand_as(images)):
        yield Finding(
            "all images are equal",
            f"{len(images)} in one batch",
            "look at the data: the reader or the folder gives one image again and again",
        )


def _all_dark(images: Tensor) -> Iterator[Finding]:
    if images.dtype == torch.uint8 and int(images.max()) <= 1:
        yield Finding(
            "the images are black",
            f"their largest value is {int(images.max())} of 255",
            "give values of 0 … 255: those of 0 … 1 times 255",
        )


IMAGE_CHECKS: tuple[Callable[[Tensor], Iterator[Finding]], ...] = (_outside, _all_equal, _all_dark)
