"""``alphabar likelihood``: how probable images are to a trained network."""

from __future__ import annotations

import json
import math
import platform
import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tyro.conf import Positional

import alphabar
from alphabar.checks import check_count
from alphabar.cli._arguments import check_json, check_memory, check_seed, device, one_of, readable, wrote
from alphabar.cli._opening import Opening
from alphabar.denoise import Clipped, Denoiser
from alphabar.denoise.files import whole_file
from alphabar.errors import ConfigError, look_up
from alphabar.evaluation import Bound, FlowBits, bits_per_dimension, flow_bits_per_dimension, joined
from alphabar.evaluation.flow import flow_levels
from alphabar.samplers import DDPM, track
from alphabar.samplers.ddpm import VARIANCES
from alphabar.schedule import levels_at
from alphabar.training import Checkpoint, ImageData, load_data, to_unit
from alphabar.training.order import moved
from alphabar.training.permutation import permuted

__all__ = ["Likelihood"]

METHODS = {"bound": ("bound",), "flow": ("flow",), "both": ("bound", "flow")}
MADE_BY = "alphabar likelihood"
BAND = 3  # of log-SNR, in one line of the printed terms
LEVEL = 100  # numbers that a step of the flow needs for its levels, about
EVERY = 60.0  # seconds between lines in a log

Estimator = Callable[[Denoiser, Tensor, int], Any]


@readable
@dataclass(frozen=True, kw_only=True)
class Likelihood(Opening):
    """Say how probable images are to a network, in bits a dimension: a bound, and an estimate by its flow.

    The bound is that of ancestral sampling with x̂_0 clipped to [−1, 1], as "sample --sampler ddpm" draws. The
    flow is that of the network as it is, of images that uniform noise makes continuous. Both are computed in
    float32.
    """

    run: Positional[str]
    """A folder that ``alphabar train`` or diffusers wrote, or the name of a pipeline on the hub."""
    data: str
    """Images, best ones that the network has not seen: whatever ``alphabar train`` takes; of a run with
    conditions their columns are what it is told."""
    split: str = "train"
    """Which part of a Hugging Face dataset."""
    image_column: str | None = None
    """Of a table, the column of the images; by default "image", or the first one of images."""
    label_column: str | None = None
    """Of a table, the column of the labels; by default "label", or the first one of class labels."""
    num: int = 256
    """How many of the images, drawn by the seed; all where there are fewer."""
    method: str = one_of(METHODS, "both")
    """Which estimate."""
    steps: int | None = None
    """Of the chain that is bounded, 1 … T; by default T. A shorter chain is another model."""
    variance: str | None = one_of(VARIANCES, None)
    """Of the chain; by default learned_range where the network learns it, else fixed_small."""
    evaluations: int | None = None
    """Terms of the bound that are computed of each image; by default all. Fewer widen the interval."""
    flow_steps: int = 64
    """Of the flow, even; each takes six evaluations of the network with their derivatives."""
    probes: int = 1
    """Random signs for the divergence of the flow."""
    batch_size: int = 64
    """Images at a time; the result does not depend on it."""
    seed: int = 0
    """Of the noise, and of which images are taken."""
    json: Path | None = None
    """The file to write all numbers to, those of each image and of each t among them."""

    def __call__(self) -> None:
        """Estimate, print the results with their 95 % intervals, and write them."""
        methods = look_up(METHODS, self.method, "method")
        check_count(num=self.num, batch_size=self.batch_size, probes=self.probes)
        check_seed(self.seed)
        if self.json:
            check_json(self.json, MADE_BY)
        loaded = self.opened(self.run)
        loaded.network.to(device()).requires_grad_(False)
        estimators = {"bound": self._bound(loaded), "flow": self._flow(loaded)}
        data = self._data(loaded)
        record = self._record(loaded, data)
        for name in methods:
            bits = self._found(name, estimators[name], loaded, data)
            low, high = bits.interval
            margin = f"{bits.total:.4f} ± {(high - low) / 2:.4f}"
            print(
                f"{name}: {margin} bits a dimension, of {len(data)} images",
                *LINES[name](bits, loaded),
                sep="\n",
            )
            common = {"bits": bits.total, "standard_error": bits.standard_error, "interval": [low, high]}
            record[name] = {**common, **NUMBERS[name](bits), "each": bits.each.tolist()}
        if self.json:
            with whole_file(self.json) as draft:
                draft.write_text(json.dumps(_finite(record), indent=1) + "\n", encoding="utf-8")
            wrote(self.json)

    def _data(self, loaded: Checkpoint) -> ImageData:
        channels, height, width = loaded.shape
        if height != width:
            raise ConfigError(f"this network makes images of {height}×{width}, and only squares are read")
        batch = min(self.num, self.batch_size) * math.prod(loaded.shape)
        check_memory(self.probes * batch, "a batch with its signs (--batch-size, --probes)")
        data = load_data(
            self.data,
            size=height,
            channels=channels,
            split=self.split,
            image_column=self.image_column,
            label_column=self.label_column,
            conditions=tuple(loaded.conditions),
        )
        places = torch.arange(min(self.num, len(data)))
        return data.subset(permuted(places, len(data), seed=self.seed).tolist())

    def _sampler(self, loaded: Checkpoint) -> DDPM:
        learned = "learned_range" if loaded.learns_variance else "fixed_small"
        return DDPM(self.steps, self.variance or learned)

    def _bound(self, loaded: Checkpoint) -> Estimator:
        sampler = self._sampler(loaded)
        sampler.plan(loaded.schedule)  # what does not fit is said before there is work

        def bound(denoiser: Denoiser, x_0: Tensor, first: int) -> Bound:
            options: dict[str, Any] = {"evaluations": self.evaluations, "seed": self.seed, "first": first}
            return bits_per_dimension(Clipped(denoiser), x_0, sampler, **options)

        return bound

    def _flow(self, loaded: Checkpoint) -> Estimator:
        check_memory(LEVEL * self.flow_steps, f"a flow of {self.flow_steps} steps (--flow-steps)")
        flow_levels(loaded.schedule, self.flow_steps)

        def flow(denoiser: Denoiser, x_0: Tensor, first: int) -> FlowBits:
            options: dict[str, Any] = {"probes": self.probes, "seed": self.seed, "first": first}
            return flow_bits_per_dimension(denoiser, x_0, self.flow_steps, **options)

        return flow

    def _found(self, name: str, estimate: Estimator, loaded: Checkpoint, data: ImageData) -> Any:
        numbers = _class_numbers(loaded, data)
        starts = range(0, len(data), self.batch_size)
        shown = False if sys.stderr.isatty() else None  # where each batch draws a bar of its own
        parts = []
        for start in track(
            starts, len(starts), f"{name}, {self.batch_size} images", shown=shown, every=EVERY
        ):
            batch = moved(data[range(start, min(start + self.batch_size, len(data)))], device())
            given = None if numbers is None or batch.labels is None else numbers.to(device())[batch.labels]
            denoiser = loaded.denoiser(given, conditions=batch.conditions)
            parts.append(estimate(denoiser, to_unit(batch.images), start))
        return joined(parts)

    def _record(self, loaded: Checkpoint, data: ImageData) -> dict[str, Any]:
        """Return what the numbers depend on."""
        asked = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "json"}
        versions = {"alphabar": alphabar.__version__, "torch": torch.__version__}
        return {
            "made_by": MADE_BY,
            "versions": {**versions, "python": platform.python_version()},
            "digest": loaded.digest(),
            "T": len(loaded.schedule),
            "shape": loaded.shape,
            **asked,
            "num": len(data),
            "steps": self.steps or len(loaded.schedule),
            "variance": self._sampler(loaded).variance,
        }


def _class_numbers(loaded: Checkpoint, data: ImageData) -> Tensor | None:
    """Return the number that the network gives to each class of the data; None where it has no classes.

    Raises:
        ConfigError: data without labels.
        UnknownNameError: a class of the data that the network does not know.
    """
    if not loaded.classes:
        return None
    if data.labels is None or data.classes is None:
        why = data.unlabelled or "the data have none"
        raise ConfigError(f"this network is given labels, {', '.join(loaded.classes)[:60]}, and {why}")
    numbers = {name: number for number, name in enumerate(loaded.classes)}
    return torch.tensor([look_up(numbers, name, "class") for name in data.classes])


def _bound_lines(bound: Bound, loaded: Checkpoint) -> list[str]:
    """Return how many bits each noise level costs; they add up to the bound."""
    levels = levels_at(loaded.schedule, bound.t)
    costs = [count * term for count, term in zip(bound.counts, bound.terms.tolist(), strict=True)]
    bands: dict[float, list[tuple[float, float]]] = defaultdict(list)
    for level, cost in list(zip(levels, costs, strict=True))[1:]:
        log_snr = 2 * level.half_log_snr
        bands[BAND * math.floor(log_snr / BAND) if math.isfinite(log_snr) else log_snr].append(
            (level.t, cost)
        )
    lines = [f"{costs[0]:10.4f}  of pixels given x_t, t = {levels[0].t:g}"]
    for low, inside in bands.items():
        ts, bits = zip(*inside, strict=True)
        lines.append(f"{sum(bits):10.4f}  of log-SNR {low:g} … {low + BAND:g}, t = {min(ts):g} … {max(ts):g}")
    lines.append(f"{bound.prior:10.4f}  of the prior")
    return [*lines, f"  {len(bound.t)} of the {sum(bound.counts):.0f} terms of the chain were computed"]


def _flow_lines(flow: FlowBits, loaded: Checkpoint) -> list[str]:
    return [f"  {flow.evaluations} evaluations of the network; finer steps would add {flow.step_error:.1e}"]


def _bound_numbers(bound: Bound) -> dict[str, Any]:
    means = {"prior": bound.prior, "terms": bound.terms.tolist()}
    return {**means, "t": bound.t, "counts": bound.counts, "evaluations": len(bound.t)}


def _flow_numbers(flow: FlowBits) -> dict[str, Any]:
    return {"step_error": flow.step_error, "evaluations": flow.evaluations}


LINES: dict[str, Callable[[Any, Checkpoint], list[str]]] = {"bound": _bound_lines, "flow": _flow_lines}
NUMBERS: dict[str, Callable[[Any], dict[str, Any]]] = {"bound": _bound_numbers, "flow": _flow_numbers}


def _finite(value: Any) -> Any:
    """Return JSON values with null in place of infinity, which JSON does not know."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
