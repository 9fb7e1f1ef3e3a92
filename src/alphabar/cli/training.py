"""``alphabar train``: the fields of :class:`alphabar.training.TrainConfig`, and a place to write to."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from tyro.conf import Positional

from alphabar.cli import plots
from alphabar.cli._arguments import (
    check_apart,
    check_memory,
    check_seed,
    readable,
    tell_notes,
    wrote,
)
from alphabar.errors import AlphabarError, ConfigError
from alphabar.samplers import track
from alphabar.training import ImageData, TrainConfig, checkpoint, train, training_data, unet

__all__ = ["Train"]

LOSS = "loss.png"  # of a run, the curve of its loss
COPIES = 6  # of every parameter: itself, gradient, two moments, average, snapshot


@readable
@dataclass(frozen=True)
class Train(TrainConfig):
    """Train a network and write it as a folder that diffusers opens too."""

    data: Positional[str] = "digits"
    """What to train on: "digits", a folder of images, .parquet or .tar files, or a Hugging Face dataset."""
    out: Path = Path("runs/latest")
    """The folder to write: of a run that is there already, its own files are replaced."""

    def __call__(self) -> None:
        """Train with a progress bar, then write the averaged network and the curve of the loss."""
        config = TrainConfig(**{each.name: getattr(self, each.name) for each in fields(TrainConfig)})
        check_seed(config.seed)
        main_process = PartialState().is_main_process
        check_apart(config.data, self.out)
        if main_process:  # two that try at once would be in each other's way
            checkpoint.check_place(self.out, also=(LOSS,))
        shown = None if main_process else False
        data = training_data(
            config, progress=lambda rows: track(rows, len(list(rows)), "reading", shown=shown)
        )
        size = check_size(config, data)
        if main_process:
            checkpoint.check_place(self.out, also=(LOSS,), size=size)
        tell_notes()
        steps = list(track(train(config, data=data), config.steps, "training", shown=shown))
        if not main_process:
            return
        if data.skipped:
            print(f"left out {len(data.skipped)} images that cannot be read: {', '.join(data.skipped)[:200]}")
        losses, last = [step.loss for step in steps], steps[-1]
        trained = last.snapshot()
        checkpoint.save(self.out, trained, also=lambda draft: plots.loss_curve(losses, draft / LOSS))
        mean = sum(losses[-50:]) / len(losses[-50:])
        print(f"{last.step} steps, {last.images} images, loss {mean:.4f} over the last {len(losses[-50:])}")
        wrote(self.out)


def check_size(config: TrainConfig, data: ImageData) -> int:
    """Return the bytes of the trained network, which must fit into memory with what training holds.

    Raises:
        ConfigError: it does not, or the network cannot be built.
    """
    channels, height, width = data.shape
    try:
        with torch.device("meta"):
            network: Any = unet((channels, height, width), channels=config.channels)
    except AlphabarError:
        raise
    except Exception as error:  # numbers that overflow
        raise ConfigError(f"channels {config.channels}: no such network can be built: {error}") from error
    numbers: int = sum(parameter.numel() for parameter in network.parameters())
    check_memory(COPIES * numbers, f"a network of {numbers:,} parameters (--channels)")
    widest = network.config.block_out_channels[0]
    batch = config.batch_size * height * width * (2 * channels + 2 * widest)
    check_memory(batch, f"a batch of {config.batch_size} images of {height}×{width} (--batch-size, --size)")
    return 4 * numbers
