"""Averaged parameters: θ̄ ← θ̄ + (1 − d)(θ − θ̄), the network one samples from.

A walk with a constant rate never settles; its average does. Early on the average follows quickly, so that
the random start is forgotten: d = min(decay, (1 + n)/(10 + n)) at update n.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from alphabar.errors import ConfigError

__all__ = ["EMA"]


class EMA:
    """An exponential moving average of parameters.

    Args:
        parameters: what is averaged; kept by reference.
        decay: the largest d, in [0, 1).

    Raises:
        ConfigError: decay outside [0, 1).
    """

    def __init__(self, parameters: Iterable[nn.Parameter], decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise ConfigError(f"decay is {decay!r}: it must lie in [0, 1), where 0 keeps no average")
        self.decay = decay
        self.updates = 0
        self._live: list[Tensor] = [parameter.detach() for parameter in parameters]
        self._mean: list[Tensor] = [parameter.clone() for parameter in self._live]

    @torch.no_grad()
    def update(self) -> None:
        """Take the parameters as they are now into the average."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self._mean, self._live, 1 - decay)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within the block, the parameters are their averages."""
        held = [parameter.clone() for parameter in self._live]
        self._set(self._mean)
        try:
            yield
        finally:
            self._set(held)

    @torch.no_grad()
    def _set(self, values: list[Tensor]) -> None:
        torch._foreach_copy_(self._live, values)
