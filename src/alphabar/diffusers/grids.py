"""Where the peer's samplers stop: the t that the network is asked at, and the noise levels of the steps.

    whole t, one for each row of the table        DDPM, DDIM, PNDM
    levels ρ = √(1−ᾱ)/√ᾱ, which diffusers calls σ      all others: from t, or spaced in ρ itself

The spacings are diffusers' own, to the rounding of a half, because the same t must come out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alphabar.checks import check_count
from alphabar.errors import ConfigError, TimestepError, look_up
from alphabar.schedule import Level

__all__ = ["LEAST", "Grid", "check_timesteps", "level_grid", "whole_timesteps"]

Numbers = NDArray[Any]
LEAST = 2.0**-24  # what diffusers' solvers take for ᾱ_T where it is 0


@dataclass(frozen=True)
class Grid:
    """The stops of a run."""

    timesteps: Numbers
    """(n,) what the network is asked at."""
    levels: tuple[Level, ...]
    """n + 1 of them: where each step starts, and where the last lands; ``t`` is the place in this list."""


SPACED: dict[str, Callable[[int, int, int], Numbers]] = {
    "leading": lambda steps, last, total: np.arange(steps)[::-1] * (last // steps),
    "linspace": lambda steps, last, total: np.linspace(0, last - 1, steps)[::-1],
    # diffusers lets rounding errors add a step too many, at t = −1: it is left out.
    "trailing": lambda steps, last, total: np.arange(last, 0, -total / steps)[:steps].round() - 1,
}
"""t by diffusers' ``timestep_spacing``, from (steps, last + 1, T)."""


def whole_timesteps(config: Mapping[str, Any], total: int, steps: int) -> list[int]:
    """Return the whole t of a run, in descending order.

    Raises:
        ConfigError: steps < 1.
        TimestepError: more steps than T, or t moved beyond it by ``steps_offset``.
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
    ratios: Numbers,
    steps: int,
    *,
    whole: bool,
    timesteps: Sequence[float] | None = None,
    sigmas: Sequence[float] | None = None,
    mu: float | None = None,
) -> Grid:
    """Return the stops of a solver.

    Args:
        config: the peer's options.
        ratios: (T,) float64, ρ of the schedule.
        steps: how many, where neither t nor ρ are given.
        whole: as DPM-Solver, UniPC and DEIS do: whole t, of n + 1 points all but the last, and ρ spaced over
            the whole schedule. Otherwise as Euler, Heun and LMS: n points, ρ spaced between their ends.
        timesteps: t to take instead.
        sigmas: ρ to take instead, with the one where the last step lands.
        mu: the logarithm of ``flow_shift``, where shifting is dynamic.

    Raises:
        ConfigError: spacings that exclude each other, options of flow matching without it, steps < 1.
        TimestepError: t outside 0 … T−1.
        UnknownNameError: another ``timestep_spacing`` or ``final_sigmas_type``.
    """
    check_count(num_inference_steps=steps)
    _check_flow(config, mu, sigmas if whole else None)
    if config.get("use_flow_sigmas"):
        return _flow_grid(config, ratios, steps, sigmas, _shift(config, mu))
    if sigmas is not None:
        return _grid(_t_of(np.asarray(sigmas[:-1], float), ratios), [*map(float, sigmas)])
    warp = _warp(config, timesteps)
    t = _solver_timesteps(config, ratios, steps, whole) if timesteps is None else np.array(timesteps, float)
    spaced = np.interp(t, np.arange(len(ratios)), ratios)
    if config.get("interpolation_type") == "log_linear" and not warp:
        evenly = np.exp(np.linspace(math.log(ratios[-1]), math.log(ratios[0]), steps + 1))
        return _grid(t, evenly.tolist())
    if warp:
        ends = ratios[[-1, 0]] if whole else spaced[[0, -1]]
        given = config.get("sigma_max"), config.get("sigma_min")
        first, last = (end if own is None else own for end, own in zip(ends, given, strict=True))
        spaced = WARPS[warp](float(first), float(last), steps)
        t = _asked(_t_of(spaced, ratios), config, warp) if whole else _t_of(spaced, ratios)
    check_timesteps(t, len(ratios))
    again = warp and whole and "lambda_min_clipped" not in config  # UniPC and DEIS, not DPM-Solver
    end = {"zero": 0.0, "sigma_min": spaced[-1] if again else ratios[0]}
    return _grid(t, [*spaced.tolist(), float(look_up(end, config["final_sigmas_type"], "final_sigmas_type"))])


def check_timesteps(timesteps: Iterable[float], total: int) -> None:
    """Require t within the schedule.

    Raises:
        TimestepError: one outside 0 … T−1.
    """
    beyond = [t for t in timesteps if not 0 <= t < total]
    if beyond:
        raise TimestepError(
            f"timesteps reach {float(beyond[0]):g}, outside 0 … {total - 1}: take fewer steps or "
            "another steps_offset"
        )


def _karras(first: float, last: float, steps: int) -> Numbers:
    ends = first ** (1 / 7), last ** (1 / 7)
    return np.asarray(np.linspace(*ends, steps) ** 7)


def _exponential(first: float, last: float, steps: int) -> Numbers:
    return np.asarray(np.exp(np.linspace(math.log(first), math.log(last), steps)))


def _beta(first: float, last: float, steps: int) -> Numbers:
    from scipy import stats  # a heavy package that nothing else here needs

    return np.asarray(last + stats.beta.ppf(1 - np.linspace(0, 1, steps), 0.6, 0.6) * (first - last))


WARPS: dict[str, Callable[[float, float, int], Numbers]] = {
    "use_karras_sigmas": _karras,
    "use_exponential_sigmas": _exponential,
    "use_beta_sigmas": _beta,
    "use_lu_lambdas": _exponential,
}
"""ρ from the first to the last, by the option that asks for it."""


def _warp(config: Mapping[str, Any], timesteps: object) -> str | None:
    chosen = [name for name in WARPS if config.get(name)]
    if len(chosen) > 1 or (chosen and timesteps is not None):
        raise ConfigError(f"{' and '.join(chosen)}: choose one spacing, or none and give timesteps")
    return chosen[0] if chosen else None


def _check_flow(config: Mapping[str, Any], mu: float | None, sigmas: object) -> None:
    if config.get("use_flow_sigmas"):
        if any(config.get(name) for name in WARPS):
            raise ConfigError("use_flow_sigmas is a spacing of its own: leave the other spacings out")
        if config.get("use_dynamic_shifting") and "predict_x0" in config and mu is None:
            raise ConfigError("use_dynamic_shifting is set: set_timesteps needs mu, its shift")
        return
    given = {"mu": mu, "sigmas": sigmas, "shift_terminal": config.get("shift_terminal")}
    named = [name for name, value in given.items() if value is not None]
    if named:
        raise ConfigError(f"{', '.join(named)} is for flow matching: set use_flow_sigmas=True for it")


def _shift(config: Mapping[str, Any], mu: float | None) -> float:
    if mu is None:
        return float(config["flow_shift"])
    return float(look_up(SHIFTS, config["time_shift_type"], "time_shift_type")(mu))


SHIFTS: dict[str, Callable[[float], float]] = {"exponential": math.exp, "linear": float}


class FlowLevel(Level):
    """x_t = (1 − σ) · x_0 + σ · z, the straight line of flow matching: its coefficients add up to 1."""

    @classmethod
    def at(cls, place: int, sigma: float) -> FlowLevel:
        """Return the level of this σ."""
        return cls(place, 2 * math.log1p(-sigma))

    @cached_property
    def sigma(self) -> float:
        """σ."""
        return abs(math.expm1(self.log_alpha_bar / 2))


def _flow_grid(
    config: Mapping[str, Any], ratios: Numbers, steps: int, sigmas: Sequence[float] | None, shift: float
) -> Grid:
    total, unipc = len(ratios), "predict_x0" in config
    even = (
        np.linspace(1, 1 / total, steps + 1)[:-1] if unipc else np.linspace(1 - 1 / total, 0, steps + 1)[:-1]
    )
    sigma = even if sigmas is None else np.array(sigmas, float)
    sigma = shift * sigma / (1 + (shift - 1) * sigma)
    if config.get("shift_terminal"):
        sigma = 1 - (1 - sigma) * (1 - config["shift_terminal"]) / (1 - sigma[-1])
    sigma = np.where(sigma > 1 - 1e-6, 1 - 1e-6, sigma)  # at 1 nothing is left of the sample
    # diffusers ends its DPM-Solvers at ρ_0 where it means σ_0.
    ends = {"zero": 0.0, "sigma_min": ratios[0] if "lambda_min_clipped" in config else sigma[-1]}
    last = look_up(ends, config["final_sigmas_type"], "final_sigmas_type")
    levels = tuple(FlowLevel.at(i, float(level)) for i, level in enumerate([*sigma, last]))
    return Grid(sigma * total, levels)


def _spaced(config: Mapping[str, Any], steps: int, last: int, total: int) -> Numbers:
    spacing = config.get("timestep_spacing", "linspace")
    moved = config.get("steps_offset", 0) if spacing == "leading" else 0
    timesteps: Numbers = look_up(SPACED, spacing, "timestep_spacing")(steps, last, total) + moved
    return timesteps


def _solver_timesteps(config: Mapping[str, Any], ratios: Numbers, steps: int, whole: bool) -> Numbers:
    total = len(ratios)
    if not whole:
        return _spaced(config, steps, total, total)
    clipped = config.get("lambda_min_clipped", -math.inf)
    last = total - int(np.searchsorted(-np.log(ratios)[::-1], clipped))
    if config.get("timestep_spacing") == "trailing":
        return _spaced(config, steps, last, total)
    return np.asarray(_spaced(config, steps + 1, last, total)[:-1].round())


def _t_of(sigmas: Numbers, ratios: Numbers) -> Numbers:
    return np.interp(np.log(np.maximum(sigmas, 1e-10)), np.log(ratios), np.arange(len(ratios)))


def _asked(t: Numbers, config: Mapping[str, Any], warp: str) -> Numbers:
    """Whole t, as diffusers makes them: rounded for two of the spacings, cut off for the others."""
    cosine = config["beta_schedule"] == "squaredcos_cap_v2" and "use_lu_lambdas" in config
    rounds = warp in ("use_karras_sigmas", "use_lu_lambdas") and not cosine
    return np.floor(t + (0.5 if rounds else 1e-3))


def _grid(timesteps: Numbers, sigmas: Sequence[float]) -> Grid:
    logs = [-math.log1p(sigma**2) for sigma in sigmas]
    return Grid(timesteps, tuple(Level(i, log) for i, log in enumerate(logs)))
