"""A folder of samples, drawn block by block by one process or many, which goes on where it stopped.

    OUT/samples.json     the settings: samples of other ones are an error, never a mixed folder
    OUT/00000.png, …     each image as soon as it is drawn, whole or not there; packed when all are there

Block k is the images k·B … k·B + B − 1, and is always drawn as one batch: what a network returns for an image
depends in its last bits on the size of the batch. So each image is the same, bit for bit, in any number of
processes and however often they were killed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alphabar.cli import plots
from alphabar.cli._arguments import wrote
from alphabar.cli._forms import FORMS, save_array, save_conditions
from alphabar.cli._signals import signals
from alphabar.denoise.files import check_writable, held, read_json, remove_drafts, whole_file
from alphabar.denoise.nets import NETS
from alphabar.denoise.pretrained import is_checkpoint
from alphabar.errors import CheckpointError, ConfigError
from alphabar.samplers import Plan, track
from alphabar.samplers.delay import delayed
from alphabar.training import Checkpoint, engine
from alphabar.training.config import TOKEN

__all__ = ["RECORD", "Settings", "Source", "check_place", "delay_of", "draw", "grid_of", "processes"]

RECORD = "samples.json"
LABELS, CONDITIONS = "labels.npy", "conditions.npz"  # of the samples, where their form holds none
LONGEST = timedelta(days=30)  # that one process waits for another, which may be as slow as it likes
EVERY = 60.0  # seconds between lines in a log
SHOWN = 64  # images of the grid
GRID = ".alphabar-grid.png"  # while it is drawn


@dataclass(frozen=True)
class Settings:
    """All that the samples of a folder depend on, as JSON values."""

    run: str
    """:meth:`alphabar.training.Checkpoint.digest` of the network."""
    sampler: str
    steps: int
    spacing: str | None
    guidance: float
    classes: list[str]
    """That the images go through in turn."""
    conditions: dict[str, str]
    """For each what changes with its values."""
    delay: int
    seed: int
    precision: str
    """Of the network's arithmetic, float32 or bfloat16."""
    compile: bool
    vae: str
    """What decodes them, and in which precision; empty where nothing does."""
    num: int
    batch_size: int
    form: str

    @property
    def blocks(self) -> list[range]:
        """The numbers of the images of each block."""
        return [
            range(first, min(first + self.batch_size, self.num))
            for first in range(0, self.num, self.batch_size)
        ]


@dataclass(frozen=True)
class Source:
    """Where the images of some numbers come from."""

    images: Callable[[range], Tensor]
    """Returns (B, C, H, W) in [−1, 1], or (B, C, …) arrays in their units."""
    labels: Callable[[range], Tensor | None]
    """Returns (B,), or nothing where there are no classes."""
    told: Callable[[range], Mapping[str, Tensor]] = lambda block: {}
    """Returns the conditions, (B, …) each, in the units of the training data."""

    def shown(self, decode: Callable[[Tensor], Tensor]) -> Source:
        """Return the source of what is made of these samples."""
        return replace(self, images=lambda block: decode(self.images(block)))


def delay_of(loaded: Checkpoint, rows: int, plan: Plan) -> Tensor | None:
    """Return the delay of a pyramid along the first side, (1, 1, L), in which tokens wait for the one before.

    Raises:
        ConfigError: fewer rows than 0, a run that was trained with one t an image, or a plan that remembers.
    """
    if not rows:
        return None
    if rows < 0:
        raise ConfigError(f"delay is {rows}: give the rows that each token waits for the one before")
    if loaded.training.get("timesteps_per") != TOKEN:
        raise ConfigError(
            f"delay is {rows}, but this run was trained with one t an image: train --timesteps-per token"
        )
    net = NETS.get(str(loaded.training.get("network")))
    size, *_ = net.token(loaded.shape[1:]) if net and net.token else (1,)
    delay = (torch.arange(loaded.shape[1]) // size * rows)[None, None]
    delayed(plan, delay, torch.empty(1, *loaded.shape))
    return delay


def grid_of(place: Path) -> Path:
    """Return where the grid of a folder of samples goes: beside it, as it is no sample."""
    return place.with_name(f"{place.name}.png")


def processes() -> Any:
    """Return what this process knows of the others, under ``torchrun`` or ``accelerate launch``."""
    return engine.processes(timeout=LONGEST)


def check_place(out: Path, size: int) -> None:
    """Refuse places that hold something else, or cannot be written.

    Args:
        out: the folder.
        size: bytes of all samples; of samples that are partly there, no room is asked for.

    Raises:
        ConfigError: a run, or a picture that is not from here where the grid goes.
        CheckpointError: a folder that cannot be written to.
    """
    if is_checkpoint(out):
        raise ConfigError(f"out is {out}, which is a run: choose a folder of its own")
    if (grid := grid_of(out)).exists() and not plots.is_grid(grid):
        raise ConfigError(f"{grid} is there, and is no grid of samples: move it, or choose another out")
    check_writable(out, 0 if (out / RECORD).exists() else size)


def draw(place: Path, settings: Settings, source: Source, *, replace: bool) -> None:
    """Draw what is missing of the samples in a folder, and say what was written or how to go on.

    After SIGINT or SIGTERM the batch at hand is finished first.

    Args:
        place: the folder.
        settings: what ``source`` depends on.
        source: draws a block.
        replace: remove samples of other settings that are there.

    Raises:
        ConfigError: samples of other settings, with what differs.
        CheckpointError: a file that is not from here where a sample goes, or a folder that another process
            writes to.
    """
    state = processes()
    is_main: bool = state.is_main_process
    if is_main:
        place.mkdir(parents=True, exist_ok=True)
    with held(place) if is_main else nullcontext():
        if is_main:
            remove_drafts(place)
            _claim(place, settings, replace=replace)
        state.wait_for_everyone()
        missing = _missing(place, settings)
        state.wait_for_everyone()  # nobody writes before all have looked, so that all share the same list
        form = FORMS[settings.form]
        mine = missing[state.process_index :: state.num_processes]
        with signals("this batch") as stopped:
            what = f"sampling {settings.batch_size} at a time"
            for block in track(mine, len(mine), what, shown=None if is_main else False, every=EVERY):
                for i, x in zip(block, source.images(block), strict=True):
                    form.write(x, place / form.name(i))
                if stopped():
                    break
        state.wait_for_everyone()
        if is_main:
            _finish(place, settings, source, drawn=bool(missing))


def _claim(place: Path, settings: Settings, *, replace: bool) -> None:
    """Write the settings into a folder, or find the same ones there."""
    found = read_json(place / RECORD) if (place / RECORD).exists() else {}
    new, there = asdict(settings), _listed(place)
    old = there & _names(found)
    if foreign := sorted(there & _names(new) - old):
        raise CheckpointError(
            f"{place / foreign[0]} was not written here before: move it, or choose another place"
        )
    if found == new:
        return
    if old and not replace:
        differ = [key for key in new if found.get(key) != new[key]]
        changes = "; ".join(f"{key} was {found.get(key)!s:.40}, is {new[key]!s:.40}" for key in differ)
        raise ConfigError(
            f"{place} holds samples of other settings ({changes}): choose another --out, or remove them by "
            "--replace"
        )
    for name in old:
        (place / name).unlink()
    with whole_file(place / RECORD) as draft:
        draft.write_text(json.dumps(new, indent=2) + "\n", encoding="utf-8")


def _listed(place: Path) -> set[str]:
    return {path.name for path in place.iterdir()}


def _names(record: Mapping[str, Any]) -> set[str]:
    """Return the names of all files that a record stands for; none where it is no record."""
    num, form = record.get("num"), record.get("form")
    if not isinstance(num, int) or form not in FORMS:
        return set()
    told = {LABELS: record.get("classes"), CONDITIONS: record.get("conditions")}
    beside = [name for name, what in told.items() if what and FORMS[form].is_told]
    return {*map(FORMS[form].name, range(num)), *(name for name, _ in FORMS[form].files(num)), *beside}


def _missing(place: Path, settings: Settings) -> list[range]:
    """Return the blocks of which an image is neither there as a picture nor packed."""
    there = _listed(place)
    form = FORMS[settings.form]
    packed = {i for name, numbers in form.files(settings.num) if name in there for i in numbers}
    return [
        block for block in settings.blocks if not all(i in packed or form.name(i) in there for i in block)
    ]


def _write_told(place: Path, settings: Settings, source: Source) -> None:
    """Write labels and conditions of all samples beside them, where the network is told any."""
    labels = source.labels(range(settings.num))
    if labels is not None:
        save_array(labels, place / LABELS)
    if settings.conditions:
        save_conditions(place / CONDITIONS, settings.blocks, source.told)


def _finish(place: Path, settings: Settings, source: Source, *, drawn: bool) -> None:
    """Pack the pictures, if none is missing, and say what was written or how to go on."""
    num = settings.num
    if left := sum(map(len, _missing(place, settings))):
        print(f"stopped: {num - left} of {num} images are in {place}; the same command goes on")
        return
    form = FORMS[settings.form]
    if (place / form.name(0)).exists():  # otherwise they are packed, and the grid was drawn before that
        shown = form.shown([place / form.name(i) for i in range(min(num, SHOWN))])
        plots.grid(shown, place / GRID)  # in the folder that is held, where a killed process leaves nothing
        (place / GRID).replace(grid_of(place))
        if form.is_told:
            _write_told(place, settings, source)
    form.finish(place, num, source.labels)
    if not drawn:
        print(f"{place} holds all {num} images already")
        return
    wrote(grid_of(place))
    wrote(place, f"{num} images, {settings.form}")
