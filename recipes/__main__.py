"""Re-run a recipe over its seeds and compare it with the record: ``python -m recipes NAME [--data DATA]``.

    recipes/NAME/recipe.json    what to run: arguments of ``alphabar train``, and of what draws the samples
    recipes/NAME/record.json    what was found: scores by seed, spread, seconds, updates, machine
    recipes/NAME/curve.png      the loss of the first seed

Images are split once, by a fixed order, into those to train on and those that are held out; rows of a problem
are drawn, by two seeds. Samples are compared with the latter alone. Without ``--record`` nothing under
recipes/ is changed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alphabar.cli import plots
from alphabar.denoise.files import read_json, whole_file
from alphabar.training import read_log
from alphabar.training.engine import describe_machine
from recipes.ways import RISES, WAYS, Way

FOLDER = Path(__file__).parent

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Recipe:
    """What to run."""

    name: str
    about: str
    data: str
    """A source that ``alphabar train`` takes, or a problem; empty where ``--data`` has to say it."""
    held_out: int
    train: tuple[str, ...]
    evaluate: tuple[str, ...]
    """Arguments of ``alphabar evaluate``, or of ``alphabar sample`` where a problem scores."""
    seeds: tuple[int, ...]
    score: str = "features"
    """A name in ``WAYS``."""
    limits: Mapping[str, float] = field(default_factory=dict)
    """The worst that each score may be."""

    @property
    def way(self) -> Way:
        """How it is prepared and judged."""
        return WAYS[self.score]

    @classmethod
    def read(cls, name: str) -> Recipe:
        """Return the recipe of a name."""
        path = FOLDER / name / "recipe.json"
        if not path.is_file():
            known = ", ".join(sorted(each.parent.name for each in FOLDER.glob("*/recipe.json")))
            raise SystemExit(f"there is no recipe {name!r}: choose among {known}")
        content = read_json(path)
        lists = {key: tuple(value) for key, value in content.items() if isinstance(value, list)}
        return cls(name, **content | lists)


def main() -> None:
    """Run a recipe, print what it found beside the record, and keep it where that is asked for."""
    parser = argparse.ArgumentParser(prog="python -m recipes", description=__doc__.splitlines()[0])
    parser.add_argument("name")
    parser.add_argument("--data", default="", help="the images, where the recipe names none")
    parser.add_argument("--seeds", type=int, nargs="+", help="other seeds than the recipe's")
    parser.add_argument("--out", type=Path, default=Path("build/recipes"), help="where runs and scores go")
    parser.add_argument("--record", action="store_true", help="put what was found on record")
    asked = parser.parse_args()
    recipe = Recipe.read(asked.name)
    source, out = asked.data or recipe.data, asked.out / asked.name
    if not source:
        parser.error(f"{asked.name} names no images: give them with --data")
    training, held_out = recipe.way.prepare(source, recipe.held_out, out)
    runs = [run(recipe, seed, training, held_out, out) for seed in asked.seeds or recipe.seeds]
    found = record_of(recipe, runs)
    print(told(recipe, found))
    if asked.record:
        keep(FOLDER / recipe.name, found, out / f"seed-{runs[0]['seed']}")


def run(recipe: Recipe, seed: int, training: Path, held_out: Path, out: Path) -> Record:
    """Train and score with one seed; return what was found."""
    place = out / f"seed-{seed}"
    train = ["train", str(training), *recipe.train, "--seed", str(seed), "--out", str(place), "--overwrite"]
    draw = [recipe.way.command, *recipe.way.arguments(place, held_out), *recipe.evaluate]
    before = os.times()
    seconds = {"training": timed(train), "scoring": timed(draw)}
    after = os.times()
    seconds["processor"] = sum(after[2:4]) - sum(before[2:4])  # of both, whatever else the machine did
    last = read_log(place)[-1]
    return {
        "seed": seed,
        "scores": recipe.way.read(place, held_out),
        "updates": last["step"],
        "images": last["images"],
        "loss": last["loss"],
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "machine": describe_machine(),
    }


def timed(arguments: Sequence[str]) -> float:
    """Run the command line; return its wall-clock seconds, start included."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-m", "alphabar", *arguments], check=True)
    return time.monotonic() - began


def record_of(recipe: Recipe, runs: Sequence[Record]) -> Record:
    """Return what is kept: the runs, and mean and spread of each score, beside that of real data."""
    values = {name: [each["scores"][name]["value"] for each in runs] for name in runs[0]["scores"]}
    real = {name: statistics.fmean(each["scores"][name]["real"] for each in runs) for name in values}
    return {
        "train": list(recipe.train),
        "evaluate": list(recipe.evaluate),
        "scores": {
            name: {"mean": statistics.fmean(each), "low": min(each), "high": max(each), "real": real[name]}
            for name, each in values.items()
        },
        "runs": list(runs),
        "date": time.strftime("%Y-%m-%d"),
    }


def told(recipe: Recipe, found: Record) -> str:
    """Return what was found as lines, beside the record where there is one."""
    path = FOLDER / recipe.name / "record.json"
    before = read_json(path)["scores"] if path.is_file() else {}
    lines = [f"{recipe.name}: {recipe.about}"]
    for name, now in found["scores"].items():
        line = f"  {name:11} {now['mean']:.4g} ({now['low']:.4g} … {now['high']:.4g}), real {now['real']:.4g}"
        lines.append(line + (f"   {compared(name, now, before[name])}" if name in before else ""))
    for each in found["runs"]:
        for name in missed(recipe.limits, each["scores"]):
            lines.append(f"  seed {each['seed']}: {name} is beyond its limit, {recipe.limits[name]:g}")
    return "\n".join(lines)


def missed(limits: Mapping[str, float], scores: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Return the names of the scores of a run that are beyond their limits."""
    return [
        name
        for name, limit in limits.items()
        if not (scores[name]["value"] >= limit if name in RISES else scores[name]["value"] <= limit)
    ]


def compared(name: str, now: Mapping[str, float], before: Mapping[str, float]) -> str:
    """Return how a score lies to that on record: beyond the spread of its seeds, or within it."""
    said = f"on record {before['mean']:.4g} ({before['low']:.4g} … {before['high']:.4g})"
    if before["low"] <= now["mean"] <= before["high"]:
        return f"{said}: within its spread"
    is_better = (now["mean"] > before["high"]) if name in RISES else (now["mean"] < before["low"])
    return f"{said}: {'better' if is_better else 'worse'}"


def keep(folder: Path, found: Record, run: Path) -> None:
    """Write the record of a recipe, and the loss of one run."""
    with whole_file(folder / "record.json") as draft:
        draft.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    plots.loss_curve({entry["step"]: entry["loss"] for entry in read_log(run)}, folder / "curve.png")


if __name__ == "__main__":
    main()
