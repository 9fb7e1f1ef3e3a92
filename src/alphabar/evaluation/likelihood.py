r"""How probable data are under a denoiser, in bits a dimension: what its two estimates have in common.

    −log₂ P(x_0) / D    of 8-bit images in [−1, 1], 256 values a dimension
    −log₂ p(x_0) / D    of other data: their density

:mod:`~alphabar.evaluation.bound` bounds it for ancestral sampling, :mod:`~alphabar.evaluation.flow` follows
the probability flow. Noise is addressed by (seed, sample), on streams that neither training nor sampling
draws from: an image counts the same in any batch, to the rounding of the network.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import torch
from torch import Tensor

from alphabar.checks import check_float
from alphabar.denoise import ClassifierFree, ClassifierGuided, Denoise, Estimate
from alphabar.errors import ConfigError, DataError, NoAnswerError, ShapeError
from alphabar.kernels import all_finite, work_dtype

__all__ = ["BIN", "STREAM", "Bits", "checked_data", "estimated", "joined"]

STREAM = 3 << 30  # the first: sampling draws from 0 upwards, training from 2³⁰, inpainting from 2³¹
BIN = 2 / 255  # from one of the 256 values in [−1, 1] to the next
OFF = 0.01  # of a bin, more than the rounding of float32 and less than any real distance
CONFIDENCE = 1.96  # standard errors, for 95 %


@dataclass(frozen=True, eq=False)
class Bits:
    """An estimate of −log₂ P(x_0)/D for each of some images, and of their mean."""

    each: Tensor
    """(N,) float64."""

    @property
    def total(self) -> float:
        """The mean over the images."""
        return float(self.each.mean())

    @property
    def standard_error(self) -> float:
        """Of the mean, by the scatter of the images and of what is drawn for each; ∞ for a single one."""
        return float(self.each.std()) / math.sqrt(len(self.each)) if len(self.each) > 1 else math.inf

    @property
    def interval(self) -> tuple[float, float]:
        """Where the mean over all data lies with 95 % confidence."""
        margin = CONFIDENCE * self.standard_error
        return self.total - margin, self.total + margin


Part = TypeVar("Part", bound=Bits)


def joined(parts: Sequence[Part]) -> Part:
    """Return the estimates of several batches as one.

    Args:
        parts: of different images (``first``), all else the same.

    Raises:
        ConfigError: no parts, or parts of other settings.
    """
    if not parts:
        raise ConfigError("parts is empty: give the estimate of at least one batch")
    columns = [[getattr(part, each.name) for part in parts] for each in fields(parts[0])]
    for values in columns:
        if not isinstance(values[0], Tensor) and any(value != values[0] for value in values):
            raise ConfigError(f"parts of different settings: {values!s:.200}")
    return type(parts[0])(*(torch.cat(v) if isinstance(v[0], Tensor) else v[0] for v in columns))


def checked_data(denoiser: Denoise, x_0: Tensor, *, discrete: bool) -> Tensor:
    """Return x_0 in float64, if it is data that the denoiser has a likelihood of.

    Args:
        denoiser: what estimates x_0.
        x_0: (B, …) clean data.
        discrete: whether they are 8-bit.

    Raises:
        ConfigError: a guided denoiser, whose answers belong to no distribution of data.
        ShapeError, DtypeError: x_0 that is no batch, or not of floating point.
        DataError: values that are not finite, or where ``discrete`` none of the 256.
    """
    inner: Any = denoiser
    while inner is not None:
        if isinstance(inner, ClassifierGuided) or (isinstance(inner, ClassifierFree) and inner.scale != 1):
            raise ConfigError(
                f"the denoiser is guided by {type(inner).__name__}: its answers are the means of no "
                "distribution of data, so it has no likelihood. Take the denoiser inside"
            )
        inner = getattr(inner, "denoiser", None)
    check_float(x_0=x_0)
    if x_0.ndim < 2 or not x_0.numel():
        raise ShapeError(f"x_0 has shape {tuple(x_0.shape)}: give a batch of samples, (B, …), none of size 0")
    if not all_finite(x_0):
        raise DataError("x_0 holds NaN or infinity: give finite data")
    data = x_0.to(work_dtype(x_0.device))
    if discrete:
        _check_values(data)
    return data


def _check_values(x_0: Tensor) -> None:
    places = (x_0 + 1) / BIN
    off = (places - places.round().clamp(0, 255)).abs()
    if off.max() > OFF:
        wrong = float(x_0.flatten()[off.flatten().argmax()])
        raise DataError(
            f"x_0 holds {wrong:.6g}, which is none of the 256 values -1, -1 + 2/255, … 1 of 8-bit images: "
            "scale them by x = images / 127.5 - 1, or ask for the density of other data by discrete=False"
        )


def estimated(denoiser: Denoise, x_t: Tensor, t: float) -> Estimate:
    """Return what a denoiser says at (x_t, t), (B, …).

    Raises:
        ShapeError: an answer of another shape.
        NoAnswerError: one that is not finite.
    """
    found = denoiser(x_t, t)
    if found.x_0.shape != x_t.shape:
        raise ShapeError(
            f"the denoiser returned {tuple(found.x_0.shape)} for x_t of {tuple(x_t.shape)} at t = {t}: it "
            "must return the shape of x_t"
        )
    if not all(all_finite(part.detach()) for part in found if part is not None):
        raise NoAnswerError(
            f"the denoiser returned NaN or infinity at t = {t}: check the network's weights, its precision, "
            "and that prediction and schedule are those it was trained with"
        )
    return found
