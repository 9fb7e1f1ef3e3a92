"""Timesteps and noise levels, spaced as diffusers spaces them.

    whole_timesteps     n of the T whole timesteps: DDPM, DDIM, PNDM
    spaced_timesteps    the same as real numbers: where Euler, Heun, LMS begin
    SIGMA_SPACINGS      σ between two ends: Karras et al. 2022, exponential, beta
    shifted, stretched  σ of flow matching, moved towards noise

The spacings agree with diffusers' to the rounding of a half: the network is asked at the same timesteps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alphabar.checks import check_count
from alphabar.errors import ConfigError, MissingExtraError, TimestepError, look_up

__all__ = [
    "SIGMA_SPACINGS",
    "Numbers",
    "check_timesteps",
    "chosen_spacing",
    "dynamically_shifted",
    "karras",
    "shift_of",
    "shifted",
    "spaced_timesteps",
    "stretched",
    "t_of",
    "whole_timesteps",
]

Numbers = NDArray[Any]


def _trailing(steps: int, last: int, total: int) -> Numbers:
    """Return the timesteps without the one too many, at t = −1, that rounding can add in diffusers."""
    timesteps: Numbers = np.arange(last, 0, -total / steps)[:steps].round() - 1
    return np.asarray(timesteps[timesteps >= 0])


SPACINGS: dict[str, Callable[[int, int, int], Numbers]] = {
    "leading": lambda steps, last, total: np.arange(steps)[::-1] * (last // steps),
    "linspace": lambda steps, last, total: np.linspace(0, last - 1, steps)[::-1],
    "trailing": _trailing,
}
"""Timesteps by diffusers' ``timestep_spacing``, from (steps, last + 1, T)."""


def whole_timesteps(config: Mapping[str, Any], total: int, steps: int) -> list[int]:
    """Return the whole timesteps of a run, in descending order.

    Raises:
        ConfigError: steps < 1.
        TimestepError: more steps than T, or timesteps moved beyond it by ``steps_offset``.
        UnknownNameError: another ``timestep_spacing``.
    """
    check_count(num_inference_steps=steps)
    if steps > total:
        raise TimestepError(
            f"num_inference_steps is {steps}, but the schedule has T = {total}: at most one a t"
        )
    timesteps = [int(t) for t in spaced_timesteps(config, steps, total, total).round()]
    check_timesteps(timesteps, total)
    return timesteps


def spaced_timesteps(config: Mapping[str, Any], steps: int, last: int, total: int) -> Numbers:
    """Return so many timesteps below ``last`` in descending order, by ``timestep_spacing``.

    Raises:
        UnknownNameError: another ``timestep_spacing``.
    """
    spacing = config.get("timestep_spacing", "linspace")
    moved = config.get("steps_offset", 0) if spacing == "leading" else 0
    timesteps: Numbers = look_up(SPACINGS, spacing, "timestep_spacing")(steps, last, total) + moved
    return timesteps


def check_timesteps(timesteps: Iterable[float], total: int) -> None:
    """Require timesteps within the schedule.

    Raises:
        TimestepError: one outside 0 … T−1.
    """
    beyond = [t for t in timesteps if not 0 <= t < total]
    if beyond:
        raise TimestepError(
            f"timesteps reach {float(beyond[0]):g}, outside 0 … {total - 1}: take fewer steps or "
            "another steps_offset"
        )


def t_of(sigmas: Numbers, schedule_sigmas: Numbers) -> Numbers:
    """Return the real t at which the schedule has these σ = √(1−ᾱ)/√ᾱ, linear in log σ between whole t.

    Where zero terminal SNR is replaced by a σ below that of the t before, the last t with a σ not above
    counts, as in diffusers, by its rounding of the table.
    """
    logs, table = np.log(np.maximum(sigmas, 1e-10)), np.log(schedule_sigmas.astype(np.float32)).astype(float)
    not_above = table[::-1] <= logs[:, None]
    low = np.where(not_above.any(1), len(table) - 1 - not_above.argmax(1), 0).clip(max=len(table) - 2)
    weight = ((table[low] - logs) / (table[low] - table[low + 1])).clip(0, 1)
    return np.asarray((1 - weight) * low + weight * (low + 1))


# --- σ between two ends, to diffusers' last digit: it may decide at which t the network is asked ---


def karras(ramp: Numbers, first: float, last: float, rho: float = 7.0) -> Numbers:
    """Return σ with σ^{1/rho} linear in the ramp, from the first at 0 to the last at 1."""
    start, end = first ** (1 / rho), last ** (1 / rho)
    return np.asarray((start + ramp * (end - start)) ** rho)


def _exponential(first: float, last: float, steps: int) -> Numbers:
    return np.asarray(np.exp(np.linspace(math.log(first), math.log(last), steps)))


def _lu(first: float, last: float, steps: int) -> Numbers:
    start, end = (float(np.log(np.float32(sigma))) for sigma in (first, last))
    return np.asarray(np.exp(start + np.linspace(0, 1, steps) * (end - start)))


def _beta(first: float, last: float, steps: int) -> Numbers:
    try:
        from scipy import stats
    except ImportError:
        raise MissingExtraError("use_beta_sigmas=True", package="scipy") from None
    return np.asarray(last + stats.beta.ppf(1 - np.linspace(0, 1, steps), 0.6, 0.6) * (first - last))


SIGMA_SPACINGS: dict[str, Callable[..., Numbers]] = {
    "use_karras_sigmas": lambda first, last, steps: karras(np.linspace(0, 1, steps), first, last),
    "use_exponential_sigmas": _exponential,
    "use_beta_sigmas": _beta,
    "use_lu_lambdas": _lu,
}
"""σ from the first to the last, so many, by the option that asks for it."""


def chosen_spacing(config: Mapping[str, Any], timesteps: object = None) -> str | None:
    """Return the option of ``SIGMA_SPACINGS`` that is set.

    Raises:
        ConfigError: more than one, or one beside given timesteps.
    """
    chosen = [name for name in SIGMA_SPACINGS if config.get(name)]
    if len(chosen) > 1 or (chosen and timesteps is not None):
        raise ConfigError(f"{' and '.join(chosen)}: choose one spacing, or none and give timesteps")
    return chosen[0] if chosen else None


# --- σ of flow matching ---

ALL_NOISE = 1e-9  # by how much rounding may keep σ from 1

SHIFTS: dict[str, Callable[[float], float]] = {"exponential": math.exp, "linear": float}


def shift_of(mu: float, time_shift_type: str) -> float:
    """Return the shift that diffusers' ``mu`` stands for: e^μ or μ.

    Raises:
        UnknownNameError: another ``time_shift_type``.
        ConfigError: a μ whose exponential is infinite.
    """
    try:
        return float(look_up(SHIFTS, time_shift_type, "time_shift_type")(mu))
    except OverflowError:
        raise ConfigError(f"mu is {mu:g}: it is the logarithm of a shift, e^μ, of about .5 to 1.15") from None


def shifted(sigma: Numbers, shift: float) -> Numbers:
    """Return shift · σ/(1 + (shift − 1) · σ): Esser et al. 2024, equation 23."""
    return np.asarray(shift * sigma / (1 + (shift - 1) * sigma))


def dynamically_shifted(sigma: Numbers, shift: float) -> Numbers:
    """Return the same, rounded as diffusers rounds it, for timesteps are cut off: shift/(shift + 1/σ − 1)."""
    return np.asarray(shift / (shift + (1 / sigma - 1)))


def stretched(sigma: Numbers, terminal: float | None) -> Numbers:
    """Return σ with 1 − σ stretched so that the last is ``terminal``, if that is not None or 0.

    Where the last is 1, as in a run of one step, there is nothing to stretch.
    """
    left = 1 - sigma[-1]
    return 1 - (1 - sigma) / (left / (1 - terminal)) if terminal and abs(left) > ALL_NOISE else sigma
