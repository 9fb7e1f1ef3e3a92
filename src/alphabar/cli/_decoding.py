"""What makes pictures of the samples of a run: the decoder of its VAE where they are latents."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alphabar.errors import CheckpointError, ConfigError
from alphabar.training.autoencoder import decode, digest, open_vae

__all__ = ["decoder"]


def decoder(
    latents: Mapping[str, Any],
    device: torch.device,
    *,
    vae: Path | None = None,
    precision: str = "float32",
) -> Callable[[Tensor], Tensor]:
    """Return what makes images of samples, (B, C, H, W) in [−1, 1]; images stay as they are.

    Args:
        latents: of a checkpoint, what decodes its samples; empty where they are images.
        device: where the samples are.
        vae: the folder of the VAE, if not where the checkpoint says.
        precision: of the VAE's arithmetic.

    Raises:
        ConfigError: a VAE for images.
        CheckpointError: no such VAE, or another one than the data were encoded by.
    """
    if not latents:
        if vae is not None:
            raise ConfigError(f"vae is {vae}, and this run makes images: leave it out")
        return lambda images: images
    place = vae or Path(latents["vae"])
    try:
        found = open_vae(place)
    except CheckpointError as error:
        raise CheckpointError(f"{error} (--vae: of what the data were encoded by)") from error
    if digest(found) != latents.get("sha256"):
        raise CheckpointError(
            f"{place} is not the VAE that the data were encoded by: its weights, scale or shift differ. Name "
            "that one by --vae"
        )
    found = found.to(device)
    return lambda samples: decode(found, samples.to(device), precision=precision)
