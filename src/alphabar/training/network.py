"""The network of a training: by name, or chosen by the shape of the data, and sized."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from alphabar.denoise.conditions import Condition
from alphabar.denoise.factories import Factory
from alphabar.denoise.nets import NETS, one_place
from alphabar.errors import ConfigError, MissingExtraError
from alphabar.training.config import AUTO, GIVEN, TOKEN, UNET, TrainConfig
from alphabar.training.objective import VARIANCES

__all__ = ["as_begun", "factory_of", "new_network", "sized", "token_of", "unet"]

OURS_2D = "unet_2d"
SMALL = 16  # images of at most so many pixels a side cost either network little
CHOICES = ("mlp", "unet_1d", UNET, "unet_3d")
"""What "auto" stands for, by the number of dimensions beside the channels."""

WIDTHS: dict[int, tuple[int, ...]] = {
    8: (32, 64),
    16: (32, 64, 128),
    32: (64, 128, 128),
    64: (64, 128, 256, 256),
    128: (64, 128, 128, 256, 256),
}
"""Channels of each level, by the largest image they are meant for; larger images take the last row."""

SHORT = {0.25: 900, 0.5: 3600}
"""Of those channels, the share that a short training on a CPU takes, and up to how many seconds at 28×28.

Elsewhere seconds count by the cost of an image, its pixels times the square of the channels, beside that one.

A network that sees its images too few times is worse than a small one that sees them more often.
"""
WIDTHS_2D = {64: 900, 96: 3600, 128: math.inf}
"""Widths of our own U-Net for a training on a CPU, and up to how many seconds at 28×28 each is taken."""
NARROWEST = 16


def unet(
    shape: Sequence[int],
    *,
    channels: Sequence[int] | None = None,
    width: int | None = None,
    classes: int = 0,
    out_channels: int | None = None,
    conditions: Mapping[str, Sequence[int]] | None = None,
) -> nn.Module:
    """Return a U-Net for images of a shape, with attention at its lowest resolution if they exceed 8×8.

    Args:
        shape: (C, H, W).
        channels: of each level, whose resolution halves from one to the next; multiples of 8. By default
            as suits the image.
        width: in place of channels, those of the first level, to which the others keep their ratio.
        classes: how many labels it takes; one more, the last, stands for "no label". 0: it takes none.
        out_channels: of what it returns; by default those of the image.
        conditions: the shape of one code of each that it is told, by name.

    Raises:
        ConfigError: other data than images; a size that cannot be halved as often as there are levels; odd
            channels.
        MissingExtraError: diffusers is not installed.
    """
    if len(shape) != 3:
        raise ConfigError(
            f"network is {UNET!r}, for images (C, H, W), and the data have {tuple(shape)}: choose another"
        )
    depth, *sides = shape
    levels = tuple(channels) if channels else _scaled(_default_widths(max(sides)), width)
    halvings = 2 ** (len(levels) - 1)
    if any(side % halvings for side in sides):
        raise ConfigError(
            f"images of {sides[0]}×{sides[1]} cannot be halved {len(levels) - 1} times for channels {levels}"
            f": give fewer channels, a size that is a multiple of {halvings}, or network unet_2d"
        )
    if any(channel < 8 or channel % 8 for channel in levels):
        raise ConfigError(f"channels {levels}: each must be a positive multiple of 8")
    plain = len(levels) - 1
    small = max(sides) <= 8  # attention over 4×4 places costs a third of the time and learns nothing
    network: nn.Module = _unet2d(conditions or {})(
        sample_size=sides[0] if sides[0] == sides[1] else tuple(sides),
        in_channels=depth,
        out_channels=out_channels or depth,
        block_out_channels=levels,
        layers_per_block=1 if max(sides) <= 16 else 2,
        down_block_types=("DownBlock2D",) * plain + ("DownBlock2D" if small else "AttnDownBlock2D",),
        up_block_types=("UpBlock2D" if small else "AttnUpBlock2D",) + ("UpBlock2D",) * plain,
        add_attention=not small,
        norm_num_groups=8,
        num_class_embeds=classes + 1 if classes else None,
    )
    return network


def sized(config: TrainConfig, shape: Sequence[int], device: torch.device) -> TrainConfig:
    """Return settings that say the network and its width, where they were left to the data and the time.

    Args:
        config: the settings.
        shape: (C, …) of the data.
        device: where it is trained.

    Raises:
        ConfigError: data of more dimensions than any network takes.
    """
    is_timed = device.type == "cpu" and config.seconds is not None
    if config.network == AUTO:
        config = replace(config, network=UNET if config.channels else _chosen(shape, is_timed=is_timed))
    if config.channels or config.width or config.network not in (UNET, *NETS):
        return config
    seconds = config.seconds * 28**2 / math.prod(shape[1:]) if config.seconds and is_timed else math.inf
    if config.network == OURS_2D and is_timed:
        return replace(config, width=next(width for width, most in WIDTHS_2D.items() if seconds <= most))
    if config.network in NETS:
        return replace(config, width=NETS[config.network].width)
    if len(shape) != 3:
        return config
    widths = _default_widths(max(shape[1:]))
    share = next((share for share, most in SHORT.items() if seconds <= most * (widths[0] / 64) ** 2), 1.0)
    return replace(config, channels=tuple(max(min(NARROWEST, each), int(each * share)) for each in widths))


def token_of(config: TrainConfig, shape: Sequence[int]) -> tuple[int, ...]:
    """Return the sides of a token that has a t of its own; () where each image has one.

    Args:
        config: the settings, as :func:`sized` returns them.
        shape: (C, …) of the data.

    Raises:
        ConfigError: a network, or data, without tokens.
    """
    if config.timesteps_per != TOKEN:
        return ()
    is_own = config.network not in (UNET, *NETS)
    token = one_place if is_own else NETS[config.network].token if config.network in NETS else None
    if token is None or len(shape) < 2:
        others = " or ".join(
            name for name, net in NETS.items() if net.token and len(shape) - 1 in net.dimensions
        )
        raise ConfigError(
            f"timesteps_per is token, and network {config.network} takes one t for data of {tuple(shape)}: "
            f"{f'choose {others}' if others else 'such data have no tokens'}, or leave it out"
        )
    return token(shape[1:])


def as_begun(config: TrainConfig, begun: TrainConfig) -> TrainConfig:
    """Return settings with the network of a run, where they leave it open; foreign code is never taken over.

    Args:
        config: the settings.
        begun: those of the run.
    """
    kept: dict[str, Any] = {}
    if config.network == AUTO and begun.factory_name is None:
        kept["network"] = begun.network
    if config.optimizer == AUTO:
        kept["optimizer"] = begun.optimizer
    if config.class_conditional is None:
        kept["class_conditional"] = begun.class_conditional
    if not config.channels and config.width is None:
        kept |= {"channels": begun.channels, "width": begun.width}
    return replace(config, **kept)


def factory_of(
    config: TrainConfig,
    shape: tuple[int, ...],
    classes: int,
    conditions: Mapping[str, Condition] | None = None,
) -> Factory | None:
    """Return what builds the network of a training; None for the U-Net of diffusers and what has no name."""
    if config.network in (UNET, GIVEN):
        return None
    out_channels = VARIANCES[config.variance] * shape[0]
    return Factory(config.network, shape, classes, out_channels, config.width, conditions or {})


def new_network(
    config: TrainConfig,
    shape: tuple[int, ...],
    classes: int,
    conditions: Mapping[str, Condition] | None = None,
) -> nn.Module:
    """Return the network of a training as it begins, which depends on the seed.

    Args:
        config: the settings, as :func:`sized` returns them.
        shape: (C, …).
        classes: how many labels it takes, beside "no label".
        conditions: what it is told beside the label, by name.

    Raises:
        ConfigError: settings of which no network can be built, or one that has no name.
        MissingExtraError: diffusers is not installed.
    """
    if factory := factory_of(config, shape, classes, conditions):
        return factory.build(config.seed)
    if config.network == GIVEN:
        raise ConfigError("the network was handed to the training as it is: hand it over again, or name it")
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(config.seed)
        out_channels = VARIANCES[config.variance] * shape[0]
        options: dict[str, Any] = {"channels": config.channels, "width": config.width}
        shapes = {name: condition.code_shape for name, condition in (conditions or {}).items()}
        return unet(shape, **options, classes=classes, out_channels=out_channels, conditions=shapes)


def _chosen(shape: Sequence[int], *, is_timed: bool) -> str:
    """Return the network that suits a shape.

    That of diffusers is for images that it can halve; where a CPU has little time for large ones, our own
    learns more in it.
    """
    if not 1 <= len(shape) <= len(CHOICES):
        raise ConfigError(
            f"the data have shape {tuple(shape)}: expected (C,), (C, L), (C, H, W) or (C, D, H, W)"
        )
    name, sides = CHOICES[len(shape) - 1], shape[1:]
    if name != UNET:
        return name
    halvings = 2 ** (len(_default_widths(max(sides))) - 1)
    is_own = any(side % halvings for side in sides) or (is_timed and max(sides) > SMALL)
    return OURS_2D if is_own else UNET


def _scaled(widths: tuple[int, ...], first: int | None) -> tuple[int, ...]:
    """Return channels of the levels with another first one, multiples of 8."""
    return (
        widths if first is None else tuple(8 * max(1, round(first * each / widths[0] / 8)) for each in widths)
    )


def _default_widths(size: int) -> tuple[int, ...]:
    return next((widths for largest, widths in WIDTHS.items() if size <= largest), WIDTHS[max(WIDTHS)])


def _unet2d(conditions: Mapping[str, Sequence[int]]) -> Any:
    try:
        from diffusers import UNet2DModel
    except ImportError:
        raise MissingExtraError("the U-Net", "train") from None
    if not conditions:
        return UNet2DModel
    from alphabar.denoise.networks import ConditionedUNet

    return partial(ConditionedUNet, {name: list(conditions[name]) for name in sorted(conditions)})
