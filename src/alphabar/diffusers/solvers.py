"""DPM-Solver, UniPC and DEIS, each with the table of the core that it is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor

from alphabar.diffusers.drop_in import drop_in
from alphabar.diffusers.grids import Grid, SolverGrid, solver_grid
from alphabar.diffusers.index_scheduler import IndexScheduler, plain_step, step_with_noise
from alphabar.diffusers.spacings import Numbers
from alphabar.diffusers.steps import Step
from alphabar.errors import ConfigError
from alphabar.samplers import DEIS, RULES, DPMSolver, Row, UniPC, in_eps, mirrored
from alphabar.schedule import Level

__all__ = [
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "UniPCMultistepScheduler",
]

FEW = 15  # steps below which diffusers lowers the order at the end
MULTISTEP_RULES = {"midpoint": "midpoint", "heun": "taylor"}
SINGLESTEP_RULES = {"midpoint": "midpoint", "heun": "exact"}
"""The core's integrals, by diffusers' ``solver_type``."""


def check_ends_noisy(options: Mapping[str, Any]) -> None:
    """Require of a solver in ε̂ that it ends before clean data.

    Raises:
        ConfigError: it ends there.
    """
    in_x_0 = options.get("predict_x0", options.get("algorithm_type", "").endswith("++"))
    if not in_x_0 and options.get("use_flow_sigmas"):
        raise ConfigError(
            "flow matching is solved in x̂_0: choose algorithm_type='dpmsolver++' or predict_x0=True"
        )
    if not in_x_0 and options["final_sigmas_type"] == "zero":
        raise ConfigError(
            "a solver in ε̂ cannot end at clean data, where ε̂ has no weight: choose "
            "final_sigmas_type='sigma_min', or algorithm_type='dpmsolver++', or predict_x0=True"
        )


def eps_rows(solver: DPMSolver | UniPC, levels: Sequence[Level]) -> Iterable[Row]:
    """Return the rows of a solver in x̂_0 as those of the solver in ε̂: on mirrored levels."""
    return map(in_eps, solver.rows([mirrored(level) for level in levels]), levels)


def noisy_in_eps(row: Row, t: Level, s: Level) -> Row:
    """Return the row of ``sde-dpmsolver`` from that of ``dpmsolver``: twice the weight of ε̂, and fresh noise.

    Not for a step onto clean data, where the noise would stay.
    """
    h, of_x_t = s.half_log_snr - t.half_log_snr, s.signal / t.signal
    history = tuple(2 * weight for weight in row.history)
    return replace(row, x=2 * row.x - of_x_t, history=history, z=s.sigma * math.sqrt(math.expm1(2 * h)))


def is_stochastic(self: IndexScheduler) -> bool:
    """Return whether it is a solver of the stochastic equation, which draws at every step."""
    return bool(self._options["algorithm_type"].startswith("sde"))


def multistep_rows(self: IndexScheduler, levels: Sequence[Level], first: int, *options: Any) -> Iterable[Row]:
    """Return DPM-Solver's and DPM-Solver++'s table in multistep form, as ``IndexScheduler._rows``."""
    chosen, few = self._options, len(self.timesteps) < FEW
    rule = "exact" if self.strict and chosen["solver_order"] == 3 else MULTISTEP_RULES[chosen["solver_type"]]
    sde, in_x_0 = self.always_draws, chosen["algorithm_type"].endswith("++")
    make = partial(DPMSolver, rule=rule, sde=sde and in_x_0)
    solver = make(order=chosen["solver_order"], lower_order_final=few and chosen["lower_order_final"])
    rows = list(solver.rows(levels) if in_x_0 else eps_rows(solver, levels))
    if chosen["euler_at_final"]:
        last = make(order=1)
        rows[-1:] = last.rows(levels[-2:]) if in_x_0 else eps_rows(last, levels[-2:])
    return map(noisy_in_eps, rows, levels, levels[1:]) if sde and not in_x_0 else rows


@drop_in("scheduling_dpmsolver_multistep")
class DPMSolverMultistepScheduler(IndexScheduler):
    """DPM-Solver and DPM-Solver++, multistep (Lu et al. 2022)."""

    timestep_dtype = torch.int64
    takes_any_t = True
    needs_timesteps = True
    keeps_sample_dtype = False
    always_draws = property(is_stochastic)
    _rows = multistep_rows
    option_names: ClassVar = {
        "algorithm_type": ("dpmsolver++", "dpmsolver", "sde-dpmsolver", "sde-dpmsolver++"),
        "solver_type": ("midpoint", "heun"),
    }
    names_of_siblings = ("deis", "logrho", "bh1", "bh2")

    def _check_options(self) -> None:
        check_ends_noisy(self._options)

    def _make_grid(self, schedule_sigmas: Numbers, **given: Any) -> Grid:
        kind = SolverGrid(clips=True, truncates_cosine=True)
        return solver_grid(kind, self._options, schedule_sigmas, **given)

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        generator: Any = None,
        variance_noise: Tensor | None = None,
        return_dict: bool = True,
    ) -> Any:
        """Return the sample at the next t."""
        return self._take_step(
            model_output, timestep, sample, return_dict, generator=generator, noise=variance_noise
        )

    def _noise_dtype(self, output: Tensor, sample: Tensor) -> torch.dtype:
        return torch.float32


@drop_in("scheduling_dpmsolver_singlestep")
class DPMSolverSinglestepScheduler(IndexScheduler):
    """DPM-Solver and DPM-Solver++, single-step (Lu et al. 2022)."""

    timestep_dtype = torch.int64
    takes_any_t = True
    needs_timesteps = True
    last_counts = False
    always_draws = property(is_stochastic)
    option_names: ClassVar = {
        "algorithm_type": ("dpmsolver++", "dpmsolver", "sde-dpmsolver++"),
        "solver_type": ("midpoint", "heun"),
    }
    names_of_siblings = ("deis", "logrho", "bh1", "bh2")
    step = step_with_noise

    def _check_options(self) -> None:
        check_ends_noisy(self._options)

    def _make_grid(self, schedule_sigmas: Numbers, **given: Any) -> Grid:
        return solver_grid(SolverGrid(clips=True), self._options, schedule_sigmas, **given)

    @property
    def has_corrector(self) -> bool:  # type: ignore[override]
        """Whether the last evaluation belongs to a step that began before it."""
        return bool(self.order_list[-1] > 1)

    def _set_timesteps(self, *args: Any, **given: Any) -> None:
        super()._set_timesteps(*args, **given)
        order, steps = self._options["solver_order"], len(self.timesteps)
        to_zero = self._options["final_sigmas_type"] == "zero"
        if not self._options["lower_order_final"] and (to_zero or steps % order):
            self.register_to_config(lower_order_final=True)
            self._configure()
        self.order_list = [i % order + 1 for i in range(steps)]
        if to_zero or (self._options["lower_order_final"] and steps % order == 0):
            self.order_list[-1] = 1

    def _steps_between(self, levels: Sequence[Level], first: int, *options: Any) -> Iterable[Step]:
        chosen = self._options["algorithm_type"]
        eps, sde = chosen == "dpmsolver", chosen.startswith("sde")
        orders = [self.order_list[int(level.t)] for level in levels[:-1]]
        solver = DPMSolver(
            order=self._options["solver_order"],
            multistep=False,
            rule=SINGLESTEP_RULES[self._options["solver_type"]],
        )
        start, seen = levels[0], [mirrored(level) for level in levels] if eps else levels
        # Within a step diffusers takes the same integrals as at its end; the authors take the exact ones.
        evaluations = solver.evaluations(seen, orders, sde=sde, within=RULES[solver.rule])
        for (t, s), (made, form, z) in zip(pairwise(levels), evaluations, strict=True):
            row = Row.of(t, s, [0.0, *form[1:]], z)
            row = in_eps(row, t) if eps else row
            start = start if made else t
            yield Step.of(
                row,
                t,
                s,
                self._parameterisation,
                scale=self.scale,
                draws=sde,
                of_start=form[0],
                start=start,
                starts=not made,
            )


@drop_in("scheduling_unipc_multistep")
class UniPCMultistepScheduler(IndexScheduler):
    """UniPC (Zhao et al. 2023)."""

    timestep_dtype = torch.int64
    takes_any_t = True
    needs_timesteps = True
    has_corrector = True
    step = plain_step
    option_names: ClassVar = {"solver_type": ("bh2", "bh1")}
    names_of_siblings = ("midpoint", "heun", "logrho")

    def _check_options(self) -> None:
        check_ends_noisy(self._options)
        if self._options["solver_p"] is not None:
            raise ConfigError(
                "solver_p, another scheduler as predictor, is not supported: it cannot stand in a table of "
                "coefficients, nor in a configuration file: leave it out"
            )

    def _make_grid(self, schedule_sigmas: Numbers, **given: Any) -> Grid:
        kind = SolverGrid(repeats_last=True, flow_from_one=True)
        return solver_grid(kind, self._options, schedule_sigmas, **given)

    def _check_given(self, **given: Any) -> None:
        pass  # sigmas go before num_inference_steps, and pipelines give both

    def _configure(self) -> None:
        super()._configure()
        if not self._options["predict_x0"]:
            self._threshold = None  # as in diffusers: thresholding is for x̂_0, and this solves in ε̂

    def _rows(self, levels: Sequence[Level], first: int, *options: Any) -> Iterable[Row]:
        chosen = self._options
        skipped = tuple(i - first for i in chosen["disable_corrector"] if i >= first)
        solver = UniPC(
            order=chosen["solver_order"],
            scale=chosen["solver_type"],
            lower_order_final=chosen["lower_order_final"],
            uncorrected=skipped,
        )
        return solver.rows(levels) if chosen["predict_x0"] else eps_rows(solver, levels)


@drop_in("scheduling_deis_multistep")
class DEISMultistepScheduler(IndexScheduler):
    """DEIS in log ρ (Zhang & Chen 2023)."""

    timestep_dtype = torch.int64
    takes_any_t = True
    needs_timesteps = True
    option_names: ClassVar = {"algorithm_type": ("deis",), "solver_type": ("logrho",)}
    names_of_siblings = ("dpmsolver", "dpmsolver++", "midpoint", "heun", "bh1", "bh2")
    step = plain_step

    def _make_grid(self, schedule_sigmas: Numbers, **given: Any) -> Grid:
        options = {**self._options, "final_sigmas_type": "zero" if self.strict else "sigma_min"}
        return solver_grid(SolverGrid(repeats_last=True), options, schedule_sigmas, **given)

    def _rows(self, levels: Sequence[Level], first: int, *options: Any) -> Iterable[Row]:
        lowers = self._options["lower_order_final"] and len(self.timesteps) < FEW
        return DEIS(order=self._options["solver_order"], lower_order_final=lowers).rows(levels)
