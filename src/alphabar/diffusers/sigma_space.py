"""The solvers of diffusers that keep x/√ᾱ: for each, which table of the core it is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import diffusers
import torch
from torch import Tensor

from alphabar.diffusers.adapter import in_place_of, normal
from alphabar.diffusers.grids import Grid
from alphabar.diffusers.multistep import Exploding
from alphabar.diffusers.solvers import Drawing, Plain
from alphabar.diffusers.steps import Step
from alphabar.kernels import lincomb
from alphabar.process import forward
from alphabar.samplers import LMS, Euler, EulerAncestral, Heun, Row
from alphabar.schedule import Level

__all__ = [
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "LMSDiscreteScheduler",
]

MOST_CHURN = math.sqrt(2) - 1  # how much noise one step may add (Karras et al. 2022, algorithm 2)
NOW = 5  # places in a step's coefficients before those of what earlier steps kept


@in_place_of(diffusers.EulerDiscreteScheduler)
class EulerDiscreteScheduler(Exploding):
    """Euler's method (Karras et al. 2022)."""

    keeps_dtype = False
    refuses_places = True
    remembers = False

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
            return self._stepped(model_output, timestep, sample, return_dict, 1.0)
        if self._step_index is None:
            self._enter(timestep)
        ratio = self._visited[self._step_index].sigma_ve  # type: ignore[index]
        churned = s_tmin <= ratio <= s_tmax
        more = 1 + min(s_churn / len(self.timesteps), MOST_CHURN) if churned else 1.0
        if more > 1:
            noise = normal(model_output, model_output, generator, model_output.dtype)
            rise = s_noise * ratio * math.sqrt(more**2 - 1)
            sample = lincomb((1.0, rise), (sample.float(), noise.float()))
        return self._stepped(model_output, timestep, sample, return_dict, more)

    def _between(self, levels: Sequence[Level], entry: int, *options: Any) -> Iterable[Step]:
        (more,) = options
        for t, s in pairwise(levels):
            higher = Level(t.t, -math.log1p((more * t.sigma_ve) ** 2))
            (row,) = Euler().rows((higher, s))
            step = Step.of(row, higher, s, self._reading, exploding=True)
            if self._options["prediction_type"] == "v_prediction":  # read at t itself, as in diffusers
                step = replace(step, read=Step.of(row, t, s, self._reading, exploding=True).read)
            yield step

    def get_velocity(self, sample: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return v = √ᾱ_t · noise − √(1−ᾱ_t) · x_0; diffusers takes a t's place in ``timesteps`` for it."""
        t = timesteps.long() if self.strict else torch.tensor([self.index_for_timestep(t) for t in timesteps])
        return forward.velocity(self.schedule, sample, noise, t.to(sample.device))


@in_place_of(diffusers.EulerAncestralDiscreteScheduler)
class EulerAncestralDiscreteScheduler(Drawing, Exploding):
    """Euler's method with fresh noise."""

    keeps_dtype = False
    always_draws = True
    refuses_places = True
    remembers = False

    def _rows(self, levels: Sequence[Level], entry: int, *options: Any) -> Iterable[Row]:
        return EulerAncestral().rows(levels)


@in_place_of(diffusers.HeunDiscreteScheduler)
class HeunDiscreteScheduler(Plain, Exploding):
    """Heun's method (Karras et al. 2022): every t but the first twice."""

    def _asked(self, grid: Grid) -> tuple[tuple[Level, ...], Any]:
        twice = [level for level in grid.levels[1:-1] for _ in range(2)]
        return (grid.levels[0], *twice, grid.levels[-1]), grid.timesteps.repeat(2)[1:]

    def _steps(self, entry: int, *options: Any) -> list[Step]:
        rows = list(Heun().rows(self._stops[(entry + 1) // 2 :]))
        return [
            self._again(first, row) if row.t == row.s else self._step_of(row, begins=True)
            for first, row in zip([rows[0], *rows], rows, strict=False)
        ]

    def _again(self, first: Row, second: Row) -> Step:
        """The second half from where the first began, so that it does not matter what came between."""
        t, s = self._stops[int(first.t)], self._stops[int(second.s)]
        of_x = -second.history[0] / s.signal  # the part of x that ε̂ has
        rest = second.x - of_x
        history = (second.history[0], second.history[1] + rest * first.history[0])
        row = replace(second, x=of_x, history=history)
        return self._step_of(row, of_start=rest * first.x * t.signal / s.signal)

    @property
    def state_in_first_order(self) -> bool:
        """Whether the next evaluation begins a step."""
        return ((self._step_index or 0) - self._entry) % 2 == 0


@in_place_of(diffusers.LMSDiscreteScheduler)
class LMSDiscreteScheduler(Exploding):
    """Linear multistep in ρ."""

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        order: int = 4,
        return_dict: bool = True,
    ) -> Any:
        """Return the sample at the next t."""
        return self._stepped(model_output, timestep, sample, return_dict, order)

    def _rows(self, levels: Sequence[Level], entry: int, *options: Any) -> Iterable[Row]:
        (order,) = options
        return LMS(order=order).rows(levels)

    def _steps(self, entry: int, *options: Any) -> list[Step]:
        if self.strict or not entry:
            return super()._steps(entry, *options)
        # diffusers takes the weights of a run from the top, also for estimates that it does not have.
        steps = super()._steps(0, *options)[entry:]
        return [replace(step, advance=step.advance[: NOW + i]) for i, step in enumerate(steps)]
