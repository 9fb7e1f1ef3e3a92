"""The one sampling loop: ask the denoiser, apply the row, until clean.

    x ← row.advance(x, (x̂_0, x̂_0', …), z)        for each row of the plan

Every sampler runs through here, and :func:`iter_sample` yields every state; to stop early, ``break``. No step
asks an accelerator for a value. A plan is a sampler too, and with one the whole chain is a single graph:

    plan = sampler.plan(schedule)
    torch.compile(lambda x_t: sample(denoiser, x_t.shape, plan, x_t=x_t, seed=0), fullgraph=True)

A graph does not look whether values are finite.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter
from typing import NamedTuple

import torch
from torch import Tensor

from alphabar.checks import check_count, check_float
from alphabar.denoise import Denoise, Estimate
from alphabar.errors import ConfigError, DtypeError, NoAnswerError, ShapeError
from alphabar.kernels import Address
from alphabar.process import addressed
from alphabar.samplers.plan import Plan, Sampler
from alphabar.samplers.progress import track

__all__ = ["State", "iter_sample", "sample"]

Draw = Callable[[int], Tensor | Address]
Revise = Callable[[int, float, Tensor], Tensor]


class State(NamedTuple):
    """One state of the chain and what the denoiser says about it."""

    step: int
    """Evaluations of the network before this state, 0 … n."""
    t: float
    """The level of ``x_t``; −1 is clean."""
    x_t: Tensor
    """(B, C, …) the state, in float32 or wider."""
    x_0: Tensor
    """(B, C, …) x̂_0 as estimated from it; the state itself at the end."""


def iter_sample(
    denoiser: Denoise,
    shape: Sequence[int],
    sampler: Sampler,
    *,
    seed: int | None = None,
    generator: torch.Generator | None = None,
    x_t: Tensor | None = None,
    t_start: int | None = None,
    first: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
    revise: Revise | None = None,
    reuse: bool = False,
) -> Iterator[State]:
    """Yield the chain's states from noise to sample: n+1 of them for n evaluations of the network.

    Noise is addressed by (seed, sample, step), so that sample 17 is the same in any batch; with a
    ``generator`` it is drawn from a stream as diffusers draws it, so that a seed gives the same image.

    Args:
        denoiser: what estimates x_0, and the schedule.
        shape: (B, C, …) of the batch.
        sampler: what makes the plan.
        seed: of the addressed noise; by default drawn from torch's global generator.
        generator: draws all noise instead; on its own device.
        x_t: (B, C, …) where to start; by default pure noise.
        t_start: the level of ``x_t`` if that is not the sampler's first t: image to image.
        first: the number of the first sample in the batch, for addressing.
        dtype: the precision the network is fed in. The chain's own state is float32 at least.
        device: where the chain runs; by default the device of ``x_t``, or torch's default device.
        revise: ``(step, t, x_t) -> x_t``, what is done to every state, the first and the last too, before
            anything else sees it.
        reuse: write each x_t over the one before, for callers that keep none; without ``revise`` only.

    Raises:
        ConfigError: both seed and generator, or t_start without x_t.
        ShapeError: an x_t or an answer of another shape.
        NoAnswerError: the network returned NaN or infinity; the message says at which step and t.
        TimestepError, UnknownNameError: steps, spacing or t_start that do not fit the schedule.
    """
    shape = torch.Size(shape)
    check_count(**{f"shape[{i}]": n for i, n in enumerate(shape)})
    if t_start is not None and x_t is None:
        raise ConfigError(f"t_start is {t_start}, but no x_t is given: give the noisy data to start from")
    _check_sampler(sampler)
    where = x_t.device if isinstance(x_t, Tensor) else torch.get_default_device()
    where = where if device is None else torch.device(device)
    plan = sampler.plan(denoiser.schedule, t_start)
    draw = _noise_source(shape, seed, generator, first, dtype, where)
    if x_t is None:
        z = draw(0)
        start = z if isinstance(z, Tensor) else addressed.normal(shape, **z._asdict(), device=where)
    else:
        start = _checked_start(x_t, shape).to(where)
    reuse = reuse and revise is None and not torch.compiler.is_compiling()
    start = start.detach().to(_wide(dtype), copy=reuse and x_t is not None)
    return _chain(denoiser, plan, start, draw, dtype, revise or (lambda step, t, x_t: x_t), reuse)


def sample(
    denoiser: Denoise,
    shape: Sequence[int],
    sampler: Sampler,
    *,
    seed: int | None = None,
    generator: torch.Generator | None = None,
    x_t: Tensor | None = None,
    t_start: int | None = None,
    first: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
    revise: Revise | None = None,
    progress: bool | None = None,
) -> Tensor:
    """Return samples, (B, C, …) of the given dtype.

    >>> import alphabar
    >>> schedule = alphabar.NoiseSchedule.cosine()
    >>> mean = alphabar.Denoiser(lambda x_t, t: torch.full_like(x_t, 0.25), schedule, "sample")
    >>> sample(mean, (1, 1, 1, 2), alphabar.DDIM(steps=10), seed=0)
    tensor([[[[0.2500, 0.2500]]]])

    Args:
        denoiser: as in :func:`iter_sample`, like all arguments but the last.
        shape: (B, C, …) of the batch.
        sampler: what makes the plan.
        seed: of the addressed noise.
        generator: draws all noise instead.
        x_t: where to start.
        t_start: the level of ``x_t``.
        first: the number of the first sample in the batch.
        dtype: the precision the network is fed in, and of the result.
        device: where the chain runs.
        revise: what is done to every state.
        progress: show a bar; by default on a terminal.

    Raises:
        AlphabarError: as :func:`iter_sample`.
    """
    _check_sampler(sampler)
    plan = sampler.plan(denoiser.schedule, t_start)
    states = iter_sample(
        denoiser,
        shape,
        plan,
        seed=seed,
        generator=generator,
        x_t=x_t,
        t_start=t_start,
        first=first,
        dtype=dtype,
        device=device,
        revise=revise,
        reuse=True,
    )
    # A loop over the states themselves would keep x̂_0 alive through the next evaluation.
    x_ts: Iterator[Tensor] = map(attrgetter("x_t"), states)
    last = deque(track(x_ts, len(plan) + 1, "sampling", shown=progress), maxlen=1)
    return last.pop().to(dtype)


def _check_sampler(sampler: Sampler) -> None:
    if not hasattr(sampler, "plan"):
        raise DtypeError(f"sampler is {sampler!r}: pass a sampler, such as DDIM(steps=50)")


def _chain(
    denoiser: Denoise, plan: Plan, x_t: Tensor, draw: Draw, dtype: torch.dtype, revise: Revise, reuse: bool
) -> Iterator[State]:
    kept: deque[Tensor] = deque(maxlen=plan.memory - 1)
    finite: list[Tensor] = []
    level = -1 if plan.is_inversion else plan.rows[0].t
    x_t = revise(0, level, x_t)
    for step, row in enumerate(plan.rows):
        x_0, variance = estimate = _asked(denoiser, x_t, step, row.t, dtype)
        finite.append(torch.stack([part.isfinite().all() for part in estimate if part is not None]).all())
        if _is_time_to_look(x_t.device, step + 1 == len(plan)):
            _check_finite(finite, plan)
        yield State(step, level, x_t, x_0)
        noise = draw(step + 1) if row.is_random else None
        history = x_0, *kept
        kept.appendleft(row.kept(x_t, x_0))
        x_s = row.advance(x_t, history, noise, variance, out=x_t if reuse else None)
        x_t, level = revise(step + 1, row.s, x_s), row.s
        del estimate, x_0, variance, history, noise, x_s  # or they would live through the next evaluation
    yield State(len(plan), level, x_t, x_t)


@torch.no_grad()
def _asked(denoiser: Denoise, x_t: Tensor, step: int, t: float, dtype: torch.dtype) -> Estimate:
    x_0, variance = denoiser(x_t.to(dtype), t)
    if x_0.shape != x_t.shape:
        raise ShapeError(
            f"the denoiser returned {tuple(x_0.shape)} for x_t of {tuple(x_t.shape)} at step {step}, "
            f"t = {t}: it must return the shape of x_t"
        )
    return Estimate(x_0.to(x_t.dtype), variance)


def _is_time_to_look(device: torch.device, is_last: bool) -> bool:
    """Looking at values waits for an accelerator, so once, at the end; a graph being compiled has none."""
    return (device.type == "cpu" or is_last) and not torch.compiler.is_compiling()


def _check_finite(finite: Sequence[Tensor], plan: Plan) -> None:
    good = torch.stack(tuple(finite)).tolist()
    if not all(good):
        step = good.index(False)
        raise NoAnswerError(
            f"the denoiser returned NaN or infinity at step {step}, t = {plan.timesteps[step]}: check the "
            "network's weights, its precision, and that prediction and schedule are those it was trained with"
        )


def _noise_source(
    shape: torch.Size,
    seed: int | None,
    generator: torch.Generator | None,
    first: int,
    dtype: torch.dtype,
    device: torch.device,
) -> Draw:
    wide = _wide(dtype)
    if generator is not None:
        if seed is not None:
            raise ConfigError("both seed and generator are given: the noise can come from one of them only")
        drawn_on = generator.device
        return lambda stream: torch.randn(shape, generator=generator, device=drawn_on, dtype=dtype).to(
            device, wide
        )
    key = int(torch.randint(2**63 - 1, ())) if seed is None else seed
    return lambda stream: addressed.address(shape, seed=key, stream=stream, first=first)


def _wide(dtype: torch.dtype) -> torch.dtype:
    if not dtype.is_floating_point:
        raise DtypeError(f"dtype is {dtype}: sampling needs a floating-point precision")
    return torch.promote_types(dtype, torch.float32)


def _checked_start(x_t: Tensor, shape: torch.Size) -> Tensor:
    check_float(x_t=x_t)
    if x_t.shape != shape:
        raise ShapeError(f"x_t has shape {tuple(x_t.shape)}, shape is {tuple(shape)}: they must be equal")
    return x_t
