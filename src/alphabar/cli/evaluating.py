"""``alphabar evaluate``: how good samples are, with intervals, beside real images at the same count."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from tyro.conf import Positional

from alphabar.checks import check_count
from alphabar.cli import plots
from alphabar.cli._arguments import check_json, check_seed, device, readable, wrote
from alphabar.cli._opening import import_from_here
from alphabar.cli._samples import RECORD, processes
from alphabar.cli.sampling import Sample, Sampled
from alphabar.denoise._card import CARD, with_scores
from alphabar.denoise.files import read_json, whole_file
from alphabar.denoise.pretrained import is_checkpoint
from alphabar.errors import CheckpointError, ConfigError
from alphabar.evaluation import Evaluation, Features, Interval, evaluate, features_by_name, split
from alphabar.evaluation.cache import hash_of
from alphabar.evaluation.evaluating import content_digest, record_of
from alphabar.training import Checkpoint, ImageData, load_data, to_unit
from alphabar.training.engine import describe_machine, is_main

__all__ = ["Evaluate"]

NAME = "evaluation.json"
NUM = 1000
MADE_BY = "alphabar evaluate"
ALIKE = ("samples.num", "data.reference_digest", "features.name", "features.sha256")
SCORES = ("frechet", "kernel", "precision", "recall", "density", "coverage", "copies")
METHOD = (
    "95 %: Student's t of the jackknife over 10 blocks of the samples and of the reference, and over seeds; "
    "copies: Wilson"
)


@readable
@dataclass(frozen=True, kw_only=True)
class Evaluate(Sampled):
    """Score samples of a run, or a folder of images, beside real images at the same count."""

    run: Positional[str] = ""
    """The run to sample from, or a folder of images (also .parquet or .tar files) to score."""
    data: str = ""
    """Real images, given as for train: those the run was trained on, so that copies of them are found."""
    num: int | None = None
    """How many samples, beside as many real images; by default 1000, or half of the data."""
    features: str = "train"
    """What images are compared by: a classifier trained on the data (train), inception, dinov2, a TorchScript
    (.pt) or ONNX (.onnx) file, or package.module:function."""
    weights: Path | None = None
    """The file of the weights of inception, if not where torch keeps them."""
    seeds: int = 1
    """From how many seeds, one after the other from --seed, samples are drawn: the interval spans them."""
    label: tuple[str, ...] = ()
    """Classes to draw, in turn, for a class-conditional network; by default all."""
    batch_size: int = 64
    """Samples at a time."""
    json: Path | None = None
    """Where the scores go; by default beside the images."""
    compare: tuple[Path, ...] = ()
    """Scores that were written before, to print side by side: files, or folders that hold evaluation.json."""

    def __call__(self) -> None:
        """Draw the samples that are missing, score them, print the scores and write them as JSON."""
        if self.compare:
            _print_comparison([read_scores(path) for path in self.compare], self.compare)
            return
        self._check()
        if self.json:
            check_json(self.json, MADE_BY, pictured=True)
        processes()  # before whatever else asks for them, since the first call decides how long one waits
        is_run = is_checkpoint(Path(self.run)) or not Path(self.run).exists()
        source = self.opened(self.run) if is_run else load_data(self.run)
        channels, size, _ = source.shape
        data = load_data(self.data, size=size, channels=channels)
        available = len(source) if isinstance(source, ImageData) else NUM
        num = self.num or min(NUM, len(data) // 2, available)
        if isinstance(source, ImageData) and num > available:
            raise ConfigError(f"num is {num}, and {self.run} holds {available} images")
        real, reference = split(data, num)
        import_from_here()
        features = features_by_name(self.features, reference, weights=self.weights, device=device())
        folders, place = [Path(self.run)], Path(f"{self.run}.{NAME}")
        if isinstance(source, Checkpoint):
            folders, place = self._draw(source, num)
        place = self.json or place
        samples = [load_data(str(folder), size=size, channels=channels) for folder in folders]
        samples = [each.subset(range(num)) for each in samples]
        check_json(place, MADE_BY, pictured=True)
        found = evaluate(samples, real, reference, features)
        if is_main():
            described = self._described(folders, samples, real, reference, features)
            record = {"made_by": MADE_BY, **record_of(found), **described}
            with whole_file(place) as draft:
                draft.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
            _print(record)
            _draw_copies(found, samples[0], reference, place.with_suffix(".png"))
            if isinstance(source, Checkpoint):
                _add_to_card(Path(self.run, CARD), record)
            wrote(place)

    def _check(self) -> None:
        check_count(seeds=self.seeds, batch_size=self.batch_size, num=NUM if self.num is None else self.num)
        check_seed(self.seed)
        if not self.run or not self.data:
            raise ConfigError("give a run or a folder of images, and real images by --data")

    def _draw(self, loaded: Checkpoint, num: int) -> tuple[list[Path], Path]:
        """Draw the samples of each seed; return their folders, and where the scores go."""
        given = {each.name: getattr(self, each.name) for each in fields(Sampled)}
        sample = Sample(**given, num=num, label=self.label, batch_size=self.batch_size)
        settings = hash_of(repr(replace(sample.settings(loaded), seed=0)))
        base = Path(self.run if Path(self.run).is_dir() else Path(self.run).name, "evaluation")
        base /= f"{self.sampler}-{self.steps}-{settings[:8]}"
        folders = [base / f"seed-{seed}" for seed in range(self.seed, self.seed + self.seeds)]
        for k, folder in enumerate(folders):
            replace(sample, seed=self.seed + k, out=folder)()
        return folders, base / NAME

    def _described(
        self,
        folders: Sequence[Path],
        samples: Sequence[ImageData],
        real: ImageData,
        reference: ImageData,
        features: Features,
    ) -> dict[str, Any]:
        described = [folder / RECORD for folder in folders]
        return {
            "samples": {
                "from": self.run,
                "num": len(samples[0]),
                "digests": [content_digest(each) for each in samples],
                "settings": [read_json(path) if path.is_file() else None for path in described],
            },
            "data": {
                "from": self.data,
                "real": len(real),
                "real_digest": content_digest(real),
                "reference": len(reference),
                "reference_digest": content_digest(reference),
                "resize": f"middle square, to {reference.shape[1]}×{reference.shape[2]}",
            },
            "features": {"name": features.name, "sha256": features.digest, "resize": features.resize},
            "interval": METHOD,
            "machine": describe_machine(),
        }


def read_scores(path: Path) -> dict[str, Any]:
    """Return scores that were written before.

    Raises:
        CheckpointError: no such file, or one that holds something else.
    """
    file = path / NAME if path.is_dir() else path
    if not file.is_file():
        raise CheckpointError(f"there are no scores {file}: write them by alphabar evaluate")
    record = read_json(file)
    if missing := {*SCORES, "samples", "data", "features"} - record.keys():
        raise CheckpointError(f"{file} holds no scores: {', '.join(sorted(missing))} are missing")
    return record


def _print(record: Mapping[str, Any]) -> None:
    samples, data = record["samples"], record["data"]
    print(
        f"{samples['from']}: {samples['num']} samples beside {data['real']} real images, against "
        f"{data['reference']} of {data['from']}; features {record['features']['name']}"
    )
    print(f"{'':10} {'samples':>10}   {'95 % interval':^23} {'real':>10}")
    for name in SCORES:
        score = record[name]
        low, high = f"{score['low']:.4g}", f"{score['high']:.4g}"
        print(f"{name:10} {score['value']:10.4g}   {low:>10} … {high:<10} {score['real']:10.4g}")


def _add_to_card(path: Path, record: Mapping[str, Any]) -> None:
    """Write the scores into the model card of a run, where it has one."""
    if not path.is_file() or path.is_symlink():
        return
    samples, data, (settings, *_) = record["samples"], record["data"], record["samples"]["settings"]
    rows = [
        f"| {name} | {score['value']:.4g} | {score['low']:.4g} … {score['high']:.4g} | {score['real']:.4g} |"
        for name, score in ((name, record[name]) for name in SCORES)
    ]
    table = "\n".join(
        [
            f"{samples['num']} samples by {settings['sampler']} with {settings['steps']} evaluations, "
            f"{len(samples['digests'])} seeds from {settings['seed']}, guidance {settings['guidance']}; "
            f"beside {data['real']} real images, against {data['reference']} others; features "
            f"{record['features']['name']}.\n",
            "| score | samples | 95 % interval | real images |",
            "|---|---|---|---|",
            *rows,
        ]
    )
    text = path.read_text("utf-8", errors="replace")
    with whole_file(path) as draft:
        draft.write_text(with_scores(text, table), encoding="utf-8")


def _print_comparison(records: Sequence[Mapping[str, Any]], paths: Sequence[Path]) -> None:
    """Print scores side by side, and a star where one differs from the first by more than its noise."""
    first, *others = records
    for path, other in zip(paths[1:], others, strict=True):
        if differing := [part for part in ALIKE if _part(other, part) != _part(first, part)]:
            told = ", ".join(f"{part} is {_part(first, part)} and {_part(other, part)}" for part in differing)
            raise ConfigError(f"{paths[0]} and {path} cannot be compared: {told}")
    for number, path in enumerate(paths, 1):
        print(f"{number}  {path}")
    print(f"{'':10}" + "".join(f" {number:>12} " for number in range(1, len(paths) + 1)) + f" {'real':>12}")
    for name in SCORES:
        shown = [f" {record[name]['value']:12.4g}{_star(name, first, record)}" for record in records]
        print(f"{name:10}{''.join(shown)} {first[name]['real']:12.4g}")
    print("* differs from 1 by more than the noise, at 5 %")


def _part(record: Mapping[str, Any], name: str) -> Any:
    part, key = name.split(".")
    return record[part].get(key)


def _star(name: str, first: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    a, b = first[name], other[name]
    if "samples_error" not in a:
        return " " if a["low"] <= b["high"] and b["low"] <= a["high"] else "*"
    scores = [Interval(each["value"], each["samples_error"], each["reference_error"]) for each in (a, b)]
    return "*" if scores[0].differs_from(scores[1], same_reference=True) else " "


def _draw_copies(found: Evaluation, samples: ImageData, reference: ImageData, path: Path) -> None:
    """Draw the samples that are nearest to a reference image, each above it."""
    pairs = found.copies.nearest
    numbers = [[i for i, _, _ in pairs], [j for _, j, _ in pairs]]
    rows = [to_unit(data[chosen].images) for data, chosen in zip((samples, reference), numbers, strict=True)]
    plots.grid(torch.cat(rows), path, columns=len(pairs))
    wrote(path, "the samples nearest to an image of the data, each above it")
