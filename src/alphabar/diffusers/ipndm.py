"""IPNDM: Adams–Bashforth in ε̂, with as many weights as there are estimates, for networks that return v.

    x = α · x_0 + β · z,    β = sin²(π u/2),    α = √(1 − β²),    u from 1 to 0

So β is √(1−ᾱ) here, not the β of a schedule, and the network is told t = 2/π · arctan(β/α) in (0, 1]. The
multistep of PNDM (Liu et al. 2022, arXiv 2202.09778, algorithm 2) without its Runge–Kutta at the start.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from alphabar.checks import check_count
from alphabar.diffusers.drop_in import drop_in
from alphabar.diffusers.grids import Grid, levels_of
from alphabar.diffusers.index_scheduler import IndexScheduler, exact_tables
from alphabar.diffusers.spacings import Numbers
from alphabar.diffusers.steps import Step
from alphabar.errors import NoAnswerError, ScheduleError
from alphabar.process import PARAMETERISATIONS
from alphabar.samplers import Row
from alphabar.samplers.adams import ADAMS_BASHFORTH, adams_bashforth
from alphabar.samplers.steps import eps_of
from alphabar.schedule import Level, NoiseSchedule

__all__ = ["IPNDMScheduler"]

MIN_ALPHA = 1e-8
MOST = len(ADAMS_BASHFORTH) - 1  # earlier estimates that a step uses


def noise_scales(count: int, trained: Any, dtype: torch.dtype) -> Tensor:
    """Return (n + 1,) β = √(1−ᾱ), where each of n steps starts and where the last lands.

    Args:
        count: n.
        trained: the numbers to take instead, or None.
        dtype: the precision of the numbers.

    Raises:
        ScheduleError: numbers that no levels can have, or fewer than two.
    """
    if trained is None:
        return (torch.linspace(1, 0, count + 1, dtype=dtype) * math.pi / 2).sin() ** 2
    betas = torch.as_tensor(trained, dtype=dtype)
    if (
        betas.ndim != 1
        or len(betas) < 2
        or not ((betas >= 0) & (betas <= 1)).all()
        or (betas[:-1] == 0).any()
    ):
        raise ScheduleError(
            f"trained_betas are {betas.tolist()}: they are √(1−ᾱ) of the levels of a run, at least two in "
            "(0, 1], of which the last may be 0"
        )
    return betas


@drop_in("scheduling_ipndm")
class IPNDMScheduler(IndexScheduler):
    """Improved pseudo numerical methods, of order 1 to 4 as estimates are made."""

    pndm_order = MOST + 1

    def _initialise(self) -> None:
        super()._initialise()
        self._set_timesteps(num_inference_steps=len(self))

    def _configure(self) -> None:
        super()._configure()
        self._parameterisation = PARAMETERISATIONS["v_prediction"]

    def _make_schedule(self) -> NoiseSchedule:
        """Return the schedule at t/T in place of t, or the levels of ``trained_betas`` from low to high."""
        betas = noise_scales(len(self), self._options["trained_betas"], torch.float64)
        rising = torch.tensor(sorted({*betas.tolist()} - {0.0}), dtype=torch.float64)
        return NoiseSchedule.from_alpha_bar((1 - rising) * (1 + rising))

    _make_tables = exact_tables

    def _set_timesteps(self, device: Any = None, **given: Any) -> None:
        check_count(**given)
        super()._set_timesteps(device, **given)
        self.betas, self.alphas = (table.float() for table in self._levels_of(**given))

    def _levels_of(self, num_inference_steps: int) -> tuple[Tensor, Tensor]:
        """Return β and α of the levels of a run, (n + 1,) each, by default with diffusers' rounding."""
        dtype = torch.float64 if self.strict else torch.float32
        betas = noise_scales(num_inference_steps, self._options["trained_betas"], dtype)
        return betas, (1 - betas**2) ** 0.5

    def _make_grid(self, schedule_sigmas: Numbers, **given: Any) -> Grid:
        betas, alphas = self._levels_of(**given)
        timesteps = torch.atan2(betas, alphas) / math.pi * 2
        return Grid(timesteps[:-1].numpy(), levels_of((betas.double() / alphas.double()).tolist()))

    def _restart(self) -> None:
        super()._restart()
        self.ets: list[Tensor] = []
        self._held = 0

    def step(
        self, model_output: Tensor, timestep: float | Tensor, sample: Tensor, return_dict: bool = True
    ) -> Any:
        """Return the sample at the next t; the estimates ε̂ that ``ets`` holds are used, the newest last."""
        if self._step_index is None:
            self._start_run(timestep)
            self._held = len(self.ets)
        step = self._step_at(self._step_index, (self._held,))  # type: ignore[arg-type]
        earlier = self.ets[: -MOST - 1 : -1]
        previous, x_0, eps = self._compute_step(step, model_output, sample, earlier)
        self.ets = [*self.ets[-MOST:], eps]  # type: ignore[list-item]  # every step keeps its own
        self._step_index += 1  # type: ignore[operator]
        return self._output(previous, x_0, return_dict)

    def _make_steps(self, first: int, *options: Any) -> list[Step]:
        (held,) = options
        steps = enumerate(pairwise(self._run.grid.levels[first:]), held)
        return [self._step_of(self._row(t, s, min(count, MOST))) for count, (t, s) in steps]

    def _row(self, t: Level, s: Level, earlier: int) -> Row:
        """Return the row that uses so many earlier estimates."""
        if t.signal or (not earlier and (self.strict or not s.sigma)):
            return adams_bashforth(t, s, earlier)
        if self.strict:
            raise NoAnswerError("estimates made before α = 0, where their sum has no weight: leave ets empty")
        # diffusers reads x̂_0 of the sum of ε̂, of which the newest is x, and divides by MIN_ALPHA for α.
        before, of_sum = ADAMS_BASHFORTH[earlier], s.sigma - s.signal / MIN_ALPHA
        history = (0.0, *(of_sum * weight for weight in before))
        return Row(t.t, s.t, s.sigma - of_sum * sum(before), history, keeps=eps_of(t))
