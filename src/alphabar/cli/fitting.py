"""``alphabar fit``: tables of few evaluations for one network, which ``alphabar sample`` then takes.

RUN/fitted/5.json, RUN/fitted/6.json, …     by the number of evaluations
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from tyro.conf import Positional

from alphabar.checks import check_count
from alphabar.cli._arguments import check_memory, check_seed, counts, device, readable, wrote
from alphabar.cli._conditions import Told
from alphabar.denoise import Denoise
from alphabar.denoise.conditions import rows_of
from alphabar.denoise.files import check_writable, digest
from alphabar.errors import ConfigError
from alphabar.samplers import Distance, EndPoints, FittedTable, end_points, fitted_to, hand_made, ranked
from alphabar.training import Checkpoint

__all__ = ["Fit", "digest_of", "own_table", "place_of", "tables_of"]

FITTED, HELD_OUT, REPORTED = 24, 6, 6  # batches of noises
MORE = 1.5  # evaluations of hand-made tables that are shown for comparison


@readable
@dataclass(frozen=True, kw_only=True)
class Fit(Told):
    """Fit sampling tables of few evaluations to a trained network, in minutes each.

    alphabar sample RUN --sampler fitted takes them.
    """

    run: Positional[str]
    """A folder that alphabar train or diffusers wrote, or the name of a pipeline on the hub."""
    evals: str = "5,6,8,10"
    """Evaluations of the network for each sample, with commas between: a table for each."""
    guidance: float = 1.0
    """How much the label counts: a table serves the guidance it was fitted with."""
    batch_size: int = 10
    """Samples at a time. Of 36 batches 24 are fitted to, six choose the table, and six judge it."""
    updates: int = 300
    """Steps of the descent."""
    seconds: float | None = None
    """End the descent of a table after so many, whatever the updates."""
    seed: int = 0
    """Of the noises; samples of the same seed start from others."""

    def __call__(self) -> None:
        """Fit and write table after table, and print how far each ends from a chain of many evaluations."""
        wanted = counts(self.evals)
        check_count(batch_size=self.batch_size, updates=self.updates)
        check_seed(self.seed)
        loaded = self.opened(self.run)
        if wanted[-1] > len(loaded.schedule):
            raise ConfigError(f"evals is {self.evals!r}: at most T = {len(loaded.schedule)}, one for each t")
        numbers = self.batch_size * math.prod(loaded.shape)
        check_memory(wanted[-1] * numbers, f"a batch of {self.batch_size} (--batch-size)")
        check_writable(tables_of(self.run))
        loaded = replace(loaded, network=loaded.network.to(device()))
        points = end_points(
            self._denoiser(loaded),
            (self.batch_size, *loaded.shape),
            FITTED + HELD_OUT + REPORTED,
            seed=self.seed,
            device=device(),
        )
        about = {"network": loaded.digest(), "guidance": self.guidance}
        fresh = points[FITTED + HELD_OUT :]
        print(
            f"median / root mean square distance to {len(points.teacher.plan(loaded.schedule))} evaluations:"
        )
        print(_line("evals", "start", "best other", f"best at {MORE:g}×", "fitted", "s"))
        for evaluations in wanted:
            began = time.monotonic()
            table = fitted_to(
                points[:FITTED],
                points[FITTED : FITTED + HELD_OUT],
                evaluations,
                updates=self.updates,
                seconds=self.seconds,
                about=about,
            )
            seconds = time.monotonic() - began
            table.save(place_of(self.run, evaluations))
            print(_judged(fresh, table, seconds), flush=True)
        wrote(tables_of(self.run), f"{len(wanted)} tables: alphabar sample {self.run} --sampler fitted")

    def _denoiser(self, loaded: Checkpoint) -> Denoise:
        """Return the network with the labels of a batch, spread over all classes, and its conditions."""
        classes, labels = len(loaded.classes), None
        if classes:
            labels = (torch.arange(self.batch_size) * classes // self.batch_size).to(device())
        told = rows_of(self.told(loaded), range(self.batch_size), device())
        return loaded.guided(labels, self.guidance, conditions=told)


def tables_of(run: str) -> Path:
    """Return the folder of the tables that are fitted to a run."""
    return Path(run if Path(run).is_dir() else Path(run).name, "fitted")


def place_of(run: str, evaluations: int) -> Path:
    """Return the file of the table of so many evaluations."""
    return tables_of(run) / f"{evaluations}.json"


def own_table(run: str, loaded: Checkpoint, evaluations: int, guidance: float) -> FittedTable:
    """Return the table of so many evaluations that was fitted to a run.

    Raises:
        CheckpointError: no such file, or one that is no table.
        ConfigError: a table of another network, of another guidance, or of other evaluations.
    """
    place = place_of(run, evaluations)
    table = FittedTable.load(place)
    again = f"fit it again, by alphabar fit {run} --evals {evaluations}"
    if table.about.get("network") != loaded.digest():
        raise ConfigError(f"{place} was fitted to another network than that of {run}: {again}")
    if table.about.get("guidance") != guidance:
        raise ConfigError(
            f"{place} was fitted with guidance {table.about.get('guidance')}, not {guidance}: {again} "
            f"--guidance {guidance}"
        )
    if table.evaluations != evaluations:
        raise ConfigError(f"{place} takes {table.evaluations} evaluations: {again}")
    return table


def digest_of(run: str, evaluations: int) -> str:
    """Return six hexadecimal digits that change with a table's file."""
    return digest(place_of(run, evaluations))[:6]


def _judged(fresh: EndPoints, table: FittedTable, seconds: float) -> str:
    """Return a table's line: all distances on noises that had no part in the fit."""
    schedule, evaluations = table.schedule, table.evaluations
    others = hand_made(schedule, evaluations)
    more = hand_made(schedule, min(math.ceil(MORE * evaluations), len(schedule)))
    return _line(
        str(evaluations),
        _shown([fresh.error(others[table.start])]),
        _shown([away for _, away in ranked(fresh, others)]),
        _shown([away for _, away in ranked(fresh, more)]),
        _shown([fresh.error(table)]),
        f"{seconds:.0f}",
    )


def _shown(found: Sequence[Distance]) -> str:
    """Return the least median and the least root mean square, which may be those of two tables."""
    return f"{min(each.median for each in found):.4g} / {min(each.rms for each in found):.4g}"


def _line(*cells: str) -> str:
    first, *middle, last = cells
    return f"{first:>5} " + " ".join(f"{cell:>19}" for cell in middle) + f" {last:>6}"
