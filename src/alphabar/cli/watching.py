"""What a person sees of a training: a bar on a terminal, a plain line now and then in a file or a pipe."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable

from alphabar.cli._arguments import tell_notes
from alphabar.samplers import track
from alphabar.training import TrainStep

__all__ = ["watched"]

SECONDS = 20.0  # between plain lines


def watched(steps: Iterable[TrainStep], total: int, start: int, shown: bool | None) -> TrainStep:
    """Run through the steps of a training; return the last.

    Args:
        steps: what is watched.
        total: the number of the last step.
        start: updates that were made before.
        shown: False for silence; by default a bar on a terminal, else plain lines.
    """
    lines = shown is None and not sys.stderr.isatty()
    began = told = time.monotonic()
    for last in track(steps, total - start, "training", shown=shown, told=_numbers):
        tell_notes()
        now = time.monotonic()
        if lines and (last.step in (start + 1, total) or now - told >= SECONDS):
            told, pace = now, (now - began) / (last.step - start)
            left = f"{pace * 1000:.0f} ms an update, {_clock(pace * (total - last.step))} left"
            print(f"step {last.step}/{total}  {_numbers(last)}  {left}", flush=True)
    return last


def _numbers(step: TrainStep) -> str:
    return f"loss {step.loss:.4f}  rate {step.rate:.2g}"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"
