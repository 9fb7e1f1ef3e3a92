"""Euler, Heun and LMS, which hold the sample as x/√ᾱ, each with the table of the core that it is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alphabar.checks import check_count
from alphabar.diffusers.adapter import noisier
from alphabar.diffusers.drop_in import drop_in
from alphabar.diffusers.grids import Grid, evaluated_twice, sigma_grid
from alphabar.diffusers.index_scheduler import IndexScheduler, plain_step, step_with_noise
from alphabar.diffusers.spacings import Numbers
from alphabar.diffusers.steps import HISTORY, Step, sigma_scale
from alphabar.errors import ConfigError
from alphabar.process import forward
from alphabar.samplers import LMS, Euler, EulerAncestral, Heun, Row
from alphabar.schedule import Level

__all__ = [
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "LMSDiscreteScheduler",
]

MAX_CHURN = math.sqrt(2) - 1  # how much noise one step may add (Karras et al. 2022, algorithm 2)


def init_noise_sigma(self: IndexScheduler) -> Tensor:
    """Return the standard deviation of the sample that a run starts from, √(σ² + 1) at the largest σ.

    For two of the spacings it is σ itself in diffusers, without the 1.
    """
    largest = max(level.sigma_ve for level in self._run.grid.levels)
    is_short = not self.strict and self._options["timestep_spacing"] in ("linspace", "trailing")
    return torch.tensor(largest if is_short else math.hypot(largest, 1))


def make_sigma_grid(
    self: IndexScheduler, schedule_sigmas: Numbers, num_inference_steps: int = 0, **given: Any
) -> Grid:
    """Return the grid of a run, as ``IndexScheduler._make_grid``."""
    count = num_inference_steps or len(given.get("timesteps") or ())
    if given.get("sigmas") is None:
        check_count(num_inference_steps=count)
    return sigma_grid(self._options, schedule_sigmas, count, **given)


def churned(
    self: IndexScheduler,
    model_output: Tensor,
    timestep: float | Tensor,
    sample: Tensor,
    churn: tuple[float, float, float, float],
    generator: Any,
) -> tuple[Tensor, float]:
    """Return the sample with noise added, and by what its σ has grown: Karras et al. 2022, algorithm 2.

    Args:
        self: the scheduler.
        model_output: (B, …) where noise is drawn alike.
        timestep: where the step starts.
        sample: (B, …).
        churn: S_churn, S_tmin, S_tmax and S_noise.
        generator: what noise is drawn with.
    """
    s_churn, s_tmin, s_tmax, s_noise = churn
    if not s_churn:
        return sample, 1.0
    if self._step_index is None:
        self._start_run(timestep)
    sigma = self._run.evaluations[self._step_index].sigma_ve  # type: ignore[index]
    is_churned = s_tmin <= sigma <= s_tmax
    factor = 1 + min(s_churn / (len(self._run.grid.levels) - 1), MAX_CHURN) if is_churned else 1.0
    if factor > 1:
        sample = noisier(sample, model_output, generator, s_noise * sigma * math.sqrt(factor**2 - 1))
    return sample, factor


def euler_step(self: IndexScheduler, t: Level, s: Level, factor: float = 1.0) -> Step:
    """Return Euler's step from t with its σ this much larger, which is read there too."""
    noisier = Level(t.t, -math.log1p((factor * t.sigma_ve) ** 2))
    (row,) = Euler().rows((noisier, s))
    return Step.of(row, noisier, s, self._parameterisation, scale=self.scale)


@drop_in("scheduling_euler_discrete")
class EulerDiscreteScheduler(IndexScheduler):
    """Euler's method (Karras et al. 2022)."""

    scale = staticmethod(sigma_scale)
    init_noise_sigma = property(init_noise_sigma)
    is_scale_input_called = False
    keeps_sample_dtype = False
    refuses_indices = True
    uses_history = False

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        s_churn: float = 0.0,
        s_tmin: float = 0.0,
        s_tmax: float = float("inf"),
        s_noise: float = 1.0,
        generator: Any = None,
        return_dict: bool = True,
    ) -> Any:
        """Return the sample at the next t."""
        churn = s_churn, s_tmin, s_tmax, s_noise
        sample, factor = churned(self, model_output, timestep, sample, churn, generator)
        return self._take_step(model_output, timestep, sample, return_dict, factor)

    def _make_grid(self, schedule_sigmas: Numbers, **given: Any) -> Grid:
        if self._is_continuous() and given.get("timesteps") is not None:
            raise ConfigError("continuous timesteps are ¼ log σ, and follow from sigmas: give those")
        return self._with_timesteps(make_sigma_grid(self, schedule_sigmas, **given))

    def _all_levels(self, schedule_sigmas: Numbers) -> Grid:
        return self._with_timesteps(super()._all_levels(schedule_sigmas))

    def _is_continuous(self) -> bool:
        chosen = self._options["timestep_type"], self._options["prediction_type"]
        return chosen == ("continuous", "v_prediction")

    def _with_timesteps(self, grid: Grid) -> Grid:
        """Return the grid with ¼ log σ for timesteps, where they are continuous."""
        if not self._is_continuous():
            return grid
        return replace(grid, timesteps=np.log([level.sigma_ve for level in grid.levels[:-1]]) / 4)

    def _make_steps(self, first: int, *options: Any) -> list[Step]:
        (factor,) = options
        return [self._step_between(t, s, factor) for t, s in pairwise(self._run.grid.levels[first:])]

    def _step_between(self, t: Level, s: Level, factor: float) -> Step:
        step = euler_step(self, t, s, factor)
        if self._options["prediction_type"] == "v_prediction":  # read at t itself, as in diffusers
            step = replace(step, x_0=euler_step(self, t, s).x_0)
        return step

    def get_velocity(self, sample: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return v = √ᾱ_t · noise − √(1−ᾱ_t) · x_0; diffusers uses the index of t in ``timesteps`` as t."""
        t = timesteps.long() if self.strict else torch.tensor([self.index_for_timestep(t) for t in timesteps])
        return forward.velocity(self.schedule, sample, noise, t.to(sample.device))


@drop_in("scheduling_euler_ancestral_discrete")
class EulerAncestralDiscreteScheduler(IndexScheduler):
    """Euler's method with fresh noise."""

    scale = staticmethod(sigma_scale)
    init_noise_sigma = property(init_noise_sigma)
    is_scale_input_called = False
    _make_grid = make_sigma_grid
    keeps_sample_dtype = False
    always_draws = True
    refuses_indices = True
    uses_history = False
    step = step_with_noise

    def _rows(self, levels: Sequence[Level], first: int, *options: Any) -> Iterable[Row]:
        return EulerAncestral().rows(levels)


@drop_in("scheduling_heun_discrete")
class HeunDiscreteScheduler(IndexScheduler):
    """Heun's method (Karras et al. 2022): two evaluations a step, but one in the last."""

    scale = staticmethod(sigma_scale)
    init_noise_sigma = property(init_noise_sigma)
    is_scale_input_called = False
    step = plain_step

    def _make_grid(self, schedule_sigmas: Numbers, **given: Any) -> Grid:
        return evaluated_twice(make_sigma_grid(self, schedule_sigmas, **given))

    def _all_levels(self, schedule_sigmas: Numbers) -> Grid:
        return evaluated_twice(super()._all_levels(schedule_sigmas))

    def _make_steps(self, first: int, *options: Any) -> list[Step]:
        rows = list(Heun().rows(self._run.grid.levels[(first + 1) // 2 :]))
        return [
            self._second_stage(before, row) if row.t == row.s else self._step_of(row, starts=True)
            for before, row in zip([rows[0], *rows], rows, strict=False)
        ]

    def _second_stage(self, first: Row, second: Row) -> Step:
        """Return the second stage as a step from x_t, since inpainting may change the first stage's."""
        of_x = -second.history[0] / self._run.grid.levels[int(second.s)].signal  # what ε̂ has of x
        rest = second.x - of_x
        history = (second.history[0], second.history[1] + rest * first.history[0])
        start = self._run.grid.levels[int(first.t)]
        step = self._step_of(replace(second, x=of_x, history=history), of_start=rest * first.x, start=start)
        return step if self._changes_x_0 else step.written_out()

    @property
    def state_in_first_order(self) -> bool:
        """Whether the next evaluation begins a step."""
        return ((self._step_index or 0) - self._first_index) % 2 == 0


@drop_in("scheduling_lms_discrete")
class LMSDiscreteScheduler(IndexScheduler):
    """Linear multistep in σ = √(1−ᾱ)/√ᾱ."""

    scale = staticmethod(sigma_scale)
    init_noise_sigma = property(init_noise_sigma)
    is_scale_input_called = False
    _make_grid = make_sigma_grid

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        order: int = 4,
        return_dict: bool = True,
    ) -> Any:
        """Return the sample at the next t."""
        return self._take_step(model_output, timestep, sample, return_dict, order)

    def _rows(self, levels: Sequence[Level], first: int, *options: Any) -> Iterable[Row]:
        (order,) = options
        return LMS(order=order).rows(levels)

    def _make_steps(self, first: int, *options: Any) -> list[Step]:
        if self.strict or not first:
            return super()._make_steps(first, *options)
        # diffusers takes the weights of a whole run, also for estimates that were not made.
        steps = super()._make_steps(0, *options)[first:]
        return [replace(step, prev_sample=step.prev_sample[: HISTORY + i]) for i, step in enumerate(steps)]
