"""PNDM, whose protocol in diffusers is its own: it counts calls and takes each call's t as given.

    x_s = DDIM(x_t, Σ_k w_k · output_k)

Each evaluation is a step of DDIM from the start of its own step, with a weighted sum of outputs for output.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alphabar.diffusers.drop_in import drop_in
from alphabar.diffusers.spacings import whole_timesteps
from alphabar.diffusers.steps import Step, x_0_coefficients
from alphabar.diffusers.timestep_scheduler import TimestepScheduler
from alphabar.errors import ConfigError, ShapeError
from alphabar.kernels import lincomb
from alphabar.process import PARAMETERISATIONS
from alphabar.samplers import DDIM
from alphabar.samplers.adams import ADAMS_BASHFORTH
from alphabar.schedule import CLEAN, Level

__all__ = ["PNDMScheduler"]

STAGES = 4  # evaluations in a step of Runge–Kutta
RUNGE_KUTTA = (1 / 6, 1 / 3, 1 / 3, 1 / 6)  # newest first, as all weights here
HEUN = (1 / 2, 1 / 2)
MULTISTEP = [(), *((1 - sum(earlier), *earlier) for earlier in ADAMS_BASHFORTH)]


@drop_in("scheduling_pndm")
class PNDMScheduler(TimestepScheduler):
    """Pseudo numerical methods (Liu et al. 2022)."""

    def _initialise(self) -> None:
        super()._initialise()
        self.pndm_order = STAGES
        self.prk_timesteps: Any = None
        self.plms_timesteps: Any = None
        self.timesteps = None  # type: ignore[assignment]
        self._restart()

    def _configure(self) -> None:
        super()._configure()
        # diffusers adds up v and reads the sum at the step's start; correct is to add up ε̂.
        name = self._options["prediction_type"]
        self._mixes_eps = name not in ("epsilon", "v_prediction") or (self.strict and name != "epsilon")

    def _restart(self) -> None:
        self.counter = 0
        self.ets: list[Tensor] = []
        self._stages: list[Tensor] = []
        self._start: Tensor | None = None

    def _set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:  # type: ignore[override]
        self._configure()
        chosen = whole_timesteps(self._options, len(self), num_inference_steps)
        size = len(self) // num_inference_steps
        if self._options["skip_prk_steps"]:
            begin, follow = [], [*chosen[:2], *chosen[1:]]
        elif num_inference_steps < STAGES:
            raise ConfigError(
                f"num_inference_steps is {num_inference_steps}: `num_inference_steps` must be >= {STAGES}, "
                "as Runge–Kutta begins with 3 steps; or choose skip_prk_steps=True"
            )
        else:
            half = size // 2
            stages = [(t, s + half, s + half, s) for t, s in pairwise(chosen[:4])]
            begin, follow = [t for stage in stages for t in stage], chosen[3:]
        self._stride = size
        self.prk_timesteps, self.plms_timesteps = np.array(begin, dtype=np.int64), np.array(follow)
        self._enter_run([*begin, *follow], num_inference_steps, device)
        self._restart()

    def step(
        self, model_output: Tensor, timestep: int | Tensor, sample: Tensor, return_dict: bool = True
    ) -> Any:
        """Return the sample at the next t: a stage of Runge–Kutta at first, then a multistep."""
        self._check_call(timestep)
        is_runge_kutta = self.counter < len(self.prk_timesteps) and not self._options["skip_prk_steps"]
        return (self.step_prk if is_runge_kutta else self.step_plms)(
            model_output, timestep, sample, return_dict
        )

    def step_prk(
        self, model_output: Tensor, timestep: int | Tensor, sample: Tensor, return_dict: bool = True
    ) -> Any:
        """Take one of the four stages of a step of Runge–Kutta, each from where the step began."""
        self._check_call(timestep)
        stage, output = self.counter % STAGES, self._mixed_output(model_output, timestep, sample)
        if stage == 0:
            self._stages, self._start, self.ets = [], sample, [*self.ets, output]
        self._stages = [output, *self._stages]
        start, s = self.prk_timesteps[self.counter - stage], int(timestep)
        s -= 0 if stage % 2 else self._stride // 2
        weights = RUNGE_KUTTA if stage == STAGES - 1 else (1.0,)
        return self._take_step(self._start, self._stages, int(start), s, weights, return_dict)  # type: ignore[arg-type]

    def step_plms(
        self, model_output: Tensor, timestep: int | Tensor, sample: Tensor, return_dict: bool = True
    ) -> Any:
        """Take a step of Adams–Bashforth, or its second half at the first one."""
        self._check_call(timestep)
        if not self._options["skip_prk_steps"] and len(self.ets) < 3:
            raise ConfigError("step_plms follows on 12 evaluations of Runge–Kutta: call step_prk for them")
        t, output = int(timestep), self._mixed_output(model_output, timestep, sample)
        if self.counter == 1:
            start = int(self.plms_timesteps[0]) if self.strict else min(t + self._stride, len(self) - 1)
            if len(self.ets) == 1:
                return self._take_step(self._start, [output, *self.ets], start, t, HEUN, return_dict)  # type: ignore[arg-type]
            return self._take_step(sample, self.ets[:-5:-1], start, t, MULTISTEP[STAGES], return_dict)
        self.ets = [*self.ets[-3:], output]
        self._start = sample
        weights = MULTISTEP[len(self.ets)]
        return self._take_step(sample, self.ets[::-1], t, t - self._stride, weights, return_dict)

    def _check_call(self, timestep: int | Tensor) -> None:
        if self.num_inference_steps is None:
            raise ConfigError("set_timesteps comes first: the size of the steps is not known")
        if isinstance(timestep, Tensor) and timestep.numel() > 1:
            raise ShapeError(
                f"timestep has shape {tuple(timestep.shape)}: a solver that remembers goes through its t "
                "with the whole batch; a t for each sample is for DDPM, DDIM and Euler's method"
            )

    def _mixed_output(self, output: Tensor, timestep: int | Tensor, sample: Tensor) -> Tensor:
        """Return what the sum is taken over: a copy of the output, or the ε̂ it stands for."""
        if not self._mixes_eps:
            return output.clone()  # a network may write its next output into the same tensor
        level = self._level(int(timestep))
        # In float64: rounding of ε̂ would be multiplied by 1/√ᾱ.
        return lincomb(
            self._parameterisation.eps(level.signal, level.sigma), (sample, output), dtype=torch.float64
        )

    def _take_step(
        self,
        sample: Tensor,
        outputs: Sequence[Tensor],
        t: int,
        s: int,
        weights: tuple[float, ...],
        return_dict: bool,
    ) -> Any:
        self.counter += 1
        step = self._step_at(t, sample, s, weights)
        previous, x_0, _ = self._compute_step(step, outputs[0], sample, outputs[1:])
        return self._output(previous.to(sample.dtype) if self._mixes_eps else previous, x_0, return_dict)

    def _made_together(self, t: int) -> Sequence[int]:
        return (t,)  # where it lands and its weights belong to one call

    def _make_step(self, t: int, s: int, weights: tuple[float, ...]) -> Step:
        level, end = self._level(t), self._level_after(s)
        (row,) = DDIM().rows((level, end))
        parameterisation = PARAMETERISATIONS["epsilon"] if self._mixes_eps else self._parameterisation
        of_x, of_output = x_0_coefficients(parameterisation, level)
        first, *others = (row.history[0] * of_output * weight for weight in weights)
        return Step(None, (row.x + row.history[0] * of_x, first, 0.0, 0.0, 0.0, *others), None)

    def _level_after(self, s: int) -> Level:
        if s >= 0:
            return self._level(s)
        return CLEAN if self._options["set_alpha_to_one"] else Level(-1, self._logs[0])
