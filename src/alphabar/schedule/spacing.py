"""Which t a sampler visits: n of them, from the noisy end down.

leading    ⌊T/n⌋ · i                 ends at 0, starts well below T−1 when n does not divide T
trailing   round(T − i · T/n) − 1    starts at T−1
linspace   round((T−1) · i/(n−1))    starts at T−1 and ends at 0
karras     σ_ve^{1/7} evenly spaced  both ends, σ_ve = √(1−ᾱ)/√ᾱ; t may be fractional
log_snr    log-SNR evenly spaced     both ends; t may be fractional

The first three: Lin et al. 2023, arXiv 2305.08891, table 2; karras: Karras et al. 2022, arXiv 2206.00364,
equation 5; log_snr: Lu et al. 2022, arXiv 2206.00927, section 3.4. With zero terminal SNR the last two go to
T−1 first and space the others over the finite part. A spacing of your own is a function:

>>> def late(schedule: NoiseSchedule, steps: int) -> list[float]:
...     return [(len(schedule) - 1) * (1 - i / steps) ** 2 for i in range(steps)]
>>> visited(NoiseSchedule.linear(), 3, late)
(999, 444.0..., 111.0...)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import pairwise
from numbers import Real

import torch
from torch import Tensor

from alphabar.checks import check_count
from alphabar.errors import ConfigError, TimestepError, look_up
from alphabar.schedule.levels import CLEAN, Level, levels_at, t_of_log_snr, whole
from alphabar.schedule.noise_schedule import NoiseSchedule

__all__ = ["SPACINGS", "Place", "Spacing", "checked_spacing", "entered_at", "karras", "stops", "visited"]

Place = Callable[[NoiseSchedule, int], Sequence[float]]
Spacing = str | Sequence[float] | Place
Warp = Callable[[Tensor], Tensor]
PLAIN = (int, float)  # isinstance asks an abstract class, which takes ten times as long


def leading(schedule: NoiseSchedule, steps: int) -> list[int]:
    """Multiples of ⌊T/n⌋ (as in the DDIM code)."""
    return [i * (len(schedule) // steps) for i in reversed(range(steps))]


def trailing(schedule: NoiseSchedule, steps: int) -> list[int]:
    """T−1 and down in steps of T/n, rounded."""
    total = len(schedule)
    stride = (total - total / steps) - total  # with numpy's own rounding: halves then fall as in diffusers
    return [round(total + i * stride) - 1 for i in range(steps)]


def linspace(schedule: NoiseSchedule, steps: int) -> list[int]:
    """Both ends and n−2 between them, rounded; a single step starts from the noisy end."""
    if steps == 1:
        return [len(schedule) - 1]
    return [round(i * ((len(schedule) - 1) / (steps - 1))) for i in reversed(range(steps))]


def log_snr(schedule: NoiseSchedule, steps: int) -> list[float]:
    """Both ends of the log-SNR and n−2 evenly between them."""
    return _even(schedule, steps, lambda log_snr: log_snr, lambda even: even)


def karras(rho: float = 7.0) -> Place:
    """Both ends, and between them σ_ve^{1/rho} evenly spaced, where σ_ve = √(1−ᾱ)/√ᾱ.

    Args:
        rho: 1 spaces σ_ve itself evenly; the larger, the more steps go to little noise.

    Raises:
        ConfigError: rho is not positive.
    """
    if not 0 < rho < math.inf:
        raise ConfigError(f"rho is {rho!r}: it must be a positive number, 7 in Karras et al.")
    return partial(_karras, rho=rho)


def _karras(schedule: NoiseSchedule, steps: int, rho: float) -> list[float]:
    return _even(
        schedule, steps, lambda log_snr: (-log_snr / (2 * rho)).exp(), lambda even: -2 * rho * even.log()
    )


def _even(schedule: NoiseSchedule, steps: int, warp: Warp, unwarp: Warp) -> list[float]:
    finite = schedule.log_snr[schedule.log_snr.isfinite()]
    infinite = list(range(len(finite), len(schedule)))[:steps]  # T−1 with zero terminal SNR
    count = steps - len(infinite)
    if count < 2:
        return [*infinite, *[len(finite) - 1][:count]]
    first, last = warp(finite[[-1, 0]]).tolist()
    inner = torch.linspace(first, last, count, dtype=torch.float64)[1:-1]
    return [*infinite, len(finite) - 1, *t_of_log_snr(schedule, unwarp(inner)).tolist(), 0]


SPACINGS: dict[str, Place] = {
    "leading": leading,
    "trailing": trailing,
    "linspace": linspace,
    "karras": karras(),
    "log_snr": log_snr,
}


def visited(schedule: NoiseSchedule, steps: int | None, spacing: Spacing) -> tuple[float, ...]:
    """Return the t to visit, in descending order; whole ones as int.

    >>> visited(NoiseSchedule.linear(), 4, "trailing"), visited(NoiseSchedule.linear(), None, [900, 0.5])
    ((999, 749, 499, 249), (900, 0.5))

    Args:
        schedule: the noise schedule.
        steps: how many, 1 … T; None for all T, or for as many as a given list has.
        spacing: a name in ``SPACINGS``, a function ``(schedule, steps) -> list of t`` such as
            ``karras(rho=5)``, or the list of t itself.

    Raises:
        TimestepError: more steps than T, or a list that is empty, not descending, or leaves 0 … T−1.
        ConfigError: steps < 1, or at odds with the length of a list.
        UnknownNameError: another name.
    """
    spacing = checked_spacing(steps, spacing)
    if isinstance(spacing, tuple):
        return _on_schedule(schedule, spacing)
    place = SPACINGS[spacing] if isinstance(spacing, str) else spacing
    count = len(schedule) if steps is None else steps
    check_count(steps=count)
    if count > len(schedule):
        raise TimestepError(
            f"{count} steps, but the schedule has T = {len(schedule)}: at most one step for each t"
        )
    return _on_schedule(schedule, _descending(count, place(schedule, count)))


def checked_spacing(steps: int | None, spacing: Spacing) -> str | tuple[float, ...] | Place:
    """Return a spacing that may fit a schedule: a name, a function, or a list of t as a tuple.

    Raises:
        ConfigError: steps that are no whole number of at least 1, or at odds with the length of a list.
        UnknownNameError: another name than those in ``SPACINGS``.
        TimestepError: a list that is empty, not descending, or holds what is no number of at least 0.
    """
    if steps is not None:
        check_count(steps=steps)
    if isinstance(spacing, str):
        look_up(SPACINGS, spacing, "spacing")
        return spacing
    return spacing if callable(spacing) else _descending(steps, spacing)


def stops(
    schedule: NoiseSchedule, steps: int | None, spacing: Spacing, t_start: float | None = None
) -> tuple[Level, ...]:
    """Return the levels a sampler stops at, from the noisy end or from ``t_start`` down to clean data.

    Arguments and errors as in :func:`visited`; ``t_start`` may be any t of the schedule.
    """
    return (*levels_at(schedule, entered_at(visited(schedule, steps, spacing), t_start)), CLEAN)


def entered_at(timesteps: tuple[float, ...], t_start: float | None) -> tuple[float, ...]:
    """Return the t from ``t_start`` down: the same grid, entered there.

    >>> entered_at((999, 749, 499, 249), 600)
    (600, 499, 249)
    """
    if t_start is None:
        return timesteps
    if not _is_number(t_start):
        raise TimestepError(f"t_start is {t_start!r}: give one t, a number of the schedule")
    return (t_start, *(t for t in timesteps if t < t_start))


def _descending(steps: int | None, timesteps: Sequence[float]) -> tuple[float, ...]:
    if not isinstance(timesteps, Iterable):
        known = ", ".join(map(repr, SPACINGS))
        raise TimestepError(f"spacing is {timesteps!r}: give one of {known}, a function, or a list of t")
    timesteps = tuple(timesteps)
    if steps not in (None, len(timesteps)):
        raise ConfigError(
            f"steps is {steps}, but {len(timesteps)} t are given: leave steps out, or make them agree"
        )
    if not all(_is_number(t) and 0 <= t < math.inf for t in timesteps):
        raise TimestepError(f"timesteps {timesteps}: each must be a number of at least 0")
    if not timesteps or any(t <= s for t, s in pairwise(timesteps)):
        raise TimestepError(f"timesteps {timesteps}: give at least one, in descending order, each once")
    return tuple(map(whole, timesteps))


def _on_schedule(schedule: NoiseSchedule, timesteps: tuple[float, ...]) -> tuple[float, ...]:
    if timesteps[0] > len(schedule) - 1:
        raise TimestepError(f"timesteps {timesteps}: each must be a number in 0 … {len(schedule) - 1}")
    return timesteps


def _is_number(t: object) -> bool:
    return type(t) in PLAIN or (isinstance(t, Real) and not isinstance(t, bool))
