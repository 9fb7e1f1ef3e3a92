r"""How far a score may be off: the block jackknife, for samples and reference alike.

A score of two sets is computed again with each of B blocks of one set left out, θ_(j). Its standard error is

    s² = (B − 1)/B · Σ_j (θ_(j) − θ̄)²

(Efron & Stein 1981, equation 1.4, with blocks in place of single vectors). The errors of the two sets add in
squares, since they were drawn independently. Leaving out is used in place of drawing with replacement, as the
latter repeats vectors, which raises a Fréchet distance by itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import torch
from torch import Tensor

from alphabar.errors import ShapeError

__all__ = ["BLOCKS", "Interval", "Without", "check_sets", "interval_of", "shuffled_blocks", "wilson"]

BLOCKS = 10
QUANTILE = 2.262  # of Student's distribution with BLOCKS − 1 degrees of freedom, at .975

Without = Callable[["int | None", "int | None"], float]
"""Returns a score with this block of the samples and this block of the reference left out, or none."""


@dataclass(frozen=True)
class Interval:
    """A score and its standard errors."""

    value: float
    samples_error: float
    """By the choice of the samples."""
    reference_error: float
    """By the choice of the reference."""
    bounds: tuple[float, float] = (-math.inf, math.inf)
    """Between which every such score lies."""

    @property
    def half_width(self) -> float:
        """Half the width of the 95 % interval."""
        return QUANTILE * math.hypot(self.samples_error, self.reference_error)

    @property
    def low(self) -> float:
        """The lower end of the 95 % interval."""
        return max(self.bounds[0], self.value - self.half_width)

    @property
    def high(self) -> float:
        """The upper end of the 95 % interval."""
        return min(self.bounds[1], self.value + self.half_width)

    @classmethod
    def over_seeds(cls, intervals: Sequence[Interval]) -> Interval:
        """Return the mean over several seeds, each scored against the same reference.

        The error by the choice of the samples is the larger one of what the seeds show between them and what
        the jackknife shows within each.
        """
        count = len(intervals)
        within = math.sqrt(fmean(each.samples_error**2 for each in intervals))
        between = stdev(each.value for each in intervals) if count > 1 else 0.0
        return cls(
            fmean(each.value for each in intervals),
            max(within, between) / math.sqrt(count),
            fmean(each.reference_error for each in intervals),
            intervals[0].bounds,
        )

    def differs_from(self, other: Interval, *, same_reference: bool) -> bool:
        """Return whether the difference of two scores exceeds its noise, at 5 %.

        Args:
            other: of other samples.
            same_reference: whether both were scored against the same images, whose choice then moves both.
        """
        errors = [self.samples_error, other.samples_error]
        if not same_reference:
            errors += [self.reference_error, other.reference_error]
        return abs(self.value - other.value) > QUANTILE * math.hypot(*errors)


def interval_of(score: Without, bounds: tuple[float, float] = (-math.inf, math.inf)) -> Interval:
    """Return a score that lies in these bounds with its standard errors by the jackknife."""
    return Interval(
        score(None, None),
        _error([score(block, None) for block in range(BLOCKS)]),
        _error([score(None, block) for block in range(BLOCKS)]),
        bounds,
    )


def _error(scores: Sequence[float]) -> float:
    mean = fmean(scores)
    return math.sqrt((BLOCKS - 1) / BLOCKS * sum((score - mean) ** 2 for score in scores))


def wilson(count: int, of: int) -> tuple[float, float]:
    """Return the 95 % interval of a share of independent events (Wilson 1927), also where it is 0 or 1."""
    z, share = 1.96, count / of
    middle = (share + z**2 / (2 * of)) / (1 + z**2 / of)
    half = z * math.sqrt(share * (1 - share) / of + z**2 / (4 * of**2)) / (1 + z**2 / of)
    return max(0.0, middle - half), min(1.0, middle + half)


def shuffled_blocks(count: int) -> list[Tensor]:
    """Return the numbers 0 … count−1 in BLOCKS parts, shuffled the same way each time.

    Samples often go through the classes in turn, and data lie class by class.
    """
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    return list(order.tensor_split(BLOCKS))


def check_sets(samples: Tensor, reference: Tensor) -> None:
    """Refuse sets of vectors that cannot be compared, or are too few for an interval.

    Args:
        samples: (N, D).
        reference: (M, D).

    Raises:
        ShapeError: fewer than two vectors a block, or vectors of different lengths.
    """
    least = 2 * BLOCKS
    if samples.ndim != 2 or reference.ndim != 2 or samples.shape[1] != reference.shape[1]:
        raise ShapeError(
            f"features of {tuple(samples.shape)} and {tuple(reference.shape)}: expected (N, D) and (M, D)"
        )
    if min(len(samples), len(reference)) < least:
        raise ShapeError(
            f"{len(samples)} samples and {len(reference)} of reference: give at least {least} of each"
        )
