"""PNDM, whose protocol in diffusers is its own: it counts calls, and takes the t of each as given."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import diffusers
import numpy as np
import torch
from torch import Tensor

from alphabar.diffusers.adapter import in_place_of
from alphabar.diffusers.by_time import ByTime
from alphabar.diffusers.grids import whole_timesteps
from alphabar.diffusers.steps import Step
from alphabar.errors import ConfigError
from alphabar.levels import CLEAN, Level
from alphabar.samplers import PNDM

__all__ = ["PNDMScheduler"]

STAGES = 4  # evaluations in a step of Runge–Kutta
PLACES = (0, 2, 3, 4)  # of the row that goes through 1, 2, 3, 4 estimates; row 1 is Heun's second half


@in_place_of(diffusers.PNDMScheduler)
class PNDMScheduler(ByTime):
    """Pseudo numerical methods (Liu et al. 2022)."""

    def _begin(self) -> None:
        super()._begin()
        self.pndm_order = STAGES
        self.prk_timesteps: Any = None
        self.plms_timesteps: Any = None
        self.timesteps = None  # type: ignore[assignment]
        self._restart()

    def _restart(self) -> None:
        self.counter = 0
        self.ets: list[Tensor] = []
        self._stages: list[Tensor] = []

    def _set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:  # type: ignore[override]
        self._configure()
        visited = whole_timesteps(self._options, len(self.schedule), num_inference_steps)
        self.num_inference_steps, self._size = num_inference_steps, len(self) // num_inference_steps
        if self._options["skip_prk_steps"]:
            begin, follow = [], [*visited[:2], *visited[1:]]
        elif num_inference_steps < STAGES:
            raise ConfigError(f"{num_inference_steps} steps: Runge–Kutta begins with 3, so take at least 4")
        else:
            half = self._size // 2
            stages = [(t, s + half, s + half, s) for t, s in pairwise(visited[:4])]
            begin, follow = [t for stage in stages for t in stage], visited[3:]
        self.prk_timesteps, self.plms_timesteps = np.array(begin, dtype=np.int64), np.array(follow)
        self.timesteps = torch.tensor([*begin, *follow], device=device)
        self._restart()

    def step(
        self, model_output: Tensor, timestep: int | Tensor, sample: Tensor, return_dict: bool = True
    ) -> Any:
        """Return the sample at the next t: a stage of Runge–Kutta at first, then a multistep."""
        if self.num_inference_steps is None:
            raise ConfigError("set_timesteps comes first: the size of the steps is not known")
        begins = self.counter < len(self.prk_timesteps) and not self._options["skip_prk_steps"]
        return (self.step_prk if begins else self.step_plms)(model_output, timestep, sample, return_dict)

    def step_prk(
        self, model_output: Tensor, timestep: int | Tensor, sample: Tensor, return_dict: bool = True
    ) -> Any:
        """Take one of the four stages of a step of Runge–Kutta."""
        stage = self.counter % STAGES
        ready = self._at(int(self.prk_timesteps[self.counter - stage]), sample, "stage", stage)
        previous, x_0, eps = self._made(ready, model_output, sample, self._stages)
        self._stages = [] if stage == STAGES - 1 else [eps, *self._stages]  # type: ignore[list-item]
        return self._counted(previous, x_0, eps if stage == 0 else None, return_dict)

    def step_plms(
        self, model_output: Tensor, timestep: int | Tensor, sample: Tensor, return_dict: bool = True
    ) -> Any:
        """Take a step of Adams–Bashforth, or its second half at the first one."""
        halfway = self.counter == 1
        known = self.ets[-1:] if halfway else self.ets[-3:]
        ready = self._at(timestep, sample, "halfway" if halfway else "whole", len(known))
        previous, x_0, eps = self._made(ready, model_output, sample, known[::-1])
        return self._counted(previous, x_0, None if halfway else eps, return_dict)

    def _counted(self, previous: Tensor, x_0: Tensor, eps: Tensor | None, return_dict: bool) -> Any:
        self.counter += 1
        if eps is not None:
            self.ets = [*self.ets[-3:], eps]
        return self._result(previous, x_0, return_dict)

    def _step(self, t: int, part: str, known: int) -> Step:
        return {"stage": self._stage, "halfway": self._second_half, "whole": self._multistep}[part](t, known)

    def _stage(self, t: int, stage: int) -> Step:
        start, s = self._level(t), self._landing(t)
        middle = self._level(t - self._size + self._size // 2)
        row = list(PNDM(runge_kutta=True).rows([(start, s)] * STAGES, [middle] * 3))[stage]
        levels = {level.t: level for level in (start, middle, s)}
        return Step.of(row, levels[row.t], levels[row.s], self._reading)

    def _second_half(self, t: int, known: int) -> Step:
        level = self._level(t)
        rows = list(PNDM().rows([(self._level(min(t + self._size, len(self) - 1)), level)]))
        return Step.of(rows[1], level, level, self._reading)

    def _multistep(self, t: int, known: int) -> Step:
        level, s = self._level(t), self._landing(t)
        # Its row depends on (t, s) and on how many estimates there are: any steps may stand before it.
        anywhere = [(self._levels[-1], self._levels[0])] * max(PLACES[known] - 1, 0)
        row = list(PNDM().rows([*anywhere, (level, s)]))[PLACES[known]]
        return _compact(Step.of(row, level, s, self._reading))

    def _landing(self, t: int) -> Level:
        s = t - self._size
        if s >= 0:
            return self._level(s)
        return CLEAN if self._options["set_alpha_to_one"] else Level(-1, self._levels[0].log_alpha_bar)


def _compact(step: Step) -> Step:
    """Leave out of the history what the row does not use: only estimates at whole steps are remembered."""
    *now, x_0 = step.advance[:4]
    return Step(step.read, (*now, x_0, *filter(None, step.advance[4:])), step.keeps)
