"""LCM and TCD: few steps with a network that was distilled to leap along the path to x_0.

    LCM    x_s = √ᾱ_s · f + √(1−ᾱ_s) · z,                  f = c_skip · x_t + c_out · x̂_0
    TCD    x_s = √(ᾱ_s/ᾱ_r) · x_r + √(1 − ᾱ_s/ᾱ_r) · z,    x_r = DDIM(x_t, x̂_0) with r = ⌊(1−η) s⌋

A step denoises, all the way or as far as r, and adds the noise of the level where it lands; the last adds
none. Luo et al. 2023, arXiv 2310.04378, algorithm 3; Zheng et al. 2024, arXiv 2402.19159, algorithm 4, whose
γ is η.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from math import inf
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alphabar.checks import check_count
from alphabar.diffusers.drop_in import drop_in
from alphabar.diffusers.grids import Grid, levels_of
from alphabar.diffusers.index_scheduler import IndexScheduler, step_with_noise
from alphabar.diffusers.spacings import Numbers, check_timesteps
from alphabar.diffusers.steps import Step
from alphabar.diffusers.timestep_scheduler import add_noise, get_velocity, schedule_below_one
from alphabar.errors import ConfigError, TimestepError
from alphabar.samplers import DDIM, Row
from alphabar.schedule import Level

__all__ = ["LCMScheduler", "TCDScheduler"]

CALLER = 10  # frames between the warnings below and the call of set_timesteps


def distilled_timesteps(total: int, original_steps: int, strength: float) -> Numbers:
    """Return the t that a network was distilled at, in ascending order: every (T // original_steps)-th.

    Args:
        total: T.
        original_steps: how many they are, 1 … T.
        strength: which part of the schedule they come from, in (0, 1].

    Raises:
        ConfigError: original_steps or a strength outside these.
    """
    check_count(original_inference_steps=original_steps)
    if original_steps > total:
        raise ConfigError(f"original_inference_steps is {original_steps}, but T is {total}: at most one a t")
    if not 0 < strength <= 1:
        raise ConfigError(f"strength is {strength!r}: it must lie in (0, 1], where 1 is the whole schedule")
    return np.arange(1, int(original_steps * strength) + 1) * (total // original_steps) - 1


def few_timesteps(distilled: Numbers, steps: int, most: int) -> Numbers:
    """Return so many of the distilled t, evenly by their number, in descending order.

    Raises:
        ConfigError: steps < 1, or more than there are, or than ``most``.
    """
    check_count(num_inference_steps=steps)
    if steps > min(most, len(distilled)):
        raise ConfigError(
            f"num_inference_steps is {steps}, but original_inference_steps is {most} and strength leaves "
            f"{len(distilled)} timesteps: take fewer steps, more original ones or a greater strength"
        )
    indices = np.floor(np.linspace(0, len(distilled), steps, endpoint=False))
    return np.asarray(distilled[::-1][indices.astype(int)])


def own_timesteps(timesteps: Sequence[float], total: int, strength: float) -> Numbers:
    """Return the last of given timesteps, as many of them as ``strength`` says.

    Raises:
        TimestepError: timesteps outside 0 … T−1 or not in descending order, or none left.
    """
    given = [int(t) for t in timesteps]
    check_timesteps(given, total)
    if any(t <= s for t, s in pairwise(given)):
        raise TimestepError(f"timesteps {given}: they must be in descending order")
    left = int(len(given) * strength)
    if not left:
        raise TimestepError(f"timesteps {given} with strength {strength}: no step is left of them")
    return np.array(given[-left:])


def warn_of_timesteps(given: Sequence[float], distilled: Numbers, total: int, most: int, whole: bool) -> None:
    """Warn of timesteps that a distilled network does not know, as diffusers does in its log."""
    foreign = [int(t) for t in given if t not in distilled]
    doubts = {
        f"begin at {given[0]:g}, not at T − 1 = {total - 1}": whole and given[0] != total - 1,
        f"are not those that the network was distilled at: {foreign}": bool(foreign),
        f"are {len(given)}, more than the {most} that the network was distilled at": len(given) > most,
    }
    for doubt in (doubt for doubt, holds in doubts.items() if holds):
        warnings.warn(f"the given timesteps {doubt}: results may be unexpected", stacklevel=CALLER)


def consistency_grid(
    config: Mapping[str, Any],
    schedule_sigmas: Numbers,
    end: float,
    *,
    any_t: bool = False,
    num_inference_steps: int | None = None,
    original_inference_steps: int | None = None,
    timesteps: Sequence[float] | None = None,
    strength: float = 1.0,
) -> Grid:
    """Return the grid of LCM and TCD.

    Args:
        config: diffusers' options.
        schedule_sigmas: (T,) float64, √(1−ᾱ)/√ᾱ of the schedule.
        end: √(1−ᾱ)/√ᾱ where the last step lands.
        any_t: whether given ``original_inference_steps`` mean that the network knows every t.
        num_inference_steps: how many steps, where no timesteps are given.
        original_inference_steps: how many t the network was distilled at, in place of the configured number.
        timesteps: to take instead, in descending order.
        strength: which part of the schedule or of the timesteps is taken, in (0, 1]: the last one.

    Raises:
        ConfigError, TimestepError: as the functions above.
    """
    total, given = config["num_train_timesteps"], original_inference_steps
    most = config["original_inference_steps"] if given is None else given
    distilled = distilled_timesteps(total, total if any_t and given is not None else most, strength)
    if timesteps is None:
        t = few_timesteps(distilled, num_inference_steps, most)  # type: ignore[arg-type]  # one is given
    else:
        t = own_timesteps(timesteps, total, strength)
        warn_of_timesteps(timesteps, distilled, total, most, strength == 1)
    known = np.pad(schedule_sigmas, (0, max(0, total - len(schedule_sigmas))), constant_values=math.nan)
    return Grid(t, levels_of([*known[t].tolist(), end]))


def levels_from(self: IndexScheduler, first: int) -> tuple[Level, ...]:
    """Return the levels of the run from this index.

    Raises:
        TimestepError: a t there at which the schedule has no level.
    """
    levels = self._run.grid.levels[first:]
    if math.isnan(levels[0].log_alpha_bar):
        t, last = self._run.grid.timesteps[first], len(self.schedule) - 1
        raise TimestepError(f"timestep {t} is outside 0 … {last}: β reaches 1 there, or trained_betas end")
    return levels


def custom_timesteps(self: IndexScheduler) -> bool:
    """Return whether ``set_timesteps`` was given the timesteps."""
    return self._given is not None and self._given.get("timesteps") is not None


def with_draws(self: IndexScheduler, steps: Iterable[Step], draws: bool) -> list[Step]:
    """Return steps that draw noise, used or not, as diffusers does.

    It counts the timesteps before ``strength`` leaves some out: its last step then takes itself for another.
    """
    given = (self._given or {}).get("timesteps") or ()
    is_cut = len(given) > len(self._run.grid.timesteps)
    *all_but_one, last = steps
    return [*(replace(step, draws=draws) for step in all_but_one), replace(last, draws=draws and is_cut)]


def noise_dtype(self: IndexScheduler, output: Tensor, sample: Tensor) -> torch.dtype:
    """Return the precision in which diffusers draws noise."""
    return torch.promote_types(output.dtype, sample.dtype)


def final_alpha_cumprod(self: IndexScheduler) -> Tensor:
    """Return ᾱ beyond t = 0, where neither of the two ever steps."""
    return torch.tensor(1.0) if self._options["set_alpha_to_one"] else self.alphas_cumprod[0]


def previous_timestep(self: IndexScheduler, timestep: int | Tensor) -> int | Tensor:
    """Return the t that follows this one in the run, −1 after the last; before ``set_timesteps`` t − 1."""
    if self._given is None:
        return timestep - 1
    index = self.index_for_timestep(timestep)
    return self.timesteps[index + 1] if index + 1 < len(self.timesteps) else torch.tensor(-1)


@drop_in("scheduling_lcm")
class LCMScheduler(IndexScheduler):
    """Multistep sampling of latent consistency models (Luo et al. 2023)."""

    timestep_dtype = torch.int64
    needs_timesteps = True
    uses_history = False
    returns_kept = True
    min_alpha_bar = 0.0
    sigma_data = 0.5
    custom_timesteps = property(custom_timesteps)
    final_alpha_cumprod = property(final_alpha_cumprod)
    previous_timestep = previous_timestep
    _make_schedule = schedule_below_one
    add_noise = add_noise
    get_velocity = get_velocity
    _noise_dtype = noise_dtype
    step = step_with_noise

    def _make_grid(self, schedule_sigmas: Numbers, **given: Any) -> Grid:
        return consistency_grid(self._options, schedule_sigmas, 0.0, **given)

    def _rows(self, levels: Sequence[Level], first: int, *options: Any) -> Iterable[Row]:
        for timestep, (t, s) in zip(self._run.grid.timesteps[first:], pairwise(levels), strict=True):
            of_x, of_x_0 = keeps = self.get_scalings_for_boundary_condition_discrete(float(timestep))
            yield Row(t.t, s.t, s.signal * of_x, (s.signal * of_x_0,), s.sigma, keeps=keeps)

    def _make_steps(self, first: int, *options: Any) -> list[Step]:
        rows = self._rows(levels_from(self, first), first)
        return with_draws(self, map(self._step_of, rows), draws=True)

    def get_scalings_for_boundary_condition_discrete(self, timestep: float) -> tuple[float, float]:
        """Return c_skip and c_out at t: 1 and 0 at t = 0, so that the network's answer there is its input."""
        scaled = timestep * self._options["timestep_scaling"]
        power = self.sigma_data**2
        return power / (scaled**2 + power), scaled / (scaled**2 + power) ** 0.5


@drop_in("scheduling_tcd")
class TCDScheduler(IndexScheduler):
    """Strategic stochastic sampling of trajectory consistency models (Zheng et al. 2024)."""

    timestep_dtype = torch.int64
    needs_timesteps = True
    uses_history = False
    returns_kept = True
    min_alpha_bar = 0.0
    custom_timesteps = property(custom_timesteps)
    final_alpha_cumprod = property(final_alpha_cumprod)
    previous_timestep = previous_timestep
    _make_schedule = schedule_below_one
    add_noise = add_noise
    get_velocity = get_velocity
    _noise_dtype = noise_dtype

    def _configure(self) -> None:
        super()._configure()
        if not self.strict:  # in diffusers clip_sample and thresholding change nothing
            self._threshold, self._limit = None, inf

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        eta: float = 0.3,
        generator: Any = None,
        return_dict: bool = True,
    ) -> Any:
        """Return x at the next t; η in [0, 1] is how much of it is drawn anew."""
        if not 0 <= eta <= 1:
            raise ConfigError(f"eta is {eta!r}: it must lie in [0, 1], where 0 adds no noise")
        return self._take_step(model_output, timestep, sample, return_dict, eta, generator=generator)

    def _make_grid(self, schedule_sigmas: Numbers, **given: Any) -> Grid:
        end = float(schedule_sigmas[0])
        return consistency_grid(self._options, schedule_sigmas, end, any_t=True, **given)

    def _make_steps(self, first: int, *options: Any) -> list[Step]:
        (eta,) = options
        rows = self._rows(levels_from(self, first), first, eta)
        return with_draws(self, map(self._step_of, rows), draws=eta > 0)

    def _rows(self, levels: Sequence[Level], first: int, *options: Any) -> Iterable[Row]:
        (eta,) = options
        landings = torch.tensor([*self._run.grid.timesteps[first + 1 :], 0])
        # In float32, as diffusers multiplies: the whole part decides.
        between = levels_of(self._sigmas[((1 - eta) * landings).floor().long().numpy()].tolist())
        for (t, s), r in zip(pairwise(levels), between, strict=True):
            (row,) = DDIM().rows((t, r))
            keeps, onward = (row.x, row.history[0]), s.signal / r.signal
            noise = math.sqrt(-math.expm1(s.log_alpha_bar - r.log_alpha_bar))
            yield Row(t.t, s.t, onward * row.x, (onward * row.history[0],), noise, keeps=keeps)
