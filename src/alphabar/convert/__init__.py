"""Weights of other codes as checkpoints: ``alphabar convert SOURCE OUT``.

    guided-diffusion, improved-diffusion    *.pt          openai.py
    denoising-diffusion-pytorch             model-N.pt    lucidrains.py

A file of weights does not say everything that sampling must know, and a wrong guess gives noise in place of
images. So what weights and buffers say is read from them, the rest must be given as options
(:class:`ConvertOptions`), and an option that contradicts the weights is an error.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from alphabar.convert.options import ConvertOptions, read_weights
from alphabar.errors import CheckpointError, ConfigError
from alphabar.training import Checkpoint, checkpoint

__all__ = ["ConvertOptions", "convert", "read"]


def read(source: str | Path, options: ConvertOptions | None = None, *, flags: str = "") -> Checkpoint:
    """Read the weights of another code as a checkpoint, running no code from the file.

    Args:
        source: a ``.pt`` file of guided-diffusion, improved-diffusion or denoising-diffusion-pytorch.
        options: what the weights do not say.
        flags: in place of ``options``, the flags of the training with guided-diffusion or improved-diffusion:
            ``"--image_size 64 --num_channels 128 --diffusion_steps 4000 …"``.

    Raises:
        CheckpointError: a file that is not there, that is not safe to load, or of another network.
        ConfigError: something is missing, or contradicts the weights.
        UnknownNameError: a flag, a schedule or a prediction that is not known.
        MissingExtraError: diffusers is not installed.
    """
    content = read_weights(source)
    if flags and options not in (None, ConvertOptions()):
        raise ConfigError("give the flags of the training, or each option by itself, not both")
    training = {"converted_from": Path(source).name}
    from alphabar.convert import lucidrains, openai

    if lucidrains.matches(content):
        if flags:
            raise ConfigError("flags are of guided-diffusion; this file is of denoising-diffusion-pytorch")
        return lucidrains.to_checkpoint(content, options or ConvertOptions(), training)
    if openai.matches(content):
        return _of_openai(content, options or ConvertOptions(), flags, training)
    names = ", ".join(sorted(map(str, content))[:4])
    raise CheckpointError(
        f"{source} holds {names}, …: neither a U-Net of guided-diffusion (input_blocks.0.0.weight, …) nor a "
        "file of denoising-diffusion-pytorch (model, ema, step)"
    )


def _of_openai(
    content: dict[str, Any], options: ConvertOptions, flags: str, training: dict[str, Any]
) -> Checkpoint:
    from alphabar.convert import flags as command_line
    from alphabar.convert import openai

    if not flags:
        return openai.to_checkpoint(content, options, {**training, "options": asdict(options)})
    options, given = command_line.read(flags)
    loaded = openai.to_checkpoint(content, options, {**training, "flags": flags})
    command_line.check(given, openai.Layout(content))
    return loaded


def convert(
    source: str | Path, out: str | Path, options: ConvertOptions | None = None, *, flags: str = ""
) -> Path:
    """Write the weights of another code as a checkpoint folder; arguments and errors as in :func:`read`.

    Args:
        source: the file.
        out: the folder to write.
        options: what the weights do not say.
        flags: or the flags of the training.
    """
    return checkpoint.save(out, read(source, options, flags=flags))
