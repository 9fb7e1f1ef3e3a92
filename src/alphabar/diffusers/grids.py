"""The timesteps and noise levels of a run, spaced as diffusers spaces them.

    whole timesteps               DDPM, DDIM, PNDM
    levels of σ = √(1−ᾱ)/√ᾱ       all others: at timesteps, or spaced in σ itself
    levels of σ in flow matching  DPM-Solver, UniPC, DEIS with use_flow_sigmas: σ = √(1−ᾱ)/(√ᾱ + √(1−ᾱ))

The spacings agree with diffusers' to the rounding of a half: the network is asked at the same timesteps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alphabar.checks import check_count
from alphabar.errors import ConfigError, MissingExtraError, TimestepError, look_up
from alphabar.schedule import Level

__all__ = ["MIN_ALPHA_BAR", "Grid", "check_timesteps", "level_grid", "whole_timesteps"]

Numbers = NDArray[Any]
MIN_ALPHA_BAR = 2.0**-24  # what diffusers' solvers take for ᾱ_T where it is 0
MAX_FLOW_SIGMA = 1 - 1e-6  # what diffusers takes for σ = 1, where nothing is left of the image


@dataclass(frozen=True)
class Grid:
    """The timesteps and the levels of a run."""

    timesteps: Numbers
    """(n,) what the network is asked at."""
    levels: tuple[Level, ...]
    """n + 1 of them: where each step starts, and where the last lands; ``t`` is the index in this tuple."""


SPACINGS: dict[str, Callable[[int, int, int], Numbers]] = {
    "leading": lambda steps, last, total: np.arange(steps)[::-1] * (last // steps),
    "linspace": lambda steps, last, total: np.linspace(0, last - 1, steps)[::-1],
    # In diffusers rounding errors can add a step too many, at t = −1: it is left out.
    "trailing": lambda steps, last, total: np.arange(last, 0, -total / steps)[:steps].round() - 1,
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
    spaced = _spaced(config, steps, total, total).round()
    timesteps = [int(t) for t in spaced]
    check_timesteps(timesteps, total)
    return timesteps


def level_grid(
    config: Mapping[str, Any],
    schedule_sigmas: Numbers,
    steps: int,
    *,
    whole: bool,
    timesteps: Sequence[float] | None = None,
    sigmas: Sequence[float] | None = None,
    mu: float | None = None,
) -> Grid:
    """Return the timesteps and levels of a solver.

    Args:
        config: diffusers' options.
        schedule_sigmas: (T,) float64, √(1−ᾱ)/√ᾱ of the schedule.
        steps: how many, where neither timesteps nor sigmas are given.
        whole: as DPM-Solver, UniPC and DEIS do: whole timesteps, of n + 1 points all but the last, and σ
            spaced over the whole schedule. Otherwise as Euler, Heun and LMS: n points, σ spaced between their
            ends.
        timesteps: to take instead.
        sigmas: to take instead, with the one where the last step lands.
        mu: the logarithm of ``flow_shift``, where shifting is dynamic.

    Raises:
        ConfigError: spacings that exclude each other, options of flow matching without it, steps < 1.
        TimestepError: timesteps outside 0 … T−1.
        UnknownNameError: another ``timestep_spacing`` or ``final_sigmas_type``.
        MissingExtraError: ``use_beta_sigmas`` without scipy.
    """
    check_count(num_inference_steps=steps)
    _check_flow(config, mu, sigmas if whole else None)
    if config.get("use_flow_sigmas"):
        return _flow_grid(config, schedule_sigmas, steps, sigmas, _shift(config, mu))
    if sigmas is not None:
        return _grid(_t_of(np.asarray(sigmas[:-1], float), schedule_sigmas), [*map(float, sigmas)])
    return _schedule_grid(config, schedule_sigmas, steps, whole, timesteps)


def _schedule_grid(
    config: Mapping[str, Any],
    schedule_sigmas: Numbers,
    steps: int,
    whole: bool,
    timesteps: Sequence[float] | None,
) -> Grid:
    """Return the grid whose σ are those of the schedule at the timesteps, or spaced between two of them."""
    spacing = _sigma_spacing(config, timesteps)
    t = np.array(timesteps, float) if timesteps is not None else None
    if t is None:
        t = _solver_timesteps(config, schedule_sigmas, steps, whole)
    spaced = np.interp(t, np.arange(len(schedule_sigmas)), schedule_sigmas)
    if config.get("interpolation_type") == "log_linear" and not spacing:
        ends = math.log(schedule_sigmas[-1]), math.log(schedule_sigmas[0])
        return _grid(t, np.exp(np.linspace(*ends, steps + 1)).tolist())
    if spacing:
        first, last = _ends(config, schedule_sigmas[[-1, 0]] if whole else spaced[[0, -1]])
        spaced = SIGMA_SPACINGS[spacing](first, last, steps)
        t = _t_of(spaced, schedule_sigmas)
        t = _whole(t, config, spacing) if whole else t
    check_timesteps(t, len(schedule_sigmas))
    repeats_last = spacing and whole and "lambda_min_clipped" not in config  # UniPC and DEIS, not DPM-Solver
    end = {"zero": 0.0, "sigma_min": spaced[-1] if repeats_last else schedule_sigmas[0]}
    return _grid(t, [*spaced.tolist(), float(look_up(end, config["final_sigmas_type"], "final_sigmas_type"))])


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


# --- spaced in σ ---


def _karras(first: float, last: float, steps: int) -> Numbers:
    ends = first ** (1 / 7), last ** (1 / 7)
    return np.asarray(np.linspace(*ends, steps) ** 7)


def _exponential(first: float, last: float, steps: int) -> Numbers:
    return np.asarray(np.exp(np.linspace(math.log(first), math.log(last), steps)))


def _beta(first: float, last: float, steps: int) -> Numbers:
    try:
        from scipy import stats
    except ImportError:
        raise MissingExtraError("use_beta_sigmas=True", package="scipy") from None
    return np.asarray(last + stats.beta.ppf(1 - np.linspace(0, 1, steps), 0.6, 0.6) * (first - last))


SIGMA_SPACINGS: dict[str, Callable[[float, float, int], Numbers]] = {
    "use_karras_sigmas": _karras,
    "use_exponential_sigmas": _exponential,
    "use_beta_sigmas": _beta,
    "use_lu_lambdas": _exponential,
}
"""σ from the first to the last, by the option that asks for it."""


def _sigma_spacing(config: Mapping[str, Any], timesteps: object) -> str | None:
    chosen = [name for name in SIGMA_SPACINGS if config.get(name)]
    if len(chosen) > 1 or (chosen and timesteps is not None):
        raise ConfigError(f"{' and '.join(chosen)}: choose one spacing, or none and give timesteps")
    return chosen[0] if chosen else None


def _ends(config: Mapping[str, Any], ends: Numbers) -> tuple[float, float]:
    """Return the first and the last σ: ``sigma_max`` and ``sigma_min`` where they are given."""
    given = config.get("sigma_max"), config.get("sigma_min")
    first, last = (float(end if own is None else own) for end, own in zip(ends, given, strict=True))
    return first, last


def _t_of(sigmas: Numbers, schedule_sigmas: Numbers) -> Numbers:
    return np.interp(
        np.log(np.maximum(sigmas, 1e-10)), np.log(schedule_sigmas), np.arange(len(schedule_sigmas))
    )


def _whole(t: Numbers, config: Mapping[str, Any], spacing: str) -> Numbers:
    """Return whole timesteps, as diffusers makes them: rounded for two of the spacings, else truncated."""
    cosine = config["beta_schedule"] == "squaredcos_cap_v2" and "use_lu_lambdas" in config
    rounds = spacing in ("use_karras_sigmas", "use_lu_lambdas") and not cosine
    return np.floor(t + (0.5 if rounds else 1e-3))


def _grid(timesteps: Numbers, sigmas: Sequence[float]) -> Grid:
    logs = [-math.log1p(sigma**2) for sigma in sigmas]
    return Grid(timesteps, tuple(Level(i, log) for i, log in enumerate(logs)))


# --- flow matching ---


def _check_flow(config: Mapping[str, Any], mu: float | None, sigmas: object) -> None:
    if config.get("use_flow_sigmas"):
        if any(config.get(name) for name in SIGMA_SPACINGS):
            raise ConfigError("use_flow_sigmas is a spacing of its own: leave the other spacings out")
        if config.get("use_dynamic_shifting") and "predict_x0" in config and mu is None:
            raise ConfigError("use_dynamic_shifting is set: set_timesteps needs mu, its shift")
        return
    given = {"mu": mu, "sigmas": sigmas, "shift_terminal": config.get("shift_terminal")}
    named = [name for name, value in given.items() if value is not None]
    if named:
        raise ConfigError(f"{', '.join(named)} is for flow matching: set use_flow_sigmas=True for it")


SHIFTS: dict[str, Callable[[float], float]] = {"exponential": math.exp, "linear": float}


def _shift(config: Mapping[str, Any], mu: float | None) -> float:
    if mu is None:
        return float(config["flow_shift"])
    return float(look_up(SHIFTS, config["time_shift_type"], "time_shift_type")(mu))


def _flow_grid(
    config: Mapping[str, Any],
    schedule_sigmas: Numbers,
    steps: int,
    sigmas: Sequence[float] | None,
    shift: float,
) -> Grid:
    """Return the grid of σ = √(1−ᾱ)/(√ᾱ + √(1−ᾱ)), whose √(1−ᾱ)/√ᾱ is σ/(1−σ)."""
    total, unipc = len(schedule_sigmas), "predict_x0" in config
    first, beyond = (1, 1 / total) if unipc else (1 - 1 / total, 0)
    sigma = np.linspace(first, beyond, steps + 1)[:-1] if sigmas is None else np.array(sigmas, float)
    sigma = shift * sigma / (1 + (shift - 1) * sigma)
    if config.get("shift_terminal"):
        sigma = 1 - (1 - sigma) * (1 - config["shift_terminal"]) / (1 - sigma[-1])
    sigma = np.where(sigma > MAX_FLOW_SIGMA, MAX_FLOW_SIGMA, sigma)
    # diffusers ends its DPM-Solvers at the schedule's smallest √(1−ᾱ)/√ᾱ, which is not a σ of flow matching.
    ends = {"zero": 0.0, "sigma_min": schedule_sigmas[0] if "lambda_min_clipped" in config else sigma[-1]}
    last = look_up(ends, config["final_sigmas_type"], "final_sigmas_type")
    stops = np.append(sigma, last)
    return _grid(sigma * total, (stops / (1 - stops)).tolist())


# --- timesteps ---


def _spaced(config: Mapping[str, Any], steps: int, last: int, total: int) -> Numbers:
    spacing = config.get("timestep_spacing", "linspace")
    moved = config.get("steps_offset", 0) if spacing == "leading" else 0
    timesteps: Numbers = look_up(SPACINGS, spacing, "timestep_spacing")(steps, last, total) + moved
    return timesteps


def _solver_timesteps(
    config: Mapping[str, Any], schedule_sigmas: Numbers, steps: int, whole: bool
) -> Numbers:
    total = len(schedule_sigmas)
    if not whole:
        return _spaced(config, steps, total, total)
    clipped = config.get("lambda_min_clipped", -math.inf)
    last = total - int(np.searchsorted(-np.log(schedule_sigmas)[::-1], clipped))
    if config.get("timestep_spacing") == "trailing":
        return _spaced(config, steps, last, total)
    return np.asarray(_spaced(config, steps + 1, last, total)[:-1].round())
