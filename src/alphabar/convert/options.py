"""What a person must say because weights do not, and the file that holds the weights."""

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

__all__ = ["Told", "Weights", "agree", "fill", "read_weights"]

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Told:
    """What the weights do not say; None is not told, an error only where it cannot be seen otherwise."""

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

    def need(self, *names: str) -> None:
        """Refuse to go on while one of these is not told.

        Raises:
            ConfigError: with all that is missing, and what is asked for.
        """
        missing = [f"--{name.replace('_', '-')}" for name in names if getattr(self, name) is None]
        if missing:
            raise ConfigError(
                f"these weights do not say what they were trained with: give {', '.join(missing)}, as in the "
                "training. A wrong value gives noise in place of images"
            )

    def predicted(self) -> str:
        """Return the prediction, ε where nothing else is told.

        Raises:
            UnknownNameError: another name.
        """
        name = self.prediction or "epsilon"
        look_up(PARAMETERISATIONS, name, "prediction")
        return name


def agree(name: str, told: object, seen: object) -> None:
    """Refuse what is told where the weights show something else; None agrees with everything.

    Raises:
        ConfigError: they differ.
    """
    if told is not None and told != seen:
        raise ConfigError(f"{name} is {told} as you say, and {seen} as the weights say: leave it out")


def read_weights(path: str | Path) -> dict[str, Any]:
    """Read a ``.pt`` file without running code from it.

    Raises:
        CheckpointError: no such file, one that is damaged, or one that holds more than numbers and text.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds Python objects besides weights, which are not run here: where you trust it, load "
            "it yourself and save its state_dict() alone"
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}: a dict of weights is wanted")
    return content


def fill(network: nn.Module, weights: Weights) -> nn.Module:
    """Put weights into a network, in float32, and return it for evaluation.

    Raises:
        CheckpointError: weights that are missing, superfluous or of another shape.
    """
    try:
        network.load_state_dict({name: weight.float() for name, weight in weights.items()})
    except RuntimeError as error:
        raise CheckpointError(f"these weights do not fit: {' '.join(str(error).split())[:300]}") from error
    return network.eval()
