"""Training: at a random t, noise an image, ask the network for its target, and correct it.

    loss = w(t) · ‖ target(x_0, z, t) − network(c_in · (√ᾱ_t · x_0 + √(1−ᾱ_t) · z), time) ‖²

Ho et al. 2020, algorithm 1. :func:`train` is a generator: the caller owns logging, pictures and the moment
to stop. Every random choice has an address (seed, number of the image, purpose), so that a run is the same
whatever the number of processes, up to the order in which gradients are added up.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from alphabar.denoise import network_output
from alphabar.errors import ConfigError, MissingExtraError, NoAnswerError
from alphabar.process import addressed
from alphabar.schedule import FAMILIES
from alphabar.training.attention import WrittenOut
from alphabar.training.averages import Averages, exponential
from alphabar.training.checkpoint import Checkpoint
from alphabar.training.config import PRECISIONS, TrainConfig
from alphabar.training.data import Batch, ImageData, Progress, load_data, to_unit
from alphabar.training.network import unet
from alphabar.training.objective import VARIANCES, Objective
from alphabar.training.order import Order, batches
from alphabar.training.streams import DROPOUT, FLIP, NOISE, TIMESTEP
from alphabar.training.timesteps import TIMESTEPS, shares

__all__ = ["TrainStep", "train", "training_data"]


@dataclass(frozen=True)
class TrainStep:
    """What one update of the network reports."""

    step: int
    """Updates so far, 1 … steps."""
    loss: float
    """Mean loss of this batch, over all processes."""
    images: int
    """Images seen so far, over all processes."""
    rate: float
    """The learning rate of this update."""
    snapshot: Callable[[], Checkpoint]
    """Returns the averaged network as it is now, in a copy of its own."""


def train(
    config: TrainConfig, *, data: ImageData | None = None, network: nn.Module | None = None
) -> Iterator[TrainStep]:
    """Train, and yield after every update; the last step's ``snapshot()`` is the result.

    Runs on one device, or on many under ``accelerate launch`` or ``torchrun``, each process with its share
    of the batch.

    Args:
        config: every setting.
        data: images to train on in place of ``config.data``.
        network: any module called as ``network(x, time)`` as a :class:`~alphabar.denoise.Denoiser` calls it
            (with ``class_labels=`` when class-conditional) that returns the shape of x, or twice its channels
            to learn its variance, or an object whose ``sample`` is that; by default a ``UNet2DModel``.

    Raises:
        ConfigError: settings that contradict each other or the data.
        DataError: images that cannot be read.
        NoAnswerError: a prediction without an answer at a t of the schedule; or the loss became NaN or
            infinite.
        ShapeError: the network returned another shape.
        MissingExtraError: the ``train`` extra is not installed.
    """
    accelerator = _accelerator()
    device, share = accelerator.device, _share(config, accelerator)
    schedule = FAMILIES[config.schedule](config.diffusion_steps)
    objective = Objective.of(
        schedule, config.prediction, loss=config.loss, variance=config.variance, device=device
    )
    data = data or training_data(config)
    classes = _classes(config, data)
    depth, height, width = data.shape
    shape = (depth, height, width)
    bare = network or _new_network(config, shape, len(classes))
    model, optimizer = _prepared(config, bare, accelerator)
    averages = Averages(bare, [exponential(config.ema_decay)])

    def snapshot() -> Checkpoint:
        with averages.averaged():
            kept = copy.deepcopy(bare).eval()
        return Checkpoint(kept, schedule, config.prediction, shape, classes, asdict(config))

    draw = _Draw(config, len(classes), schedule.log_snr.to(device))
    buffers = torch.empty(2, share, *shape, device=device)  # of the noise and the network's input
    offset = accelerator.process_index * share
    order = Order(len(data), config.seed, config.steps, config.batch_size, offset, share, block=data.block)
    use_bf16 = PRECISIONS[config.precision](device)
    began = time.monotonic()
    for step, batch in enumerate(batches(data, order, device)):
        progress = _progress(config, step, time.monotonic() - began, accelerator)
        if progress >= 1 and step:
            break
        rate = _rate(config, step, progress)
        for group in optimizer.param_groups:
            group["lr"] = rate
        examples = draw(batch, order.first(step), out=buffers[0])
        loss = _loss(model, objective, examples, use_bf16, out=buffers[1])
        value = float(accelerator.reduce(loss.detach(), "mean"))
        if not math.isfinite(value):
            raise NoAnswerError(f"the loss is {value} at step {step + 1}: lower the learning rate, {rate:g}")
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), config.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        averages.update()
        yield TrainStep(step + 1, value, (step + 1) * config.batch_size, rate, snapshot)


class _Examples(NamedTuple):
    """A batch with everything that is random of it."""

    x_0: Tensor
    noise: Tensor
    t: Tensor
    labels: Tensor | None


@dataclass(frozen=True, eq=False)
class _Draw:
    """Makes examples of images: mirrors some, withholds some labels, draws noise and t."""

    config: TrainConfig
    classes: int
    log_snr: Tensor

    def __call__(self, batch: Batch, first: int, out: Tensor) -> _Examples:
        """Return the examples of images numbered from ``first``, their noise in ``out``."""
        config, count, device = self.config, len(batch.images), batch.images.device

        def uniform(stream: int) -> Tensor:
            return addressed.uniform(count, seed=config.seed, stream=stream, first=first, device=device)

        x_0 = to_unit(batch.images)
        if config.flip:
            x_0 = torch.where((uniform(FLIP) <= 0.5)[:, None, None, None], x_0.flip(-1), x_0)
        labels = None
        if self.classes and batch.labels is not None:
            labels = batch.labels.masked_fill(uniform(DROPOUT) <= config.label_dropout, self.classes)
        place = torch.arange(first, first + count, device=device) % config.batch_size
        numbers = shares(uniform(TIMESTEP), place, config.batch_size)
        t = TIMESTEPS[config.timesteps](numbers, self.log_snr)
        noise = addressed.normal(x_0.shape, seed=config.seed, stream=NOISE, first=first, out=out)
        return _Examples(x_0, noise, t, labels)


def _loss(
    model: Callable[..., Any], objective: Objective, examples: _Examples, use_bf16: bool, out: Tensor
) -> Tensor:
    x_0, noise, t, labels = examples
    given, at = objective.ask(x_0, noise, t, out=out)
    kind = x_0.device.type
    attention = WrittenOut() if use_bf16 and kind == "cpu" else nullcontext()
    with torch.autocast(kind, torch.bfloat16, enabled=use_bf16), attention:
        output = network_output(model, given, at, labels)
    return objective.loss(output, x_0, noise, t)


def _share(config: TrainConfig, accelerator: Any) -> int:
    """Return the images an update of this process."""
    processes: int = accelerator.num_processes
    if config.batch_size % processes:
        raise ConfigError(f"batch_size {config.batch_size} does not divide among {processes} processes")
    return config.batch_size // processes


def _prepared(config: TrainConfig, bare: nn.Module, accelerator: Any) -> tuple[Any, Any]:
    """Return the network as it is called, and its optimizer."""
    optimizer = torch.optim.AdamW(bare.parameters(), lr=config.learning_rate, betas=(0.9, 0.99), fused=True)
    model, optimizer = accelerator.prepare(bare.train(), optimizer)
    return torch.compile(model) if config.compile else model, optimizer


def _progress(config: TrainConfig, step: int, elapsed: float, accelerator: Any) -> float:
    """Return the share of the run that is over, the same in every process."""
    if config.seconds is None:
        return step / config.steps
    progress = max(step / config.steps, elapsed / config.seconds)
    return float(accelerator.reduce(torch.tensor(progress, device=accelerator.device), "mean"))


def _rate(config: TrainConfig, step: int, progress: float) -> float:
    return (
        config.learning_rate
        * min(1.0, (step + 1) / (config.warmup + 1))
        * math.cos(math.pi / 2 * min(progress, 1)) ** 2
    )


def training_data(config: TrainConfig, *, progress: Progress = iter) -> ImageData:
    """Return the images that a configuration names; errors and ``progress`` as in :func:`load_data`."""
    return load_data(
        config.data,
        size=config.size,
        skip_broken=config.skip_broken,
        image_column=config.image_column,
        label_column=config.label_column,
        progress=progress,
    )


def _classes(config: TrainConfig, data: ImageData) -> tuple[str, ...]:
    if config.class_conditional and not data.classes:
        why = data.unlabelled or "put its images in a folder a class"
        raise ConfigError(f"class_conditional, but {config.data!r} has no labels to train on: {why}")
    return tuple(data.classes or ()) if config.class_conditional else ()


def _new_network(config: TrainConfig, shape: tuple[int, int, int], classes: int) -> nn.Module:
    out_channels = VARIANCES[config.variance] * shape[0]
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(config.seed)
        return unet(shape, channels=config.channels, classes=classes, out_channels=out_channels)


def _accelerator() -> Any:
    try:
        from accelerate import Accelerator
    except ImportError:
        raise MissingExtraError("training", "train") from None
    return Accelerator()
