"""What keeping a run costs: updates with a checkpoint every hundred, beside updates without."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch
from torch import nn

from alphabar.training import ImageData, TrainConfig, TrainStep, kept, train, training_data
from alphabar.training.state import CHECKPOINTS
from benchmarks import peers
from benchmarks.measure import OURS, Result, Settings
from benchmarks.training_loops import network

TITLE = "Checkpoints"
ABOUT = (
    "An update of a run that is kept in a temporary folder with a checkpoint every hundred updates, and one "
    "of the same run without. A reading is the mean of a hundred updates, with the checkpoint in their "
    "middle, so that what is written in the background falls into the same reading. The aim is a cost "
    "under 2 %."
)
EVERY = 100
ROUNDS = 8  # machines vary by more than what a checkpoint costs
WITHOUT = "without"


class Subject(NamedTuple):
    """What is trained on what."""

    config: TrainConfig
    data: ImageData
    network: nn.Module | None


def run(settings: Settings) -> Iterator[Result]:
    """Measure the network of the demo, and a larger one of which an update takes little."""
    if peers.library("diffusers") is None:
        return
    digits = TrainConfig(steps=10**6, class_conditional=True)
    yield compared("digits, batch 128", lambda: Subject(digits, training_data(digits), None))
    images = torch.randint(0, 256, (1024, 3, 32, 32), dtype=torch.uint8)
    small = TrainConfig(steps=10**6, batch_size=8)
    yield compared(
        "7 M parameters, 3×32×32, batch 8",
        lambda: Subject(small, ImageData(images), network(3, 32, (64, 128, 192))),
        rounds=ROUNDS // 2,
    )


def compared(name: str, fresh: Callable[[], Subject], every: int = EVERY, rounds: int = ROUNDS) -> Result:
    """Let both runs take turns of ``every`` updates."""
    with TemporaryDirectory() as folder:
        runs = {OURS: kept(updates(fresh()), folder, every=every), WITHOUT: updates(fresh())}
        for steps in runs.values():
            seconds(steps, every // 2)
        samples: dict[str, list[float]] = {who: [] for who in runs}
        for number in range(rounds):
            for who in list(runs)[:: -1 if number % 2 else 1]:
                samples[who].append(seconds(runs[who], every))
        del runs, steps  # which ends them, once what is being written is complete
        newest = max(Path(folder, CHECKPOINTS).glob("step-*"))
        size = sum(path.stat().st_size for path in newest.iterdir())
    return Result(name, samples, {WITHOUT: 0.98}, notes={"a checkpoint": f"{size / 1e6:.1f} MB"})


def updates(what: Subject) -> Iterator[TrainStep]:
    """Return the steps of a training."""
    return train(what.config, data=what.data, network=what.network)


def seconds(steps: Iterator[TrainStep], count: int) -> float:
    """Return the time of one update, the mean of so many."""
    began = time.perf_counter()
    for _ in islice(steps, count):
        pass
    return (time.perf_counter() - began) / count
