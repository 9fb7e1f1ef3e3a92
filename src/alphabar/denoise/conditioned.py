"""Networks that take conditions beside x_t and t, as :mod:`alphabar.denoise.conditions` codes them.

    input      (x_t, images)                       along the channels
    embedding  embedding of t + label + Σ MLP(code)   over numbers, vectors and embeddings

The mean over its S tokens stands for an embedding (S, E). Labels and any number of conditions work together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from alphabar.denoise.conditions import Condition
from alphabar.errors import ConfigError, ShapeError

__all__ = ["Conditioned", "Conditioning"]


class Conditioning(nn.Module):
    """What conditions add to the input of a network and to its embedding.

    Args:
        shapes: of one code of each condition, by name: (k + 1,), (S, E + 1) or (C + 1, …).
        width: of the embedding.
        images: the names of those that join the input.
    """

    def __init__(self, shapes: Mapping[str, Sequence[int]], width: int, images: Sequence[str] = ()) -> None:
        super().__init__()
        self.shapes = {name: tuple(shapes[name]) for name in sorted(shapes)}  # as files order them
        self.width = width
        self.images = sorted(images)
        self.told = [name for name in self.shapes if name not in images]
        self.embed = nn.ModuleList(
            nn.Sequential(nn.Linear(self.shapes[name][-1], width), nn.SiLU(), nn.Linear(width, width))
            for name in self.told
        )

    @property
    def channels(self) -> int:
        """How many the input gains."""
        return sum(self.shapes[name][0] for name in self.images)

    def forward(self, x: Tensor, given: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the input with its further channels, and the embedding of all others, (B, width).

        Raises:
            ConfigError: conditions of other names.
            ShapeError: codes of another shape.
        """
        self._check(x, given)
        codes = {name: code.to(x.dtype) for name, code in given.items()}
        embedding = x.new_zeros(x.shape[0], self.width)
        for name, embed in zip(self.told, self.embed, strict=True):
            added = embed(codes[name])
            embedding = embedding + (added.mean(1) if added.ndim > embedding.ndim else added)
        return torch.cat([x, *(codes[name] for name in self.images)], 1), embedding

    def _check(self, x: Tensor, given: Mapping[str, Tensor]) -> None:
        if given.keys() != self.shapes.keys():
            found = ", ".join(given) or "none"
            raise ConfigError(
                f"the network was given the conditions {found}: expected {', '.join(self.shapes)}"
            )
        for name, shape in self.shapes.items():
            if tuple(given[name].shape) != (x.shape[0], *shape):
                raise ShapeError(
                    f"condition {name} has shape {tuple(given[name].shape)}: expected its code, "
                    f"{(x.shape[0], *shape)}, as Condition.code returns it"
                )


class Conditioned(nn.Module):
    """A network that takes an embedding, given conditions: ``network(x, t, class_labels, name=code, …)``.

    Args:
        make: builds the network, as those of :data:`alphabar.denoise.nets.NETS` are built: called with
            (x_t, images), t, class_labels and an embedding (B, ``network.embedding.width``).
        conditions: what it is told, by name.
        shape: of x_t alone, without the batch.
        options: of ``make``, beside the shape.
    """

    def __init__(
        self,
        make: Callable[..., Any],
        conditions: Mapping[str, Condition],
        shape: Sequence[int],
        **options: Any,
    ) -> None:
        super().__init__()
        shapes = {name: condition.code_shape for name, condition in conditions.items()}
        images = [name for name, condition in conditions.items() if condition.kind == "image"]
        channels = sum(shapes[name][0] for name in images)
        self.network = make((shape[0] + channels, *shape[1:]), **options)
        self.conditioning = Conditioning(shapes, self.network.embedding.width, images)

    def forward(self, x: Tensor, t: Tensor, class_labels: Tensor | None = None, **conditions: Tensor) -> Any:
        """Return what the network says of x (B, C, …) at t (B,)."""
        given, embedding = self.conditioning(x, conditions)
        return self.network(given, t, class_labels, embedding)
