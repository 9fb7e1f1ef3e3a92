"""A residual perceptron for vectors: each block scaled and shifted by t and the label.

h ← h + W₂ SiLU(W₁ ((1 + scale) · norm(h) + shift))
"""

from __future__ import annotations

from torch import Tensor, nn

from alphabar.denoise.nets._parts import Embedding, check_input, zeroed

__all__ = ["MLP"]

BLOCKS = 4


class MLP(nn.Module):
    """A residual perceptron, called as ``network(x, t, class_labels)`` with x (B, C) and t (B,).

    Args:
        shape: (C,).
        classes: how many labels it takes, beside "no label"; 0: none.
        out_channels: of its answer, (B, out_channels).
        width: of its hidden layers.
    """

    def __init__(self, shape: tuple[int, ...], *, classes: int, out_channels: int, width: int) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = Embedding(width, classes)
        self.enter = nn.Linear(shape[0], width)
        self.blocks = nn.ModuleList(_Block(width) for _ in range(BLOCKS))
        self.leave = nn.Sequential(nn.LayerNorm(width), nn.SiLU(), zeroed(nn.Linear(width, out_channels)))

    def forward(
        self, x: Tensor, t: Tensor, class_labels: Tensor | None = None, embedding: Tensor | None = None
    ) -> Tensor:
        """Return (B, out_channels)."""
        check_input(x, self.shape, t)
        told, h = self.embedding(t, class_labels, embedding), self.enter(x)
        for block in self.blocks:
            h = block(h, told)
        answer: Tensor = self.leave(h)
        return answer


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))
        self.change = nn.Sequential(
            nn.Linear(width, 2 * width), nn.SiLU(), zeroed(nn.Linear(2 * width, width))
        )

    def forward(self, h: Tensor, told: Tensor) -> Tensor:
        scale, shift = self.modulation(told).chunk(2, dim=1)
        changed: Tensor = h + self.change(self.norm(h) * (1 + scale) + shift)
        return changed
