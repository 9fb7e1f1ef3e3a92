"""Time to quality: the same network, the same minutes, then how far its samples are from unseen images."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor, nn

from alphabar.cli._memory import keep_memory
from alphabar.denoise.denoiser import Denoiser
from alphabar.denoise.guidance import Clipped
from alphabar.evaluation import Classifier, fit_classifier, frechet_distance
from alphabar.samplers.ddim import DDIM
from alphabar.samplers.loop import sample
from alphabar.training.config import TrainConfig
from alphabar.training.data import ImageData, load_data, to_unit
from alphabar.training.loop import train
from benchmarks.measure import OURS, Result, Settings
from benchmarks.training_loops import EXAMPLE, PlainConfig, network, plain_training

TITLE = "Time to quality"
ABOUT = (
    "The same `UNet2DModel` (channels 16, 32, 64; 0.69 M parameters; batch 64) is trained for the same "
    "time by our recipe, by diffusers' unconditional example as it stands (*diffusers*), and by that loop "
    "with learning rate, warm-up and EMA tuned as ours are (*diffusers, tuned*). The score is the Fréchet "
    "distance of 1,000 samples, each made with 50 network evaluations of DDIM, to 5,000 held-out images, "
    "on the features of a small classifier; *real* is that of 1,000 training images. Rows of *defaults*, "
    "where they are on record, are `alphabar train` with no other setting than the time, which chooses its "
    "network too. Further rows undo one choice of our recipe each."
)
WIDTHS, BATCH, HELD_OUT, EVALUATIONS = (16, 32, 64), 64, 5000, 50
READ, EPOCHS = 10_000, 2  # what the classifier is trained on
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


@dataclass(frozen=True)
class Scored:
    """What judges: held-out images, their features, and as many training images as there are samples."""

    classifier: Classifier
    held_out: Tensor
    real: Tensor

    @torch.no_grad()
    def __call__(self, images: Tensor) -> float:
        """Return the distance of images to those held out."""
        seen, unseen = (
            torch.cat([self.classifier.features(x) for x in part.split(1000)])
            for part in (images, self.held_out)
        )
        return frechet_distance(seen, unseen)


def run(settings: Settings) -> Iterator[Result]:
    """Train and score, run by run; each yields the table as far as it is known, earlier runs included."""
    keep_memory()  # as the command does; every run of this process has it
    training, scored = _data(settings)
    told = {"seconds": settings.seconds, "samples": settings.samples, "training images": len(training)}
    known = _known(settings.recorded, told)
    known["real"] = {"distance": scored(scored.real)}
    chosen = settings.runs or (*CONTENDERS, *(UNDONE if settings.ablate else ()))
    for name in chosen:
        images, steps = RUNS[name](training, settings)
        known[name] = {"distance": scored(images(settings.samples)), "updates": steps}
        yield _table(known, told)


def _known(recorded: Mapping[str, Any], told: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Return what is on record of runs like these, to be completed."""
    for record in recorded.get("cases", ()):
        notes = record["notes"]
        if all(notes.get(name) == value for name, value in told.items()):
            runs = {name: {"distance": value["median"]} for name, value in record["values"].items()}
            updates = {name: {"updates": notes[f"updates of {name}"]} for name in runs if name != "real"}
            return {name: run | updates.get(name, {}) for name, run in runs.items()}
    return {}


def _table(known: Mapping[str, Mapping[str, float]], told: Mapping[str, float]) -> Result:
    notes = {f"updates of {name}": run["updates"] for name, run in known.items() if "updates" in run}
    aims = {name: aim for name, aim in AIMS.items() if name in known and OURS in known}
    order = dict.fromkeys((OURS, *CONTENDERS, "real", *DEFAULTS, *UNDONE))
    samples = {name: [known[name]["distance"]] for name in order if name in known}
    return Result("Fréchet distance", samples, aims, unit="distance", notes={**notes, **told})


def _data(settings: Settings) -> tuple[ImageData, Scored]:
    everything = load_data(settings.data)
    order = torch.randperm(len(everything), generator=torch.Generator().manual_seed(0)).tolist()
    first = min(HELD_OUT, len(everything) // 2)
    held_out, training = everything.subset(order[:first]), everything.subset(order[first:])
    some, labels = training[range(min(READ, len(training)))]
    if labels is None:
        raise SystemExit("the images have no labels: the classifier that judges needs them")
    classifier = fit_classifier(to_unit(some), labels, epochs=EPOCHS)
    real, unseen = to_unit(some[-settings.samples :]), to_unit(held_out[range(len(held_out))].images)
    return training, Scored(classifier, unseen, real)


def _network(training: ImageData) -> nn.Module:
    channels, size, _ = training.shape
    return network(channels, size, WIDTHS)


def _ours(*, chooses: bool = False, **undone: Any) -> Callable[[ImageData, Settings], tuple[Images, int]]:
    def run(training: ImageData, settings: Settings) -> tuple[Images, int]:
        config = replace(RECIPE, seconds=settings.seconds, **undone)
        given = None if chooses else _network(training)
        (last,) = deque(train(config, data=training, network=given), maxlen=1)
        result = last.snapshot()
        denoiser = Clipped(Denoiser(result.network, result.schedule, result.prediction))
        return lambda count: _sampled(denoiser, count, training.shape, settings.device), last.step

    return run


def _sampled(denoiser: Any, count: int, shape: tuple[int, ...], device: str) -> Tensor:
    parts = range(0, count, 250)
    drawn = [
        sample(
            denoiser, (min(250, count - first), *shape), DDIM(EVALUATIONS), seed=0, first=first, device=device
        )
        for first in parts
    ]
    return torch.cat(drawn).clamp(-1, 1).cpu()


def _plain(config: PlainConfig) -> Callable[[ImageData, Settings], tuple[Images, int]]:
    def run(training: ImageData, settings: Settings) -> tuple[Images, int]:
        torch.manual_seed(0)
        timed = config if config.seconds is None else replace(config, seconds=settings.seconds)
        images = training[range(len(training))].images
        steps = plain_training(_network(training), images, timed, batch_size=BATCH)
        end = time.monotonic() + settings.seconds
        (last,) = deque(takewhile(lambda step: time.monotonic() < end, steps), maxlen=1)
        model = last.averaged()
        return lambda count: _peer_sampled(model, count, training.shape, settings.device), last.step

    return run


@torch.no_grad()
def _peer_sampled(model: nn.Module, count: int, shape: tuple[int, ...], device: str) -> Tensor:
    """Sample as diffusers' DDIMPipeline does, from the example's scheduler."""
    from diffusers import DDIMScheduler, DDPMScheduler

    scheduler, parts = DDIMScheduler.from_config(DDPMScheduler(num_train_timesteps=1000).config), []
    for size in [250] * (count // 250) + [count % 250] * (count % 250 > 0):
        scheduler.set_timesteps(EVALUATIONS)
        x = torch.randn(size, *shape, device=device)
        for t in scheduler.timesteps:
            x = scheduler.step(model(x, t).sample, t, x).prev_sample
        parts.append(x)
    return torch.cat(parts).clamp(-1, 1).cpu()


CONTENDERS = {"diffusers": _plain(EXAMPLE), "diffusers, tuned": _plain(TUNED), OURS: _ours()}
"""The three that are compared, in the order in which they run."""
DEFAULTS = {f"defaults, seed {seed}": _ours(chooses=True, seed=seed) for seed in range(3)}
RUNS = CONTENDERS | DEFAULTS | {name: _ours(**undone) for name, undone in UNDONE.items()}
