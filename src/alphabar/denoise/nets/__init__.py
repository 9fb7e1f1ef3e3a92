"""Networks by name, for data of any shape, each called as ``network(x, t, class_labels=None)``.

    mlp        (C,)                    a residual perceptron
    unet_1d    (C, L)                  a U-Net
    unet_2d    (C, H, W)               the same in two dimensions, for any H and W
    unet_3d    (C, D, H, W)            the same in three
    dit        (C, L) … (C, D, H, W)   a transformer of patches

``t`` is (B,), int64 or float32; or, except of ``mlp``, (B, 1, …) that broadcasts over the sides of x, a t for
each place, and what joins places, as a patch does, is told the mean of their embeddings. ``class_labels`` is
(B,), where the last label stands for "no label". Another condition goes in as ``embedding``, (B,
``network.embedding.width``). One number, the width, scales each. A run keeps name and width, and so is opened
without foreign code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import nn

from alphabar.denoise.nets.dit import DiT, patch_of
from alphabar.denoise.nets.mlp import MLP
from alphabar.denoise.nets.unet import UNet
from alphabar.errors import ConfigError, look_up

__all__ = ["NETS", "Net", "build", "check_width", "one_place"]

WIDEST = 2**14


def one_place(sides: Sequence[int]) -> tuple[int, ...]:
    """Return the sides of one place along the first side: of a sequence a place, of a video a frame."""
    return (1, *sides[1:])


def _patch(sides: Sequence[int]) -> tuple[int, ...]:
    return (patch_of(sides),) * len(sides)


class Net(NamedTuple):
    """One of the networks."""

    make: Callable[..., nn.Module]
    """``make(shape, classes=K, out_channels=N, width=W)``."""
    dimensions: tuple[int, ...]
    """How many the data may have, beside the channels."""
    width: int
    """By default."""
    token: Callable[[Sequence[int]], tuple[int, ...]] | None = None
    """Of the sides of the data, the sides of a token, where each may have a t of its own in training."""

    @property
    def shapes(self) -> str:
        """The shapes of data that it takes, in words."""
        names = ("(C,)", "(C, L)", "(C, H, W)", "(C, D, H, W)")
        return " or ".join(names[dimensions] for dimensions in self.dimensions)


NETS = {
    "mlp": Net(MLP, (0,), 256),
    "unet_1d": Net(UNet, (1,), 32, one_place),
    "unet_2d": Net(UNet, (2,), 64),
    "unet_3d": Net(UNet, (3,), 32, one_place),
    "dit": Net(DiT, (1, 2, 3), 192, _patch),
}


def build(
    name: str, shape: tuple[int, ...], *, classes: int = 0, out_channels: int, width: int | None = None
) -> nn.Module:
    """Return a new network of the table, its parameters drawn from torch's own generator.

    >>> sum(parameter.numel() for parameter in build("mlp", (2,), out_channels=2, width=32).parameters())
    30626

    Args:
        name: in :data:`NETS`.
        shape: of the data, without the batch.
        classes: how many labels it takes, beside "no label"; 0: none.
        out_channels: of its answer.
        width: a multiple of 8, up to 16,384; by default as the table says.

    Raises:
        UnknownNameError: another name.
        ConfigError: data of another number of dimensions, or another width.
    """
    net = look_up(NETS, name, "network")
    if len(shape) - 1 not in net.dimensions:
        others = " or ".join(other for other, each in NETS.items() if len(shape) - 1 in each.dimensions)
        raise ConfigError(
            f"network is {name!r}, for data of shape {net.shapes}, and these have {tuple(shape)}: choose "
            f"{others or 'one of your own'}"
        )
    width = net.width if width is None else width
    check_width(width)
    return net.make(tuple(shape), classes=classes, out_channels=out_channels, width=width)


def check_width(width: int) -> None:
    """Require a multiple of 8 in 8 … 16,384.

    Raises:
        ConfigError: anything else.
    """
    if type(width) is not int or not 8 <= width <= WIDEST or width % 8:
        raise ConfigError(f"width is {width!r}: it must be a multiple of 8, at most {WIDEST}")
