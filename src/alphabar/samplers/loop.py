"""The one sampling loop: ask the denoiser, apply the row, until clean.

    x ← row.advance(x, (x̂_0, x̂_0', …), z)        for each row of the plan

Every sampler runs through here, and :func:`iter_sample` yields every state; to stop early, ``break``. The
loop never writes into a tensor that the denoiser has seen, for it may return x_t itself, or the same buffer
every time. No step waits for an accelerator. A plan is a sampler too; with one the whole chain is one graph:

    plan = sampler.plan(schedule)
    torch.compile(lambda x_t: sample(denoiser, x_t.shape, plan, x_t=x_t, seed=0), fullgraph=True)

A graph does not check whether values are finite.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

import torch
from torch import Tensor

from alphabar.checks import check_count, check_float
from alphabar.denoise import Denoise, Estimate
from alphabar.errors import ConfigError, DtypeError, NoAnswerError, ShapeError
from alphabar.kernels import Address, all_finite
from alphabar.process import addressed
from alphabar.samplers.amplification import warn_if_amplified
from alphabar.samplers.delay import DelayedPlan, DelayedRow, delayed
from alphabar.samplers.plan import X_0, Plan, Row, Sampler
from alphabar.samplers.progress import track

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["ChainOptions", "State", "iter_sample", "sample"]

Draw = Callable[[int], Tensor | Address]
Revise = Callable[[int, Any, Tensor], Tensor]


class State(NamedTuple):
    """One state of the chain and the denoiser's estimate at it."""

    step: int
    """Evaluations of the network before this state, 0 … n."""
    t: Any
    """The level of ``x_t``; −1 is clean. With a delay a tensor, of a level for each token."""
    x_t: Tensor
    """(B, C, …) the state, in float32 or wider."""
    x_0: Tensor
    """(B, C, …) x̂_0 as estimated from it; the state itself at the end."""


class ChainOptions(TypedDict, total=False):
    """The keyword arguments of :func:`iter_sample` and :func:`sample`."""

    seed: int | None
    """Of the addressed noise; by default drawn from torch's global generator."""
    generator: torch.Generator | None
    """Draws all noise instead, on its own device."""
    x_t: Tensor | None
    """(B, C, …) where to start; by default pure noise."""
    t_start: float | None
    """The level of ``x_t`` if that is not the sampler's first t: image to image."""
    first: int
    """The number of the first sample in the batch, for addressing; by default 0."""
    delay: Tensor | None
    """Integers that broadcast against the leading dimensions of x_t, as (1, 1, L): how many rows of the plan
    each token waits; at −n or less, of n rows, it stays as it is in ``x_t``. See ``samplers/delay.py``."""
    dtype: torch.dtype
    """The precision the network is fed in, by default float32. The chain's own state is float32 at least."""
    device: torch.device | str | None
    """Where the chain runs; by default the device of ``x_t``, or torch's default device."""
    revise: Revise | None
    """``(step, t, x_t) -> x_t``, applied to every state, the first and the last too, before anything else."""


def iter_sample(
    denoiser: Denoise, shape: Sequence[int], sampler: Sampler, **options: Unpack[ChainOptions]
) -> Iterator[State]:
    """Yield the chain's states from noise to sample: n+1 of them for n evaluations of the network.

    Noise is addressed by (seed, sample, step), so that sample 17 is the same in any batch; with a
    ``generator`` it is drawn from a stream as diffusers draws it, so that a seed gives the same image.

    Args:
        denoiser: what estimates x_0, and the schedule.
        shape: (B, C, …) of the batch.
        sampler: what makes the plan.
        options: ``seed``, ``generator``, ``x_t``, ``t_start``, ``first``, ``delay``, ``dtype``, ``device``,
            ``revise``: see :class:`ChainOptions`.

    Raises:
        ConfigError: both seed and generator, t_start without x_t, or a delay with a sampler that remembers.
        ShapeError: an x_t, a delay or an answer of another shape.
        NoAnswerError: the network returned NaN or infinity; the message says at which step and t.
        TimestepError, UnknownNameError: steps, spacing or t_start that do not fit the schedule.

    Warns:
        AmplificationWarning: the first x̂_0 multiplies errors of the output by more than 1000.
    """
    plan, start = planned(denoiser, sampler, options.get("t_start")), _start(shape, **options)
    return chain(denoiser, delayed(plan, start.delay, start.x_t), start)


def sample(
    denoiser: Denoise,
    shape: Sequence[int],
    sampler: Sampler,
    *,
    progress: bool | None = None,
    **options: Unpack[ChainOptions],
) -> Tensor:
    """Return samples, (B, C, …) of the given dtype.

    >>> import alphabar
    >>> schedule = alphabar.NoiseSchedule.cosine()
    >>> mean = alphabar.Denoiser(lambda x_t, t: torch.full_like(x_t, 0.25), schedule, "sample")
    >>> sample(mean, (1, 1, 1, 2), alphabar.DDIM(steps=10), seed=0)
    tensor([[[[0.2500, 0.2500]]]])

    Args:
        denoiser: as in :func:`iter_sample`, like the next two and all options.
        shape: (B, C, …) of the batch.
        sampler: what makes the plan.
        progress: show a bar; by default on a terminal.
        options: see :class:`ChainOptions`.

    Raises:
        AlphabarError: as :func:`iter_sample`.
    """
    base, start = planned(denoiser, sampler, options.get("t_start")), _start(shape, **options)
    plan = delayed(base, start.delay, start.x_t)
    # A loop over the states themselves would keep each alive through the next evaluation.
    ends = map(partial(_end, len(plan)), chain(denoiser, plan, start))
    with torch.no_grad():
        *_, x_0 = track(ends, len(plan) + 1, "sampling", shown=progress)
    return x_0.to(start.dtype)  # type: ignore[union-attr]  # the last is no None


def _end(steps: int, state: State) -> Tensor | None:
    """Return the last state's tensor, and nothing of the others."""
    return state.x_t if state.step == steps else None


def planned(denoiser: Denoise, sampler: Sampler, t_start: float | None = None) -> Plan:
    """Return the rows of a sampler on the schedule of a denoiser, and warn where they amplify its errors.

    Raises:
        DtypeError: no sampler.
        AlphabarError: as :meth:`Sampler.plan`.
    """
    if not hasattr(sampler, "plan"):
        raise DtypeError(f"sampler is {sampler!r}: pass a sampler, such as DDIM(steps=50)")
    plan = sampler.plan(denoiser.schedule, t_start)
    warn_if_amplified(denoiser, plan)
    return plan


class Start(NamedTuple):
    """Where a chain starts and what it draws."""

    x_t: Tensor
    draw: Draw
    """``draw(k)`` returns the noise of step k, counted from 1."""
    dtype: torch.dtype = torch.float32
    revise: Revise | None = None
    delay: Tensor | None = None


def _start(
    shape: Sequence[int],
    *,
    seed: int | None = None,
    generator: torch.Generator | None = None,
    x_t: Tensor | None = None,
    t_start: float | None = None,
    first: int = 0,
    delay: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
    revise: Revise | None = None,
) -> Start:
    shape = torch.Size(shape)
    check_count(**{f"shape[{i}]": n for i, n in enumerate(shape)})
    if t_start is not None and x_t is None:
        raise ConfigError(f"t_start is {t_start}, but no x_t is given: give the noisy data to start from")
    where = x_t.device if isinstance(x_t, Tensor) else torch.get_default_device()
    where = where if device is None else torch.device(device)
    draw = _noise_source(shape, seed, generator, first, dtype, where)
    if x_t is None:
        z = draw(0)
        start = z if isinstance(z, Tensor) else addressed.normal(shape, **z._asdict(), device=where)
    else:
        start = _checked_start(x_t, shape).to(where)
    return Start(start.detach().to(_wide(dtype)), draw, dtype, revise, delay)


def chain(denoiser: Denoise, plan: Plan | DelayedPlan, start: Start) -> Iterator[State]:
    """Yield the states of :func:`iter_sample`, whose arguments were checked."""
    x_t, draw, dtype, revise, _ = start
    kept: tuple[Tensor, ...] = ()
    flags: list[Tensor] = []
    level = -1 if plan.is_inversion else plan.rows[0].t
    if revise:
        x_t = revise(0, level, x_t)
    rows: Sequence[Row | DelayedRow] = plan.rows
    for step, row in enumerate(rows):
        x_0, variance = _estimate(denoiser, x_t, step, row.t, dtype)
        _check_finite(step, plan, (x_0,) if variance is None else (x_0, variance), flags)
        yield State(step, level, x_t, x_0)
        remembered = row.kept(x_t, x_0) if plan.memory > 1 else x_0
        if row.keeps == X_0:
            x_0 = remembered
        history = x_0, *kept
        kept = (remembered, *kept)[: plan.memory - 1]
        x_t = row.advance(x_t, history, draw(step + 1) if row.is_random else None, variance)
        del x_0, variance, history, remembered  # or they would live through the next evaluation
        level = row.s
        if revise:
            x_t = revise(step + 1, level, x_t)
    yield State(len(plan), level, x_t, x_t)


def _estimate(denoiser: Denoise, x_t: Tensor, step: int, t: float | Tensor, dtype: torch.dtype) -> Estimate:
    if torch.is_grad_enabled():
        with torch.no_grad():
            estimate = denoiser(x_t.to(dtype), t)
    else:
        estimate = denoiser(x_t.to(dtype), t)
    if estimate.x_0.shape != x_t.shape:
        raise ShapeError(
            f"the denoiser returned {tuple(estimate.x_0.shape)} for x_t of {tuple(x_t.shape)} at step "
            f"{step}, t = {t}: it must return the shape of x_t"
        )
    if estimate.x_0.dtype == x_t.dtype:
        return estimate
    return Estimate(estimate.x_0.to(x_t.dtype), estimate.variance)


def _reads_values(device: torch.device) -> bool:
    """Whether to look at values at every step: on an accelerator that waits for it, so once, at the end."""
    return device.type == "cpu"


def _check_finite(step: int, plan: Plan | DelayedPlan, parts: Sequence[Tensor], flags: list[Tensor]) -> None:
    """Raise for the first step whose estimate is not finite; a graph being compiled has no values."""
    if torch.compiler.is_compiling():
        return
    if _reads_values(parts[0].device):
        if not all(map(all_finite, parts)):
            raise _not_finite(step, plan)
        return
    flags.append(torch.stack([part.isfinite().all() for part in parts]).all())
    if step + 1 == len(plan):
        _check_flags(flags, plan)


def _check_flags(flags: Sequence[Tensor], plan: Plan | DelayedPlan) -> None:
    good = torch.stack(tuple(flags)).tolist()
    if not all(good):
        raise _not_finite(good.index(False), plan)


def _not_finite(step: int, plan: Plan | DelayedPlan) -> NoAnswerError:
    return NoAnswerError(
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
    origin = addressed.address(shape, seed=key, first=first)
    return lambda step: Address(origin.seed, step, origin.first)


def _wide(dtype: torch.dtype) -> torch.dtype:
    if not dtype.is_floating_point:
        raise DtypeError(f"dtype is {dtype}: sampling needs a floating-point precision")
    return torch.promote_types(dtype, torch.float32)


def _checked_start(x_t: Tensor, shape: torch.Size) -> Tensor:
    check_float(x_t=x_t)
    if x_t.shape != shape:
        raise ShapeError(f"x_t has shape {tuple(x_t.shape)}, shape is {tuple(shape)}: they must be equal")
    return x_t
