"""The same network trained by our loop and by diffusers', as its unconditional example writes it."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  its usual name
from torch.utils.data import DataLoader, TensorDataset

from alphabar.training.data import to_unit

__all__ = ["EXAMPLE", "PlainConfig", "PlainStep", "network", "plain_scheduler", "plain_training"]


@dataclass(frozen=True)
class PlainConfig:
    """What the example of diffusers lets one choose, with its defaults and the EMA of its README."""

    learning_rate: float = 1e-4
    warmup: int = 500
    epochs: int = 100
    """So long is the cosine along which the rate falls."""
    ema_decay: float = 0.9999
    ema_power: float = 0.75
    seconds: float | None = None
    """Where given, the rate falls along the cosine by the clock instead and reaches 0 at the end."""
    updates: int | None = None
    """Where given, the rate reaches 0 after so many updates."""
    bfloat16: bool = False
    schedule: str = "linear"
    """``beta_schedule`` of its scheduler."""
    prediction: str = "epsilon"
    """``prediction_type`` of its scheduler."""


EXAMPLE = PlainConfig()


@dataclass(frozen=True)
class PlainStep:
    """What one update reports."""

    step: int
    loss: float
    averaged: Callable[[], nn.Module]
    """Puts the averaged parameters into the network and returns it: for the end of the run."""


def network(channels: int, size: int, widths: tuple[int, ...], classes: int | None = None) -> nn.Module:
    """Return a ``UNet2DModel`` of one block a level, with attention in the lowest; the same one each time."""
    from diffusers import UNet2DModel

    plain = len(widths) - 1
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        made: nn.Module = UNet2DModel(
            sample_size=size,
            in_channels=channels,
            out_channels=channels,
            block_out_channels=widths,
            layers_per_block=1,
            down_block_types=("DownBlock2D",) * plain + ("AttnDownBlock2D",),
            up_block_types=("AttnUpBlock2D",) + ("UpBlock2D",) * plain,
            norm_num_groups=8,
            num_class_embeds=classes,
        )
    return made


def plain_scheduler(config: PlainConfig) -> Any:
    """Return the scheduler that the example trains with."""
    from diffusers import DDPMScheduler

    options = {"beta_schedule": config.schedule, "prediction_type": config.prediction}
    return DDPMScheduler(num_train_timesteps=1000, **options)


def plain_training(
    model: nn.Module,
    images: Tensor,
    config: PlainConfig,
    *,
    batch_size: int = 64,
    labels: Tensor | None = None,
) -> Iterator[PlainStep]:
    """Train as examples/unconditional_image_generation/train_unconditional.py of diffusers does, for ever.

    Spared it are decoding and scaling, which there fall to every epoch: its images are ready in memory.

    Args:
        model: the network.
        images: (N, C, H, W) uint8.
        config: its settings.
        batch_size: images an update.
        labels: (N,) what the network is told of each image, where it takes labels.
    """
    from accelerate import Accelerator
    from diffusers.training_utils import EMAModel

    accelerator = Accelerator()
    noise_scheduler = plain_scheduler(config)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8
    )
    dataset = TensorDataset(to_unit(images), *([] if labels is None else [labels]))
    loader = DataLoader(dataset, batch_size=batch_size, shuffle=True)
    rate = _rate(optimizer, config, len(loader))
    bare = model.to(accelerator.device).train()
    averaged = EMAModel(
        bare.parameters(), decay=config.ema_decay, use_ema_warmup=True, inv_gamma=1.0, power=config.ema_power
    )
    model, optimizer, loader, rate = accelerator.prepare(bare, optimizer, loader, rate)
    averaged.to(accelerator.device)
    batches = itertools.chain.from_iterable(itertools.repeat(loader))
    half = torch.autocast(accelerator.device.type, torch.bfloat16) if config.bfloat16 else nullcontext()
    is_velocity = config.prediction == "v_prediction"
    for step, (clean, *told) in enumerate(batches):
        noise = torch.randn(clean.shape, dtype=clean.dtype, device=clean.device)
        t = torch.randint(
            0, noise_scheduler.config.num_train_timesteps, clean.shape[:1], device=clean.device
        ).long()
        noisy = noise_scheduler.add_noise(clean, noise, t)
        with accelerator.accumulate(model):
            with half:
                output = model(noisy, t, *told).sample
            target = noise_scheduler.get_velocity(clean, noise, t) if is_velocity else noise
            loss = F.mse_loss(output.float(), target.float())
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            rate.step()
            optimizer.zero_grad()
        if accelerator.sync_gradients:
            averaged.step(bare.parameters())
        yield PlainStep(step + 1, loss.detach().item(), lambda: _settled(bare, averaged))


def _rate(optimizer: torch.optim.Optimizer, config: PlainConfig, updates: int) -> Any:
    """Return the scheduler of the learning rate, for epochs of so many updates."""
    if config.seconds is not None:
        return torch.optim.lr_scheduler.LambdaLR(optimizer, _by_the_clock(config.warmup, config.seconds))
    if config.updates is not None:
        return torch.optim.lr_scheduler.LambdaLR(optimizer, _by_steps(config.warmup, config.updates))
    from diffusers.optimization import get_scheduler

    total = updates * config.epochs
    return get_scheduler("cosine", optimizer, num_warmup_steps=config.warmup, num_training_steps=total)


def _by_the_clock(warmup: int, seconds: float) -> Callable[[int], float]:
    """Return what multiplies the rate: up along a line, down along a cosine that ends when the time does."""
    began = time.monotonic()

    return lambda step: _share(step, warmup, (time.monotonic() - began) / seconds)


def _by_steps(warmup: int, updates: int) -> Callable[[int], float]:
    """Return the same by the number of updates."""
    return lambda step: _share(step, warmup, step / updates)


def _share(step: int, warmup: int, gone: float) -> float:
    return min(1.0, (step + 1) / (warmup + 1)) * math.cos(math.pi / 2 * min(1.0, gone)) ** 2


def _settled(model: nn.Module, averaged: Any) -> nn.Module:
    averaged.copy_to(model.parameters())
    return model.eval()
