"""From noise to image with a trained network, state by state; and the training of one, in a thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from torch import Tensor

from alphabar.errors import AlphabarError, look_up
from alphabar.explorer.asking import RefusedError
from alphabar.samplers import REGISTRY, Sampler, State, iter_sample
from alphabar.training import Checkpoint, TrainConfig, train

__all__ = ["Chosen", "Progress", "Run", "chain", "made_sampler", "mosaic"]

STATES = 60  # of a chain at most, after the noise it begins with: the page holds the pictures of all


@dataclass(frozen=True)
class Chosen:
    """A sampler as it is chosen on the page.

    Args:
        name: of the registry.
        evaluations: of the network.
        eta: η of DDIM; the others have none.
        spacing: which t it visits; by default as suits it.
    """

    name: str = "ddim"
    evaluations: int = 20
    eta: float = 0.0
    spacing: str | None = None


def made_sampler(chosen: Chosen) -> Sampler:
    """Return the sampler.

    Raises:
        UnknownNameError, ConfigError: settings that it refuses.
    """
    entry = look_up(REGISTRY, chosen.name, "sampler")
    settings = {"eta": chosen.eta} if chosen.name == "ddim" else {}
    return entry.with_evaluations(chosen.evaluations, chosen.spacing if entry.spaced else None, **settings)


def chain(
    trained: Checkpoint, sampler: Sampler, *, label: str | None, guidance: float, seed: int, num: int
) -> Iterator[State]:
    """Yield the states of a chain from noise to image: n+1 for n evaluations, or 61 evenly spaced of more.

    Args:
        trained: network and schedule.
        sampler: what makes the plan.
        label: the class of all samples; by default all classes in turn.
        guidance: 1 as trained, more for clearer and less varied pictures.
        seed: of the noise; the same seed is the same noise for every sampler.
        num: how many samples.

    Raises:
        AlphabarError: as :meth:`Checkpoint.guided` and :func:`alphabar.iter_sample`.
    """
    labels = trained.labels(num, () if label is None else (label,))
    where = next(trained.network.parameters()).device
    denoiser = trained.guided(None if labels is None else labels.to(where), guidance)
    last = len(sampler.plan(trained.schedule))
    stride = -(-last // STATES)
    for state in iter_sample(denoiser, (num, *trained.shape), sampler, seed=seed, device=where):
        if state.step % stride == 0 or state.step == last:
            yield state


def mosaic(images: Tensor) -> Tensor:
    """Return (N, C, H, W) images as one, at most five in a row, with white lines between them."""
    count, channels, height, width = images.shape
    columns, gap = min(count, 5), max(1, width // 16)
    rows = -(-count // columns)
    sheet = images.new_ones(rows * columns, channels, height + gap, width + gap)
    sheet[:count, :, :height, :width] = images
    tiled = sheet.view(rows, columns, channels, height + gap, width + gap).permute(2, 0, 3, 1, 4)
    return tiled.reshape(channels, rows * (height + gap), columns * (width + gap))[:, :-gap, :-gap]


class Progress(NamedTuple):
    """How far a run is."""

    state: str
    """``none``, ``training``, ``ready`` or ``failed``."""
    share: float
    loss: float | None
    trouble: str


class Run:
    """A trained network, or one that is being trained in a thread of its own.

    Args:
        trained: a network, where there is one.
        config: how to train one otherwise.
    """

    def __init__(self, trained: Checkpoint | None, config: TrainConfig) -> None:
        self._trained, self._config = trained, config
        self._progress = Progress(
            "none" if trained is None else "ready", 0.0 if trained is None else 1.0, None, ""
        )
        self._lock = threading.Lock()

    @property
    def progress(self) -> Progress:
        """How far it is."""
        return self._progress

    @property
    def trained(self) -> Checkpoint:
        """The network.

        Raises:
            RefusedError: there is none yet.
        """
        if self._trained is None:
            raise RefusedError("no_network")
        return self._trained

    def start(self) -> None:
        """Begin to train, unless that was done already."""
        with self._lock:
            if self._progress.state not in ("none", "failed"):
                return
            self._progress = Progress("training", 0.0, None, "")
        threading.Thread(target=self._train, name="training", daemon=True).start()

    def _train(self) -> None:
        config = self._config
        began = time.monotonic()
        try:
            last: Any = None
            for last in train(config):
                self._progress = Progress(
                    "training", _share(config, last.step, time.monotonic() - began), last.loss, ""
                )
            trained = last.snapshot()
        except (AlphabarError, OSError, MemoryError, RuntimeError) as wrong:
            self._progress = Progress("failed", 0.0, None, str(wrong))
            return
        self._trained = replace(trained, network=trained.network.eval())
        self._progress = Progress("ready", 1.0, last.loss, "")


def _share(config: TrainConfig, step: int, seconds: float) -> float:
    """Return how much of a training run is over, by its updates or by its time, whichever is further."""
    return min(1.0, max(step / config.last_step, seconds / config.seconds if config.seconds else 0.0))
