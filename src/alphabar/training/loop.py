"""Training: at a random t, noise an image, ask the network what was done, and correct it.

    loss = ‖ target(x_0, z, t) − network(√ᾱ_t · x_0 + √(1−ᾱ_t) · z, t) ‖²

Ho et al. 2020, algorithm 1. :func:`train` is a generator: the caller owns logging, pictures and the moment
to stop. Every random choice has an address (seed, number of the image, purpose), so that a run is the same
whatever the number of processes, up to the order in which gradients are added up.
"""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  its usual name
from torch.utils.data import DataLoader

from alphabar.checks import check_count
from alphabar.denoise import answer
from alphabar.errors import ConfigError, MissingExtraError, NoAnswerError, look_up
from alphabar.process import PARAMETERISATIONS, add_noise, addressed, target
from alphabar.schedule import FAMILIES, NoiseSchedule
from alphabar.training.attention import WrittenOut
from alphabar.training.checkpoint import Checkpoint
from alphabar.training.data import Batch, ImageData, load_data, to_unit
from alphabar.training.ema import EMA
from alphabar.training.network import unet

__all__ = ["TrainConfig", "TrainStep", "has_bfloat16", "train"]

NOISE, TIMESTEP, DROPOUT, FLIP, ORDER = range(5)  # the streams of an image's random choices


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides a training run."""

    data: str = "digits"
    """What to train on: "digits", a folder of images, a .parquet file, or a Hugging Face dataset."""
    size: int | None = None
    """Height and width of the images; by default as they come."""
    class_conditional: bool = False
    """Whether the network is told the labels of the data."""
    label_dropout: float = 0.1
    """Share of labels that are withheld, so that the network also learns to do without."""
    flip: bool = False
    """Mirror every other image, where left and right mean the same."""
    skip_broken: bool = False
    """Leave out images that cannot be read, and count them, instead of stopping."""

    schedule: str = "cosine"
    """Noise schedule: linear, scaled_linear, cosine, sigmoid, laplace, exponential."""
    diffusion_steps: int = 1000
    """T, the number of noise levels."""
    prediction: str = "v_prediction"
    """What the network returns: epsilon, sample, v_prediction."""
    timesteps: str = "stratified"
    """How t is drawn: stratified (one from each of B equal parts), logit_normal, uniform."""

    channels: tuple[int, ...] = ()
    """Channels of each level of the U-Net; by default as suits the image."""
    steps: int = 2000
    """Updates of the network."""
    seconds: float | None = None
    """Stop by the clock as well; the learning rate then falls with whichever is nearer its end."""
    batch_size: int = 128
    """Images an update, over all processes together."""
    learning_rate: float = 2e-3
    """Highest rate of AdamW; it rises during the warm-up and falls to 0 along a cosine."""
    warmup: int = 100
    """Updates until the rate is at its highest."""
    clip_norm: float = 1.0
    """Largest norm of the gradient."""
    ema_decay: float = 0.995
    """Decay of the averaged parameters, which are the result."""
    precision: str = "auto"
    """Of the network's arithmetic: float32, bfloat16, or auto (bfloat16 where the processor has it)."""
    compile: bool = False
    """Compile the network: pays on a GPU in long runs."""
    seed: int = 0
    """Of every random choice."""

    def __post_init__(self) -> None:
        """Refuse settings that cannot work, before anything is loaded.

        Raises:
            ConfigError, UnknownNameError: the first one that is wrong, and what would be right.
        """
        check_count(steps=self.steps, batch_size=self.batch_size, diffusion_steps=self.diffusion_steps)
        look_up(FAMILIES, self.schedule, "schedule")
        look_up(PARAMETERISATIONS, self.prediction, "prediction")
        look_up(TIMESTEPS, self.timesteps, "timesteps")
        look_up(PRECISIONS, self.precision, "precision")
        for name in ("learning_rate", "clip_norm", "seconds"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"{name} is {value!r}: it must be positive")
        if not 0 <= self.label_dropout <= 1:
            raise ConfigError(f"label_dropout is {self.label_dropout!r}: it must lie in [0, 1]")
        if not self.warmup >= 0:
            raise ConfigError(f"warmup is {self.warmup!r}: it must be at least 0")


@dataclass(frozen=True)
class TrainStep:
    """What one update of the network reports."""

    step: int
    """Updates so far, 1 … steps."""
    loss: float
    """Mean squared error of this batch, over all processes."""
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
        network: any module called as ``network(x_t, t)`` (with ``class_labels=`` when class-conditional) that
            returns the shape of x_t, or an object whose ``sample`` does; by default a ``UNet2DModel``.

    Raises:
        ConfigError: settings that contradict each other or the data.
        DataError: images that cannot be read.
        NoAnswerError: the loss became NaN or infinite.
        MissingExtraError: the ``train`` extra is not installed.
    """
    accelerator = _accelerator()
    processes, rank = accelerator.num_processes, accelerator.process_index
    if config.batch_size % processes:
        raise ConfigError(f"batch_size {config.batch_size} does not divide among {processes} processes")
    data = data or load_data(config.data, size=config.size, skip_broken=config.skip_broken)
    classes = _classes(config, data)
    schedule = FAMILIES[config.schedule](config.diffusion_steps)
    depth, height, width = data.shape
    shape = (depth, height, width)
    bare = network or _new_network(config, shape, len(classes))
    optimizer = torch.optim.AdamW(bare.parameters(), lr=config.learning_rate, betas=(0.9, 0.99), fused=True)
    model, optimizer = accelerator.prepare(bare.train(), optimizer)
    if config.compile:
        model = torch.compile(model)
    ema = EMA(bare.parameters(), config.ema_decay)

    def snapshot() -> Checkpoint:
        with ema.averaged():
            kept = copy.deepcopy(bare).eval()
        return Checkpoint(kept, schedule, config.prediction, shape, classes, asdict(config))

    share = config.batch_size // processes
    space = torch.empty(2, share, *shape, device=accelerator.device)  # of the noise and of x_t, used again
    order = _Order(len(data), config, rank * share, share)
    began = time.monotonic()
    for step, batch in enumerate(_batches(data, order, accelerator.device)):
        gone = _gone(config, step, time.monotonic() - began, accelerator)
        if gone >= 1 and step:
            break
        rate = _rate(config, step, gone)
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = _loss(model, schedule, config, batch, order.first(step), len(classes), space)
        value = float(accelerator.reduce(loss.detach(), "mean"))
        if not math.isfinite(value):
            raise NoAnswerError(f"the loss is {value} at step {step + 1}: lower the learning rate, {rate:g}")
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), config.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        ema.update()
        yield TrainStep(step + 1, value, (step + 1) * config.batch_size, rate, snapshot)


def _loss(
    model: Callable[..., Any],
    schedule: NoiseSchedule,
    config: TrainConfig,
    batch: Batch,
    first: int,
    classes: int,
    space: Tensor,
) -> Tensor:
    device, count = batch.images.device, len(batch.images)

    def chance(stream: int) -> Tensor:
        return addressed.uniform(count, seed=config.seed, stream=stream, first=first, device=device)

    x_0 = to_unit(batch.images)
    if config.flip:
        x_0 = torch.where((chance(FLIP) <= 0.5)[:, None, None, None], x_0.flip(-1), x_0)
    labels = None
    if classes and batch.labels is not None:
        labels = batch.labels.masked_fill(chance(DROPOUT) <= config.label_dropout, classes)
    place = torch.arange(first, first + count, device=device) % config.batch_size
    share = TIMESTEPS[config.timesteps](chance(TIMESTEP).double(), place, config.batch_size)
    t = (share * len(schedule)).long()
    noise = addressed.normal(x_0.shape, seed=config.seed, stream=NOISE, first=first, out=space[0])
    x_t = add_noise(schedule, x_0, noise, t, out=space[1])
    in_halves = PRECISIONS[config.precision](device)
    attention = WrittenOut() if in_halves and device.type == "cpu" else nullcontext()
    with torch.autocast(device.type, torch.bfloat16, enabled=in_halves), attention:
        output = answer(model, x_t, t, labels)
    return F.mse_loss(output.float(), target(schedule, config.prediction, x_0, noise, t))


def _logit_normal(u: Tensor, place: Tensor, batch: int) -> Tensor:
    """Stratified, and most of them in the middle (Esser et al. 2024, arXiv 2403.03206, section 3.1)."""
    return torch.sigmoid(1.2 * torch.special.ndtri((place + (1 - u)) / batch) - 0.4)


TIMESTEPS: dict[str, Callable[[Tensor, Tensor, int], Tensor]] = {
    "stratified": lambda u, place, batch: (place + (1 - u)) / batch,
    "uniform": lambda u, place, batch: 1 - u,
    "logit_normal": _logit_normal,
}
"""t/T in [0, 1) from a uniform number in (0, 1] and an image's place among those of its batch."""


def has_bfloat16(device: torch.device) -> bool:
    """Return whether a device multiplies in bfloat16 natively."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(torch.cpu._is_avx512_bf16_supported())


PRECISIONS: dict[str, Callable[[torch.device], bool]] = {
    "auto": has_bfloat16,
    "float32": lambda device: False,
    "bfloat16": lambda device: True,
}
"""Whether the network runs in bfloat16 on a device."""


def _batches(data: ImageData, order: _Order, device: torch.device) -> Iterator[Batch]:
    """Yield the batches on the device; data that fit in memory are moved there once, as bytes."""
    if data.tensor is not None:
        held, known = data.tensor.to(device), None if data.labels is None else data.labels.to(device)
        for indices in order:
            yield Batch(held[indices], None if known is None else known[indices])
        return
    workers = min(4, os.cpu_count() or 1)
    pinned = device.type == "cuda"
    for images, labels in DataLoader(data, None, sampler=order, num_workers=workers, pin_memory=pinned):
        yield Batch(images.to(device, non_blocking=True), None if labels is None else labels.to(device))


@dataclass(frozen=True)
class _Order:
    """The images of each batch: every epoch a permutation of its own, batches running on across the seam."""

    images: int
    config: TrainConfig
    offset: int
    share: int

    def first(self, step: int) -> int:
        """Return the number of the first image of this process's share, counted from the start of the run."""
        return step * self.config.batch_size + self.offset

    def __len__(self) -> int:
        return self.config.steps

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.config.steps):
            first = self.first(step)
            yield [self._image(number) for number in range(first, first + self.share)]

    def _image(self, number: int) -> int:
        epoch, place = divmod(number, self.images)
        return _permutation(self.images, self.config.seed, epoch)[place]


@lru_cache(maxsize=2)
def _permutation(count: int, seed: int, epoch: int) -> list[int]:
    draws = addressed.uniform(count, seed=seed, stream=ORDER, first=epoch * count)
    return list(draws.argsort(stable=True).tolist())


def _gone(config: TrainConfig, step: int, elapsed: float, accelerator: Any) -> float:
    """Return the share of the run that is over, the same in every process."""
    if config.seconds is None:
        return step / config.steps
    gone = max(step / config.steps, elapsed / config.seconds)
    return float(accelerator.reduce(torch.tensor(gone, device=accelerator.device), "mean"))


def _rate(config: TrainConfig, step: int, gone: float) -> float:
    return (
        config.learning_rate
        * min(1.0, (step + 1) / (config.warmup + 1))
        * math.cos(math.pi / 2 * min(gone, 1)) ** 2
    )


def _classes(config: TrainConfig, data: ImageData) -> tuple[str, ...]:
    if config.class_conditional and not data.classes:
        raise ConfigError(
            f"class_conditional, but {config.data!r} has no labels: put its images in a folder a class"
        )
    return tuple(data.classes or ()) if config.class_conditional else ()


def _new_network(config: TrainConfig, shape: tuple[int, int, int], classes: int) -> nn.Module:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(config.seed)
        return unet(shape, channels=config.channels, classes=classes)


def _accelerator() -> Any:
    try:
        from accelerate import Accelerator
    except ImportError:
        raise MissingExtraError("training", "train") from None
    return Accelerator()
