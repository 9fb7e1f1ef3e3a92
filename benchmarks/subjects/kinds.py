"""What the network returns, and how its variance comes about: the digits in as many updates each."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch

from alphabar.cli import demo
from alphabar.denoise.guidance import Clipped
from alphabar.evaluation import Score, bits_per_dimension
from alphabar.samplers.ddpm import DDPM
from alphabar.samplers.loop import sample
from alphabar.training.checkpoint import Checkpoint
from alphabar.training.config import TrainConfig
from alphabar.training.data import ImageData, load_data, to_unit
from alphabar.training.loop import train
from benchmarks.measure import Result, Settings

TITLE = "Kinds of networks"
ABOUT = (
    "The digits of `alphabar demo`, its network and its updates, for three seeds, where the network returns "
    "v, flow matching's velocity or EDM's F, each on the schedule it was made for: the Fréchet distance of "
    "512 samples by DPM-Solver++ in 20 evaluations to the half that was not trained on, on the features of a "
    "classifier. And the variational bound of that half, where the network is trained by the simple loss "
    "and the variance is fixed, the smaller or the larger one, and where it learns the variance by the "
    "hybrid loss (Nichol & Dhariwal 2021); 100 of 1,000 terms are computed."
)
SEEDS = range(3)
KINDS: Mapping[str, dict[str, str]] = {
    "v_prediction": {},
    "flow": {"prediction": "flow", "schedule": "rectified_flow"},
    "edm": {"prediction": "edm", "schedule": "edm", "timesteps": "edm"},
}
HYBRID = {"variance": "learned_range"}
BOUNDS: Mapping[str, tuple[dict[str, str], str]] = {
    "simple loss, smaller variance": ({}, "fixed_small"),
    "simple loss, larger variance": ({}, "fixed_large"),
    "hybrid loss": (HYBRID, "learned_range"),
}
TERMS = 100


def run(settings: Settings) -> Iterator[Result]:
    """Train, score; each seed that is over yields its tables anew."""
    kinds: dict[str, list[float]] = {name: [] for name in (*KINDS, "real")}
    bounds: dict[str, list[float]] = {name: [] for name in BOUNDS}
    for seed in SEEDS:
        training, held_out = demo.halves(load_data("digits"), seed)
        trained = {}
        for name, kind in KINDS.items():
            trained[name] = _trained(training, seed, kind)
            score = _score(trained[name], training, held_out, seed)
            kinds[name].append(score.features)
        kinds["real"].append(score.features_real)
        hybrid = _trained(training, seed, HYBRID)
        for name, (loss, variance) in BOUNDS.items():
            made = hybrid if loss else trained["v_prediction"]
            bounds[name].append(_bits(made, held_out, variance))
        told = {"updates": demo.CONFIG.last_step, "seeds": seed + 1}
        yield Result("Fréchet distance", _copied(kinds), unit="distance", notes=told)
        yield Result("Bits per dimension", _copied(bounds), unit="bits", notes=told)


def _copied(numbers: Mapping[str, list[float]]) -> dict[str, list[float]]:
    return {name: list(each) for name, each in numbers.items()}


def _trained(training: ImageData, seed: int, kind: Mapping[str, Any]) -> Checkpoint:
    config: TrainConfig = replace(demo.CONFIG, seed=seed, **kind)
    (last,) = deque(train(config, data=training), maxlen=1)
    return last.snapshot()


def _score(made: Checkpoint, training: ImageData, held_out: ImageData, seed: int) -> Score:
    labels = torch.arange(demo.SAMPLES) % len(made.classes)
    digits = sample(made.denoiser(labels), (demo.SAMPLES, *made.shape), demo.SAMPLER, seed=seed)
    return demo.score_digits(digits.clamp(-1, 1), labels, training, held_out)


def _bits(made: Checkpoint, held_out: ImageData, variance: str) -> float:
    images, labels, *_ = held_out[range(len(held_out))]
    denoiser, sampler = Clipped(made.denoiser(labels)), DDPM(variance=variance)
    return bits_per_dimension(denoiser, to_unit(images), sampler, evaluations=TERMS, progress=False).total
