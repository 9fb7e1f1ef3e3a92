"""``alphabar train``: the fields of :class:`alphabar.training.TrainConfig`, and a run to write or resume."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any

import torch
from tyro.conf import Positional, UseAppendAction, arg

from alphabar.cli import plots
from alphabar.cli._arguments import (
    check_apart,
    check_memory,
    check_seed,
    one_of,
    readable,
    tell_notes,
    wrote,
)
from alphabar.cli._opening import import_from_here
from alphabar.cli._signals import signals
from alphabar.cli.scoring import Scores
from alphabar.cli.watching import TRACKERS, Grids, check_tracker, remove_grids, tracked, watched
from alphabar.denoise.factories import check_allowed, find
from alphabar.errors import AlphabarError, CheckpointError, ConfigError
from alphabar.samplers import track
from alphabar.training import (
    Checkpoint,
    ImageData,
    TrainConfig,
    TrainStep,
    checkpoint,
    kept,
    logged,
    read_log,
    train,
    training_data,
)
from alphabar.training.conditions import measured
from alphabar.training.engine import is_main, processes
from alphabar.training.network import new_network, sized
from alphabar.training.posthoc import SNAPSHOTS
from alphabar.training.state import CHECKPOINTS, settings_of, step_of
from alphabar.training.trainer import classes_of

__all__ = ["Train", "with_run"]

LOSS = "loss.png"  # of a run, the curve of its loss
COPIES = 6  # of every parameter: itself, gradient, two moments, average, snapshot; and further averages


@readable
@dataclass(frozen=True)
class Train(TrainConfig):
    """Train a network and write it as a folder that diffusers opens too; it can be stopped, and resumed."""

    data: Positional[str] = "digits"
    """What to train on: "digits", a folder of images, arrays or latents, .parquet or .tar files, files of
    arrays (.npy, .npz or .safetensors), or a Hugging Face dataset; with --resume perhaps the run."""
    conditions: Annotated[tuple[str, ...], UseAppendAction, arg(name="condition")] = ()
    """A column of the data that the network is told: a number, a list of numbers or an image. NAME, or
    NAME:KIND with number, vector, embedding or image; may be given several times."""
    class_conditional: bool = False
    """Tell the network the labels of the data. Networks of this library are told them unasked, where the data
    have at least two classes of ten images each."""
    unconditional: bool = False
    """Do not tell the network the labels of the data."""
    out: Path = Path("runs/latest")
    """The folder to write."""
    resume: bool = False
    """Go on from the newest checkpoint, with the settings of the run; those that are given again count."""
    overwrite: bool = False
    """Begin anew in a folder that holds a run, whose checkpoints are lost."""
    checkpoint_every: int | None = None
    """Updates between checkpoints."""
    checkpoint_minutes: float = 15.0
    """Minutes between checkpoints."""
    keep: int = 2
    """How many checkpoints stay."""
    snapshot_every: int | None = None
    """Updates between snapshots of the averages, of which "alphabar average" makes others."""
    log_every: int = 50
    """Updates between lines of log.jsonl."""
    samples_every: int | None = None
    """Updates between grids of 16 samples, from the same noise each time, in the run's folder samples."""
    evaluate_every: int | None = None
    """Updates between scores of 256 samples beside real images, which the log holds."""
    tracker: str | None = one_of(TRACKERS, None)
    """Where the lines of the log go too; by default to TensorBoard where it is installed."""

    def __call__(self) -> None:
        """Train with a progress bar, and keep the averaged network, checkpoints and a log."""
        config = self._config()
        check_seed(config.seed)
        if config.factory_name is not None:
            import_from_here()
            find(config.factory_name)  # an error before the data are read
        grids, tracker = Grids(self.out, self.samples_every), check_tracker(self.tracker)
        main_process = is_main()
        check_apart(config.data, self.out)
        begun = step_of(self.out)
        start = begun if self.resume and begun else 0
        if start >= self.last_step:
            self._say_over(start)
            return
        if main_process:  # two that try at once would be in each other's way
            self._check_place(begun)
        shown = None if main_process else False
        data = training_data(config, progress=lambda rows: track(rows, len(rows), "reading", shown=shown))
        grids, scores = grids.told(data), Scores(data, self.evaluate_every)
        config = config if start else _chosen(config, data)
        size = check_size(config, data)
        tell_notes()
        if main_process:
            checkpoint.check_place(self.out, also=(LOSS,), size=size)
            self._clear(start)
        with signals("this step") as stop, tracked(tracker, self.out, asdict(config)) as tell:
            steps = train(config, data=data, resume=self.out if start else None)
            saved = kept(
                steps,
                self.out,
                every=self.checkpoint_every,
                minutes=self.checkpoint_minutes,
                keep=self.keep,
                snapshots=self.snapshot_every,
                stop=stop,
            )
            entries = logged(
                saved,
                self.out,
                every=self.log_every,
                also=lambda step: {**grids(step), **scores(step)},
                tell=tell,
            )
            last = watched(entries, config, start, shown)
        if last is None:  # its time was over before
            self._say_over(start)
            return
        result = last.snapshot()
        if main_process:
            self._finish(last, result, data, is_stopped=stop())

    def _config(self) -> TrainConfig:
        """Return the settings of the training; without a flag the data decide whether labels are told."""
        if self.class_conditional and self.unconditional:
            raise ConfigError("class_conditional and unconditional: give one of the two")
        told = True if self.class_conditional else False if self.unconditional else None
        settings = {each.name: getattr(self, each.name) for each in fields(TrainConfig)}
        return TrainConfig(**(settings | {"class_conditional": told}))

    def _say_over(self, start: int) -> None:
        print(f"{self.out} is at step {start}, its last: give more --steps or --seconds to go on")

    def _check_place(self, begun: int | None) -> None:
        if self.resume and begun is None and not _is_restarted():
            raise CheckpointError(f"{self.out} has no checkpoint to go on from: train without --resume")
        if begun is not None and not (self.resume or self.overwrite):
            raise CheckpointError(
                f"{self.out} holds a run at step {begun}: go on with --resume, begin anew with --overwrite, "
                "or choose another --out"
            )
        checkpoint.check_place(self.out, also=(LOSS,))

    def _clear(self, start: int) -> None:
        """Remove what an earlier run has left and this one makes again; all else is checked by then."""
        remove_grids(self.out, start)
        if self.overwrite:
            for folder in (CHECKPOINTS, SNAPSHOTS):
                shutil.rmtree(self.out / folder, ignore_errors=True)

    def _finish(self, last: TrainStep, result: Checkpoint, data: ImageData, *, is_stopped: bool) -> None:
        losses = {entry["step"]: entry["loss"] for entry in read_log(self.out)}
        checkpoint.save(self.out, result, also=lambda draft: plots.loss_curve(losses, draft / LOSS))
        if data.skipped:
            print(f"left out {len(data.skipped)} images that cannot be read: {', '.join(data.skipped)[:200]}")
        print(f"{last.step} steps, {last.images} images, loss {losses[last.step]:.4f}")
        if is_stopped and last.step < self.last_step:
            own = f" --network {self.network}" if self.factory_name else ""
            print(f"stopped; to go on: alphabar train {self.out} --resume{own}")
        wrote(self.out)


def with_run(command: Train, parse: Callable[[Train], Train]) -> Train:
    """Return a command with the settings of the run that it resumes, but for those that are given again.

    Args:
        command: as it was parsed.
        parse: parses the same arguments again, with another default.

    Raises:
        CheckpointError: the settings of the run cannot be read, or ask for code that is not given too.
    """
    if not (command.resume or _is_restarted()):
        return command
    is_run = step_of(command.data) is not None
    out = Path(command.data) if is_run else command.out
    if step_of(out) is None:
        return command
    begun = settings_of(out)
    check_allowed(begun.factory_name, command.factory_name, out)
    settings = asdict(begun)
    switched = {name: value for name, value in settings.items() if isinstance(value, bool)}
    off = {**dict.fromkeys(switched, False), "conditions": ()}  # a flag is given or not: what is on stays on
    flags = {"resume": False, "overwrite": False, "unconditional": False}
    again = parse(replace(command, **{**settings, **off, **flags}, out=out))
    on: dict[str, Any] = {name: True for name, value in switched.items() if value}
    on["conditions"] = again.conditions or settings["conditions"]
    data = settings["data"] if is_run else again.data
    return replace(again, **on, data=data, out=out, resume=True, overwrite=False)


def _chosen(config: TrainConfig, data: ImageData) -> TrainConfig:
    """Return settings with what was left to the data and the time, and say that labels are told unasked."""
    classes = classes_of(config, data)
    if classes and config.class_conditional is None and is_main():
        print(f"the network is told the labels of {len(classes)} classes; --unconditional leaves them out")
    config = replace(config, class_conditional=bool(classes))
    return sized(config, data.shape, processes().device)


def check_size(config: TrainConfig, data: ImageData) -> int:
    """Return the bytes of the trained network, which must fit into memory with what training holds.

    Raises:
        ConfigError: it does not, or the network cannot be built.
    """
    channels, *sides = data.shape
    classes = len(classes_of(config, data))
    try:
        with nullcontext() if config.factory_name else torch.device("meta"):
            network: Any = new_network(config, data.shape, classes, measured(config, data))
    except AlphabarError:
        raise
    except Exception as error:  # numbers that overflow
        if config.factory_name:
            raise  # of code that is not ours
        scale = f"channels {config.channels}" if config.channels else f"width {config.width}"
        raise ConfigError(f"no {config.network} can be built with {scale}: {error}") from error
    numbers: int = sum(parameter.numel() for parameter in network.parameters())
    copies = COPIES + len(config.averages)
    check_memory(copies * numbers, f"a network of {numbers:,} parameters (--width)")
    levels = getattr(getattr(network, "config", None), "block_out_channels", (0,))  # of others not known
    batch = config.batch_size * math.prod(sides) * (2 * channels + 2 * levels[0])
    size = "×".join(map(str, data.shape))
    check_memory(batch, f"a batch of {config.batch_size} samples of {size} (--batch-size, --size)")
    return 4 * numbers


def _is_restarted() -> bool:
    """Return whether torchrun has started this process again after one that failed."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
