"""The timesteps and noise levels of a run.

sigma_grid    Euler, Heun, LMS: real timesteps, σ = √(1−ᾱ)/√ᾱ spaced between the first and the last of n
solver_grid   DPM-Solver, UniPC, DEIS: whole timesteps, of n + 1 points all but the last, or spaced in σ;
with use_flow_sigmas σ of flow matching, √(1−ᾱ)/(√ᾱ + √(1−ᾱ))
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from alphabar.checks import check_count
from alphabar.diffusers.spacings import (
    SIGMA_SPACINGS,
    Numbers,
    check_timesteps,
    chosen_spacing,
    dynamically_shifted,
    shift_of,
    shifted,
    spaced_timesteps,
    stretched,
    t_of,
)
from alphabar.errors import ConfigError, look_up
from alphabar.schedule import Level

__all__ = [
    "MIN_ALPHA_BAR",
    "Grid",
    "SolverGrid",
    "check_falling",
    "evaluated_twice",
    "is_same_level",
    "levels_of",
    "sigma_grid",
    "solver_grid",
]

MIN_ALPHA_BAR = 2.0**-24  # what diffusers' solvers take for ᾱ_T where it is 0
MAX_FLOW_SIGMA = 1 - 1e-6  # what diffusers takes for σ = 1, where nothing is left of the image


@dataclass(frozen=True)
class Grid:
    """The timesteps and the levels of a run."""

    timesteps: Numbers
    """(n,) what the network is asked at, one an evaluation."""
    levels: tuple[Level, ...]
    """Where each step starts, and where the last lands; ``t`` is the index in this tuple."""
    evaluations: tuple[Level, ...] = ()
    """(n + 1,) where the network is evaluated, and where the last step lands; () if these are the levels."""
    of_schedule: bool = False
    """Whether the levels are those of the schedule at the timesteps."""


def levels_of(sigmas: Sequence[float]) -> tuple[Level, ...]:
    """Return the levels with these √(1−ᾱ)/√ᾱ."""
    return tuple(Level(i, -math.log1p(sigma**2)) for i, sigma in enumerate(sigmas))


def is_same_level(t: Level, s: Level) -> bool:
    """Return whether two σ are one, apart from rounding to float32, in which diffusers holds them."""
    return math.isclose(t.sigma_ve, s.sigma_ve, rel_tol=1e-6)


def check_falling(levels: Sequence[Level]) -> None:
    """Require levels each no noisier than the one before, as steps that add noise need.

    Raises:
        ConfigError: noise that rises.
    """
    for t, s in pairwise(levels):
        if s.sigma_ve > t.sigma_ve and not is_same_level(t, s):
            raise ConfigError(
                f"σ rises from {t.sigma_ve:g} to {s.sigma_ve:g}: diffusers takes ᾱ = 2⁻²⁴ for zero terminal "
                "SNR, and ᾱ of the t before is smaller. Take fewer steps, or a scheduler that adds no noise"
            )


def evaluated_twice(grid: Grid) -> Grid:
    """Return the grid of two evaluations a step, the second where it lands, and one in the last."""
    twice = [level for level in grid.levels[1:-1] for _ in range(2)]
    evaluations = (grid.levels[0], *twice, grid.levels[-1])
    return Grid(grid.timesteps.repeat(2)[1:], grid.levels, evaluations, grid.of_schedule)


def sigma_grid(
    config: Mapping[str, Any],
    schedule_sigmas: Numbers,
    steps: int,
    *,
    timesteps: Sequence[float] | None = None,
    sigmas: Sequence[float] | None = None,
    num_train_timesteps: int | None = None,
) -> Grid:
    """Return the grid of Euler, Heun, LMS and DPM-Solver-2.

    Args:
        config: diffusers' options.
        schedule_sigmas: (T,) float64, √(1−ᾱ)/√ᾱ of the schedule.
        steps: how many, where neither timesteps nor sigmas are given.
        timesteps: to take instead.
        sigmas: to take instead, with the one where the last step lands.
        num_train_timesteps: of how many t the steps are spaced, all T by default.

    Raises:
        ConfigError: spacings that exclude each other.
        TimestepError: timesteps outside 0 … T−1.
        UnknownNameError: another value of an option.
        MissingExtraError: ``use_beta_sigmas`` without scipy.
    """
    spacing = chosen_spacing(config, timesteps)
    if sigmas is not None:
        return Grid(t_of(np.asarray(sigmas[:-1], float), schedule_sigmas), levels_of([*map(float, sigmas)]))
    total = len(schedule_sigmas)
    visited = num_train_timesteps or total
    t = np.array(timesteps, float) if timesteps else spaced_timesteps(config, steps, visited, visited)
    interpolation = config.get("interpolation_type", "linear")
    spaced = look_up(INTERPOLATIONS, interpolation, "interpolation_type")(t, schedule_sigmas)
    if spacing:
        spaced = SIGMA_SPACINGS[spacing](*_ends(config, spaced[[0, -1]]), steps)
        t = t_of(spaced, schedule_sigmas)
    check_timesteps(t, total)
    end = look_up(
        {"zero": 0.0, "sigma_min": schedule_sigmas[0]},
        config.get("final_sigmas_type", "zero"),
        "final_sigmas_type",
    )
    of_schedule = not spacing and interpolation == "linear"
    return Grid(t, levels_of([*spaced.tolist(), float(end)]), of_schedule=of_schedule)


def _log_linear(t: Numbers, schedule_sigmas: Numbers) -> Numbers:
    """Return one σ more than there are t: in diffusers the last step lands there, not on clean data."""
    ends = math.log(schedule_sigmas[-1]), math.log(schedule_sigmas[0])
    return np.asarray(torch.linspace(*ends, len(t) + 1).exp().double())  # diffusers' float32


INTERPOLATIONS: dict[str, Callable[[Numbers, Numbers], Numbers]] = {
    "linear": lambda t, schedule_sigmas: np.interp(t, np.arange(len(schedule_sigmas)), schedule_sigmas),
    "log_linear": _log_linear,
}
"""σ at real t, by diffusers' ``interpolation_type``."""


def _ends(config: Mapping[str, Any], ends: Numbers) -> tuple[float, float]:
    """Return the first and the last σ: ``sigma_max`` and ``sigma_min`` where they are given."""
    given = config.get("sigma_max"), config.get("sigma_min")
    first, last = (float(end if own is None else own) for end, own in zip(ends, given, strict=True))
    return first, last


# --- DPM-Solver, UniPC, DEIS ---


@dataclass(frozen=True)
class SolverGrid:
    """Where the grids of diffusers' solvers differ from each other."""

    clips: bool = False
    """Whether t whose ½ log-SNR lies below ``lambda_min_clipped`` are left out."""
    repeats_last: bool = False
    """Whether ``sigma_min`` means the last σ of a spacing in σ, or the smallest of the schedule."""
    truncates_cosine: bool = False
    """Whether t of a spacing in σ are truncated on the cosine schedule, or rounded."""
    flow_from_one: bool = False
    """Whether flow matching begins at σ = 1 and needs ``mu`` where shifting is dynamic."""


def solver_grid(
    kind: SolverGrid,
    config: Mapping[str, Any],
    schedule_sigmas: Numbers,
    num_inference_steps: int | None = None,
    timesteps: Sequence[float] | None = None,
    sigmas: Sequence[float] | None = None,
    mu: float | None = None,
) -> Grid:
    """Return the grid of a solver whose timesteps are whole.

    Args:
        kind: the solver's own way.
        config: diffusers' options.
        schedule_sigmas: (T,) float64, √(1−ᾱ)/√ᾱ of the schedule.
        num_inference_steps: how many steps, at least 1.
        timesteps: to take instead.
        sigmas: of flow matching, to take instead; before they are shifted, without the one of clean data.
        mu: the shift of flow matching, where shifting is dynamic.

    Raises:
        ConfigError: options that exclude each other, options of flow matching without it, no ``mu`` where it
            is needed, steps < 1.
        TimestepError: timesteps outside 0 … T−1.
        UnknownNameError: another value of an option.
        MissingExtraError: ``use_beta_sigmas`` without scipy.
    """
    steps = len(sigmas or timesteps or ()) or num_inference_steps or 0
    check_count(num_inference_steps=steps)
    if config.get("use_flow_sigmas"):
        if timesteps is not None:
            raise ConfigError("timesteps are not for flow matching, which is spaced in σ: give none")
        return _flow_grid(kind, config, schedule_sigmas, steps, sigmas, mu)
    given = {"mu": mu, "sigmas": sigmas, "shift_terminal": config.get("shift_terminal")}
    if named := [name for name, value in given.items() if value is not None]:
        raise ConfigError(f"{', '.join(named)} is for flow matching: set use_flow_sigmas=True for it")
    return _schedule_grid(kind, config, schedule_sigmas, steps, timesteps)


def _schedule_grid(
    kind: SolverGrid,
    config: Mapping[str, Any],
    schedule_sigmas: Numbers,
    steps: int,
    timesteps: Sequence[float] | None,
) -> Grid:
    spacing = chosen_spacing(config, timesteps)
    t = np.array(timesteps, float) if timesteps is not None else None
    if t is None:
        t = _solver_timesteps(kind, config, schedule_sigmas, steps)
    spaced = np.interp(t, np.arange(len(schedule_sigmas)), schedule_sigmas)
    if spacing:
        spaced = SIGMA_SPACINGS[spacing](*_ends(config, schedule_sigmas[[-1, 0]]), steps)
        t = _whole(t_of(spaced, schedule_sigmas), spacing, kind.truncates_cosine and _is_cosine(config))
    check_timesteps(t, len(schedule_sigmas))
    smallest = spaced[-1] if spacing and kind.repeats_last else schedule_sigmas[0]
    end = look_up({"zero": 0.0, "sigma_min": smallest}, config["final_sigmas_type"], "final_sigmas_type")
    return Grid(t, levels_of([*spaced.tolist(), float(end)]), of_schedule=not spacing)


def _solver_timesteps(
    kind: SolverGrid, config: Mapping[str, Any], schedule_sigmas: Numbers, steps: int
) -> Numbers:
    total = len(schedule_sigmas)
    clipped = config["lambda_min_clipped"] if kind.clips else -math.inf
    last = total - int(np.searchsorted(-np.log(schedule_sigmas)[::-1], clipped))
    if config.get("timestep_spacing") == "trailing":
        return spaced_timesteps(config, steps, last, total)
    return np.asarray(spaced_timesteps(config, steps + 1, last, total)[:-1].round())


def _is_cosine(config: Mapping[str, Any]) -> bool:
    return bool(config["beta_schedule"] == "squaredcos_cap_v2")


def _whole(t: Numbers, spacing: str, truncates: bool) -> Numbers:
    """Return whole timesteps, as diffusers makes them: rounded for two of the spacings, else truncated."""
    rounds = spacing in ("use_karras_sigmas", "use_lu_lambdas") and not truncates
    return np.floor(t + (0.5 if rounds else 1e-3))


def _flow_grid(
    kind: SolverGrid,
    config: Mapping[str, Any],
    schedule_sigmas: Numbers,
    steps: int,
    sigmas: Sequence[float] | None,
    mu: float | None,
) -> Grid:
    """Return the grid of a solver with ``use_flow_sigmas``."""
    total = len(schedule_sigmas)
    if kind.flow_from_one and chosen_spacing(config):
        return _warped_flow_grid(config, schedule_sigmas, steps)
    if chosen_spacing(config):
        raise ConfigError("use_flow_sigmas is a spacing of its own: leave the other spacings out")
    if kind.flow_from_one and config["use_dynamic_shifting"] and mu is None:
        raise ConfigError("use_dynamic_shifting is set: set_timesteps needs mu, its shift")
    sigma = np.linspace(1, 1 / total, steps + 1)
    sigma = sigma[:-1] if kind.flow_from_one else (1 - sigma)[:0:-1]
    sigma = sigma if sigmas is None else np.array(sigmas, float)
    if mu is None:
        sigma = shifted(sigma, float(config["flow_shift"]))
    else:
        move = dynamically_shifted if kind.flow_from_one else shifted
        sigma = move(sigma, shift_of(mu, config["time_shift_type"]))
    sigma = stretched(sigma, config.get("shift_terminal"))
    sigma = np.where(sigma > MAX_FLOW_SIGMA, MAX_FLOW_SIGMA, sigma)
    # diffusers ends its DPM-Solvers at the schedule's smallest √(1−ᾱ)/√ᾱ, which is not a σ of flow matching.
    smallest = sigma[-1] if kind.repeats_last else schedule_sigmas[0]
    last = look_up({"zero": 0.0, "sigma_min": smallest}, config["final_sigmas_type"], "final_sigmas_type")
    stops = np.append(sigma, last)
    return Grid(sigma * total, levels_of((stops / (1 - stops)).tolist()))


def _warped_flow_grid(config: Mapping[str, Any], schedule_sigmas: Numbers, steps: int) -> Grid:
    """Return UniPC's grid with a spacing of √(1−ᾱ)/√ᾱ = σ/(1−σ)."""
    spacing = SIGMA_SPACINGS[str(chosen_spacing(config))]
    spaced = spacing(*_ends(config, schedule_sigmas[[-1, 0]]), steps)
    end = look_up({"zero": 0.0, "sigma_min": spaced[-1]}, config["final_sigmas_type"], "final_sigmas_type")
    return Grid(spaced / (1 + spaced) * len(schedule_sigmas), levels_of([*spaced.tolist(), float(end)]))
