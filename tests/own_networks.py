"""Networks of one's own, as a user would write them, and some that break the contract."""

import torch
from torch import nn


class Transformer(nn.Module):
    """A small DiT: patches of 2×2 as tokens, t and the label as scale and shift of each block."""

    def __init__(self, shape, *, classes, out_channels, width=16):
        super().__init__()
        channels, height, width_ = shape
        self.grid = (height // 2, width_ // 2)
        places = torch.randn(1, self.grid[0] * self.grid[1], width)
        self.places = nn.Parameter(places, requires_grad=False)  # as DiT has it
        self.register_buffer("frequencies", torch.logspace(0, -4, width // 2), persistent=False)
        self.into = nn.Linear(4 * channels, width)
        self.label = nn.Embedding(classes + 1, width) if classes else None
        self.modulate = nn.Linear(width, 2 * width)
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True, dropout=0.1)
        self.norm, self.out = nn.LayerNorm(width), nn.Linear(width, 4 * out_channels)

    def forward(self, x, t, class_labels=None):
        angles = t[:, None] * self.frequencies
        told = torch.cat([angles.sin(), angles.cos()], dim=1)
        if self.label is not None:
            told = told + self.label(class_labels)
        tokens = self.into(nn.functional.pixel_unshuffle(x, 2).flatten(2).mT) + self.places
        scale, shift = self.modulate(told)[:, None].chunk(2, dim=-1)
        attended = self.norm(tokens) * (1 + scale) + shift
        tokens = tokens + self.attention(attended, attended, attended, need_weights=False)[0]
        return nn.functional.pixel_shuffle(self.out(tokens).mT.unflatten(2, self.grid), 2)


class Perceptron(nn.Module):
    """Two layers with one matrix, forwards and transposed, under two names."""

    def __init__(self, shape, classes, out_channels):
        super().__init__()
        size = torch.Size(shape).numel()
        self.first, self.second = nn.Linear(size, size), nn.Linear(size, size)
        self.second.weight = self.first.weight
        self.last = nn.Linear(size, out_channels * size // shape[0])
        self.out_shape = (out_channels, *shape[1:])

    def forward(self, x, t):
        hidden = torch.tanh(self.second(torch.tanh(self.first(x.flatten(1)))))
        return self.last(hidden + t[:, None] / 1000).unflatten(1, self.out_shape)


def wide(shape, *, classes, out_channels):
    return Transformer(shape, classes=classes, out_channels=out_channels, width=32)


number = 7


def nothing(shape, *, classes, out_channels):
    """Return no network."""


def other_arguments(channels):
    return nn.Conv2d(channels, channels, 1)


def without_labels(shape, *, classes, out_channels):
    return Perceptron(shape, classes, out_channels)


def pixels(images):
    """Return features, by which samples are scored."""
    return images.flatten(1).float()


def flat(shape, *, classes, out_channels):
    """Return one that answers in another shape."""

    class Flat(Perceptron):
        def forward(self, x, t):
            return super().forward(x, t).flatten(1)

    return Flat(shape, classes, out_channels)


class Told(nn.Module):
    """Σ over the conditions of a linear function of the code, plus what it makes of x; of images the mean."""

    def __init__(self, shape, *, classes, out_channels, conditions=None):
        super().__init__()
        self.names = sorted(conditions or {})
        size = out_channels * torch.Size(shape[1:]).numel()
        sizes = [torch.Size(conditions[name]).numel() for name in self.names]
        self.told = nn.ModuleList(nn.Linear(entries, size, bias=False) for entries in sizes)
        self.bias, self.out_shape = nn.Parameter(torch.zeros(size)), (out_channels, *shape[1:])

    def forward(self, x, t, class_labels=None, **conditions):
        assert sorted(conditions) == self.names
        parts = (made(conditions[name].flatten(1)) for name, made in zip(self.names, self.told, strict=True))
        return (sum(parts, self.bias.expand(len(x), -1))).unflatten(1, self.out_shape)
