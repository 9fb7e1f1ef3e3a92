"""The options that complete a file of weights, and reading the file itself."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from alphabar.errors import CheckpointError, ConfigError, look_up
from alphabar.process import PARAMETERISATIONS

__all__ = ["ConvertOptions", "Weights", "check_agrees", "load_weights", "read_weights"]

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class ConvertOptions:
    """What the weights do not say; None is refused only where it cannot be computed from the weights."""

    image_size: int | None = None
    """Pixels of a side of the images it was trained on."""
    schedule: str | None = None
    """Noise schedule of the training: linear, cosine or, denoising-diffusion-pytorch, sigmoid."""
    diffusion_steps: int | None = None
    """T, the number of noise levels of the training."""
    prediction: str | None = None
    """What the network predicts: epsilon, sample, v_prediction."""
    num_heads: int | None = None
    """Heads of every attention: the flag num_heads of guided-diffusion and improved-diffusion."""
    num_head_channels: int | None = None
    """Channels of every head: the flag num_head_channels of guided-diffusion, in place of num_heads."""
    new_attention_order: bool = False
    """The flag use_new_attention_order of guided-diffusion."""
    rescale_timesteps: bool | None = None
    """The flag rescale_timesteps: the network sees 1000 t / T in place of t."""
    norm_groups: int = 8
    """The argument resnet_block_groups of denoising-diffusion-pytorch before 2.0."""

    def require(self, *names: str) -> None:
        """Require these options.

        Raises:
            ConfigError: one or more are None; the message lists all of them.
        """
        missing = [f"--{name.replace('_', '-')}" for name in names if getattr(self, name) is None]
        if missing:
            raise ConfigError(
                f"these weights do not say what they were trained with: give {', '.join(missing)}, as in the "
                "training. A wrong value gives noise in place of images"
            )

    def parameterisation_name(self) -> str:
        """Return the name of the prediction, by default ``epsilon``.

        Raises:
            UnknownNameError: another name.
        """
        name = self.prediction or "epsilon"
        look_up(PARAMETERISATIONS, name, "prediction")
        return name


def check_agrees(name: str, given: object, found: object) -> None:
    """Require an option to be None or equal to what was found in the weights.

    Raises:
        ConfigError: they differ.
    """
    if given is not None and given != found:
        raise ConfigError(f"{name} is {given} as you say, and {found} as the weights say: leave it out")


def read_weights(path: str | Path) -> dict[str, Any]:
    """Read a ``.pt`` file without running code from it.

    Raises:
        CheckpointError: no such file, one that is damaged, or one that holds more than numbers and text.
    """
    place = Path(path)
    if place.exists() and not place.is_file():
        raise CheckpointError(f"{path} is no regular file: a .pt file of weights is wanted")
    try:
        with place.open("rb") as file:
            start = file.read(2)
        if start not in (b"PK", *(b"\x80" + bytes([n]) for n in range(2, 6))):
            raise CheckpointError(
                f"{path} is {'no file of weights' if start else 'empty'}: a .pt file is wanted"
            )
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds Python objects besides weights, which are not run here: where you trust it, load "
            "it yourself and save its state_dict() alone"
        ) from error
    except CheckpointError:
        raise
    except Exception as error:  # arbitrary bytes make a reader raise whatever it likes
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{path} cannot be read: {reason}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}: a dict of weights is wanted")
    return content


def load_weights(network: nn.Module, weights: Weights) -> nn.Module:
    """Load weights into a network as float32 and return it in evaluation mode.

    Raises:
        CheckpointError: weights that are missing, superfluous or of another shape.
    """
    try:
        network.load_state_dict({name: weight.float() for name, weight in weights.items()})
    except RuntimeError as error:
        raise CheckpointError(f"these weights do not fit: {' '.join(str(error).split())[:300]}") from error
    return network.eval()
