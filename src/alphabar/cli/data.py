"""``alphabar data``: what data are like as a network sees them, before it is trained on them."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor
from tyro.conf import Positional, UseAppendAction, arg

from alphabar.cli import plots
from alphabar.cli._arguments import check_apart, check_json, check_picture, one_of, readable, wrote
from alphabar.cli._pictures import pictures
from alphabar.denoise.conditions import Condition
from alphabar.denoise.files import whole_file
from alphabar.errors import ConfigError
from alphabar.samplers import track
from alphabar.training import (
    Finding,
    ImageData,
    TrainConfig,
    TrainingWarning,
    examine_count,
    examine_images,
    to_unit,
    training_data,
)
from alphabar.training.conditions import measured
from alphabar.training.statistics import SCALINGS
from alphabar.training.survey import Survey, survey

__all__ = ["Data"]

MADE_BY = "alphabar data"
SHOWN = 64  # on the sheet
POINTS = 4096  # of pairs, which make one picture
LARGEST = 2**24  # numbers of the sheet
LISTED = 10  # lines or names of a kind


@readable
@dataclass(frozen=True)
class Data:
    """Say what data are like as a network sees them, and draw some: before it is trained on them."""

    source: Positional[str]
    """Whatever train takes: a folder, .parquet, .tar, .npy, .npz or .safetensors files, a Hugging Face
    dataset, or "digits"."""
    size: int | None = None
    """Height and width of the images; by default as they come."""
    image_column: str | None = None
    """Of a table, the column of the images, or the name of an array; by default "image", or the first one."""
    label_column: str | None = None
    """Of a table, the column of the labels; by default "label", or the first one of class labels."""
    conditions: Annotated[tuple[str, ...], UseAppendAction, arg(name="condition")] = ()
    """A column that a network would be told, NAME or NAME:KIND; may be given several times."""
    scaling: str = one_of(SCALINGS, "variance")
    """What each channel of arrays is scaled to: variance 1, a range of −1 … 1, or as it is."""
    out: Path = Path("data.png")
    """The picture to write: images of the source in a grid, arrays as curves, points, channels or slices."""
    json: Path | None = None
    """The file to write all numbers and names to."""

    def __call__(self) -> None:
        """Read all data, say what they are like, and draw some of them."""
        check_picture(self.out)
        check_apart(self.source, self.out)
        if self.out.suffix.lower() != ".png" or (self.out.exists() and not plots.is_grid(self.out)):
            raise ConfigError(f"out is {str(self.out)!r}: give the name of a new .png file")
        if self.json:
            check_json(self.json, MADE_BY)
        options = {name: getattr(self, name) for name in ("size", "image_column", "label_column", "scaling")}
        config = TrainConfig(data=self.source, conditions=self.conditions, skip_broken=True, **options)
        data = training_data(config, decode=False, progress=_progress)
        facts = _facts(data, survey(data, progress=_progress), measured(config, data))
        print(*_lines(facts), sep="\n")
        shown = _some(data)
        for finding in _findings(data, shown):
            facts["findings"].append(str(finding))
            warnings.warn(str(finding), TrainingWarning, stacklevel=1)
        plots.grid(to_unit(shown) if shown.dtype == torch.uint8 else pictures(shown), self.out)
        wrote(self.out)
        if self.json:
            with whole_file(self.json) as draft:
                draft.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
            wrote(self.json)


def _progress(rows: range) -> Iterator[int]:
    return iter(track(rows, len(rows), "reading"))


def _some(data: ImageData) -> Tensor:
    """Return rows of equal distance as the network sees them, at most 64; of pairs 4096."""
    most = POINTS if data.shape == (2,) else SHOWN
    count = min(len(data), most, max(1, LARGEST // math.prod(data.shape)))
    places = torch.linspace(0, len(data) - 1, count, dtype=torch.float64).round().long()
    return data[places.tolist()].images


def _findings(data: ImageData, shown: Tensor) -> list[Finding]:
    kind = {"are_latents": bool(data.latents), "are_arrays": data.scaling is not None}
    of_images = examine_images(shown) if shown.dtype == torch.uint8 else []
    return of_images + examine_count(len(data), data.shape, **kind)


def _facts(data: ImageData, found: Survey, conditions: Mapping[str, Condition]) -> dict[str, Any]:
    """Return what is printed and written, as JSON values."""
    statistics, classes = found.statistics, data.classes or ()
    counts = [] if data.labels is None else data.labels.bincount(minlength=len(classes)).tolist()
    name = data.images.name  # type: ignore[union-attr]  # nothing is decoded
    return {
        "made_by": MADE_BY,
        "source": data.source,
        "kind": found.kind,
        "count": len(data),
        "shape": list(data.shape),
        "sizes": [[*size, count] for size, count in found.sizes.most_common()],
        "channels": {key: getattr(statistics, key).tolist() for key in ("least", "most", "mean", "std")},
        "scaling": data.scaling and data.scaling.record(),
        "labels": dict(zip(classes, counts, strict=True)),
        "unlabelled": data.unlabelled,
        "conditions": {name: str(each) for name, each in conditions.items()},
        "offered": dict(data.offered),
        "broken": dict(data.skipped),
        "repeated": [[name(place), name(first)] for place, first in found.repeats],
        "findings": [],
    }


def _lines(facts: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a person reads."""
    yield f"{facts['count']:,} {facts['kind']} of {_form(facts['shape'])}"
    for name, parts in {
        "sizes": _sizes(facts["sizes"]),
        "channels": _channels(**facts["channels"]),
        "labels": _labels(facts["labels"], facts["unlabelled"]),
        "told": [f"{name}: {text}" for name, text in facts["conditions"].items()],
        "columns": _columns(facts["offered"]),
        "broken": _counted([f"{name}: {why}" for name, why in facts["broken"].items()], "left out"),
        "repeated": _counted([f"{name} is {first}" for name, first in facts["repeated"]], "there before"),
    }.items():
        for number, part in enumerate(parts):
            yield f"{'' if number else name:10}{part}"


def _form(sides: Sequence[int]) -> str:
    return "×".join(map(str, sides))


def _sizes(sizes: Sequence[Sequence[int]]) -> list[str]:
    if not sizes:
        return []
    ordered = sorted(sizes, key=lambda each: (each[0] * each[1], each))
    least, most = (_form(each[:2]) for each in (ordered[0], ordered[-1]))
    *often, count = sizes[0]
    what = (
        f"{least} … {most}, most often {_form(often)}, {count:,} times" if least != most else f"all {least}"
    )
    return [f"height × width in the source: {what}"]


def _channels(least: list[float], most: list[float], mean: list[float], std: list[float]) -> list[str]:
    lines = [
        f"{number}: {low:.4g} … {high:.4g}, mean {middle:.4g}, deviation {deviation:.4g}"
        for number, (low, high, middle, deviation) in enumerate(zip(least, most, mean, std, strict=True))
    ]
    return _cut(lines)


def _labels(labels: Mapping[str, int], unlabelled: str) -> list[str]:
    if not labels:
        return [f"none that can be used: {unlabelled}"] if unlabelled else []
    each = [f"{name} ({count:,})" for name, count in labels.items()]
    more = f" and {len(each) - LISTED} more" if len(each) > LISTED else ""
    often = f"{min(labels.values()):,} … {max(labels.values()):,} of each"
    return [f"{len(each)} classes, {often}: {', '.join(each[:LISTED])}{more}"]


def _columns(offered: Mapping[str, str]) -> list[str]:
    each = [f"{name} ({kind})" for name, kind in offered.items()]
    return [f"that a network can be told by --condition: {', '.join(each)}"] if each else []


def _counted(lines: list[str], what: str) -> list[str]:
    return [f"{len(lines):,} {what}", *_cut(lines)] if lines else []


def _cut(lines: list[str]) -> list[str]:
    more = [f"and {len(lines) - LISTED} more: --json"] if len(lines) > LISTED else []
    return lines[:LISTED] + more
