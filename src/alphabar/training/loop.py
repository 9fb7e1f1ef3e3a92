"""Training: at a random t, noise an image, ask the network for its target, and correct it.

    loss = w(t) · ‖ target(x_0, z, t) − network(c_in · (√ᾱ_t · x_0 + √(1−ᾱ_t) · z), time) ‖²

Ho et al. 2020, algorithm 1. :func:`train` is a generator: the caller owns logging, pictures and the moment
to stop. Every random choice has an address (seed, number of the image, purpose), so that a run is the same
whatever the number of processes, up to the order in which gradients are added up, and goes on from a
checkpoint as if it had never stopped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from alphabar.denoise.conditions import split_kind
from alphabar.errors import CheckpointError, DataError
from alphabar.schedule import FAMILIES, NoiseSchedule
from alphabar.training.checkpoint import Checkpoint
from alphabar.training.config import AUTO, GIVEN, UNET, TrainConfig
from alphabar.training.data import Batch, ImageData, array_data, load_data
from alphabar.training.encoded import Progress
from alphabar.training.engine import is_sharded, make_accelerator, share_of
from alphabar.training.network import as_begun, sized
from alphabar.training.objective import Objective, check_answers
from alphabar.training.optimizers import chosen
from alphabar.training.order import Order, batches
from alphabar.training.state import TrainState, settings_of
from alphabar.training.trainer import Trainer, classes_of

__all__ = ["TrainStep", "train", "training_data"]


@dataclass(frozen=True, eq=False)
class TrainStep:
    """What one update of the network reports."""

    step: int
    """Updates so far."""
    loss: float
    """Mean loss of this batch, over all processes."""
    images: int
    """Images seen so far, over all processes."""
    rate: float
    """The learning rate of this update."""
    seconds: float
    """How long the run has trained, over all its parts."""
    losses: Tensor = field(repr=False)
    """(B,) the loss of each image of this process; of tokens with a t of their own, that of each place."""
    t: Tensor = field(repr=False)
    """The timestep of each, in the shape of the losses."""
    norm: Tensor = field(repr=False)
    """() of the gradient, before it was clipped."""
    batch: Batch = field(repr=False)
    """The images of this process, as the data have them, and their labels."""
    snapshot: Callable[[], Checkpoint] = field(repr=False)
    """Returns the averaged network as it is now, in a copy of its own. All processes must ask together."""
    state: Callable[[], TrainState] = field(repr=False)
    """Returns what the run needs to go on, its tensors as they are now, not copied."""


def train(
    config: TrainConfig,
    *,
    data: ImageData | Dataset[Any] | None = None,
    network: nn.Module | None = None,
    resume: str | Path | None = None,
) -> Iterator[TrainStep]:
    """Train, and yield after every update; the last step's ``snapshot()`` is the result.

    Runs on one device, or on many under ``accelerate launch`` or ``torchrun``, each process with its share
    of the batch. Nothing is written: :func:`kept` does that.

    Args:
        config: every setting.
        data: what to train on in place of ``config.data``, from :func:`load_data` or :func:`array_data`, or a
            dataset with items x or (x, label); the run records the source that the first were read from.
        network: in place of a new one, any module called as :mod:`alphabar.denoise.factories` says; it may
            also return an object whose ``sample`` is the answer. By default what ``config.network`` names is
            built, and only of that, or of a diffusers model, can the result be saved and opened again.
        resume: a run whose newest checkpoint is gone on from, with a network of the same form.

    Raises:
        ConfigError: settings that contradict each other, the data, or those the run was begun with.
        DataError: images that cannot be read.
        CheckpointError: nothing to resume from, or a checkpoint of another network.
        NoAnswerError: a prediction without an answer at a t of the schedule; or the loss became NaN or
            infinite.
        ShapeError: the network returned another shape.
        MissingExtraError: the ``train`` extra is not installed.
    """
    if data is not None and not isinstance(data, ImageData):
        data = array_data(data, scaling=config.scaling, skip_broken=config.skip_broken)
    if data is not None:
        config = replace(config, data=data.source or GIVEN)
    if network is not None and config.network in (AUTO, UNET):
        config = replace(config, network=GIVEN)
    accelerator = make_accelerator()
    share = share_of(config.batch_size, config.accumulate, accelerator)
    schedule = FAMILIES[config.schedule](config.diffusion_steps)
    check_answers(schedule, config.prediction)
    data = training_data(config) if data is None else data
    if not len(data):
        raise DataError("there is no image to train on")
    objective = _objective(config, schedule, data, accelerator.device)
    if resume is not None:
        with suppress(CheckpointError):  # which is told when the run is gone on from
            config = as_begun(config, settings_of(resume))
    config = replace(config, class_conditional=bool(classes_of(config, data)))
    config = sized(config, data.shape, accelerator.device)
    kinds = {"is_sharded": is_sharded(accelerator), "are_vectors": len(data.shape) == 1}
    config = replace(config, optimizer=chosen(config.optimizer, **kinds))
    trainer = Trainer.of(config, schedule, objective, data, network, accelerator)
    data = replace(data, conditions={name: data.conditions[name] for name in trainer.conditions})
    start, before = (0, 0.0) if resume is None else trainer.go_on(resume)
    offset = accelerator.process_index * share
    order = Order(
        len(data), config.seed, config.last_step, config.batch_size, offset, share, start, data.block
    )
    began = time.monotonic() - before
    for step, batch in enumerate(batches(data, order, accelerator.device), start):
        progress = _progress(config, step, time.monotonic() - began, accelerator)
        if progress >= 1 and step:
            break
        rate = _rate(config, step, progress)
        found = trainer.update(step, batch, order.first(step), rate)
        seconds = time.monotonic() - began
        yield TrainStep(
            *(step + 1, found.loss, (step + 1) * config.batch_size, rate, seconds),
            *(found.losses, found.t, found.norm, batch),
            *(trainer.snapshot, partial(trainer.state, step + 1, seconds)),
        )


def _objective(
    config: TrainConfig, schedule: NoiseSchedule, data: ImageData, device: torch.device
) -> Objective:
    return Objective.of(
        *(schedule, config.prediction),
        loss=config.loss,
        variance=config.variance,
        sigma_data=data.sigma_data,
        device=device,
    )


def _progress(config: TrainConfig, step: int, elapsed: float, accelerator: Any) -> float:
    """Return the share of the run that is over, the same in every process."""
    if config.seconds is None:
        return step / config.last_step
    progress = max(step / config.last_step, elapsed / config.seconds)
    return float(accelerator.reduce(torch.tensor(progress, device=accelerator.device), "mean"))


def _rate(config: TrainConfig, step: int, progress: float) -> float:
    return (
        config.learning_rate
        * min(1.0, (step + 1) / (config.warmup + 1))
        * math.cos(math.pi / 2 * min(progress, 1)) ** 2
    )


def training_data(config: TrainConfig, *, progress: Progress = iter, decode: bool = True) -> ImageData:
    """Return the images that a configuration names; other arguments and errors as of :func:`load_data`."""
    if config.data == GIVEN:
        raise DataError("data were handed to the training as they are: hand them over again, or name them")
    return load_data(
        config.data,
        size=config.size,
        skip_broken=config.skip_broken,
        image_column=config.image_column,
        label_column=config.label_column,
        conditions=[split_kind(text)[0] for text in config.conditions],
        scaling=config.scaling,
        progress=progress,
        decode=decode,
    )
