r"""``fit``: the table of few evaluations that ends nearest to a fine chain, for one's own network.

    minimise over tables   mean over noises of √(d² + ε²),   d = ‖end of its chain − end of the teacher's‖

Free are where the table stops, what level the network is shown, and all coefficients (``free_table.py``).
Descent: Adam (Kingma & Ba 2015, arXiv 1412.6980) over batches of noises, its rate falling by a cosine, from
the best table known before. The root makes far ends count no more than others, so that the median falls too;
ε is a tenth of the median distance of the table to start from. Noises that nothing is fitted to decide which
table is kept.

Levels fitted to a teacher: LD3, arXiv 2405.15506; levels and coefficients: S4S, arXiv 2502.17423, and GAS,
arXiv 2510.17699.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

import torch
from torch import Tensor

from alphabar.checks import check_count
from alphabar.denoise import Denoise
from alphabar.errors import ConfigError, NoAnswerError
from alphabar.samplers.end_points import TEACHER, EndPoints, Features, end_points, hand_made, ranked
from alphabar.samplers.exact import Distance
from alphabar.samplers.fitted_table import FittedTable
from alphabar.samplers.free_table import FREEDOMS, FreeTable, chain
from alphabar.samplers.plan import Plan, Sampler
from alphabar.samplers.progress import track

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["Descent", "fit", "fitted_to"]

CHECKS = 10  # of the table on the held-out noises
BETAS = (0.9, 0.99)
NUDGE = 0.05  # of the state, to compare its gradient with a difference
AGREES = 0.1  # of that difference: curvature, kinks and rounding stay below


class Descent(TypedDict, total=False):
    """The keyword arguments of :func:`fitted_to`, and of :func:`fit` beside its own."""

    start: Sampler | None
    """The table to start from; by default the best that there is, hand-made or :class:`Fitted`."""
    free: Collection[str]
    """What may change, of ``"levels"``, ``"shift"``, ``"coefficients"``, ``"history"``, ``"sum"``; by default
    all. See ``free_table.py``."""
    updates: int
    """Steps of Adam, by default 300; each takes one batch."""
    rate: float
    """Of Adam at first, by default .02."""
    seconds: float | None
    """Stop after so many: then the table depends on the speed of the machine. By default no limit."""
    about: Mapping[str, Any] | None
    """JSON values to be written into the table, such as the network's digest."""
    progress: bool | None
    """Show a bar; by default on a terminal."""


def fit(
    denoiser: Denoise,
    shape: Sequence[int],
    evaluations: int = 6,
    seed: int = 0,
    *,
    batches: int = 24,
    held_out: int = 6,
    teacher: Sampler = TEACHER,
    features: Features | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
    **descent: Unpack[Descent],
) -> FittedTable:
    """Return the table of so many evaluations that ends nearest to a fine chain of the same denoiser.

    It is never worse on the held-out noises than the table it started from, in median or root mean square.

    >>> import alphabar
    >>> schedule = alphabar.NoiseSchedule.cosine()
    >>> mixture = alphabar.GaussianMixture(torch.tensor([[-1.0], [1.0]]), torch.tensor([0.2, 0.3]))
    >>> table = fit(mixture.denoiser(schedule), (16, 1), 4, updates=20, batches=2, held_out=2)
    >>> len(table.plan(schedule)), table.after.rms < table.before.rms
    (4, True)

    Args:
        denoiser: what estimates x_0, and the schedule, as it will be used: guided, with labels, of latents.
            It must be differentiable in x_t; in t it need not be.
        shape: (B, C, …) of a batch, B about ten: small batches and more updates serve better than large
            ones. Labels, if any, are those of a batch, the same in each.
        evaluations: of the network, 1 … T.
        seed: of the noises.
        batches: that the table is fitted to.
        held_out: batches that decide which table is kept.
        teacher: a sampler that adds no noise, of many evaluations.
        features: (B, C, …) → (B, …), what ends are compared by, differentiable; by default themselves.
        dtype: the precision that the denoiser is given; the chain's own state is float32 at least.
        device: where the chains run; by default torch's default device.
        descent: ``start``, ``free``, ``updates``, ``rate``, ``seconds``, ``about``, ``progress``: see
            :class:`Descent`.

    Raises:
        ConfigError: evaluations outside 1 … T, settings out of range; a denoiser whose gradient in x_t is not
            that of its answer.
        NoAnswerError: the network, or the chain, returned NaN or infinity.
        DtypeError, ShapeError: something else than a denoiser, features that do not fit.
    """
    check_count(batches=batches, held_out=held_out)
    _check_evaluations(denoiser, evaluations)
    given = {"seed": seed, "teacher": teacher, "features": features, "dtype": dtype, "device": device}
    points = end_points(denoiser, shape, batches + held_out, **given)  # type: ignore[arg-type]
    return fitted_to(points[:batches], points[batches:], evaluations, **descent)


def fitted_to(
    points: EndPoints,
    held_out: EndPoints,
    evaluations: int,
    *,
    start: Sampler | None = None,
    free: Collection[str] = FREEDOMS,
    updates: int = 300,
    rate: float = 0.02,
    seconds: float | None = None,
    about: Mapping[str, Any] | None = None,
    progress: bool | None = None,
) -> FittedTable:
    """Return the table that is fitted to some end points and chosen by others.

    Args:
        points: what it is fitted to.
        held_out: of the same denoiser, what decides which table is kept.
        evaluations: 1 … T.
        start: as in :class:`Descent`, like the others.
        free: as in :class:`Descent`.
        updates: as in :class:`Descent`.
        rate: as in :class:`Descent`.
        seconds: as in :class:`Descent`.
        about: as in :class:`Descent`.
        progress: as in :class:`Descent`.

    Raises:
        AlphabarError: as :func:`fit`.
    """
    schedule = points.denoiser.schedule
    _check_evaluations(points.denoiser, evaluations)
    _check_descent(updates, rate, seconds)
    label, plan = _start(points, evaluations) if start is None else (repr(start), start.plan(schedule))
    if len(plan) != evaluations:
        raise ConfigError(f"start takes {len(plan)} evaluations: it must take {evaluations}")
    table = FreeTable.around(schedule, plan, free)
    _check_gradient(points, plan)
    kept, before = plan, Distance.of(held_out.distances(plan))
    after = before
    tried = _descend(points, table, updates, rate, math.inf if seconds is None else seconds)
    for found in track(tried, CHECKS, f"fitting {evaluations}", shown=progress):
        away = held_out.error(found)
        is_better = away.median <= before.median and away.rms <= before.rms
        if is_better and away.product < after.product:
            kept, after = found, away
    settings = {
        "seed": points.seed,
        "teacher": repr(points.teacher),
        "batch": list(points.noises[0].shape),
        "batches": len(points),
        "held_out": len(held_out),
        "free": [name for name in FREEDOMS if name in table.names],
        "updates": updates,
        "rate": rate,
        "seconds": seconds,
    }
    return FittedTable(kept, schedule, label, before, after, {**settings, **(about or {})})


def _start(points: EndPoints, evaluations: int) -> tuple[str, Plan]:
    """Return the nearest of the tables that a descent can start from."""
    schedule = points.denoiser.schedule
    candidates: dict[str, Plan] = {}
    for label, plan in hand_made(schedule, evaluations).items():
        falls = list(plan.timesteps) == sorted(set(plan.timesteps), reverse=True)
        if len(plan) == evaluations and falls:
            candidates[label] = plan
    (label, _), *_ = ranked(points[:2], candidates)
    return label, candidates[label]


def _descend(
    points: EndPoints, table: FreeTable, updates: int, rate: float, seconds: float
) -> Iterator[Plan]:
    """Yield the table now and then while it descends, the last time at the end."""
    before = points.distances(table.start)
    scale, floor = float(before.mean()), 0.1 * float(before.median())
    if not scale:
        return  # nothing to gain
    numbers = table.parameters()
    optimiser = torch.optim.Adam([each for each in numbers.values() if each.requires_grad], betas=BETAS)
    began, every = time.monotonic(), math.ceil(updates / CHECKS)
    for update in range(updates):
        progress = max(update / updates, (time.monotonic() - began) / seconds)
        if progress >= 1:
            yield table.plan(numbers)
            return
        for group in optimiser.param_groups:
            group["lr"] = rate * (1 + math.cos(math.pi * progress)) / 2
        optimiser.zero_grad()
        with torch.enable_grad():
            batch = update % len(points)
            end = chain(points.denoiser, table, numbers, points.noises[batch], points.dtype)
            loss = (points.away(end, batch).square() + floor**2).sqrt().mean() / scale
            loss.backward()  # type: ignore[no-untyped-call]
        _check_finite(update, loss, numbers.values())
        optimiser.step()
        with torch.no_grad():
            numbers["shift"][0].clamp_(min=0)  # there is nothing noisier to show
        if (update + 1) % every == 0 or update + 1 == updates:
            yield table.plan(numbers)


def _check_finite(update: int, loss: Tensor, numbers: Collection[Tensor]) -> None:
    gradients = [each.grad for each in numbers if each.grad is not None]
    if not all(part.isfinite().all() for part in (loss, *gradients)):
        raise NoAnswerError(
            f"the loss or its gradient was not finite at update {update + 1}: check that the denoiser's "
            "answers and gradients are finite, or lower rate"
        )


def _check_gradient(points: EndPoints, plan: Plan) -> None:
    """Require of the denoiser that autograd gives the change of its answer along a direction.

        ⟨Jᵀ(J v), v⟩ = ‖J v‖²,     J v by a difference, Jᵀ by autograd

    Raises:
        ConfigError: it does not: no gradient, one with a part cut off, or answers that are random.
        NoAnswerError: NaN or infinity.
    """
    x_t, t = points.noises[0], plan.timesteps[len(plan) // 2]
    v = points.noises[-1].flip(0)

    def asked(x: Tensor) -> Tensor:
        return points.denoiser(x.to(points.dtype), t).x_0.to(x.dtype, copy=True)

    with torch.no_grad():
        change = (asked(x_t + NUDGE * v) - asked(x_t - NUDGE * v)) / (2 * NUDGE)
    with torch.enable_grad():
        at = x_t.detach().requires_grad_()
        x_0 = asked(at)
        along = (x_0 * change).sum() if x_0.requires_grad else (at * 0).sum()
        (gradient,) = torch.autograd.grad(along, at, allow_unused=True)
    expected = float(change.double().square().sum())
    found = 0.0 if gradient is None else float((gradient.double() * v.double()).sum())
    if not (math.isfinite(found) and math.isfinite(expected)):
        raise NoAnswerError(f"the denoiser or its gradient returned NaN or infinity at t = {t}")
    if abs(found - expected) > AGREES * expected:
        raise ConfigError(
            f"the gradient of the denoiser at t = {t} is not that of its answer ({found:.3g} for "
            f"{expected:.3g} along one direction): it must be differentiable in x_t, no part of it under "
            "torch.no_grad() or detached, and not random (network.eval())"
        )


def _check_evaluations(denoiser: Denoise, evaluations: int) -> None:
    check_count(evaluations=evaluations)
    schedule = getattr(denoiser, "schedule", ())
    if schedule and evaluations > len(schedule):
        raise ConfigError(f"evaluations is {evaluations}: it must be in 1 … {len(schedule)}, one for each t")


def _check_descent(updates: int, rate: float, seconds: float | None) -> None:
    check_count(updates=updates)
    if not 0 < rate < math.inf:
        raise ConfigError(f"rate is {rate!r}: it must be a positive number, such as .02")
    if seconds is not None and not seconds > 0:
        raise ConfigError(f"seconds is {seconds!r}: it must be positive, or None for no limit")
