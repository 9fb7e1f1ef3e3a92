"""Where the data of a recipe come from, and how its samples are scored: one entry of a table each.

    features     images, split once; ``alphabar evaluate`` compares samples with those that were held out
    a problem    rows that are drawn by a seed; ``alphabar sample``, then the scores of the problem

A way is a row of :data:`WAYS`, which a recipe names.
"""

from __future__ import annotations

import io
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from alphabar.denoise.files import read_json, whole_file
from alphabar.training import ImageData, load_data
from recipes.problems import PROBLEMS, Columns, Problem

__all__ = ["RISES", "WAYS", "Scores", "Way", "split"]

FEATURES = ("frechet", "kernel", "precision", "recall")
RISES = ("precision", "recall", "correlation")
"""Scores of which more is better."""
TRAINING, TRUE, REAL = 0, 1, (2, 3, 4)
"""Seeds of rows to train on, of those to compare samples with, and of others in place of samples."""

Scores = dict[str, dict[str, float]]
"""By name: ``value`` of the samples, ``real`` of as many others; perhaps an interval, ``low``/``high``."""


class Way(NamedTuple):
    """How a recipe is prepared and judged."""

    prepare: Callable[[str, int, Path], tuple[Path, Path]]
    """``prepare(source, held_out, out)`` writes what to train on and what is held out."""
    command: str
    """That draws samples, and takes the arguments ``evaluate`` of the recipe."""
    arguments: Callable[[Path, Path], list[str]]
    """``arguments(run, held_out)`` are its others."""
    read: Callable[[Path, Path], Scores]
    """``read(run, held_out)`` returns the scores of what the command wrote."""


def split(images: ImageData, held_out: int, out: Path) -> tuple[Path, Path]:
    """Write the images to train on and those held out as two files; return their paths."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0)).tolist()
    return (
        _kept(out / "training.parquet", partial(_write_images, images, order[held_out:])),
        _kept(out / "held_out.parquet", partial(_write_images, images, order[:held_out])),
    )


def _kept(path: Path, write: Callable[[Path], Any]) -> Path:
    """Return the path of a file, which is written unless it is there."""
    if not path.exists():
        with whole_file(path) as draft:
            write(draft)
    return path


def _write_images(images: ImageData, numbers: list[int], path: Path) -> None:
    """Write images and labels as a parquet file of PNGs."""
    import pyarrow as pa
    from PIL import Image
    from pyarrow.parquet import write_table

    pixels, labels, _ = images.subset(numbers)[range(len(numbers))]
    files = []
    for image in pixels:
        buffer = io.BytesIO()
        Image.fromarray(image.permute(1, 2, 0).squeeze(-1).numpy()).save(buffer, "PNG")
        files.append({"bytes": buffer.getvalue(), "path": None})
    columns = {"image": files} | ({} if labels is None else {"label": labels.tolist()})
    write_table(pa.table(columns), path)


def _evaluate(run: Path, held_out: Path) -> list[str]:
    return [str(run), "--data", str(held_out), "--json", str(run.with_suffix(".json"))]


def _evaluated(run: Path, held_out: Path) -> Scores:
    found = read_json(run.with_suffix(".json"))
    return {name: {key: found[name][key] for key in ("value", "low", "high", "real")} for name in FEATURES}


def _drawn(problem: Problem, source: str, held_out: int, out: Path) -> tuple[Path, Path]:
    """Write the rows to train on, and as many others as samples are drawn, as two files."""

    def write(count: int, seed: int, path: Path) -> None:
        with path.open("wb") as file:
            np.savez(file, **{name: values.numpy() for name, values in problem.draw(count, seed).items()})

    return (
        _kept(out / "training.npz", partial(write, problem.rows, TRAINING)),
        _kept(out / "held_out.npz", partial(write, held_out, TRUE)),
    )


def _sample(run: Path, held_out: Path) -> list[str]:
    rows = _columns(held_out)
    told = ["--conditions", str(held_out)] if len(rows) > 1 else []
    return [str(run), "--num", str(len(rows["x"])), "--replace", *told]


def _compared(problem: Problem, run: Path, held_out: Path) -> Scores:
    """Return the scores of samples, and the mean of those of some sets of real rows."""
    true = _columns(held_out)
    x = torch.from_numpy(np.load(run / "samples/samples.npy"))
    found = problem.score({**true, "x": x}, true)
    real = [problem.score(problem.draw(len(x), seed), true) for seed in REAL]
    return {
        name: {"value": value, "real": statistics.fmean(each[name] for each in real)}
        for name, value in found.items()
    }


def _columns(path: Path) -> Columns:
    with np.load(path) as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


WAYS = {
    "features": Way(
        lambda source, held_out, out: split(load_data(source), held_out, out),
        "evaluate",
        _evaluate,
        _evaluated,
    ),
    **{
        name: Way(partial(_drawn, problem), "sample", _sample, partial(_compared, problem))
        for name, problem in PROBLEMS.items()
    },
}
