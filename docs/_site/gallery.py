"""Pictures of the gallery. Nothing is trained: the data are given, so their denoisers are exact.

The page shows these functions as they stand here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn.functional import interpolate as resized

from alphabar import (
    DDIM,
    DDPM,
    ClassifierFree,
    Denoiser,
    DPMSolver,
    GaussianMixture,
    NoiseSchedule,
    UniPC,
    add_noise,
    iter_sample,
    normal,
    sample,
)
from alphabar.samplers import image_to_image, inpaint, interpolate

__all__ = ["PICTURES"]

SIDE = 8  # of a digit
EVALUATIONS = (3, 5, 8, 12, 20, 50)
LEVELS = (0, 200, 400, 600, 800, 999)
WEIGHTS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


def handwriting() -> GaussianMixture:
    """Return 1,797 digits, each a little blurred, as data whose denoiser is exact."""
    pixels = torch.tensor(load_digits().data, dtype=torch.float32) / 8 - 1  # (1797, 64) in [−1, 1]
    return GaussianMixture(pixels, torch.full((len(pixels),), 0.1))


def noised(x_0: Tensor) -> Tensor:
    """Return (schedule, level, C, H, W): one photograph, (C, H, W), one noise, three schedules."""
    schedules = NoiseSchedule.linear(), NoiseSchedule.cosine(), NoiseSchedule.rectified_flow()
    x_0, t = x_0.expand(len(LEVELS), *x_0.shape), torch.tensor(LEVELS)
    z = normal((1, *x_0.shape[1:]), seed=0).expand_as(x_0)
    return torch.stack([add_noise(schedule, x_0, z, t) for schedule in schedules])


def believed() -> Tensor:
    """Return (2, state, 64): x_t of one chain from noise to a digit, and x̂_0 as estimated from each."""
    denoiser = handwriting().denoiser(NoiseSchedule.cosine())
    states = iter_sample(denoiser, (1, SIDE**2), DDIM(steps=9), seed=5)
    pairs = [torch.stack([state.x_t, state.x_0]) for state in states]  # (2, 1, 64) each
    return torch.cat(pairs, dim=1)


def by_evaluations() -> Tensor:
    """Return (sampler, evaluations, 64): the same noise, brought to a digit by few steps and by many."""
    denoiser = handwriting().denoiser(NoiseSchedule.cosine())
    kinds: Sequence[Callable[[int], Any]] = (
        DDPM,
        DDIM,
        lambda steps: DPMSolver(steps, spacing="log_snr"),
        lambda steps: UniPC(steps, order=3, spacing="log_snr"),
    )
    made = [
        sample(denoiser, (1, SIDE**2), kind(steps), seed=3, progress=False)
        for kind in kinds
        for steps in EVALUATIONS
    ]
    return torch.cat(made).view(len(kinds), len(EVALUATIONS), SIDE**2)


def completed() -> Tensor:
    """Return (3, 6, 64): digits, what is kept of them, and the lower half as it is drawn anew."""
    data = handwriting()
    x_0 = data.means[torch.arange(6) * 11]
    keep = torch.arange(SIDE**2) < SIDE**2 // 2
    denoiser = data.denoiser(NoiseSchedule.cosine())
    drawn = inpaint(denoiser, x_0, keep, DDPM(steps=50), resamples=3, seed=1, progress=False)
    return torch.stack([x_0, torch.where(keep, x_0, -torch.ones_like(x_0)), drawn])


def repainted() -> Tensor:
    """Return (3, level, 64): three digits, noised up to each level and sampled from there."""
    data = handwriting()
    x_0, denoiser = data.means[torch.tensor([3, 5, 6])], data.denoiser(NoiseSchedule.cosine())
    made = [image_to_image(denoiser, x_0, DDPM(steps=100), t, seed=2, progress=False) for t in LEVELS[1:]]
    return torch.stack([x_0, *made], dim=1)


def between() -> Tensor:
    """Return (1 + 2, weight, 64): from a digit to another by way of their noises, by 20 and by 100 steps."""
    data = handwriting()
    x_a, x_b, denoiser = data.means[[3]], data.means[[8]], data.denoiser(NoiseSchedule.cosine())
    blended = [(1 - weight) * x_a + weight * x_b for weight in WEIGHTS]
    rows = [interpolate(denoiser, x_a, x_b, WEIGHTS, steps, progress=False)[:, 0] for steps in (20, 100)]
    return torch.stack([torch.cat(blended), *rows])


def guided(scale: float) -> Tensor:
    """Return (3, 400, 2): points of three classes whose regions overlap, each class guided by a scale."""
    angle = torch.arange(3) * 2 * torch.pi / 3
    means, schedule = 0.5 * torch.stack([angle.cos(), angle.sin()], dim=1), NoiseSchedule.cosine()
    classes = [GaussianMixture(mean[None], torch.tensor([0.4])).denoiser(schedule) for mean in means]
    classes.append(GaussianMixture(means, torch.full((3,), 0.4)).denoiser(schedule))  # "no label"

    def network(x_t: Tensor, t: Tensor, class_labels: Tensor) -> Tensor:
        answers = torch.stack([each(x_t, int(t[0])).x_0 for each in classes])
        return answers[class_labels, torch.arange(len(x_t))]

    labels = torch.arange(3).repeat_interleave(400)
    denoiser = ClassifierFree(Denoiser(network, schedule, "sample", labels), scale, null_label=3)
    return sample(denoiser, (1200, 2), DDIM(steps=50), seed=0, progress=False).view(3, 400, 2)


def paths(sampler: DDIM | DDPM, count: int = 12) -> tuple[list[float], Tensor]:
    """Return the levels of a chain, and (level, chain) of where one-dimensional chains are at each."""
    data = GaussianMixture(torch.tensor([[-0.8], [0.2], [0.9]]), torch.tensor([0.08, 0.08, 0.08]))
    states = list(iter_sample(data.denoiser(NoiseSchedule.cosine()), (count, 1), sampler, seed=0))
    return [state.t for state in states], torch.cat([state.x_t for state in states], dim=1).T


def _tiles(images: Tensor, rows: Sequence[str], columns: Sequence[str], height: float = 1.0) -> Any:
    """Return (row, column, C, H, W) or (row, column, 64) as one figure, its rows and columns named."""
    from matplotlib.figure import Figure

    if images.ndim == 3:
        images = resized(images.view(-1, 1, SIDE, SIDE), scale_factor=4).unflatten(0, images.shape[:2])
    down, across, depth, high, wide = images.shape
    whole = torch.nn.functional.pad(images, (1, 1, 1, 1), value=1)
    whole = whole.permute(0, 3, 1, 4, 2).reshape(down * (high + 2), across * (wide + 2), depth)
    figure = Figure(figsize=(9.5, height * down + 0.4), layout="constrained")
    axis = figure.subplots()
    axis.imshow(((whole + 1) / 2).clamp(0, 1).expand(-1, -1, 3).numpy(), interpolation="nearest")
    axis.set_xticks([(high + 2) * (i + 0.5) for i in range(across)], columns)
    axis.set_yticks([(wide + 2) * (i + 0.5) for i in range(down)], rows)
    axis.tick_params(length=0, labelsize=10)
    axis.xaxis.tick_top()
    for spine in axis.spines.values():
        spine.set_visible(False)
    return figure


def _axes(columns: int, height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.5, height), layout="constrained")
    return figure, figure.subplots(1, columns, sharex=True, sharey=True)


def _draw_guided() -> Any:
    figure, axes = _axes(3, 3.3)
    for axis, scale in zip(axes, (0.0, 1.0, 3.0), strict=True):
        for points in guided(scale):
            axis.scatter(*points.T, s=3, alpha=0.5, rasterized=True)
        axis.set(title=f"w = {scale:g}", aspect="equal")
    return figure


def _draw_paths() -> Any:
    figure, axes = _axes(2, 3.6)
    for axis, sampler in zip(axes, (DDIM(steps=250), DDPM(steps=250)), strict=True):
        levels, places = paths(sampler)
        axis.plot(levels, places, linewidth=1)
        axis.set(title=type(sampler).__name__, xlabel="t", xlim=(999, -1))
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("x_t")
    return figure


def _draw_noised() -> Any:
    from alphabar.training import sample_photograph, to_unit

    photograph = to_unit(sample_photograph()[None])
    small = resized(photograph[..., : photograph.shape[-2]], size=(96, 96), mode="area")[0]
    return _tiles(noised(small), ("linear", "cosine", "rectified_flow"), [f"t = {t}" for t in LEVELS], 1.45)


PICTURES: dict[str, Callable[[], Any]] = {
    "noised": _draw_noised,
    "believed": lambda: _tiles(
        believed(), ("x_t", "x̂_0"), [*(f"t = {t}" for t in range(999, 0, -111)), "x_0"]
    ),
    "evaluations": lambda: _tiles(
        by_evaluations(), ("DDPM", "DDIM", "DPM-Solver++ 2M", "UniPC 3"), [f"{n}" for n in EVALUATIONS], 1.3
    ),
    "paths": _draw_paths,
    "guided": _draw_guided,
    "completed": lambda: _tiles(completed(), ("data", "kept", "drawn"), [""] * 6, 1.3),
    "repainted": lambda: _tiles(repainted(), [""] * 3, ["data", *(f"t = {t}" for t in LEVELS[1:])], 1.3),
    "between": lambda: _tiles(
        between(), ("blended", "20 steps", "100 steps"), [f"w = {weight:g}" for weight in WEIGHTS], 1.3
    ),
}
"""By file name, what draws it: a figure of matplotlib."""
