"""Augmentation: images changed at random, each by numbers of its own, so that few images last longer.

    crop       a square window of side s, F ≤ s ≤ 1, at a random place, resized back
    flip       every other image mirrored
    jitter     u → b·u,  u → c·(u − ū) + ū,  u → s·(u − l) + l,  in that order; b, c, s in 1 − S … 1 + S

with u = (x + 1)/2 in [0, 1], l the luminance of a pixel (ITU-R BT.601) and ū its mean over the image. Every
number has an address (seed, number of the image, purpose), so an image is changed alike in any batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  its usual name

from alphabar.errors import ConfigError
from alphabar.training import streams

__all__ = ["AUGMENTATIONS", "augmented", "check_augmentations", "crop", "fitting", "flip", "jitter"]

LUMINANCE = (0.299, 0.587, 0.114)  # of red, green and blue: ITU-R BT.601


def crop(x: Tensor, least: float, side: Tensor, top: Tensor, left: Tensor) -> Tensor:
    """Return a window of each image, resized to the whole by linear interpolation between pixels.

    A window is never larger than the image, so that resizing it adds no aliasing.

    Args:
        x: (B, C, H, W).
        least: F, the least side of a window, as a share of the image's, in (0, 1].
        side: (B,) in [0, 1]: 0 for a window of side F, 1 for the whole image.
        top: (B,) in [0, 1]: where it lies between the upper end and the lower end.
        left: (B,) the same, between left and right.
    """
    share = least + (1 - least) * side
    motion = x.new_zeros(len(x), 2, 3)  # from places of the result to those of the image, both in −1 … 1
    motion[:, 0, 0] = motion[:, 1, 1] = share
    motion[:, 0, 2] = (1 - share) * (2 * left - 1)
    motion[:, 1, 2] = (1 - share) * (2 * top - 1)
    places = F.affine_grid(motion, list(x.shape), align_corners=False)
    return F.grid_sample(x, places, padding_mode="border", align_corners=False)


def flip(x: Tensor, chosen: Tensor) -> Tensor:
    """Return images (B, …, W), left and right exchanged where a number in [0, 1], (B,), is at most ½."""
    return torch.where(_spread(chosen <= 0.5, x), x.flip(-1), x)


def jitter(x: Tensor, most: float, brightness: Tensor, contrast: Tensor, saturation: Tensor) -> Tensor:
    """Return images of other brightness, contrast and saturation, clipped to [−1, 1].

    Args:
        x: (B, C, H, W) in [−1, 1], C = 1 for grey or 3 for RGB.
        most: S, the furthest that a factor lies from 1, in [0, 1].
        brightness: (B,) in [0, 1], for a factor of 1 − S … 1 + S.
        contrast: (B,) the same.
        saturation: (B,) the same; grey images have none.
    """
    b, c, s = (_spread(1 + most * (2 * each - 1), x) for each in (brightness, contrast, saturation))
    u = b * (x + 1) / 2
    mean = _luminance(u).mean((1, 2, 3), keepdim=True, dtype=torch.float64)  # the same in any order of sums
    u = torch.lerp(mean.to(u.dtype), u, c)
    u = torch.lerp(_luminance(u), u, s)
    return u.mul(2).sub(1).clamp(-1, 1)


def _luminance(u: Tensor) -> Tensor:
    """Return (B, 1, H, W)."""
    if u.shape[1] == 1:
        return u
    red, green, blue = (weight * u[:, i : i + 1] for i, weight in enumerate(LUMINANCE))
    return red + green + blue


def _spread(values: Tensor, x: Tensor) -> Tensor:
    """Return (B,) values as (B, 1, …), so that they broadcast over images."""
    return values.view(-1, *(1 for _ in x.shape[1:]))


class Augmentation(NamedTuple):
    """How a setting changes images."""

    nothing: float
    """The amount that leaves them as they are."""
    least: float
    most: float
    flag: str
    """On the command line, with a usual amount."""
    streams: tuple[int, ...]
    """Of the numbers that it takes for each image."""
    apply: Callable[..., Tensor]
    """Called with images, the amount, and (B,) numbers of each stream."""
    channels: frozenset[int] = frozenset()
    """The only numbers of channels that it has a meaning for; empty where for any."""
    in_colour: bool = False
    """Whether it changes values where they are, in place of moving them."""

    def refusal(self, shape: Sequence[int], *, are_latents: bool, are_arrays: bool) -> str:
        """Return why it has no meaning for data; empty where it has one."""
        if are_latents:
            return "is for images, and the data are latents"
        if are_arrays and self.in_colour:
            return "is for images, and the data are arrays"
        if len(shape) != 3 or (self.channels and shape[0] not in self.channels):
            form = f"({' or '.join(map(str, sorted(self.channels))) or 'C'}, H, W)"
            kinds = "images" if self.in_colour else "images and fields"
            return f"is for {kinds} {form}, and the data are {tuple(shape)}"
        return ""


AUGMENTATIONS: dict[str, Augmentation] = {
    "crop": Augmentation(
        *(1.0, 0.1, 1.0, "--crop 0.8", (streams.CROP_SIDE, streams.CROP_TOP, streams.CROP_LEFT), crop)
    ),
    "flip": Augmentation(
        *(False, False, True, "--flip", (streams.FLIP,), lambda x, is_on, chosen: flip(x, chosen))
    ),
    "jitter": Augmentation(
        *(0.0, 0.0, 1.0, "--jitter 0.1"),
        *((streams.BRIGHTNESS, streams.CONTRAST, streams.SATURATION), jitter),
        channels=frozenset({1, 3}),
        in_colour=True,
    ),
}
"""By the name of their setting, in the order in which they change an image."""


def augmented(x: Tensor, amounts: Any, uniform: Callable[[int], Tensor], *, in_colour: bool = True) -> Tensor:
    """Return images as the settings change them.

    Args:
        x: (B, C, H, W) in [−1, 1].
        amounts: settings with a field of each name, such as a :class:`~alphabar.training.TrainConfig`.
        uniform: returns the numbers of a stream, (B,) in [0, 1].
        in_colour: False for images that belong to those: they are moved alike, and keep their values.
    """
    for name, each in AUGMENTATIONS.items():
        amount = getattr(amounts, name)
        if amount != each.nothing and (in_colour or not each.in_colour):
            x = each.apply(x, amount, *map(uniform, each.streams))
    return x


def check_augmentations(
    amounts: Any,
    shape: Sequence[int] | None = None,
    *,
    are_latents: bool = False,
    are_arrays: bool = False,
) -> None:
    """Refuse an amount that is out of range, and one that has no meaning for the data.

    Args:
        amounts: as for :func:`augmented`.
        shape: of the data, where it is known: (C, H, W) of images.
        are_latents: whether they are latents, of which a mirrored or cropped one is that of no image.
        are_arrays: whether they are arrays, whose values have no colours to change.

    Raises:
        ConfigError: with the setting.
    """
    for name, each in AUGMENTATIONS.items():
        amount = getattr(amounts, name)
        if not each.least <= amount <= each.most:
            raise ConfigError(f"{name} is {amount!r}: it must lie in [{each.least}, {each.most}]")
        if shape is not None and amount != each.nothing:
            why = each.refusal(shape, are_latents=are_latents, are_arrays=are_arrays)
            if why:
                raise ConfigError(f"{name} {why}: leave it out")


def fitting(shape: Sequence[int], *, are_latents: bool = False, are_arrays: bool = False) -> list[str]:
    """Return the flags of the augmentations that have a meaning for data, each with a usual amount."""
    kind = {"are_latents": are_latents, "are_arrays": are_arrays}
    return [each.flag for each in AUGMENTATIONS.values() if not each.refusal(shape, **kind)]
