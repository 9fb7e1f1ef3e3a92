"""``alphabar sweep``: the quality of samples against what they cost, over samplers and evaluations."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor
from tyro.conf import Positional

from alphabar.checks import check_count
from alphabar.cli import plots
from alphabar.cli._arguments import (
    check_json,
    check_seed,
    counts,
    device,
    one_of,
    readable,
    wrote,
)
from alphabar.cli._conditions import digests
from alphabar.cli._opening import Opening, import_from_here
from alphabar.cli._samples import processes
from alphabar.cli.fitting import digest_of, own_table, place_of
from alphabar.denoise.files import read_json, whole_file
from alphabar.denoise.precision import PRECISIONS, precision_on
from alphabar.errors import AlphabarError, ConfigError, look_up
from alphabar.evaluation import Features, draw, features_by_name, features_of, split
from alphabar.evaluation.distances import frechet_without
from alphabar.evaluation.evaluating import POSITIVE, content_digest
from alphabar.evaluation.intervals import Interval, interval_of
from alphabar.samplers import REGISTRY, Sampler
from alphabar.schedule import SPACINGS
from alphabar.training import Checkpoint, ImageData, load_data
from alphabar.training.engine import describe_machine, is_main

__all__ = ["Sweep", "cheapest"]

NUM = 500
MADE_BY = "alphabar sweep"
Setting = tuple[str, int]
"""A sampler and its evaluations."""


@dataclass(frozen=True)
class Found:
    """What is known of a setting."""

    seconds: float
    """For each sample."""
    frechet: Interval


@readable
@dataclass(frozen=True, kw_only=True)
class Sweep(Opening):
    """Draw quality against evaluations and seconds, and name the cheapest setting as good as the best."""

    run: Positional[str]
    """A folder that alphabar train or diffusers wrote, or the name of a pipeline on the hub."""
    data: str
    """Real images, given as for train; of a run with conditions their columns are what it is told."""
    samplers: tuple[str, ...] = one_of(REGISTRY, ("ddim", "dpm", "unipc", "heun"))
    """Which to try."""
    evals: str = "4,5,6,8,10,20,50"
    """Evaluations of the network, with commas between."""
    spacing: str | None = one_of(SPACINGS, None)
    """Which t they visit; by default as suits each."""
    num: int = NUM
    """How many samples of each setting, from the same noise, beside as many real images."""
    features: str = "train"
    """What images are compared by, as for evaluate."""
    weights: Path | None = None
    """The file of the weights of inception, if not where torch keeps them."""
    guidance: float = 1.0
    """How much the label counts."""
    precision: str = one_of(PRECISIONS, "auto")
    """Of the network's arithmetic; auto is bfloat16 where the processor has it."""
    seed: int = 0
    """Of the samples."""
    out: Path | None = None
    """The JSON file to write, with a picture; by default RUN/sweep.json. What it holds is not drawn again."""

    def __call__(self) -> None:
        """Draw and score each setting, keep what is known after each, and write the curves."""
        processes()
        tried = [(sampler, count) for sampler in self.samplers for count in counts(self.evals)]
        check_count(num=self.num)
        check_seed(self.seed)
        look_up(PRECISIONS, self.precision, "precision")
        place = self.out or Path(self.run if Path(self.run).is_dir() else Path(self.run).name, "sweep.json")
        check_json(place, MADE_BY, pictured=True)
        loaded = self.opened(self.run)
        loaded = replace(loaded, network=loaded.network.to(device()))
        samplers = self._planned(loaded, tried)
        channels, size, _ = loaded.shape
        data = load_data(self.data, size=size, channels=channels, conditions=tuple(loaded.conditions))
        real, reference = split(data, self.num)
        told = real[range(len(real))].conditions
        import_from_here()
        features = features_by_name(self.features, reference, weights=self.weights, device=device())
        known = features_of(reference, features, "reference")

        def distance(images: ImageData) -> Interval:
            return interval_of(frechet_without(features_of(images, features), known), POSITIVE)

        protocol, of_real = self._protocol(loaded, features, reference, told), distance(real)
        found = _read(place, protocol)
        for (name, count), sampler in samplers.items():
            if (name, count) not in found:
                drawn, seconds = self._draw(loaded, sampler, told, f"{name} {count}")
                found[name, count] = Found(seconds, distance(drawn))
                if is_main():
                    _write(place, protocol, found, of_real)
        if is_main():
            _print(found, of_real)
            plots.quality_curves(_curves(found), (of_real.low, of_real.high), place.with_suffix(".png"))
            wrote(place)
            wrote(place.with_suffix(".png"))

    def _planned(self, loaded: Checkpoint, tried: Sequence[tuple[str, int]]) -> dict[Setting, Sampler]:
        """Return the samplers that can be had on the schedule of a run, by name and evaluations.

        Raises:
            UnknownNameError: no such sampler.
            ConfigError: none can be had.
        """
        made: dict[Setting, Sampler] = {}
        for name, count in tried:
            look_up(REGISTRY, name, "sampler")
            try:
                label, sampler = self._made(loaded, name, count)
                rows = sampler.plan(loaded.schedule).rows
            except AlphabarError as error:
                print(f"{name} with {count} evaluations is left out: {error}")
                continue
            made[label, len(rows)] = sampler
        if not made:
            raise ConfigError("none of these samplers can be had with these evaluations")
        return made

    def _made(self, loaded: Checkpoint, name: str, count: int) -> tuple[str, Sampler]:
        """Return a sampler and its name; of a table that was fitted to the run, with the file's digest."""
        if name == "fitted" and self.spacing is None and place_of(self.run, count).is_file():
            return f"fitted {digest_of(self.run, count)}", own_table(self.run, loaded, count, self.guidance)
        return name, REGISTRY[name].with_evaluations(count, self.spacing)

    def _draw(
        self, loaded: Checkpoint, sampler: Sampler, told: Mapping[str, Tensor], what: str
    ) -> tuple[ImageData, float]:
        """Return samples, and the seconds of each."""
        began = time.perf_counter()
        drawn = draw(
            *(loaded, sampler, self.num),
            guidance=self.guidance,
            precision=self.precision,
            seed=self.seed,
            conditions=told,
            what=what,
        )
        return drawn, (time.perf_counter() - began) / self.num

    def _protocol(
        self, loaded: Checkpoint, features: Features, reference: ImageData, told: Mapping[str, Tensor]
    ) -> dict[str, Any]:
        return {
            **({"conditions": digests(told)} if told else {}),
            "run": loaded.digest(),
            "num": self.num,
            "seed": self.seed,
            "guidance": self.guidance,
            "precision": precision_on(device(), self.precision),
            "spacing": self.spacing,
            "data": {"from": self.data, "reference_digest": content_digest(reference)},
            "features": {"name": features.name, "sha256": features.digest},
            "machine": describe_machine(),
        }


def cheapest(found: Mapping[Setting, Found]) -> tuple[Setting, Setting]:
    """Return the setting of the least distance, and the cheapest one that is as good within the noise."""
    best = min(found, key=lambda setting: found[setting].frechet.value)
    as_good = [
        setting
        for setting, each in found.items()
        if not each.frechet.differs_from(found[best].frechet, same_reference=True)
    ]
    return best, min(as_good, key=lambda setting: (setting[1], found[setting].seconds))


def _read(place: Path, protocol: Mapping[str, Any]) -> dict[Setting, Found]:
    """Return what a file knows of the same protocol on the same machine."""
    record = read_json(place) if place.is_file() else {}
    if record.get("protocol") != protocol:
        return {}
    return {
        (each["sampler"], each["evaluations"]): Found(
            each["seconds"],
            Interval(each["value"], each["samples_error"], each["reference_error"], POSITIVE),
        )
        for each in record["settings"]
    }


def _write(
    place: Path, protocol: Mapping[str, Any], found: Mapping[Setting, Found], of_real: Interval
) -> None:
    settings = [
        {"sampler": name, "evaluations": count, "seconds": each.seconds, **_interval(each.frechet)}
        for (name, count), each in found.items()
    ]
    record = {"made_by": MADE_BY, "protocol": protocol, "settings": settings, "real": _interval(of_real)}
    with whole_file(place) as draft:
        draft.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _interval(score: Interval) -> dict[str, float]:
    return {
        "value": score.value,
        "low": score.low,
        "high": score.high,
        "samples_error": score.samples_error,
        "reference_error": score.reference_error,
    }


def _print(found: Mapping[Setting, Found], of_real: Interval) -> None:
    best, choice = cheapest(found)
    print(f"{'':18} {'Fréchet':>9}   {'95 % interval':^23} {'ms a sample':>12}")
    for (name, count), each in sorted(found.items(), key=lambda item: item[1].frechet.value):
        low, high = f"{each.frechet.low:.4g}", f"{each.frechet.high:.4g}"
        print(
            f"{name:13} {count:4} {each.frechet.value:9.4g}   {low:>10} … {high:<10} "
            f"{1000 * each.seconds:12.3g}"
        )
    print(f"{'real images':18} {of_real.value:9.4g}   {of_real.low:>10.4g} … {of_real.high:<10.4g}")
    print(f"best: {best[0]} with {best[1]} evaluations; as good within the noise, and cheapest: ", end="")
    print(f"{choice[0]} with {choice[1]}")


def _curves(found: Mapping[Setting, Found]) -> dict[str, list[tuple[int, float, Interval]]]:
    curves: dict[str, list[tuple[int, float, Interval]]] = {}
    for (name, count), each in sorted(found.items()):
        curves.setdefault(name, []).append((count, each.seconds, each.frechet))
    return curves
