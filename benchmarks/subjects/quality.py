"""Time to quality: the same network, the same minutes, then how far its samples are from unseen images."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor, nn

from alphabar.cli._memory import keep_memory
from alphabar.denoise.denoiser import Denoiser
from alphabar.denoise.guidance import Clipped
from alphabar.evaluation import Classifier, Interval, fit_classifier
from alphabar.evaluation.distances import frechet_without
from alphabar.evaluation.intervals import interval_of
from alphabar.samplers.ddim import DDIM
from alphabar.samplers.loop import sample
from alphabar.training.checkpoint import Checkpoint
from alphabar.training.config import TrainConfig
from alphabar.training.data import ImageData, load_data, to_unit
from alphabar.training.loop import train
from benchmarks.measure import OURS, Result, Settings
from benchmarks.training_loops import (
    EXAMPLE,
    PlainConfig,
    PlainStep,
    network,
    plain_scheduler,
    plain_training,
)

TITLE = "Time to quality"
ABOUT = (
    "The same `UNet2DModel` (channels 16, 32, 64; 0.69 M parameters; batch 64) is trained for the same "
    "time by our recipe, by diffusers' unconditional example as it stands (*diffusers*), and by that loop "
    "with learning rate, warm-up and EMA tuned as ours are (*diffusers, tuned*). The score is the Fréchet "
    "distance of 1,000 samples, each made with 50 network evaluations of DDIM, to 5,000 held-out images, "
    "on the features of a small classifier; *real* is that of 1,000 training images. No run is told "
    "labels. Further rows undo one choice of our recipe each."
)
WIDTHS, BATCH, HELD_OUT, EVALUATIONS = (16, 32, 64), 64, 5000, 50
READ, EPOCHS = 10_000, 2  # what the classifier is trained on
LEAST = READ * EPOCHS  # images that it sees, so that few are shown more often
AIMS = {"diffusers": 4.0, "diffusers, tuned": 2.0}
RECIPE = TrainConfig(batch_size=BATCH)
"""Ours: every setting that is not its default is a choice that ``--ablate`` undoes."""
TUNED = PlainConfig(
    learning_rate=RECIPE.learning_rate, warmup=RECIPE.warmup, ema_decay=RECIPE.ema_decay, seconds=1.0
)
UNDONE: dict[str, dict[str, Any]] = {
    "AdamW": {"optimizer": "adamw"},
    "uniform timesteps": {"timesteps": "uniform"},
    "no EMA": {"ema_decay": 0.0},
    "linear schedule": {"schedule": "linear"},
    "ε-prediction": {"prediction": "epsilon"},
    "float32": {"precision": "float32"},
    "the example's rate": {"learning_rate": EXAMPLE.learning_rate, "warmup": EXAMPLE.warmup},
}
"""One choice of the recipe undone at a time."""

Images = Callable[[int], Tensor]
Run = Callable[[ImageData, Settings], tuple[Images, int]]


@dataclass(frozen=True)
class Scored:
    """What judges: held-out images, their features, and as many training images as there are samples."""

    classifier: Classifier
    held_out: Tensor
    real: Tensor

    def __call__(self, images: Tensor) -> float:
        """Return the distance of images to those held out."""
        return self.interval(images).value

    @torch.no_grad()
    def interval(self, images: Tensor) -> Interval:
        """Return the distance and how far it may be off."""
        seen, unseen = (
            torch.cat([self.classifier.features(x) for x in part.split(1000)])
            for part in (images, self.held_out)
        )
        return interval_of(frechet_without(seen, unseen))


def run(settings: Settings) -> Iterator[Result]:
    """Train and score, run by run."""
    chosen = settings.runs or (*CONTENDERS, *(UNDONE if settings.ablate else ()))
    return compared(settings, {name: RUNS[name] for name in chosen}, (OURS, *CONTENDERS, "real", *UNDONE))


def compared(settings: Settings, runs: Mapping[str, Run], order: Sequence[str]) -> Iterator[Result]:
    """Train and score, run by run; each yields the table as far as it is known, earlier runs included.

    Args:
        settings: the time of a run, the data, and how many samples are scored.
        runs: what trains, by its name; each returns what samples, and how many updates it made.
        order: the names of all rows.
    """
    keep_memory()  # as the command does; every run of this process has it
    training, scored = scored_data(settings)
    told = {"seconds": settings.seconds, "samples": settings.samples, "training images": len(training)}
    known = _known(settings.recorded, told)
    known["real"] = {"distance": scored(scored.real)}
    for name, train_one in runs.items():
        images, steps = train_one(training, settings)
        known[name] = {"distance": scored(images(settings.samples)), "updates": steps}
        yield _table(known, told, order)


def _known(recorded: Mapping[str, Any], told: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Return what is on record of runs like these, to be completed."""
    for record in recorded.get("cases", ()):
        notes = record["notes"]
        if all(notes.get(name) == value for name, value in told.items()):
            runs = {name: {"distance": value["median"]} for name, value in record["values"].items()}
            updates = {name: {"updates": notes[f"updates of {name}"]} for name in runs if name != "real"}
            return {name: run | updates.get(name, {}) for name, run in runs.items()}
    return {}


def _table(
    known: Mapping[str, Mapping[str, float]], told: Mapping[str, float], order: Sequence[str]
) -> Result:
    notes = {f"updates of {name}": run["updates"] for name, run in known.items() if "updates" in run}
    aims = {name: aim for name, aim in AIMS.items() if name in known and OURS in known}
    samples = {name: [known[name]["distance"]] for name in dict.fromkeys(order) if name in known}
    return Result("Fréchet distance", samples, aims, unit="distance", notes={**notes, **told})


def scored_data(settings: Settings) -> tuple[ImageData, Scored]:
    """Return what is trained on, and what judges."""
    everything = load_data(settings.data)
    order = torch.randperm(len(everything), generator=torch.Generator().manual_seed(0)).tolist()
    first = min(HELD_OUT, len(everything) // 2)
    held_out, training = everything.subset(order[:first]), everything.subset(order[first:])
    some, labels, *_ = training[range(min(READ, len(training)))]
    if labels is None:
        raise SystemExit("the images have no labels: the classifier that judges needs them")
    epochs = max(EPOCHS, math.ceil(LEAST / len(some)))
    classifier = fit_classifier(to_unit(some), labels, epochs=epochs)
    real, unseen = to_unit(some[-settings.samples :]), to_unit(held_out[range(len(held_out))].images)
    return training, Scored(classifier, unseen, real)


def _network(training: ImageData, *, told: bool = False) -> nn.Module:
    channels, size, _ = training.shape
    return network(channels, size, WIDTHS, len(training.classes or ()) if told else None)


def ours(*, chooses: bool = False, **undone: Any) -> Run:
    """Return what trains by the recipe, some of it undone, the peer's network or one that is chosen."""

    def run(training: ImageData, settings: Settings) -> tuple[Images, int]:
        config = replace(RECIPE, seconds=settings.seconds, **undone)
        given = None if chooses else _network(training)
        (last,) = deque(train(config, data=training, network=given), maxlen=1)
        result = last.snapshot()
        return lambda count: _sampled(result, count, settings.device), last.step

    return run


def _sampled(result: Checkpoint, count: int, device: str) -> Tensor:
    drawn = []
    for first, labels in _labels(count, len(result.classes), device):
        told = labels if result.classes else None
        denoiser = Clipped(
            Denoiser(result.network, result.schedule, result.prediction, labels=told, precision="auto")
        )
        shape = (len(labels), *result.shape)
        drawn.append(sample(denoiser, shape, DDIM(EVALUATIONS), seed=0, first=first, device=device))
    return torch.cat(drawn).clamp(-1, 1).cpu()


def _labels(count: int, classes: int, device: str) -> Iterator[tuple[int, Tensor]]:
    """Yield the number of the first image of each batch, and its labels: the classes in turn."""
    for first in range(0, count, 250):
        yield first, torch.arange(first, min(first + 250, count), device=device) % max(1, classes)


def plain(config: PlainConfig, *, told: bool = False, seed: int = 0) -> Run:
    """Return what trains as the example of diffusers does, told the labels or not."""

    def run(training: ImageData, settings: Settings) -> tuple[Images, int]:
        timed = config if config.seconds is None else replace(config, seconds=settings.seconds)
        end = time.monotonic() + settings.seconds
        steps = peer_steps(training, timed, told=told, seed=seed)
        (last,) = deque(takewhile(lambda step: time.monotonic() < end, steps), maxlen=1)
        return peer_images(last, config, training, settings.device), last.step

    return run


def peer_steps(
    training: ImageData, config: PlainConfig, *, told: bool = False, seed: int = 0
) -> Iterator[PlainStep]:
    """Train the network as the example of diffusers does, told the labels or not."""
    torch.manual_seed(seed)
    images, labels = training[range(len(training))][:2]
    options = {"batch_size": BATCH, "labels": labels if told else None}
    return plain_training(_network(training, told=told), images, config, **options)


def peer_images(last: PlainStep, config: PlainConfig, training: ImageData, device: str) -> Images:
    """Return what samples from the averaged network of the last update."""
    model = last.averaged()
    return lambda count: _peer_sampled(model, config, count, training.shape, device)


@torch.no_grad()
def _peer_sampled(model: Any, config: PlainConfig, count: int, shape: tuple[int, ...], device: str) -> Tensor:
    """Sample as diffusers' DDIMPipeline does, from the scheduler of the training."""
    from diffusers import DDIMScheduler

    scheduler, parts = DDIMScheduler.from_config(plain_scheduler(config).config), []
    classes = model.config.num_class_embeds or 0
    for _, labels in _labels(count, classes, device):
        scheduler.set_timesteps(EVALUATIONS)
        x = torch.randn(len(labels), *shape, device=device)
        for t in scheduler.timesteps:
            output = model(x, t, labels if classes else None).sample
            x = scheduler.step(output, t, x).prev_sample
        parts.append(x)
    return torch.cat(parts).clamp(-1, 1).cpu()


CONTENDERS = {"diffusers": plain(EXAMPLE), "diffusers, tuned": plain(TUNED), OURS: ours()}
"""The three that are compared, in the order in which they run."""
RUNS = CONTENDERS | {name: ours(**undone) for name, undone in UNDONE.items()}
