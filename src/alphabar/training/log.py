"""A run's log: one JSON object a line, RUN/log.jsonl.

step, loss, images, rate        updates; mean loss since the line before; images seen; learning rate
norm, seconds                   mean norm of the gradient, null where it is not finite; time so far
levels                          loss and share of the images in ten equal parts of t, lowest noise first
moved                           how far weights and averages moved, of their size
pixels                          mean of the images of one batch, and the deviation of theirs
notes                           what is probably wrong, as :mod:`alphabar.training.doctor` finds it
run                             settings, data and machine: in the first line of each part of the run
"""

from __future__ import annotations

import json
import math
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from alphabar.checks import check_count
from alphabar.denoise.files import whole_file
from alphabar.errors import CheckpointError
from alphabar.training.doctor import Finding, TrainingWarning, examine, examine_count, examine_images
from alphabar.training.engine import describe_machine, is_main, summed
from alphabar.training.images import to_x_0
from alphabar.training.loop import TrainStep

__all__ = ["LOG", "logged", "read_log"]

LOG = "log.jsonl"
PARTS = 10  # of t
EXAMINED = 1000  # lines that are looked back at
PROBED = 64  # numbers of each parameter whose motion is followed

Entry = dict[str, Any]


def logged(
    steps: Iterable[TrainStep],
    run: str | Path,
    *,
    every: int = 50,
    also: Callable[[TrainStep], Mapping[str, Any]] = lambda step: {},
    tell: Callable[[Entry], object] = lambda entry: None,
) -> Iterator[TrainStep]:
    """Yield the steps of a training, and write a line on them to the log of a run.

    What the log says of later steps is dropped first: a run that was resumed does them again. Under several
    processes all must take part.

    Args:
        steps: what :func:`train` or :func:`kept` yields.
        run: the folder.
        every: updates between lines; the first and the last step have one too.
        also: called after each update; what it returns is added to the next line.
        tell: called with each line, in the main process.

    Raises:
        ConfigError: every is not positive.
        CheckpointError: the log cannot be written.

    Warns:
        TrainingWarning: once of each thing that is probably wrong.
    """
    check_count(every=every)
    log, seen, more = None, list[_Seen](), Entry()
    for step in steps:
        log = log or _Log.begin(Path(run, LOG), step, tell)
        seen.append(_Seen.of(step, log.levels))
        more.update(also(step))
        if step.step == 1 or step.step % every == 0:
            log.write(step, seen, more)
            seen, more = [], {}
        yield step
    if log and seen:
        log.write(step, seen, more)


def read_log(run: str | Path) -> list[Entry]:
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


class _Seen(NamedTuple):
    """What a line needs of one update."""

    loss: float
    norm: Tensor
    by_level: Tensor
    """(2, parts) sum of the losses of this process in each part of t, and how many they are."""

    @classmethod
    def of(cls, step: TrainStep, levels: int) -> _Seen:
        rows = torch.stack([step.losses.double(), torch.ones_like(step.losses, dtype=torch.float64)])
        sums = rows.new_zeros(2, PARTS)
        return cls(step.loss, step.norm, sums.index_add_(1, step.t.long() * PARTS // levels, rows))


@dataclass
class _Log:
    """Writes lines, and knows those before."""

    path: Path
    levels: int
    """T, of the schedule."""
    few: list[Finding]
    """What is wrong with the number of images."""
    began: float
    entries: deque[Entry]
    told: set[str]
    """The names of the notes so far."""
    tell: Callable[[Entry], object]
    probe: dict[str, Tensor]
    first: Entry = field(default_factory=dict)
    """What the next line says of the run as a whole."""

    @classmethod
    def begin(cls, path: Path, step: TrainStep, tell: Callable[[Entry], object]) -> _Log:
        state = step.state()
        about = {"settings": asdict(state.config), "data": dict(state.data), "machine": describe_machine()}
        earlier = _cut(path, step.step) if is_main() else []
        began = time.monotonic() - (float(earlier[-1].get("seconds", 0.0)) if earlier else 0.0)
        levels, data = state.config.diffusion_steps, state.data
        kind = {"are_latents": "latents" in data, "are_arrays": "scaling" in data}
        few = examine_count(data["images"], data["shape"], **kind)
        told = {note["name"] for entry in earlier for note in entry.get("notes", ())}
        return cls(
            *(path, levels, few, began, deque(earlier, EXAMINED), told, tell, _probe(step)),
            first={"run": about},
        )

    def write(self, step: TrainStep, seen: list[_Seen], more: Mapping[str, Any]) -> None:
        """Write the line of a step, whose sums all processes add up together."""
        sums, counts = summed(torch.stack([one.by_level for one in seen]).sum(0)).tolist()
        if not is_main():
            return
        norm = sum(float(one.norm) for one in seen) / len(seen)
        shares = [count / sum(counts) for count in counts]
        losses = [total / count if count else None for total, count in zip(sums, counts, strict=True)]
        probe, before = _probe(step), self.probe
        images = step.batch.images
        means = to_x_0(images).flatten(1).mean(1)
        entry = {
            "step": step.step,
            "loss": sum(one.loss for one in seen) / len(seen),
            "images": step.images,
            "rate": step.rate,
            "norm": norm if math.isfinite(norm) else None,
            "seconds": round(time.monotonic() - self.began, 3),
            "levels": {"loss": losses, "share": shares},
            "moved": {name: _moved(before[name], probe[name]) for name in probe},
            "pixels": {"mean": float(means.mean()), "spread": float(means.std(correction=0))},
            **more,
            **self.first,
        }
        self.probe, self.first = probe, {}
        self.entries.append(entry)
        of_images = examine_images(images) if images.dtype == torch.uint8 else []  # latents have no range
        found = examine(list(self.entries)) + of_images + self.few
        if new := [finding for finding in found if finding.name not in self.told]:
            entry["notes"] = [asdict(finding) for finding in new]
            self.told.update(finding.name for finding in new)
        _append(self.path, entry)
        for finding in new:
            warnings.warn(f"step {step.step}: {finding}", TrainingWarning, stacklevel=3)
        self.tell(entry)


def _probe(step: TrainStep) -> dict[str, Tensor]:
    """Return a few numbers of each parameter that this process holds, and of its first average."""
    tensors = step.state().tensors
    averages = next(name for name in tensors if name.startswith("averages/")).rsplit("/", 1)[0]
    names = [name.removeprefix(averages) for name in tensors if name.startswith(f"{averages}/")]
    return {
        kind: torch.cat([_some(tensors[kind_at + name]) for name in names])
        for kind, kind_at in (("network", "network"), ("averages", averages))
    }


def _some(tensor: Tensor) -> Tensor:
    local: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return local.detach().reshape(-1)[:PROBED].to("cpu", torch.float64, copy=True)


def _moved(before: Tensor, now: Tensor) -> float:
    """Return ‖now − before‖/‖now‖; 0 where both are."""
    size = float(now.norm())
    return float((now - before).norm()) / size if size else 0.0


def _cut(path: Path, step: int) -> list[Entry]:
    """Drop the lines from a step on; return those that stay."""
    kept = [entry for entry in read_log(path.parent) if entry["step"] < step]
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as draft:
        draft.write_text("".join(json.dumps(entry) + "\n" for entry in kept), encoding="utf-8")
    return kept


def _append(path: Path, entry: Mapping[str, Any]) -> None:
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
    except OSError as error:
        raise CheckpointError(f"{path} cannot be written: {error.strerror or error}") from error
