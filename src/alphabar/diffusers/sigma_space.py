"""Euler, Heun and LMS, which hold the sample as x/√ᾱ, each with the table of the core that it is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from alphabar.diffusers.adapter import draw_noise, drop_in
from alphabar.diffusers.grids import Grid
from alphabar.diffusers.multistep import MultistepScheduler, plain_step, step_with_noise
from alphabar.diffusers.steps import HISTORY, Step, sigma_scale
from alphabar.kernels import lincomb
from alphabar.process import forward, spread
from alphabar.samplers import LMS, Euler, EulerAncestral, Heun, Row
from alphabar.schedule import Level

__all__ = [
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "LMSDiscreteScheduler",
]

MAX_CHURN = math.sqrt(2) - 1  # how much noise one step may add (Karras et al. 2022, algorithm 2)


class SigmaSpaceScheduler(MultistepScheduler):
    """Holds the sample as x/√ᾱ, whose standard deviation grows with the noise."""

    scale = staticmethod(sigma_scale)
    whole = False
    is_scale_input_called = False

    @property
    def init_noise_sigma(self) -> Tensor:
        """The standard deviation of the sample that a run starts from, √(σ² + 1) at the largest σ.

        For two of the spacings it is σ itself in diffusers, without the 1.
        """
        largest = max(level.sigma_ve for level in self._grid_levels)
        is_short = not self.strict and self._options["timestep_spacing"] in ("linspace", "trailing")
        return torch.tensor(largest if is_short else math.hypot(largest, 1))

    def scale_model_input(self, sample: Tensor, timestep: float | Tensor) -> Tensor:
        """Return x = √ᾱ · sample, what the network takes."""
        self.is_scale_input_called = True
        if not self.uses_history and isinstance(timestep, Tensor) and timestep.numel() > 1:
            signals = [self._eval_levels[self.index_for_timestep(t)].signal for t in timestep]
            return lincomb((spread(torch.tensor(signals, dtype=torch.float64), sample),), (sample,))
        if self._step_index is None:
            self._start_run(timestep)
        level = self._eval_levels[self._step_index]  # type: ignore[index]
        return lincomb((level.signal,), (sample,))


@drop_in("scheduling_euler_discrete")
class EulerDiscreteScheduler(SigmaSpaceScheduler):
    """Euler's method (Karras et al. 2022)."""

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
        if not s_churn:
            return self._take_step(model_output, timestep, sample, return_dict, 1.0)
        if self._step_index is None:
            self._start_run(timestep)
        sigma = self._eval_levels[self._step_index].sigma_ve  # type: ignore[index]
        is_churned = s_tmin <= sigma <= s_tmax
        factor = 1 + min(s_churn / len(self.timesteps), MAX_CHURN) if is_churned else 1.0
        if factor > 1:
            noise = draw_noise(model_output, model_output, generator, model_output.dtype)
            added = s_noise * sigma * math.sqrt(factor**2 - 1)
            wide = torch.promote_types(sample.dtype, torch.float32)
            sample = lincomb((1.0, added), (sample.to(wide), noise.to(wide)))
        return self._take_step(model_output, timestep, sample, return_dict, factor)

    def _steps_between(self, levels: Sequence[Level], first: int, *options: Any) -> Iterable[Step]:
        (factor,) = options
        for t, s in pairwise(levels):
            churned = Level(t.t, -math.log1p((factor * t.sigma_ve) ** 2))
            (row,) = Euler().rows((churned, s))
            step = Step.of(row, churned, s, self._parameterisation, scale=self.scale)
            if self._options["prediction_type"] == "v_prediction":  # read at t itself, as in diffusers
                step = replace(step, x_0=Step.of(row, t, s, self._parameterisation, scale=self.scale).x_0)
            yield step

    def get_velocity(self, sample: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return v = √ᾱ_t · noise − √(1−ᾱ_t) · x_0; diffusers uses the index of t in ``timesteps`` as t."""
        t = timesteps.long() if self.strict else torch.tensor([self.index_for_timestep(t) for t in timesteps])
        return forward.velocity(self.schedule, sample, noise, t.to(sample.device))


@drop_in("scheduling_euler_ancestral_discrete")
class EulerAncestralDiscreteScheduler(SigmaSpaceScheduler):
    """Euler's method with fresh noise."""

    keeps_sample_dtype = False
    always_draws = True
    refuses_indices = True
    uses_history = False
    step = step_with_noise

    def _rows(self, levels: Sequence[Level], first: int, *options: Any) -> Iterable[Row]:
        return EulerAncestral().rows(levels)


@drop_in("scheduling_heun_discrete")
class HeunDiscreteScheduler(SigmaSpaceScheduler):
    """Heun's method (Karras et al. 2022): two evaluations a step, but one in the last."""

    step = plain_step

    def _evaluations(self, grid: Grid) -> tuple[tuple[Level, ...], Any]:
        twice = [level for level in grid.levels[1:-1] for _ in range(2)]
        return (grid.levels[0], *twice, grid.levels[-1]), grid.timesteps.repeat(2)[1:]

    def _make_steps(self, first: int, *options: Any) -> list[Step]:
        rows = list(Heun().rows(self._grid_levels[(first + 1) // 2 :]))
        return [
            self._second_stage(before, row) if row.t == row.s else self._step_of(row, starts=True)
            for before, row in zip([rows[0], *rows], rows, strict=False)
        ]

    def _second_stage(self, first: Row, second: Row) -> Step:
        """Return the second stage as a step from x_t, since inpainting may change the first stage's."""
        of_x = -second.history[0] / self._grid_levels[int(second.s)].signal  # what ε̂ has of x
        rest = second.x - of_x
        history = (second.history[0], second.history[1] + rest * first.history[0])
        start = self._grid_levels[int(first.t)]
        return self._step_of(replace(second, x=of_x, history=history), of_start=rest * first.x, start=start)

    @property
    def state_in_first_order(self) -> bool:
        """Whether the next evaluation begins a step."""
        return ((self._step_index or 0) - self._first_index) % 2 == 0


@drop_in("scheduling_lms_discrete")
class LMSDiscreteScheduler(SigmaSpaceScheduler):
    """Linear multistep in σ = √(1−ᾱ)/√ᾱ."""

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
