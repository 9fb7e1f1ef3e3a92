"""What a run holds in memory, and one update of it: draw, noise, ask, correct, average."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from alphabar.denoise import network_output
from alphabar.denoise.conditions import Condition
from alphabar.denoise.factories import Factory, check_call, named_errors
from alphabar.denoise.precision import autocast, precision_on
from alphabar.denoise.scaling import Scaling
from alphabar.errors import CheckpointError, ConfigError, NoAnswerError
from alphabar.schedule import NoiseSchedule
from alphabar.training.attention import WrittenOut
from alphabar.training.augment import check_augmentations
from alphabar.training.averages import Averages, Profile, exponential, parse_profile
from alphabar.training.checkpoint import Checkpoint
from alphabar.training.conditions import measured
from alphabar.training.config import GIVEN, TrainConfig
from alphabar.training.data import Batch, ImageData
from alphabar.training.draw import Draw, Examples, grid_of, over_places
from alphabar.training.engine import prepare, share_of, whole
from alphabar.training.network import factory_of, new_network, token_of
from alphabar.training.objective import VARIANCES, Objective
from alphabar.training.optimizers import OPTIMIZERS
from alphabar.training.state import TrainState, check_same, live_tensors, newest, read_into

__all__ = ["Trainer", "Update", "classes_of"]

FEW = 10  # images a class, below which its label is not told unasked


class Update(NamedTuple):
    """What one update found."""

    loss: float
    """Mean over the batch, over all processes."""
    losses: Tensor
    """(B,) of the images of this process, or of all their tokens."""
    t: Tensor
    """Where they were noised, in the shape of the losses."""
    norm: Tensor
    """() of the gradient, before it was clipped."""


@dataclass(frozen=True, eq=False)
class Trainer:
    """Network, optimizer and averages of a run, and what their updates need; made by :meth:`of`."""

    config: TrainConfig
    accelerator: Any
    schedule: NoiseSchedule
    objective: Objective
    shape: tuple[int, ...]
    classes: tuple[str, ...]
    conditions: Mapping[str, Condition]
    factory: Factory | None
    """What builds the network, where it is no diffusers model."""
    images: int
    """How many the data have."""
    latents: Mapping[str, Any]
    """What decodes the data, where they are latents."""
    scaling: Scaling | None
    """How they were scaled, where they are arrays."""
    template: nn.Module
    """A copy of the network, on the processor and whole, to build results from."""
    model: Any
    """The network as it is called: distributed, compiled."""
    network: nn.Module
    """The network that holds the parameters."""
    optimizer: Any
    averages: Averages
    draw: Draw
    buffers: Tensor
    """(2, B, C, …), of the noise and of the network's input."""

    @classmethod
    def of(
        cls,
        config: TrainConfig,
        schedule: NoiseSchedule,
        objective: Objective,
        data: ImageData,
        network: nn.Module | None,
        accelerator: Any,
    ) -> Trainer:
        """Build everything as it is before the first update; arguments and errors as of ``train``."""
        classes, conditions = classes_of(config, data), measured(config, data)
        shape, device = data.shape, accelerator.device
        check_augmentations(
            config, shape, are_latents=bool(data.latents), are_arrays=data.scaling is not None
        )
        token = token_of(config, shape)
        part = share_of(config.batch_size, config.accumulate, accelerator) // config.accumulate
        factory = factory_of(config, shape, len(classes), conditions)
        bare = network or new_network(config, shape, len(classes), conditions)
        if factory and network is not None:
            factory.check_built(network)
        if factory or network is not None:
            out_channels = VARIANCES[config.variance] * shape[0]
            asked = factory or Factory(GIVEN, shape, len(classes), out_channels, conditions=conditions)
            _check_own(bare, asked, objective, device, token)
        template = copy.deepcopy(bare).cpu()
        optimizer = OPTIMIZERS[config.optimizer](bare, config.learning_rate)
        model, holder, optimizer = prepare(bare, optimizer, accelerator)
        return cls(
            *(config, accelerator, schedule, objective, shape, classes, conditions),
            *(factory, len(data), data.latents, data.scaling, template),
            torch.compile(model) if config.compile else model,
            *(holder, optimizer, Averages(holder, _profiles(config))),
            Draw(config, len(classes), schedule.log_snr.to(device), conditions, token),
            torch.empty(2, part, *shape, device=device),
        )

    def go_on(self, run: str | Path) -> tuple[int, float]:
        """Read the newest checkpoint of a run; return its step, and the seconds it has trained.

        Raises:
            CheckpointError: there is none, or it belongs to another network.
            ConfigError: a setting, or the data, that may not change did.
        """
        found = newest(run)
        if found is None:
            raise CheckpointError(f"{run} has no checkpoint to go on from: train without resume")
        place, begun = found
        here = self.state(begun.step, begun.seconds)
        check_same(begun, self.config, here.data)
        read_into(place, here.tensors)
        self.averages.updates = begun.step
        for state in getattr(self.optimizer, "optimizer", self.optimizer).state.values():
            if "step" in state:
                state["step"].fill_(begun.step)
        return begun.step, begun.seconds

    def state(self, step: int, seconds: float) -> TrainState:
        """Return where the run stands, its tensors as they are, not copied."""
        told = {name: condition.record() for name, condition in self.conditions.items()}
        data = {
            "images": self.images,
            "shape": list(self.shape),
            "classes": list(self.classes),
            "conditions": told,
        }
        data |= {"latents": self.latents["sha256"]} if self.latents else {}
        data |= {"scaling": self.scaling.record()} if self.scaling else {}
        tensors = live_tensors(self.network, self.optimizer, self.averages)
        return TrainState(step, seconds, self.config, data, tensors)

    def snapshot(self) -> Checkpoint:
        """Return the averaged network as it is now, in a copy of its own; all processes must ask together."""
        made = copy.deepcopy(self.template).to(self.accelerator.device).eval()
        values = dict(self.network.named_buffers()) | self.averages.state()[self.averages.profiles[0].name]
        with torch.no_grad():
            for name, tensor in (*made.named_parameters(), *made.named_buffers()):
                tensor.copy_(whole(values[name]))
        return Checkpoint(
            *(made, self.schedule, self.objective.prediction, self.shape, self.classes, asdict(self.config)),
            factory=self.factory,
            latents=self.latents,
            conditions=self.conditions,
            scaling=self.scaling,
        )

    def update(self, step: int, batch: Batch, first: int, rate: float) -> Update:
        """Correct the network by the images of this process, numbered from ``first``.

        Raises:
            NoAnswerError: the loss became NaN or infinite.
            ShapeError: the network returned another shape.
        """
        config, accelerator = self.config, self.accelerator
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        losses, levels = [], []
        with _seeded(config.seed, step, accelerator):
            for number, part in enumerate(_parts(batch, config.accumulate)):
                examples = self.draw(part, first + number * len(part.images), out=self.buffers[0])
                is_last = number + 1 == config.accumulate
                with nullcontext() if is_last else accelerator.no_sync(self.model):
                    found = self._losses(examples)
                    losses.append(found.detach())
                    levels.append(examples.t)
                    accelerator.backward(found.mean() / config.accumulate)
        value = float(accelerator.reduce(torch.cat(losses).mean(), "mean"))
        if not math.isfinite(value):
            raise NoAnswerError(f"the loss is {value} at step {step + 1}: lower the learning rate, {rate:g}")
        norm = accelerator.clip_grad_norm_(self.model.parameters(), config.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.averages.update()
        return Update(value, torch.cat(losses).flatten(), torch.cat(levels).flatten(), norm)

    def _losses(self, examples: Examples) -> Tensor:
        x_0, noise, t, labels, conditions = examples
        given, at = self.objective.ask(x_0, noise, t, out=self.buffers[1])
        device, precision = self.accelerator.device, self.config.precision
        is_slow = device.type == "cpu" and precision_on(device, precision) == "bfloat16"
        with autocast(device, precision), WrittenOut() if is_slow else nullcontext():
            output = network_output(self.model, given, at, labels, conditions)
        return self.objective.losses(output, x_0, noise, t)


def _profiles(config: TrainConfig) -> list[Profile]:
    return [exponential(config.ema_decay), *(parse_profile(text) for text in config.averages)]


def _parts(batch: Batch, count: int) -> Iterator[Batch]:
    size = len(batch.images) // count
    for at in range(0, len(batch.images), size):
        yield batch.rows(slice(at, at + size))


@contextmanager
def _seeded(seed: int, step: int, accelerator: Any) -> Iterator[None]:
    """Within the block, what a network draws by itself, such as dropout, depends on seed and step alone."""
    device = accelerator.device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed((seed + (step << 20) + accelerator.process_index) % 2**63)
        yield


def classes_of(config: TrainConfig, data: ImageData) -> tuple[str, ...]:
    """Return the names of the classes that the network is told; none where it is told no labels.

    Unasked they are told to networks of this library, of data with two classes of ten images or more.

    Raises:
        ConfigError: data without labels, where they are asked for.
    """
    classes, is_told = tuple(data.classes or ()), config.class_conditional
    if is_told and not classes:
        why = data.unlabelled or "put its images in a folder a class"
        raise ConfigError(f"class_conditional, but {config.data!r} has no labels to train on: {why}")
    if is_told is None:
        is_ours = config.network != GIVEN and config.factory_name is None
        is_told = is_ours and len(classes) > 1 and len(data) >= FEW * len(classes)
    return classes if is_told else ()


def _check_own(
    network: nn.Module,
    asked: Factory,
    objective: Objective,
    device: torch.device,
    token: tuple[int, ...] = (),
) -> None:
    """Ask a copy of a network once, so that what it does not take or answer is an error before training.

    Args:
        network: of one's own.
        asked: what the training asks of it.
        objective: of the training.
        device: where it computes.
        token: the sides of what has a t of its own.

    Raises:
        ConfigError: it is called otherwise, or fails with such data, labels and conditions.
        ShapeError: it returns another shape.
    """
    x, t = torch.zeros(2, *asked.shape, device=device), torch.zeros(2, dtype=torch.int64, device=device)
    if token:
        t = over_places(t.new_zeros(2, 1, *grid_of(token, asked.shape[1:])), token, asked.shape[1:])
    labels = torch.tensor([0, asked.classes], device=device) if asked.classes else None
    options = {} if labels is None else {"class_labels": labels}
    codes = {name: torch.zeros(2, *each.code_shape, device=device) for name, each in asked.conditions.items()}
    what = "the network" if asked.name == GIVEN else f"what {asked.name} builds"
    check_call(what, network.forward, x, t, **options, **codes)
    copied = copy.deepcopy(network).to(device).eval()
    with torch.no_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
        given, time = objective.ask(x, x, t)
        with named_errors(f"{what} does not take data of shape {asked.shape}"):
            output = network_output(copied, given, time, labels, codes)
        objective.losses(output, x, x, t)
