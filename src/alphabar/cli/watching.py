"""What a person sees of a training: a bar or plain lines, grids of samples at chosen steps, trackers."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from alphabar.checks import check_count
from alphabar.cli import plots
from alphabar.cli._arguments import tell_notes
from alphabar.cli._decoding import decoder
from alphabar.cli._pictures import pictures
from alphabar.denoise.conditions import rows_of
from alphabar.errors import AlphabarError, ConfigError, look_up
from alphabar.samplers import DDIM, sample, track
from alphabar.training import Checkpoint, ImageData, TrainConfig, TrainingWarning, TrainStep
from alphabar.training.config import LIMIT
from alphabar.training.engine import is_main, make_accelerator

__all__ = ["TRACKERS", "Grids", "check_tracker", "tracked", "watched"]

SECONDS = 20.0  # between plain lines
SAMPLES = "samples"  # of a run, the folder of the grids
COUNT = 16  # images of a grid
SAMPLER = DDIM(steps=20)


def watched(
    steps: Iterable[TrainStep], config: TrainConfig, start: int, shown: bool | None
) -> TrainStep | None:
    """Run through the steps of a training; return the last, or None where its time is over already.

    Args:
        steps: what is watched.
        config: what says when it ends.
        start: updates that were made before.
        shown: False for silence; by default a bar on a terminal, else plain lines.
    """
    lines = shown is None and not sys.stderr.isatty()
    began = told = time.monotonic()
    total = None if config.last_step == LIMIT else config.last_step
    coming = None if total is None else total - start
    last = None
    for last in track(steps, coming, "training", shown=shown, told=_numbers):
        tell_notes()
        now = time.monotonic()
        if lines and (last.step in (start + 1, total) or now - told >= SECONDS):
            told, pace = now, (now - began) / (last.step - start)
            left = pace * (config.last_step - last.step)
            if config.seconds is not None:
                left = max(0.0, min(left, config.seconds - last.seconds))
            pacing = f"{pace * 1000:.0f} ms an update, {_clock(left)} left"
            of = "" if total is None else f"/{total}"
            print(f"step {last.step}{of}  {_numbers(last)}  {pacing}", flush=True)
    return last


def _numbers(step: TrainStep) -> str:
    return f"loss {step.loss:.4f}  rate {step.rate:.2g}"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"


@dataclass(frozen=True)
class Grids:
    """Draws samples of the averaged network at chosen steps, from the same noise each time.

    Args:
        run: the folder; grids go to RUN/samples/step-00001000.png.
        every: updates between grids; None for no grids.
        conditions: (n, …) each that the network needs, which the samples go through in turn.

    Raises:
        ConfigError: every is not positive.
    """

    run: Path
    every: int | None
    conditions: Mapping[str, Tensor] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if self.every is not None:
            check_count(samples_every=self.every)

    def told(self, data: ImageData) -> Grids:
        """Return what draws samples with the conditions of the first images of the data."""
        first = data[range(min(COUNT, len(data)))].conditions if data.conditions else {}
        return replace(self, conditions=first)

    def __call__(self, step: TrainStep) -> dict[str, Any]:
        """Write a grid where one is due; return what the log says of it. All processes must take part.

        Warns:
            TrainingWarning: no grid can be drawn or written; training goes on.
        """
        if self.every is None or step.step % self.every:
            return {}
        result = step.snapshot()
        if not is_main():
            return {}
        try:
            return {"samples": self._draw(result, grid_of(self.run, step.step))}
        except (AlphabarError, OSError) as error:
            warnings.warn(f"no samples at step {step.step}: {error}", TrainingWarning, stacklevel=2)
            return {}

    def _draw(self, result: Checkpoint, path: Path) -> dict[str, Any]:
        labels, device = result.labels(COUNT), next(result.network.parameters()).device
        shape, told = (COUNT, *result.shape), rows_of(self.conditions, range(COUNT), device)
        denoiser = result.guided(labels, conditions=told)
        images = sample(denoiser, shape, SAMPLER, seed=0, device=device, progress=False)
        plots.grid(pictures(images) if result.scaling else decoder(result.latents, device)(images), path)
        seen = images.clamp(-1, 1) if result.makes_images else images
        return {"mean": float(seen.mean()), "count": COUNT}


def grid_of(run: Path, step: int) -> Path:
    """Return where the grid of a step goes."""
    return run / SAMPLES / f"step-{step:08}.png"


def remove_grids(run: Path, step: int) -> None:
    """Remove the grids of all steps after one, which a run that goes on from it draws again."""
    for path in sorted((run / SAMPLES).glob("step-*.png")):
        if plots.is_grid(path) and path > grid_of(run, step):
            path.unlink()


# --- trackers ---


def _has_none() -> bool:
    return True


def _has(name: str) -> Callable[[], bool]:
    def is_there() -> bool:
        from accelerate.utils import imports

        return bool(getattr(imports, f"is_{name}_available")())

    return is_there


TRACKERS: dict[str, Callable[[], bool]] = {
    "none": _has_none,
    **{name: _has(name) for name in ("tensorboard", "wandb", "trackio")},
}
"""The trackers by name: whether each is installed."""


def check_tracker(name: str | None) -> str:
    """Return a tracker that is installed; by default TensorBoard where it is, else none.

    Raises:
        UnknownNameError: another name.
        ConfigError: it is not installed.
    """
    if name is None:
        return "tensorboard" if TRACKERS["tensorboard"]() else "none"
    if not look_up(TRACKERS, name, "tracker")():
        raise ConfigError(f"tracker is {name!r}, which is not installed: pip install {name}")
    return name


@contextmanager
def tracked(
    name: str, run: Path, settings: Mapping[str, Any]
) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Yield a function that hands a line of the log to a tracker.

    Args:
        name: of a tracker that is installed, or "none".
        run: the folder; TensorBoard's files go to RUN/tensorboard.
        settings: of the run, as JSON values.
    """
    if name == "none":
        yield lambda entry: None
        return
    accelerator = make_accelerator(log_with=name, project_dir=str(run))
    plain = {
        key: value if isinstance(value, (int, float, str)) else str(value) for key, value in settings.items()
    }
    options = {"wandb": {"name": run.name, "dir": str(run)}, "trackio": {"name": run.name}}
    project = "tensorboard" if name == "tensorboard" else "alphabar"  # there it names the folder
    accelerator.init_trackers(project, config=plain, init_kwargs=options)
    try:
        yield lambda entry: accelerator.log(_flat(entry), step=entry["step"])
    finally:
        accelerator.end_training()


def _flat(entry: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a line, each by its own name."""
    found = {
        key: entry[key] for key in ("loss", "images", "rate", "norm", "seconds") if entry[key] is not None
    }
    losses = enumerate(entry["levels"]["loss"])
    return found | {f"loss by level/{part}": loss for part, loss in losses if loss is not None}
