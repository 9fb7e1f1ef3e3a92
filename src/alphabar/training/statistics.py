"""Mean, deviation and range of each channel, in float64, in one pass over data that need not fit in memory.

    M_ab = M_a + M_b + (m_b − m_a)² · n_a n_b / (n_a + n_b)      M = Σ (x − m)²

Chan, Golub & LeVeque 1979, "Updating formulae and a pairwise algorithm for computing sample variances".
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from alphabar.denoise.scaling import Scaling
from alphabar.errors import DataError

__all__ = ["SCALINGS", "Rows", "ScalingWarning", "Statistics", "deviation", "measured", "scaling_of"]

AT_ONCE = 2**20  # numbers
LARGEST = 1e6  # that a scaled number may be


class ScalingWarning(UserWarning):
    """A channel that is the same everywhere, and teaches a network nothing."""


@runtime_checkable
class Rows(Protocol):
    """Numbers (N, C, …) of any type, of which each row can be read alone."""

    @property
    def block(self) -> int:
        """How many neighbours are best read together: 1 where each can be read alone."""

    @property
    def shape(self) -> torch.Size:
        """(N, C, …)."""

    def read(self, numbers: list[int]) -> Tensor:
        """Return some rows, (B, C, …), as they are stored."""


@dataclass(frozen=True, eq=False)
class Statistics:
    """What numbers of one or more rows are like, each (C,) float64.

    Args:
        count: numbers of each channel.
        mean: m.
        power: Σ (x − m)².
        least: of each channel.
        most: likewise.
    """

    count: int
    mean: Tensor
    power: Tensor
    least: Tensor
    most: Tensor

    @classmethod
    def of(cls, values: Tensor) -> Statistics:
        """Return those of (B, C, …), B ≥ 1."""
        channels = values.double().movedim(1, 0).flatten(1)
        least, most = channels.aminmax(dim=1)
        mean = channels.mean(1).clamp(least, most)  # exact where all are equal
        return cls(channels.shape[1], mean, (channels - mean[:, None]).square().sum(1), least, most)

    def __add__(self, other: Statistics) -> Statistics:
        count, apart = self.count + other.count, other.mean - self.mean
        return Statistics(
            count,
            self.mean + apart * (other.count / count),
            self.power + other.power + apart.square() * (self.count * (other.count / count)),
            torch.minimum(self.least, other.least),
            torch.maximum(self.most, other.most),
        )

    @property
    def std(self) -> Tensor:
        """√(Σ (x − m)² / n)."""
        return (self.power / self.count).sqrt()


def measured(
    rows: Rows, *, skip_broken: bool = False, progress: Callable[[range], Iterable[int]] = iter
) -> tuple[Statistics, list[int]]:
    """Return the statistics of all rows that are finite, and the numbers of the others.

    Args:
        rows: (N, C, …).
        skip_broken: leave out rows that hold a NaN or an infinity.
        progress: wraps the range of the blocks that are read.

    Raises:
        DataError: a number that is not finite, with its row; or none that is.
    """
    count, *shape = rows.shape
    block = max(1, AT_ONCE // math.prod(shape))
    found: list[Statistics] = []
    broken: list[int] = []
    for number in progress(range(-(-count // block))):
        first = number * block
        values = rows.read(list(range(first, min(first + block, count))))
        is_finite = values.isfinite().flatten(1).all(1)
        wrong = [first + place for place in (~is_finite).nonzero()[:, 0].tolist()]
        if wrong and not skip_broken:
            raise DataError(
                f"row {wrong[0]} holds a NaN or an infinity: repair it, or leave out such rows by "
                "skip_broken=True, --skip-broken"
            )
        broken += wrong
        if len(wrong) < len(values):
            found.append(Statistics.of(values[is_finite]))
    if not found:
        raise DataError(f"all of {count} rows hold a NaN or an infinity")
    return reduce(add, found), broken


def _by_variance(of: Statistics) -> tuple[Tensor, Tensor]:
    """Mean 0 and variance 1."""
    return of.mean, of.std


def _by_range(of: Statistics) -> tuple[Tensor, Tensor]:
    """Values in −1 … 1."""
    return of.least / 2 + of.most / 2, of.most / 2 - of.least / 2


SCALINGS: dict[str, Callable[[Statistics], tuple[Tensor, Tensor]]] = {
    "variance": _by_variance,
    "range": _by_range,
    "none": lambda of: (torch.zeros_like(of.mean), torch.ones_like(of.mean)),
}
"""What each channel is scaled to, by name: shift and deviation, of which the scale is the inverse."""


def deviation(statistics: Statistics, scaling: Scaling) -> float:
    """Return the standard deviation of scaled data to four digits: √ of the mean variance of their channels.

    Channels that are the same everywhere do not count; 1 where all are.
    """
    moves = statistics.least < statistics.most
    scaled = (statistics.std * torch.tensor(scaling.scale, dtype=torch.float64))[moves]
    return float(f"{scaled.square().mean().sqrt():.4g}") if moves.any() else 1.0


def scaling_of(statistics: Statistics, name: str = "variance") -> Scaling:
    """Return the scaling of data, a name in ``SCALINGS``.

    Raises:
        DataError: numbers so large, or so near each other, that they cannot be scaled.

    Warns:
        ScalingWarning: a channel that is the same everywhere; its scale is 1.
    """
    shift, deviation = SCALINGS[name](statistics)
    is_constant = statistics.least == statistics.most
    deviation = torch.where(is_constant, 1.0, deviation)
    scale = 1 / deviation
    largest = torch.maximum((statistics.most - shift).abs(), (statistics.least - shift).abs()) * scale
    if not (scale.isfinite() & (scale > 0) & (largest < LARGEST)).all():
        low, high = float(statistics.least.min()), float(statistics.most.max())
        raise DataError(f"the values lie in {low:g} … {high:g} and cannot be scaled: give them another unit")
    if is_constant.any():
        some = ", ".join(map(str, is_constant.nonzero()[:, 0].tolist()[:10]))
        warnings.warn(
            f"{int(is_constant.sum())} of {len(shift)} channels are the same in all rows: {some}",
            ScalingWarning,
            stacklevel=3,
        )
    return Scaling(tuple(shift.tolist()), tuple(scale.tolist()))
