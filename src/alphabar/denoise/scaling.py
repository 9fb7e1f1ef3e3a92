"""Scaling of arrays, for each channel: z = s · (x − m) is trained on, x = z/s + m is returned.

Images need none: theirs is fixed, x / 127.5 − 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from alphabar.errors import CheckpointError, ShapeError

__all__ = ["Scaling"]

COARSE = 1e-4  # of a deviation, which samples may lose to rounding
EPS = torch.finfo(torch.float32).eps


@dataclass(frozen=True)
class Scaling:
    """Shift and scale of each channel, in the units of the data.

    >>> scaling = Scaling(shift=(5.0,), scale=(0.5,))
    >>> scaling(torch.tensor([[7.0]])), scaling.invert(torch.tensor([[1.0]]))
    (tensor([[1.]]), tensor([[7.]]))

    Args:
        shift: m, one a channel.
        scale: s, likewise, positive.
    """

    shift: tuple[float, ...]
    scale: tuple[float, ...]

    @classmethod
    def described(cls, record: Any, channels: int) -> Scaling:
        """Return what a file keeps as JSON values, of data with so many channels.

        Raises:
            CheckpointError: what no scaling can be.
        """
        numbers = [record.get(name) if isinstance(record, dict) else None for name in ("shift", "scale")]
        for each in numbers:
            is_list = isinstance(each, list) and len(each) == channels
            if not is_list or not all(isinstance(n, (int, float)) and math.isfinite(n) for n in each or ()):
                raise CheckpointError(
                    f"scaling is {record!s:.80}: expected shift and scale, each {channels} finite numbers"
                )
        shift, scale = (tuple(map(float, each or ())) for each in numbers)
        if min(scale) <= 0:
            raise CheckpointError(f"scaling has a scale of {min(scale)}: it must be positive")
        return cls(shift, scale)

    def record(self) -> Mapping[str, list[float]]:
        """Return it as JSON values."""
        return {name: list(numbers) for name, numbers in asdict(self).items()}

    def __call__(self, x: Tensor) -> Tensor:
        """Return z = s · (x − m) in float32, computed in float64, of data (B, C, …) of any type.

        Raises:
            ShapeError: another number of channels.
        """
        shift, scale = self._spread(x)
        return ((x.double() - shift) * scale).float()

    def invert(self, z: Tensor) -> Tensor:
        """Return x = z/s + m, computed in float64; in float32, unless that is too coarse beside 1/s.

        Args:
            z: (B, C, …) samples.

        Raises:
            ShapeError: another number of channels.
        """
        shift, scale = self._spread(z)
        x = z.double() / scale + shift
        return x if float((shift * scale).abs().max()) * EPS > COARSE else x.float()

    def _spread(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return shift and scale so that they broadcast over (B, C, …)."""
        if x.ndim < 2 or x.shape[1] != len(self.shift):
            raise ShapeError(f"the data have shape {tuple(x.shape)}: expected (B, {len(self.shift)}, …)")
        form = (-1, *(1 for _ in x.shape[2:]))
        numbers = torch.tensor([self.shift, self.scale], dtype=torch.float64, device=x.device)
        return numbers[0].view(form), numbers[1].view(form)
