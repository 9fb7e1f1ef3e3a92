"""Training throughput: one update of the same network, by our loop and by a plain diffusers loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from alphabar.training.config import TrainConfig
from alphabar.training.data import ImageData
from alphabar.training.loop import train
from benchmarks import peers
from benchmarks.measure import OURS, Case, Result, Settings, measure
from benchmarks.training_loops import PlainConfig, network, plain_training

TITLE = "Training throughput"
ABOUT = (
    "One update at batch 64 of the same `UNet2DModel`: `alphabar.training.train`, and the loop of diffusers' "
    "unconditional example with its defaults. *diffusers, bf16* is that loop with `--mixed_precision "
    "bf16`, which one has to know of; ours takes bfloat16 by itself where the processor multiplies in it, "
    "and then writes attention out, since torch's fused one is slow backwards. "
    "The floor is forward and backward pass alone, in float32."
)
BATCH = 64
NETWORKS: dict[str, tuple[int, int, tuple[int, ...], float]] = {
    "1.8 M parameters, 3×16×16": (3, 16, (32, 64, 96), 1.25),
    "7 M parameters, 3×32×32": (3, 32, (64, 128, 192), 1.9),
}
"""Channels, size, widths, and the aim."""


def run(settings: Settings) -> Iterator[Result]:
    """Measure both networks."""
    if peers.library("diffusers") is None:
        return
    for name, (channels, size, widths, aim) in NETWORKS.items():
        images = torch.randint(0, 256, (BATCH * 16, channels, size, size), dtype=torch.uint8)

        def fresh(shape: tuple[int, int, tuple[int, ...]] = (channels, size, widths)) -> Any:
            return network(*shape)

        config = TrainConfig(batch_size=BATCH, steps=10**6)
        entrants = {
            OURS: _updates(train(config, data=ImageData(images), network=fresh())),
            "diffusers": _updates(plain_training(fresh(), images, PlainConfig())),
            "diffusers, bf16": _updates(plain_training(fresh(), images, PlainConfig(bfloat16=True))),
            "floor": _passes(fresh().to(settings.device), channels, size, settings.device),
        }
        case = Case(name, entrants, {"diffusers": aim}, work=(BATCH, "images"), grad=True)
        yield measure(case, settings)


def _updates(steps: Iterator[Any]) -> Callable[[], Any]:
    endless = chain(steps)
    return lambda: next(endless)


def _passes(model: Any, channels: int, size: int, device: str) -> Callable[[], Tensor]:
    x, t = torch.randn(BATCH, channels, size, size, device=device), torch.zeros(BATCH, device=device)

    def both() -> Tensor:
        loss = model(x, t).sample.square().mean()
        loss.backward()
        model.zero_grad()
        return loss

    return both
