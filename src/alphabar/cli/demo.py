"""The whole story in one folder: a photograph dissolves, a network learns digits, digits come out of noise.

``alphabar demo`` writes the pictures, the numbers, and an ``index.html`` that shows them. The photograph and
the digits ship inside scikit-learn; nothing is fetched.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template

import torch
from torch import Tensor

from alphabar.cli import plots
from alphabar.denoise.files import whole_file
from alphabar.errors import DataError
from alphabar.evaluation import Score, fit_classifier, score
from alphabar.process import trajectory
from alphabar.samplers import DPMSolver, iter_sample, sample, track
from alphabar.schedule import FAMILIES, NoiseSchedule
from alphabar.training import (
    Checkpoint,
    ImageData,
    TrainConfig,
    TrainStep,
    checkpoint,
    load_data,
    sample_photograph,
    to_unit,
    train,
)

__all__ = ["noise_strip", "run"]

WRITTEN = (
    *("index.html", "score.json", "noise.png", "noise.gif", "schedule.png", "loss.png", "digits.png"),
    *("real.png", "chain.png", "chain.gif", "guess.png", "run/model_index.json", "run/alphabar.json"),
)
SAMPLES = 512
SAMPLER = DPMSolver(steps=20, spacing="trailing")
CONFIG = TrainConfig(
    class_conditional=True, steps=850, batch_size=128, ema_decay=0.99, timesteps="logit_normal_low"
)


def run(out: Path, *, seconds: float = 80.0, seed: int = 0) -> Score:
    """Write the demo and return the score of its digits.

    Args:
        out: the folder.
        seconds: longest training.
        seed: of everything.
    """
    config = dataclasses.replace(CONFIG, seconds=seconds, seed=seed)
    _say("1/4  a photograph dissolves into noise")
    _photograph(out, seed)
    training, held_out = halves(load_data("digits"), seed)
    _say(f"2/4  a network learns {len(training)} real digits")
    began = time.monotonic()
    trained, last = _trained(config, training, out)
    seconds_of_training = time.monotonic() - began
    _say(f"3/4  {SAMPLES} new digits come out of noise")
    began = time.monotonic()
    labels = torch.arange(SAMPLES) % len(trained.classes)
    digits = sample(trained.denoiser(labels), (SAMPLES, *trained.shape), SAMPLER, seed=seed).clamp(-1, 1)
    facts = {
        "parameters": sum(parameter.numel() for parameter in trained.network.parameters()),
        "training": len(training),
        "held_out": len(held_out),
        "steps": last.step,
        "images": last.images,
        "samples": SAMPLES,
        "train_seconds": seconds_of_training,
        "sample_seconds": time.monotonic() - began,
    }
    _digits(trained, digits, held_out, out, seed)
    _say("4/4  the score")
    result = score_digits(digits, labels, training, held_out)
    _write(out / "score.json", json.dumps({**dataclasses.asdict(result), **facts}, indent=2) + "\n")
    _write(out / "index.html", _page(result, facts))
    _say(f"     {'':32} generated   other real digits")
    _say(f"     {'Fréchet distance, pixels':32} {result.pixels:9.3f}   {result.pixels_real:17.3f}")
    _say(f"     {'Fréchet distance, features':32} {result.features:9.3f}   {result.features_real:17.3f}")
    _say(f"     {'read as what they should be':32} {result.read_right:9.1%}   {result.read_right_real:17.1%}")
    return result


def noise_strip(
    x_0: Tensor,
    schedule: NoiseSchedule,
    path: Path,
    *,
    ts: Sequence[int] = (),
    seed: int = 0,
    gif: bool = False,
) -> list[Path]:
    """Write one chain of a picture as a strip with t, ᾱ_t and signal-to-noise ratio; return what was written.

    Args:
        x_0: (C, H, W) in [−1, 1].
        schedule: the noise schedule.
        path: where the strip goes; the animation goes beside it.
        ts: which t, increasing; by default eight from 0 to T−1.
        seed: of the noise.
        gif: write the animation too.

    Raises:
        TimestepError: t that are not increasing or outside 0 … T−1.
    """
    last = len(schedule) - 1
    shown = list(ts) or sorted({round(last * share) for share in (0, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 1)})
    states = trajectory(schedule, x_0[None], shown, seed=seed)[:, 0]
    captions = [
        f"t = {t}\n" rf"$\bar\alpha_t$ = {schedule.alpha_bar[t]:.4g}" f"\nSNR = {schedule.snr[t]:.4g}"
        for t in shown
    ]
    plots.strip(states, captions, path, title=str(schedule))
    if not gif:
        return [path]
    frames = trajectory(schedule, x_0[None], sorted({round(last * i / 59) for i in range(60)}), seed=seed)[
        :, 0
    ]
    plots.animation([x_0, *frames], path.with_suffix(".gif"))
    return [path, path.with_suffix(".gif")]


def _labelled(data: ImageData) -> tuple[Tensor, Tensor]:
    images, labels, _ = data[range(len(data))]
    if labels is None:
        raise DataError("the images have no labels: put the images of each class in a folder")
    return to_unit(images), labels


def halves(data: ImageData, seed: int = 0) -> tuple[ImageData, ImageData]:
    """Split labelled images in two, each class evenly, at random: one half to train on, one never to be seen.

    Raises:
        DataError: the images have no labels.
    """
    _, labels = _labelled(data)
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
    order = order[labels[order].argsort(stable=True)]
    return data.subset(order[0::2].tolist()), data.subset(order[1::2].tolist())


def score_digits(digits: Tensor, labels: Tensor, training: ImageData, held_out: ImageData) -> Score:
    """Score digits against the unseen half, read by a classifier that was trained on that half alone.

    Beside them stand as many real digits of the other half: a distance depends on the number of images.
    """
    some = torch.randperm(len(training), generator=torch.Generator().manual_seed(0))[: len(digits)]
    (real, real_labels), (unseen, unseen_labels) = map(_labelled, (training.subset(some.tolist()), held_out))
    classifier = fit_classifier(unseen, unseen_labels)
    return score(digits, labels, real, real_labels, unseen, classifier)


def _photograph(out: Path, seed: int) -> None:
    photograph = to_unit(sample_photograph())[None, :, :, 106:533]  # a square from its middle
    small = torch.nn.functional.interpolate(photograph, (256, 256), mode="bilinear", antialias=True)[0]
    noise_strip(small, NoiseSchedule.linear(), out / "noise.png", seed=seed, gif=True)
    plots.schedule_curves(
        {name: FAMILIES[name](1000) for name in ("linear", "cosine", "sigmoid")}, out / "schedule.png"
    )


def _trained(config: TrainConfig, training: ImageData, out: Path) -> tuple[Checkpoint, TrainStep]:
    losses = {}
    for last in track(train(config, data=training), config.last_step, "training"):
        losses[last.step] = last.loss
    trained = last.snapshot()
    checkpoint.save(out / "run", trained)
    plots.loss_curve(losses, out / "loss.png")
    return trained, last


def _digits(trained: Checkpoint, digits: Tensor, held_out: ImageData, out: Path, seed: int) -> None:
    plots.grid(digits[:100], out / "digits.png", columns=10)
    each = len(held_out) // 10  # the held-out half lies class by class
    plots.grid(
        to_unit(held_out[[i % 10 * each + i // 10 + 4 for i in range(100)]].images),
        out / "real.png",
        columns=10,
    )
    labels = torch.arange(len(trained.classes))
    states = list(iter_sample(trained.denoiser(labels), (len(labels), *trained.shape), SAMPLER, seed=seed))
    picked = [states[round((len(states) - 1) * i / 7)] for i in range(8)]
    captions = [f"t = {state.t}" if state.t >= 0 else "done" for state in picked]
    plots.strip(torch.stack([_mosaic(state.x_t) for state in picked]), captions, out / "chain.png")
    plots.strip(torch.stack([_mosaic(state.x_0) for state in picked]), captions, out / "guess.png")
    plots.animation([_mosaic(state.x_t) for state in states], out / "chain.gif")


def _page(result: Score, facts: Mapping[str, float]) -> str:
    """Fill in ``page.html``."""
    counts = {
        name: f"{value:,}" if isinstance(value, int) else f"{value:.1f}" for name, value in facts.items()
    }
    scores = {name: f"{value:.3f}" for name, value in dataclasses.asdict(result).items()}
    shares = {name: f"{getattr(result, name):.1%}" for name in ("read_right", "read_right_real")}
    template = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    return Template(template).substitute({**counts, **scores, **shares})


def _mosaic(images: Tensor) -> Tensor:
    """Two rows of five as one picture."""
    return torch.cat([torch.cat(list(row), dim=-1) for row in images.chunk(2)], dim=-2)


def _write(path: Path, text: str) -> None:
    with whole_file(path) as draft:
        draft.write_text(text, encoding="utf-8")


def _say(text: str) -> None:
    print(text, flush=True)
