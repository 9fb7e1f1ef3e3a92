"""The command line of a training with guided-diffusion or improved-diffusion, read as options.

    --attention_resolutions 32,16,8 --class_cond False --diffusion_steps 1000 --image_size 256 …

What the weights do not say is taken from it, with the defaults of these codes; the rest is compared.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import Any

from alphabar.convert.openai import Layout
from alphabar.convert.options import ConvertOptions, check_agrees
from alphabar.errors import ConfigError, look_up

__all__ = ["check", "read"]

Flags = dict[str, str]

DEFAULTS = {
    "image_size": "64",
    "num_heads": "4",
    "num_head_channels": "-1",
    "diffusion_steps": "1000",
    "noise_schedule": "linear",
    "predict_xstart": "False",
    "use_new_attention_order": "False",
}
"""What these codes take where a flag is left out. They disagree about rescale_timesteps: it has none here."""


def _resolutions(layout: Layout, flags: Flags) -> tuple[int, ...]:
    size = int(flags.get("image_size", DEFAULTS["image_size"]))
    return tuple(sorted(size >> level for level, attends in enumerate(layout.attends) if attends))


FOUND: dict[str, Callable[[Layout, Flags], object]] = {
    "learn_sigma": lambda layout, _: len(layout.get("out.2.weight")) == 2 * layout.channels,
    "class_cond": lambda layout, _: layout.classes is not None,
    "num_channels": lambda layout, _: layout.time_channels,
    "num_res_blocks": lambda layout, _: layout.layers,
    "use_scale_shift_norm": lambda layout, _: layout.scales,
    "resblock_updown": lambda layout, _: layout.residual_resampling,
    "channel_mult": lambda layout, _: tuple(width / layout.time_channels for width in layout.widths),
    "attention_resolutions": _resolutions,
}
"""Flags whose values can be computed from the weights."""

WITHOUT_EFFECT = (
    *("dropout", "use_checkpoint", "use_fp16", "fp16_scale_growth", "use_kl", "rescale_learned_sigmas"),
    *("timestep_respacing", "use_ddim", "clip_denoised", "sigma_small", "num_samples", "model_path"),
    *("lr", "batch_size", "microbatch", "ema_rate", "log_interval", "save_interval", "lr_anneal_steps"),
    *("weight_decay", "schedule_sampler", "data_dir", "resume_checkpoint"),
)
"""Flags of the training or of sampling that do not change what the network computes."""

KNOWN = dict.fromkeys((*DEFAULTS, "rescale_timesteps", "num_heads_upsample", *FOUND, *WITHOUT_EFFECT))


def read(text: str) -> tuple[ConvertOptions, Flags]:
    """Return the options that a line of flags stands for, and the flags by name.

    Raises:
        UnknownNameError: a flag that neither code has.
        ConfigError: a flag without a value.
    """
    words = shlex.split(text)
    if len(words) % 2 or not all(word.startswith("--") for word in words[::2]):
        raise ConfigError(f"flags are '--name value --name value …': {text!r} is not")
    flags = {word[2:]: value for word, value in zip(words[::2], words[1::2], strict=True)}
    for name in flags:
        look_up(KNOWN, name, "flag of guided-diffusion")
    relevant = {name: text for name, text in (DEFAULTS | flags).items() if name not in WITHOUT_EFFECT}
    values = {name: _value(name, text) for name, text in relevant.items()}
    by_width = values["num_head_channels"] != -1
    if not by_width and values.get("num_heads_upsample", -1) not in (-1, values["num_heads"]):
        raise ConfigError(
            f"num_heads_upsample is {values['num_heads_upsample']} and num_heads is {values['num_heads']}: "
            "a network with other heads on the way up cannot be converted"
        )
    options = ConvertOptions(
        image_size=values["image_size"],
        schedule=values["noise_schedule"],
        diffusion_steps=values["diffusion_steps"],
        prediction="sample" if values["predict_xstart"] else "epsilon",
        num_heads=None if by_width else values["num_heads"],
        num_head_channels=values["num_head_channels"] if by_width else None,
        new_attention_order=bool(values["use_new_attention_order"]),
        rescale_timesteps=values.get("rescale_timesteps"),
    )
    return options, flags


def check(flags: Flags, layout: Layout) -> None:
    """Compare flags with what the weights show.

    Raises:
        ConfigError: they disagree.
    """
    for name, found in FOUND.items():
        if flags.get(name):
            check_agrees(name, _value(name, flags[name]), found(layout, flags))


def _value(name: str, text: str) -> Any:
    try:
        return READERS.get(name, _word)(text)
    except ValueError:
        raise ConfigError(f"--{name} is {text!r}, which the training cannot have had") from None


def _word(text: str) -> bool | int:
    words = {"true": True, "false": False, "yes": True, "no": False}
    return words[text.lower()] if text.lower() in words else int(text)


READERS: dict[str, Callable[[str], Any]] = {
    "noise_schedule": str,
    "channel_mult": lambda text: tuple(float(part) for part in text.split(",") if part),
    "attention_resolutions": lambda text: tuple(sorted(int(part) for part in text.split(","))),
}
"""How a flag is read; all others are numbers, or true and false."""
