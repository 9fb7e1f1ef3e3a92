"""The solvers of diffusers that keep x itself: for each, which table of the core it is."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain, pairwise
from typing import Any, ClassVar

import diffusers
import torch
from torch import Tensor

from alphabar.diffusers.adapter import in_place_of
from alphabar.diffusers.multistep import Preserving
from alphabar.diffusers.steps import Step
from alphabar.errors import ConfigError, look_up
from alphabar.samplers import DEIS, RULES, DPMSolver, Row, UniPC, in_eps, mirrored
from alphabar.schedule import Level

__all__ = [
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "Drawing",
    "Plain",
    "UniPCMultistepScheduler",
]

FEW = 15  # steps below which diffusers lowers the order at the end
OURS = {"midpoint": "midpoint", "heun": "taylor"}
"""Their names for the integrals of a multistep solver, and ours."""


class Plain:
    """``step`` of the solvers that take no option."""

    def step(
        self: Any, model_output: Tensor, timestep: float | Tensor, sample: Tensor, return_dict: bool = True
    ) -> Any:
        """Return the sample at the next t."""
        return self._stepped(model_output, timestep, sample, return_dict)


class Drawing:
    """``step`` of the solvers that may add noise."""

    def step(
        self: Any,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        generator: Any = None,
        return_dict: bool = True,
    ) -> Any:
        """Return the sample at the next t."""
        return self._stepped(model_output, timestep, sample, return_dict, generator=generator)


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


class Renaming(Preserving):
    """Takes its siblings' ``solver_type`` and ``algorithm_type`` for its own, as diffusers does."""

    own: ClassVar[dict[str, tuple[str, ...]]] = {}
    siblings: ClassVar[tuple[str, ...]] = ()

    def _begin(self) -> None:
        super()._begin()
        for option, names in self.own.items():
            given = self._options[option]
            if given in self.siblings:
                self.register_to_config(**{option: names[0]})
            else:
                look_up(dict.fromkeys(names), given, option)
        self._configure()


@in_place_of(diffusers.DPMSolverMultistepScheduler)
class DPMSolverMultistepScheduler(Renaming):
    """DPM-Solver and DPM-Solver++, multistep (Lu et al. 2022)."""

    keeps_dtype = False
    own: ClassVar = {
        "algorithm_type": ("dpmsolver++", "dpmsolver", "sde-dpmsolver", "sde-dpmsolver++"),
        "solver_type": ("midpoint", "heun"),
    }
    siblings = ("deis", "logrho", "bh1", "bh2")

    def _begin(self) -> None:
        super()._begin()
        check_ends_noisy(self._options)

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
        return self._stepped(
            model_output, timestep, sample, return_dict, generator=generator, noise=variance_noise
        )

    def _drawn(self, output: Tensor) -> torch.dtype:
        return torch.float32

    def _rows(self, levels: Sequence[Level], entry: int, *options: Any) -> Iterable[Row]:
        chosen, few = self._options, len(self.timesteps) < FEW
        rule = "exact" if self.strict and chosen["solver_order"] == 3 else OURS[chosen["solver_type"]]
        sde, in_x_0 = chosen["algorithm_type"].startswith("sde"), chosen["algorithm_type"].endswith("++")
        make: Callable[..., DPMSolver | DEIS] = partial(DPMSolver, sde=sde) if in_x_0 else DEIS
        lowers = few and chosen["lower_order_final"]
        rows = make(order=chosen["solver_order"], lower_order_final=lowers, rule=rule).rows(levels)
        if chosen["euler_at_final"]:
            rows = chain(list(rows)[:-1], make(order=1, rule=rule).rows(levels[-2:]))
        return map(noisy_in_eps, rows, levels, levels[1:]) if sde and not in_x_0 else rows


def noisy_in_eps(row: Row, t: Level, s: Level) -> Row:
    """Return "sde-dpmsolver"'s row from "dpmsolver"'s: twice the weight of every ε̂, and fresh noise.

    At clean data that noise would stay: the solver ends before.
    """
    h, of_x_t = s.half_log_snr - t.half_log_snr, s.signal / t.signal
    history = tuple(2 * weight for weight in row.history)
    return replace(row, x=2 * row.x - of_x_t, history=history, z=s.sigma * math.sqrt(math.expm1(2 * h)))


@in_place_of(diffusers.DPMSolverSinglestepScheduler)
class DPMSolverSinglestepScheduler(Drawing, Renaming):
    """DPM-Solver and DPM-Solver++, single-step (Lu et al. 2022)."""

    own: ClassVar = {
        "algorithm_type": ("dpmsolver++", "dpmsolver", "sde-dpmsolver++"),
        "solver_type": ("midpoint", "heun"),
    }
    siblings = ("deis", "logrho", "bh1", "bh2")

    def _begin(self) -> None:
        super()._begin()
        check_ends_noisy(self._options)

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

    def _between(self, levels: Sequence[Level], entry: int, *options: Any) -> Iterable[Step]:
        chosen, rule = self._options["algorithm_type"], {"midpoint": "midpoint", "heun": "exact"}
        eps, sde = chosen == "dpmsolver", chosen.startswith("sde")
        orders = [self.order_list[int(level.t)] for level in levels[:-1]]
        solver = DPMSolver(
            order=self._options["solver_order"],
            multistep=False,
            rule=rule[self._options["solver_type"]],
        )
        seen = [mirrored(level) for level in levels] if eps else levels
        found = solver.evaluations(seen, orders, sde=sde, within=RULES[solver.rule])  # the authors' are exact
        for (t, s), (made, form, noise) in zip(pairwise(levels), found, strict=True):
            row = Row.of(t, s, [0.0, *form[1:]], noise)
            row = in_eps(row, t) if eps else row
            yield Step.of(row, t, s, self._reading, draws=sde, of_start=form[0], begins=not made)


@in_place_of(diffusers.UniPCMultistepScheduler)
class UniPCMultistepScheduler(Plain, Renaming):
    """UniPC (Zhao et al. 2023)."""

    corrects = True
    own: ClassVar = {"solver_type": ("bh2", "bh1")}
    siblings = ("midpoint", "heun", "logrho")

    def _begin(self) -> None:
        super()._begin()
        check_ends_noisy(self._options)
        if self._options["solver_p"] is not None:
            raise ConfigError(
                "solver_p puts another scheduler in the predictor's place, which no row can hold, and no "
                "configuration file: leave it out"
            )

    def _configure(self) -> None:
        super()._configure()
        if not self._options["predict_x0"]:
            self._threshold = None  # as in diffusers: what is bounded is x̂_0, and this predicts ε̂

    def _between(self, levels: Sequence[Level], entry: int, *options: Any) -> Iterable[Step]:
        if self._options["predict_x0"]:
            return super()._between(levels, entry, *options)
        rows = self._rows([mirrored(level) for level in levels], entry, *options)
        return (self._step_of(in_eps(row, t)) for row, t in zip(rows, levels, strict=False))

    def _rows(self, levels: Sequence[Level], entry: int, *options: Any) -> Iterable[Row]:
        chosen = self._options
        skipped = tuple(i - entry for i in chosen["disable_corrector"])
        return UniPC(
            order=chosen["solver_order"],
            scale=chosen["solver_type"],
            lower_order_final=chosen["lower_order_final"],
            uncorrected=skipped,
        ).rows(levels)


@in_place_of(diffusers.DEISMultistepScheduler)
class DEISMultistepScheduler(Plain, Renaming):
    """DEIS in log ρ (Zhang & Chen 2023)."""

    own: ClassVar = {"algorithm_type": ("deis",), "solver_type": ("logrho",)}
    siblings = ("dpmsolver", "dpmsolver++", "midpoint", "heun", "bh1", "bh2")

    def _layout(self) -> dict[str, Any]:
        return {**self._options, "final_sigmas_type": "zero" if self.strict else "sigma_min"}

    def _rows(self, levels: Sequence[Level], entry: int, *options: Any) -> Iterable[Row]:
        lowers = self._options["lower_order_final"] and len(self.timesteps) < FEW
        return DEIS(order=self._options["solver_order"], lower_order_final=lowers).rows(levels)
