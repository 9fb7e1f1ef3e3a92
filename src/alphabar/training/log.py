"""A run's log: one JSON object a line, RUN/log.jsonl.

    {"step": 100, "loss": 0.0713, "images": 12800, "rate": 0.0004, "norm": 0.61, "seconds": 41.2}

Losses and norms are means since the line before.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from alphabar.checks import check_count
from alphabar.denoise.files import whole_file
from alphabar.errors import CheckpointError
from alphabar.training.engine import is_main
from alphabar.training.loop import TrainStep

__all__ = ["LOG", "logged", "read_log"]

LOG = "log.jsonl"


def logged(steps: Iterable[TrainStep], run: str | Path, *, every: int = 50) -> Iterator[TrainStep]:
    """Yield the steps of a training, and write a line on them to the log of a run.

    What the log says of later steps is dropped first: a run that was resumed does them again.

    Args:
        steps: what :func:`train` or :func:`kept` yields.
        run: the folder.
        every: updates between lines; the first and the last step have one too.

    Raises:
        ConfigError: every is not positive.
        CheckpointError: the log cannot be written.
    """
    check_count(every=every)
    path, seen, began = Path(run, LOG), list[TrainStep](), time.monotonic()
    earlier = None
    for step in steps:
        if earlier is None:
            earlier = _cut(path, step.step) if is_main() else 0.0
        seen.append(step)
        if step.step == 1 or step.step % every == 0:
            _append(path, _line(seen, earlier + time.monotonic() - began))
            seen.clear()
        yield step
    if seen:
        _append(path, _line(seen, (earlier or 0.0) + time.monotonic() - began))


def read_log(run: str | Path) -> list[dict[str, Any]]:
    """Return the lines of the log of a run; a line that a killed process left half is passed over."""
    path = Path(run, LOG)
    found = []
    for line in path.read_text("utf-8", errors="replace").splitlines() if path.is_file() else ():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and isinstance(entry.get("step"), int):
            found.append(entry)
    return found


def _line(seen: list[TrainStep], seconds: float) -> dict[str, Any]:
    last, count = seen[-1], len(seen)
    norm = sum(float(step.norm) for step in seen) / count
    return {
        "step": last.step,
        "loss": sum(step.loss for step in seen) / count,
        "images": last.images,
        "rate": last.rate,
        "norm": norm if math.isfinite(norm) else None,
        "seconds": round(seconds, 3),
    }


def _cut(path: Path, step: int) -> float:
    """Drop the lines from a step on; return the seconds that the last line that stays says."""
    kept = [entry for entry in read_log(path.parent) if entry["step"] < step]
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as draft:
        draft.write_text("".join(json.dumps(entry) + "\n" for entry in kept), encoding="utf-8")
    return float(kept[-1].get("seconds", 0.0)) if kept else 0.0


def _append(path: Path, entry: Mapping[str, Any]) -> None:
    if not is_main():
        return
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
    except OSError as error:
        raise CheckpointError(f"{path} cannot be written: {error.strerror or error}") from error
