"""Images as the latents of a variational autoencoder (VAE), and back.

    z = s · (y − m),   y = μ(x), the mean of the posterior, or a sample of it, y = μ(x) + σ(x) · ε
    x = D(z/s + m)

Scale s and shift m are those of the VAE's own configuration; s brings latents to about unit variance (Rombach
et al. 2022, arXiv 2112.10752, appendix G). ε has an address, (seed, number of the image), and a stream of its
own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alphabar.checks import check_float
from alphabar.denoise._places import loading, open_diffusers, part
from alphabar.denoise.factories import digest_of
from alphabar.denoise.files import read_json
from alphabar.denoise.precision import autocast
from alphabar.errors import CheckpointError, NoAnswerError, ShapeError
from alphabar.process import addressed

__all__ = ["POSTERIOR", "decode", "digest", "encode", "factor", "open_vae", "scaling"]

POSTERIOR = (1 << 31) - 1  # a stream that neither training nor sampling draws from
KIND = "AutoencoderKL"


def encode(
    vae: Any, images: Tensor, *, seed: int | None = None, first: int = 0, precision: str = "float32"
) -> Tensor:
    """Return the latents of images, (B, C', h, w) float32.

    Args:
        vae: diffusers' ``AutoencoderKL``, or what has its ``config``, ``encode`` and ``decode``.
        images: (B, C, H, W) in [−1, 1], where the VAE is.
        seed: of the samples of the posterior; None for its mean.
        first: the number of the first image.
        precision: of the VAE's arithmetic, as of a :class:`~alphabar.Denoiser`.

    Raises:
        ShapeError: other channels than the VAE's, or sides that it cannot halve as often as it does.
        NoAnswerError: latents that are not finite.
    """
    check_float(images=images)
    channels, step = vae.config.in_channels, factor(vae)
    if images.ndim != 4 or images.shape[1] != channels or any(side % step for side in images.shape[2:]):
        raise ShapeError(
            f"images have shape {tuple(images.shape)}: this VAE takes (B, {channels}, H, W), sides that are "
            f"multiples of {step}"
        )
    with torch.no_grad(), autocast(images.device, precision):
        posterior = vae.encode(images).latent_dist
    y = posterior.mean.float()
    if seed is not None:
        noise = addressed.normal(y.shape, seed=seed, stream=POSTERIOR, first=first, device=y.device)
        y = y + posterior.std.float() * noise
    shift, scale = (each.to(y) for each in scaling(vae))
    return _finite((y - shift) * scale, "latents", "encode in float32")


def decode(vae: Any, latents: Tensor, *, precision: str = "float32") -> Tensor:
    """Return the images of latents, (B, C, H, W) float32 in [−1, 1].

    Args:
        vae: as for :func:`encode`.
        latents: (B, C', h, w), where the VAE is.
        precision: of the VAE's arithmetic.

    Raises:
        ShapeError: other channels than the VAE's latents.
        NoAnswerError: images that are not finite.
    """
    check_float(latents=latents)
    shift, scale = (each.to(latents) for each in scaling(vae))
    channels = vae.config.latent_channels
    if latents.ndim != 4 or latents.shape[1] != channels:
        raise ShapeError(f"latents have shape {tuple(latents.shape)}: this VAE takes (B, {channels}, h, w)")
    with torch.no_grad(), autocast(latents.device, precision):
        images = vae.decode(latents / scale + shift).sample
    return _finite(images.float(), "images", "decode in float32, or train longer").clamp(-1, 1)


def _finite(values: Tensor, what: str, remedy: str) -> Tensor:
    if not values.isfinite().all():
        raise NoAnswerError(f"the VAE returned {what} that are not finite: {remedy}")
    return values


def scaling(vae: Any) -> tuple[Tensor, Tensor]:
    """Return the shift m and the scale s of a VAE's latents, (C', 1, 1) float64 each.

    These are ``shift_factor`` and ``scaling_factor`` of its configuration; where that has ``latents_mean``
    and ``latents_std`` of each channel, m is the mean, and s is divided by the standard deviation.
    """
    channels, config = vae.config.latent_channels, vae.config
    mean = getattr(config, "latents_mean", None) or [getattr(config, "shift_factor", None) or 0.0] * channels
    std = getattr(config, "latents_std", None) or [1.0] * channels
    shift = torch.tensor(mean, dtype=torch.float64)
    scale = config.scaling_factor / torch.tensor(std, dtype=torch.float64)
    return shift.view(-1, 1, 1), scale.view(-1, 1, 1)


def factor(vae: Any) -> int:
    """Return how many pixels of a side become one of the latents."""
    levels = len(vae.config.block_out_channels)
    return int(2 ** (levels - 1))


def open_vae(place: str | Path) -> Any:
    """Return the ``AutoencoderKL`` of a folder that diffusers wrote: its own, or a pipeline's with ``vae/``.

    Raises:
        CheckpointError: no such folder, or one that holds something else or does not load.
        MissingExtraError: diffusers is not installed.
    """
    folder = part(Path(place), "vae")
    if not (folder / "config.json").is_file():
        raise CheckpointError(
            f"{place} holds no VAE: give a folder with the config.json of an {KIND}, or vae/"
        )
    if (kind := read_json(folder / "config.json").get("_class_name")) != KIND:
        raise CheckpointError(f"{folder} holds {kind!s:.60}: give an {KIND} of diffusers")
    safe = any(folder.glob("*.safetensors"))  # otherwise a pickle, which diffusers reads as weights only
    with loading(folder):
        vae = open_diffusers().AutoencoderKL.from_pretrained(
            folder, use_safetensors=safe, local_files_only=True, low_cpu_mem_usage=False
        )
    return vae.eval().requires_grad_(False)


def digest(vae: Any) -> str:
    """Return a SHA-256, in hexadecimal digits, of a VAE's weights, scale and shift."""
    return digest_of(vae, [each.flatten().tolist() for each in scaling(vae)])
