"""Which t a sampler visits: n of the T, from the noisy end down (Lin et al. 2023, arXiv 2305.08891, table 2).

leading    ⌊T/n⌋ · i                 ends at 0, starts well below T−1 when n does not divide T
trailing   round(T − i · T/n) − 1    starts at T−1
linspace   round((T−1) · i/(n−1))    starts at T−1 and ends at 0
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from alphabar.checks import check_count
from alphabar.errors import ConfigError, TimestepError, look_up

__all__ = ["SPACINGS", "Spacing", "visited"]

Spacing = str | Sequence[int]


def leading(total: int, steps: int) -> list[int]:
    """Multiples of ⌊T/n⌋ (as in the DDIM code)."""
    return [i * (total // steps) for i in reversed(range(steps))]


def trailing(total: int, steps: int) -> list[int]:
    """T−1 and down in steps of T/n, rounded."""
    return [round(total - i * (total / steps)) - 1 for i in range(steps)]


def linspace(total: int, steps: int) -> list[int]:
    """Both ends and n−2 between them, rounded; a single step starts from the noisy end."""
    if steps == 1:
        return [total - 1]
    return [round(i * ((total - 1) / (steps - 1))) for i in reversed(range(steps))]


SPACINGS: dict[str, Callable[[int, int], list[int]]] = {
    "leading": leading,
    "trailing": trailing,
    "linspace": linspace,
}


def visited(total: int, steps: int | None, spacing: Spacing) -> tuple[int, ...]:
    """Return the t to visit, in descending order.

    >>> visited(1000, 4, "trailing"), visited(1000, None, [900, 500, 100])
    ((999, 749, 499, 249), (900, 500, 100))

    Args:
        total: T.
        steps: how many, 1 … T; None for all T, or for as many as a given list has.
        spacing: ``"leading"``, ``"trailing"``, ``"linspace"``, or the list of t itself.

    Raises:
        TimestepError: more steps than T, or a list that is empty, not descending, or leaves 0 … T−1.
        ConfigError: steps < 1, or at odds with the length of a list.
        UnknownNameError: another name.
    """
    if not isinstance(spacing, str):
        return _given(total, steps, tuple(spacing))
    place = look_up(SPACINGS, spacing, "spacing")
    count = total if steps is None else steps
    check_count(steps=count)
    if count > total:
        raise TimestepError(f"{count} steps, but the schedule has T = {total}: at most one step for each t")
    return tuple(place(total, count))


def entered_at(timesteps: tuple[int, ...], t_start: int | None) -> tuple[int, ...]:
    """Return the t from ``t_start`` down: the same grid, entered there.

    >>> entered_at((999, 749, 499, 249), 600)
    (600, 499, 249)
    """
    if t_start is None:
        return timesteps
    return (t_start, *(t for t in timesteps if t < t_start))


def _given(total: int, steps: int | None, timesteps: tuple[int, ...]) -> tuple[int, ...]:
    if steps not in (None, len(timesteps)):
        raise ConfigError(
            f"steps is {steps}, but {len(timesteps)} t are given: leave steps out, or make them agree"
        )
    if not all(isinstance(t, int) and 0 <= t < total for t in timesteps):
        raise TimestepError(f"timesteps {timesteps}: each must be an integer in 0 … {total - 1}")
    if not timesteps or any(t <= s for t, s in pairwise(timesteps)):
        raise TimestepError(f"timesteps {timesteps}: give at least one, in descending order, each once")
    return timesteps
