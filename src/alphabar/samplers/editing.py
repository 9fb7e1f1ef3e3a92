"""Editing: samples that start from a picture, keep a region of one, or lie between two.

    image to image    x_t = √ᾱ_t · x_0 + √(1−ᾱ_t) · z at a middle t, then down to clean data
    inpainting        x_s ← m · (√ᾱ_s · x_0 + √(1−ᾱ_s) · z) + (1 − m) · x_s, after every step
    interpolation     up from both pictures, between their noises along the sphere, and down again

All three run through the one sampling loop with a sampler's rows, and their noise is addressed by a seed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from alphabar.checks import check_alike, check_count, check_float
from alphabar.denoise import Denoise
from alphabar.errors import ConfigError, DtypeError, ShapeError
from alphabar.kernels import lincomb
from alphabar.process import add_noise, addressed
from alphabar.samplers.ddim import DDIM
from alphabar.samplers.loop import sample
from alphabar.samplers.plan import Plan, Row, Sampler
from alphabar.samplers.registry import REGISTRY
from alphabar.schedule import CLEAN, Level, NoiseSchedule, levels_at

__all__ = ["image_to_image", "inpaint", "interpolate", "invert", "resampled", "slerp"]

KNOWN = 1 << 31  # the first of the streams that noise what is known: the loop's own count from 0
PARALLEL = 1e-6  # sin θ below which the quotients are a straight line's, to float32's last digit


def image_to_image(
    denoiser: Denoise,
    x_0: Tensor,
    sampler: Sampler,
    t_start: int,
    *,
    seed: int = 0,
    first: int = 0,
    progress: bool | None = None,
) -> Tensor:
    """Noise a picture up to ``t_start`` and sample from there: SDEdit, Meng et al. 2022, arXiv 2108.01073.

    The larger ``t_start``, the more of the picture changes; coarse structure is kept the longest.

    Args:
        denoiser: what estimates x_0.
        x_0: (B, C, …) pictures, in the precision of the network.
        sampler: what makes the plan; of its steps, those below ``t_start`` are taken.
        t_start: 0 … T−1.
        seed: of the addressed noise.
        first: the number of the first sample in the batch, for addressing.
        progress: show a bar; by default on a terminal.

    Returns:
        (B, C, …) of the dtype of ``x_0``.

    Raises:
        TimestepError: t_start outside 0 … T−1.
        AlphabarError: as :func:`alphabar.sample`.
    """
    check_float(x_0=x_0)
    z = addressed.normal(x_0.shape, seed=seed, first=first, dtype=x_0.dtype, device=x_0.device)
    x_t = add_noise(denoiser.schedule, x_0, z, t_start)
    return sample(
        denoiser,
        x_0.shape,
        sampler,
        seed=seed,
        x_t=x_t,
        t_start=t_start,
        first=first,
        dtype=x_0.dtype,
        progress=progress,
    )


def inpaint(
    denoiser: Denoise,
    x_0: Tensor,
    mask: Tensor,
    sampler: Sampler,
    *,
    resamples: int = 1,
    jump: int = 1,
    seed: int = 0,
    first: int = 0,
    progress: bool | None = None,
) -> Tensor:
    """Sample the pixels that a mask does not keep: RePaint, Lugmayr et al. 2022, arXiv 2201.09865.

    Algorithm 1 and equation 8 there. After every step the known region is set to the picture, with as much
    noise as the state has. Going back up and down again harmonises the known and the generated region.

    Args:
        denoiser: what estimates x_0.
        x_0: (B, C, …) pictures; what they hold where the mask is 0 does not matter, but must be finite.
        mask: 1 or True where a pixel is kept, 0 or False where it is generated; between the two they are
            blended. Of any shape that broadcasts to that of ``x_0``: (B, 1, H, W), (H, W), ….
        sampler: one whose rows need a single estimate, as DDPM and DDIM.
        resamples: how often each group of ``jump`` steps is taken; r in algorithm 1.
        jump: steps in a group; j in section 4.2 of the paper.
        seed: of the addressed noise.
        first: the number of the first sample in the batch, for addressing.
        progress: show a bar; by default on a terminal.

    Returns:
        (B, C, …) of the dtype of ``x_0``; where the mask is 1, ``x_0`` itself.

    Raises:
        ShapeError: a mask that does not broadcast to ``x_0``.
        DtypeError: a mask that is neither of truth values nor of floating point.
        ConfigError: a mask outside [0, 1], or what :func:`resampled` refuses.
        AlphabarError: as :func:`alphabar.sample`.
    """
    check_float(x_0=x_0)
    keep = _checked_mask(mask, x_0)
    plan = resampled(sampler.plan(denoiser.schedule), denoiser.schedule, resamples, jump)
    levels = _levels(plan, denoiser.schedule)

    def with_known(step: int, t: float, x_t: Tensor) -> Tensor:
        z = addressed.normal(
            x_0.shape, seed=seed, stream=KNOWN + step, first=first, dtype=x_t.dtype, device=x_t.device
        )
        known = lincomb((levels[t].signal, levels[t].sigma), (x_0, z), dtype=x_t.dtype)
        return lincomb((keep, 1 - keep), (known, x_t))

    return sample(
        denoiser,
        x_0.shape,
        plan,
        seed=seed,
        first=first,
        dtype=x_0.dtype,
        device=x_0.device,
        revise=with_known,
        progress=progress,
    )


def resampled(plan: Plan, schedule: NoiseSchedule, resamples: int, jump: int) -> Plan:
    """Return a plan that takes each group of ``jump`` rows ``resamples`` times.

    The way back up is part of the row before it: x_u = √(ᾱ_u/ᾱ_s) · x_s + √(1 − ᾱ_u/ᾱ_s) · z added to a row
    is a row again. Groups count from the clean end; the last step is never repeated.

    >>> plan = DDIM(3).plan(NoiseSchedule.linear())
    >>> [(row.t, row.s) for row in resampled(plan, NoiseSchedule.linear(), 2, 1).rows]
    [(999, 999), (999, 666), (666, 666), (666, 332), (332, -1)]

    Args:
        plan: rows that each need a single estimate.
        schedule: the schedule it was made on.
        resamples: ≥ 1; 1 is the plan itself.
        jump: 1 … rows − 1.

    Raises:
        ConfigError: rows that remember, counts out of range, or a learned variance with resamples > 1.
    """
    check_count(resamples=resamples, jump=jump)
    if plan.memory > 1:
        others = ", ".join(entry.kind.__name__ for entry in REGISTRY.values() if not entry.remembers)
        raise ConfigError(
            f"the sampler remembers {plan.memory - 1} earlier estimates, of states that inpainting has "
            f"changed since: take {others}"
        )
    if resamples > 1 and jump >= len(plan):
        raise ConfigError(f"jump is {jump}, but there are {len(plan)} steps: it must be smaller")
    if resamples > 1 and any(row.log_variance for row in plan.rows):
        raise ConfigError(
            f"resamples is {resamples} with a learned variance: take variance='fixed_small', which a network "
            "that learns its variance serves as well"
        )
    return Plan(tuple(_rows(plan, _levels(plan, schedule), resamples, jump)))


def _rows(plan: Plan, levels: dict[float, Level], resamples: int, jump: int) -> Iterator[Row]:
    repeats = dict.fromkeys(range(len(plan) - 1, jump - 1, -jump), resamples - 1)
    done = 0
    while done < len(plan):
        row = plan.rows[done]
        done += 1
        if repeats.get(done):
            repeats[done] -= 1
            done -= jump
            row = _noised(row, levels[row.s], levels[plan.rows[done].t])
        yield row


def _noised(row: Row, s: Level, up: Level) -> Row:
    """Return the row and a step of q(x_u | x_s) after it as one row."""
    scale = up.signal / s.signal
    fresh = -math.expm1(up.log_alpha_bar - s.log_alpha_bar)
    z = math.sqrt((scale * row.z) ** 2 + fresh)
    return Row(row.t, up.t, scale * row.x, tuple(scale * of_x_0 for of_x_0 in row.history), z)


def _levels(plan: Plan, schedule: NoiseSchedule) -> dict[float, Level]:
    stops = sorted({t for row in plan.rows for t in (row.t, row.s)} - {CLEAN.t})
    return {level.t: level for level in (CLEAN, *levels_at(schedule, stops))}


def _checked_mask(mask: Tensor, x_0: Tensor) -> Tensor:
    if not isinstance(mask, Tensor) or not (mask.is_floating_point() or mask.dtype == torch.bool):
        kind = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise DtypeError(f"mask is {kind}: give a tensor of bool or of floating point, such as mask > 0")
    shape = (1,) * (x_0.ndim - mask.ndim) + tuple(mask.shape)
    if len(shape) != x_0.ndim or any(n not in (1, m) for n, m in zip(shape, x_0.shape, strict=True)):
        raise ShapeError(
            f"mask has shape {tuple(mask.shape)}, x_0 {tuple(x_0.shape)}: it must broadcast to x_0, as "
            "(B, 1, H, W) or (H, W) does"
        )
    keep = mask.to(x_0.device, torch.float64).reshape(shape)
    if not ((keep >= 0) & (keep <= 1)).all():
        raise ConfigError("mask has values outside 0 … 1: 1 keeps a pixel, 0 makes it")
    return keep


def invert(denoiser: Denoise, x_0: Tensor, steps: int, *, progress: bool | None = None) -> Tensor:
    """Return the noise from which DDIM with so many steps makes a picture, (B, C, …) at t = T−1.

    ``sample(denoiser, shape, DDIM(steps), x_t=noise)`` gives the picture back up to an error that falls as
    1/steps (Song et al. 2021, arXiv 2010.02502, section 4.3 and table 2).

    Args:
        denoiser: what estimates x_0.
        x_0: (B, C, …) pictures, in the precision of the network.
        steps: evaluations of the network, 1 … T.
        progress: show a bar; by default on a terminal.

    Raises:
        AlphabarError: as :func:`alphabar.sample`.
    """
    return sample(
        denoiser,
        x_0.shape,
        DDIM(steps, inverse=True),
        seed=0,
        x_t=x_0,
        dtype=x_0.dtype,
        progress=progress,
    )


def interpolate(
    denoiser: Denoise,
    x_a: Tensor,
    x_b: Tensor,
    weights: Sequence[float],
    steps: int = 50,
    *,
    progress: bool | None = None,
) -> Tensor:
    """Return pictures between two: invert both, interpolate between their noises on the sphere, and sample.

    Song et al. 2021, arXiv 2010.02502, appendix D.5.

    Args:
        denoiser: what estimates x_0.
        x_a: (B, C, …) pictures.
        x_b: (B, C, …) others, alike.
        weights: 0 is ``x_a``, 1 is ``x_b``, each up to the error of :func:`invert`.
        steps: evaluations of the network for each inversion and each result, 1 … T.
        progress: show bars; by default on a terminal.

    Returns:
        (len(weights), B, C, …).

    Raises:
        ConfigError: no weights.
        ShapeError, DtypeError: pictures that are not alike.
        AlphabarError: as :func:`alphabar.sample`.
    """
    check_alike(x_a=x_a, x_b=x_b)
    if not len(weights):
        raise ConfigError("weights is empty: give at least one, as in (0, 0.5, 1)")
    z_a, z_b = (invert(denoiser, x_0, steps, progress=progress) for x_0 in (x_a, x_b))
    noises = [slerp(z_a, z_b, weight) for weight in weights]
    return torch.stack(
        [
            sample(denoiser, z.shape, DDIM(steps), seed=0, x_t=z, dtype=x_a.dtype, progress=progress)
            for z in noises
        ]
    )


def slerp(a: Tensor, b: Tensor, weight: float) -> Tensor:
    """sin((1−w)θ)/sin θ · a + sin(wθ)/sin θ · b, where θ is the angle between a and b.

    Shoemake 1985, section 3.3. Between independent noises, whose angle is near 90°, it keeps the length that
    noise has; a straight line would pass through shorter vectors, which no network was trained on.

    Args:
        a: (B, …).
        b: (B, …), alike.
        weight: w; 0 is a and 1 is b, exactly. Where a and b are parallel it is a straight line.
    """
    check_alike(a=a, b=b)
    flat_a, flat_b = a.double().flatten(1), b.double().flatten(1)
    cosine = (flat_a * flat_b).sum(1) / (flat_a.norm(dim=1) * flat_b.norm(dim=1))
    angle = cosine.clamp(-1, 1).acos().reshape(-1, *[1] * (a.ndim - 1))
    is_arc = angle.sin() > PARALLEL  # false for NaN, the angle to a zero vector
    of_a, of_b = (
        torch.where(is_arc, (part * angle).sin() / angle.sin(), part) for part in (1 - weight, weight)
    )
    return lincomb((of_a, of_b), (a, b))
