"""Keeps a training run on disk while it goes on: checkpoints to resume from, and its result so far.

    RUN/alphabar.json, …                   the averaged network, which ``alphabar sample`` opens
    RUN/checkpoints/step-00012000/         what the run needs to go on

The loop waits for a copy of the tensors in memory; another thread writes them.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from alphabar.checks import check_count
from alphabar.denoise.folders import locked
from alphabar.errors import CheckpointError, ConfigError
from alphabar.training.checkpoint import Checkpoint, save
from alphabar.training.engine import any_process, is_main
from alphabar.training.loop import TrainStep
from alphabar.training.posthoc import SNAPSHOTS, write_snapshot
from alphabar.training.state import CHECKPOINTS, CheckpointWarning, TrainState, clean, remove

__all__ = ["kept"]

LOCK = ".lock"


def kept(
    steps: Iterator[TrainStep],
    run: str | Path,
    *,
    every: int | None = None,
    minutes: float | None = None,
    keep: int = 2,
    snapshots: int | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[TrainStep]:
    """Yield the steps of a training, and keep it in a folder; at the end, what was written last is complete.

    The result so far is written at the first step, and with every checkpoint; not that of a network that was
    given, has no name, and is no diffusers model: no folder could describe it. A checkpoint that cannot be
    written in between, on a full disk for instance, is a warning, and training goes on; at the end it is an
    error. Under several processes all must take part.

    Args:
        steps: what :func:`train` yields.
        run: the folder; held against other processes.
        every: updates between checkpoints.
        minutes: minutes between checkpoints.
        keep: how many checkpoints stay.
        snapshots: updates between snapshots of the averages, all of which stay, in ``run/averages``:
            :func:`reconstruct` makes any other average of them.
        stop: asked after each update whether to write and end, for instance because of a signal.

    Raises:
        ConfigError: every, minutes, keep or snapshots is not positive.
        CheckpointError: another process holds the folder, or the last checkpoint could not be written.

    Warns:
        CheckpointWarning: a checkpoint could not be written.
    """
    counts = {"keep": keep, "every": every, "snapshots": snapshots}
    check_count(**{name: count for name, count in counts.items() if count is not None})
    if minutes is not None and not minutes > 0:
        raise ConfigError(f"minutes is {minutes!r}: it must be positive")
    with (
        locked(Path(run, CHECKPOINTS, LOCK)) if is_main() else nullcontext(),
        ThreadPoolExecutor(1, "checkpoints") as thread,
    ):
        if is_main():
            clean(run)
        keeper = _Keeper(Path(run), keep, thread)
        written, last = time.monotonic(), None
        for last in steps:
            stopping = any_process(stop())
            late = minutes is not None and any_process(time.monotonic() - written >= 60 * minutes)
            if stopping or late or (every is not None and last.step % every == 0):
                keeper.write(last)
                written = time.monotonic()
            elif keeper.step is None:
                keeper.write_result(last)
            if snapshots is not None and last.step % snapshots == 0:
                write_snapshot(Path(run, SNAPSHOTS), last.state().averages, last.step)
            yield last
            if stopping:
                break
        if last is not None and keeper.step != last.step:
            keeper.write(last)
        keeper.finish()


@dataclass
class _Keeper:
    """Writes one step at a time, and knows which was the last."""

    run: Path
    keep: int
    thread: ThreadPoolExecutor
    step: int | None = field(default=None, init=False)
    pending: Future[None] | None = field(default=None, init=False)

    def write(self, step: TrainStep) -> None:
        """Write a checkpoint and the result; what cannot be written is told when the next one is due."""
        self._settle()
        self.step = step.step
        result, state = step.snapshot(), step.state()
        if state.is_sharded:  # each process writes its part, together with the others
            self.pending = Future()
            try:
                self._write(state, result)
                self.pending.set_result(None)
            except (CheckpointError, OSError) as error:
                self.pending.set_exception(error)
        elif is_main():
            self.pending = self.thread.submit(self._write, state.copied(), result)

    def write_result(self, step: TrainStep) -> None:
        """Write the result alone."""
        self.step = 0
        result = step.snapshot()
        if is_main():
            self.pending = self.thread.submit(self._save, result)

    def finish(self) -> None:
        """Wait for what is being written.

        Raises:
            CheckpointError: it could not be written.
        """
        pending, self.pending = self.pending, None
        try:
            if pending is not None:
                pending.result()
        except OSError as error:
            raise CheckpointError(f"{self.run} could not be written: {error.strerror or error}") from error

    def _settle(self) -> None:
        try:
            self.finish()
        except CheckpointError as error:
            warnings.warn(f"{error}; training goes on", CheckpointWarning, stacklevel=4)

    def _write(self, state: TrainState, result: Checkpoint) -> None:
        if is_main():
            self._save(result)  # first, so that a run with its last checkpoint has its result too
        state.write(self.run)
        if is_main():
            remove(self.run, self.keep)

    def _save(self, result: Checkpoint) -> None:
        if result.can_be_saved:
            save(self.run, result)
