"""Fitted tables: how near few evaluations of a trained network end to many, by whose table."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from alphabar.cli._memory import keep_memory
from alphabar.denoise.denoiser import Denoise
from alphabar.errors import AlphabarError
from alphabar.evaluation import Interval
from alphabar.samplers import SOLVERS, Distance, EndPoints, FittedTable, end_points, fitted_to, hand_made
from alphabar.samplers.end_points import TEACHER
from alphabar.samplers.loop import sample
from alphabar.samplers.plan import Sampler
from alphabar.schedule import NoiseSchedule
from alphabar.training import checkpoint
from alphabar.training.config import TrainConfig
from alphabar.training.data import ImageData
from alphabar.training.loop import train
from benchmarks.gits import Costs
from benchmarks.measure import OURS, Result, Settings
from benchmarks.subjects.quality import Scored, scored_data

TITLE = "Fitted tables"
KEEPS = True
PICTURED = "root mean square"
ABOUT = (
    "A network is trained for the time given by `alphabar train`'s defaults, but told no labels. From 100 "
    "noises that nothing is fitted to, the distance of where few evaluations end to where UniPC (order 3, "
    "log_snr, 100 evaluations) ends: *alphabar* is the table of `alphabar.fit` with its defaults (24 "
    "batches of ten noises, six to choose by, 300 updates). *Hand-made* is the best of all solvers and "
    "spacings of this library on these very noises, named below, *hand-made at 1.5 N* with half as many "
    "evaluations again, rounded up. *GITS* is the best of the solvers at the levels that dynamic "
    "programming finds (Chen et al. 2024). Further columns are `fit` with only some of its numbers free. "
    "The Fréchet distance is that of samples to held-out images on the features of a small classifier, for "
    "the hand-made and GITS tables of the least root mean square; *teacher* is that of the 100 evaluations, "
    "*real* that of other real images; the 95 % intervals are by the jackknife. The time of the first fit "
    "to a network includes the teacher's chains; that by the clock includes whatever else the machine did."
)
SCHEDULES, EVALUATIONS = ("cosine", "linear"), (4, 5, 6, 8, 10)
MORE = 1.5
BATCH, FITTED, CHOOSING, FRESH, AT_ONCE = 10, 24, 6, 100, 250
ABLATED = {
    "levels": ("levels",),
    "levels, coefficients": ("levels", "coefficients"),
    "levels, coefficients, history": ("levels", "coefficients", "history"),
    "all but sum": ("levels", "coefficients", "history", "shift"),
}
AT_MORE = f"hand-made at {MORE:g} N"
AIMS = {"hand-made": 2.0, "Fitted": 2.0, "GITS": 2.0, AT_MORE: 1.0}
MEASURES = {"root mean square": "rms", "median": "median"}
FRECHET = "Fréchet distance"


def run(settings: Settings) -> Iterator[Result]:
    """Train a network a schedule, unless it is kept, and fit and judge cell by cell."""
    keep_memory()
    training, scored = scored_data(settings)
    cells = settings.runs or [f"{schedule} {count}" for schedule in SCHEDULES for count in EVALUATIONS]
    for schedule, asked in groupby(map(str.split, cells), lambda cell: cell[0]):
        trained = Trained.of(settings, schedule, training, scored)
        for _, count in asked:
            if not trained.is_recorded(int(count)):
                yield from trained.cell(int(count))


@dataclass(frozen=True, eq=False)
class Trained:
    """A network and what its tables are judged by."""

    settings: Settings
    label: str
    """Data and schedule."""
    place: Path
    """The folder that it is kept in, and the tables that are fitted to it."""
    opened: checkpoint.Checkpoint
    scored: Scored

    @classmethod
    def of(cls, settings: Settings, schedule: str, training: ImageData, scored: Scored) -> Trained:
        """Open the network, which is trained first where it is not kept."""
        source = Path(settings.data).stem
        place = Path(settings.cache, f"{source}-{schedule}-{settings.seconds:g}s")
        if not (place / "alphabar.json").is_file():
            config = TrainConfig(
                data=settings.data, schedule=schedule, seconds=settings.seconds, class_conditional=False
            )
            (last,) = deque(train(config, data=training), maxlen=1)
            found = last.snapshot()
            described = {**found.training, "updates": last.step}
            checkpoint.save(place, replace(found, training=described))
        return cls(settings, f"{source}, {schedule}", place, checkpoint.load(place), scored)

    @cached_property
    def denoiser(self) -> Denoise:
        """The network as ``alphabar sample`` asks it, but in float32."""
        return self.opened.guided()

    @property
    def schedule(self) -> NoiseSchedule:
        """Of the network."""
        return self.opened.schedule

    @cached_property
    def digest(self) -> str:
        """Six digits that tell the network from others."""
        return self.opened.digest()[:6]

    @cached_property
    def points(self) -> EndPoints:
        """What tables are fitted to and chosen by."""
        return end_points(self.denoiser, (BATCH, *self.opened.shape), FITTED + CHOOSING)

    @cached_property
    def fresh(self) -> EndPoints:
        """What they are judged by."""
        return end_points(self.denoiser, (FRESH, *self.opened.shape), 1, seed=1)

    @cached_property
    def costs(self) -> Costs:
        """Of GITS."""
        return Costs(self.denoiser, self.opened.shape, seed=2)

    @cached_property
    def limits(self) -> dict[str, Interval]:
        """The Fréchet distances of the teacher and of real images."""
        return {"teacher": self.frechet(TEACHER), "real": self.scored.interval(self.scored.real)}

    @cached_property
    def _judged(self) -> dict[int, Mapping[str, tuple[Sampler, Distance]]]:
        return {}

    def is_recorded(self, count: int) -> bool:
        """Whether a cell is on record with this network, and with all columns that are asked for."""
        wanted = {OURS, *(ABLATED if self.settings.ablate else ())}
        kept = {
            case["name"]: {*case["values"]}
            for case in self.settings.recorded.get("cases", ())
            if case["notes"].get("network") == self.digest
        }
        first, *_, last = (f"{self.label}, {count}: {what}" for what in (*MEASURES, FRECHET))
        return last in kept and wanted <= kept.get(first, set())

    def cell(self, count: int) -> Iterator[Result]:
        """Fit and judge tables of so many evaluations."""
        own = {OURS: self.fitted(count)}
        if self.settings.ablate:
            own |= {name: self.fitted(count, free) for name, free in ABLATED.items()}
        rows = {name: {name: (table, self.fresh.error(table))} for name, table in own.items()}
        others = self.hand_made(count)
        rows |= {
            "hand-made": {label: each for label, each in others.items() if label != "Fitted"},
            AT_MORE: {k: v for k, v in self.hand_made(math.ceil(MORE * count)).items() if k != "Fitted"},
            "Fitted": {label: each for label, each in others.items() if label == "Fitted"},
            "GITS": self.gits(count),
        }
        rows = {name: tried for name, tried in rows.items() if tried}
        table = own[OURS]
        told = {
            "network": self.digest,
            "trained": f"{self.settings.seconds:g} s, {self.opened.training.get('updates')} updates",
            "the fit": ", ".join(f"{seconds:.0f} s {of}" for of, seconds in table.about["took"].items()),
            "it started from": table.start,
        }
        for measure, attribute in MEASURES.items():
            best = {name: _best(tried, attribute) for name, tried in rows.items()}
            found = {name: [getattr(tried[best[name]][1], attribute)] for name, tried in rows.items()}
            named = {name: best[name] for name in ("hand-made", AT_MORE, "GITS") if name in best}
            aims = {name: aim for name, aim in AIMS.items() if name in found}
            name = f"{self.label}, {count}: {measure}"
            yield Result(name, found, aims, unit="distance", notes={**told, **named})
            told = {"network": self.digest}
        yield self.images(count, {name: tried[_best(tried, "rms")][0] for name, tried in rows.items()})

    def images(self, count: int, samplers: Mapping[str, Sampler]) -> Result:
        """Return the Fréchet distances of images that are drawn with these tables."""
        drawn = {name: each for name, each in samplers.items() if name not in ABLATED}
        found = {name: self.frechet(sampler) for name, sampler in drawn.items()} | self.limits
        notes = {f"95 % of {name}": f"{each.low:.3g} … {each.high:.3g}" for name, each in found.items()}
        return Result(
            f"{self.label}, {count}: {FRECHET}",
            {name: [each.value] for name, each in found.items()},
            unit="distance",
            notes={"network": self.digest, "samples": self.settings.samples, **notes},
        )

    def frechet(self, sampler: Sampler) -> Interval:
        """Return the distance of samples to held-out images."""
        count, drawn = self.settings.samples, []
        for first in range(0, count, AT_ONCE):
            shape = (min(AT_ONCE, count - first), *self.opened.shape)
            drawn.append(sample(self.denoiser, shape, sampler, seed=0, first=first, progress=False))
        return self.scored.interval(torch.cat(drawn).clamp(-1, 1))

    def fitted(self, count: int, free: tuple[str, ...] = ()) -> FittedTable:
        """Return the table that is fitted with these numbers free, by default all; it is kept."""
        path = self.place / "fits" / f"{count}{''.join(f'-{name}' for name in free)}.json"
        if path.is_file():
            return FittedTable.load(path)
        began = time.monotonic(), time.process_time()
        options: dict[str, Any] = {"free": free} if free else {}
        table = fitted_to(self.points[:FITTED], self.points[FITTED:], count, progress=False, **options)
        took = {"by the clock": time.monotonic() - began[0], "of a processor": time.process_time() - began[1]}
        table = replace(table, about={**table.about, "took": took})
        table.save(path)
        return table

    def hand_made(self, count: int) -> Mapping[str, tuple[Sampler, Distance]]:
        """Return every table of the library, and how near it ends."""
        if count not in self._judged:
            self._judged[count] = self._errors(hand_made(self.schedule, count))
        return self._judged[count]

    def gits(self, count: int) -> Mapping[str, tuple[Sampler, Distance]]:
        """Return every solver at the levels of GITS, and how near it ends."""
        levels, made = self.costs.levels(count), {}
        for label, with_evaluations in SOLVERS.items():
            try:
                plan = with_evaluations(count, levels).plan(self.schedule)
            except AlphabarError:  # a solver of several evaluations a step, for one
                continue
            if len(plan) == count:
                made[label] = plan
        return self._errors(made)

    def _errors(self, samplers: Mapping[str, Sampler]) -> Mapping[str, tuple[Sampler, Distance]]:
        return {label: (each, self.fresh.error(each)) for label, each in samplers.items()}


def _best(tried: Mapping[str, tuple[Sampler, Distance]], attribute: str) -> str:
    return min(tried, key=lambda label: getattr(tried[label][1], attribute))
