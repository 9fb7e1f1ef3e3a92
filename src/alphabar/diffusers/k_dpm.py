"""DPM-Solver-2 with and without noise, which holds x/√ᾱ: two evaluations a step, but one in the last.

The second evaluation of a step is in its middle, σ_m = √(σ_t σ_d), and its timestep is interpolated between
whole ones in log σ.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import chain, pairwise
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from alphabar.diffusers.drop_in import drop_in
from alphabar.diffusers.grids import Grid
from alphabar.diffusers.index_scheduler import IndexScheduler, plain_step, step_with_noise
from alphabar.diffusers.sigma_space import init_noise_sigma, make_sigma_grid
from alphabar.diffusers.spacings import Numbers, chosen_spacing, t_of
from alphabar.diffusers.steps import Step, sigma_scale
from alphabar.samplers import DPM2, Euler, Row
from alphabar.schedule import Level

__all__ = ["KDPM2AncestralDiscreteScheduler", "KDPM2DiscreteScheduler"]


def make_grid(self: IndexScheduler, schedule_sigmas: Numbers, **given: Any) -> Grid:
    """Return the grid of a run with its middles, as ``IndexScheduler._make_grid``."""
    grid = make_sigma_grid(self, schedule_sigmas, **given)
    if self._options["use_karras_sigmas"]:  # diffusers rounds them here, of all spacings
        grid = replace(grid, timesteps=grid.timesteps.round())
    return with_middles(grid, self.solver, schedule_sigmas)


def all_levels(self: IndexScheduler, schedule_sigmas: Numbers) -> Grid:
    """Return the grid before ``set_timesteps``, as ``IndexScheduler._all_levels``."""
    return with_middles(IndexScheduler._all_levels(self, schedule_sigmas), self.solver, schedule_sigmas)


def with_middles(grid: Grid, solver: DPM2, schedule_sigmas: Numbers) -> Grid:
    """Return the grid with the middle of each step but the last after its start."""
    middles = [solver.middle(t, s) for t, s in pairwise(grid.levels[:-1])]
    sigmas = np.array([level.sigma_ve for level in middles])
    timesteps = interleaved(grid.timesteps, t_of(sigmas, schedule_sigmas))
    levels = [*interleaved(grid.levels[:-1], middles), grid.levels[-1]]
    placed = tuple(Level(i, level.log_alpha_bar) for i, level in enumerate(levels))
    return Grid(np.array(timesteps), placed, of_schedule=grid.of_schedule)


def interleaved(starts: Iterable[Any], middles: Iterable[Any]) -> list[Any]:
    """Return the first start, the first middle, the second start, …, the last start."""
    first, *rest = starts
    return [first, *chain.from_iterable(zip(middles, rest, strict=True))]


def make_steps(self: IndexScheduler, first: int, *options: Any) -> list[Step]:
    """Return the steps of a run from this index, as ``IndexScheduler._make_steps``.

    A run that begins in the middle of a step takes Euler's to its end.
    """
    levels = self._run.grid.levels[first:]
    to_end = list(Euler().rows(levels[:2])) if first % 2 else []
    stages = [self._step_of(row) for row in to_end]
    for row in self.solver.rows(levels[len(to_end) :]):
        stages.append(second_stage(self, row) if int(row.t) % 2 else self._step_of(row, starts=True))
    return [replace(stage, kept=None) for stage in stages]


def second_stage(self: IndexScheduler, row: Row) -> Step:
    """Return the second stage as a step from x_t, since inpainting may change what the first one gave."""
    t, m, s = self._run.grid.levels[int(row.t) - 1 : int(row.t) + 2]
    of_x_0 = row.history[0]  # x_s/√ᾱ_s = x_t/√ᾱ_t + (ρ_d − ρ_t)/ρ_m · (x_m/√ᾱ_m − x̂_0')
    alone = replace(row, x=-of_x_0 / m.signal, history=(of_x_0,))
    step = self._step_of(alone, of_start=s.signal / t.signal, start=t)
    step = replace(step, draws=self.solver.eta > 0)  # as diffusers draws, also over no length
    return step if self._changes_x_0 else step.written_out()


def sigmas(self: IndexScheduler) -> Tensor:
    """Return (2n + 2,) √(1−ᾱ)/√ᾱ where steps start and land, each twice but the first; thrice the last."""
    levels = self._run.grid.levels
    first, *rest = [level.sigma_ve for level in (*levels[::2], levels[-1])]
    return torch.tensor([first, *(sigma for sigma in rest for _ in range(2)), rest[-1]], dtype=torch.float32)


def timestep_dtype(self: IndexScheduler) -> torch.dtype:
    """Return the precision of ``timesteps``: in diffusers float64 where σ is spaced."""
    return torch.float64 if chosen_spacing(self._options) else torch.float32


def state_in_first_order(self: IndexScheduler) -> bool:
    """Return whether the next evaluation begins a step."""
    return (self._step_index or 0) % 2 == 0 or self._step_index == self._first_index


def noising_indices(self: IndexScheduler, timesteps: Tensor) -> list[int]:
    """Return the levels' indices for ``add_noise``: in diffusers a middle has the noise of its step's end."""
    found = IndexScheduler._noising_indices(self, timesteps)
    last = len(self._run.grid.levels) - 1
    return [index if self.strict else min(index + index % 2, last) for index in found]


@drop_in("scheduling_k_dpm_2_discrete")
class KDPM2DiscreteScheduler(IndexScheduler):
    """DPM-Solver-2 (Lu et al. 2022)."""

    solver: ClassVar = DPM2()
    scale = staticmethod(sigma_scale)
    is_scale_input_called = False
    init_noise_sigma = property(init_noise_sigma)
    sigmas = property(sigmas)
    state_in_first_order = property(state_in_first_order)
    timestep_dtype = property(timestep_dtype)
    _all_levels = all_levels
    _make_grid = make_grid
    _make_steps = make_steps
    _noising_indices = noising_indices
    step = plain_step


@drop_in("scheduling_k_dpm_2_ancestral_discrete")
class KDPM2AncestralDiscreteScheduler(IndexScheduler):
    """DPM-Solver-2 down to where noise takes it up again."""

    solver: ClassVar = DPM2(eta=1.0)
    scale = staticmethod(sigma_scale)
    is_scale_input_called = False
    init_noise_sigma = property(init_noise_sigma)
    sigmas = property(sigmas)
    state_in_first_order = property(state_in_first_order)
    timestep_dtype = property(timestep_dtype)
    _all_levels = all_levels
    _make_grid = make_grid
    _make_steps = make_steps
    _noising_indices = noising_indices
    step = step_with_noise
