"""The solvers of diffusers: for each, which table of the core it is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any, ClassVar

import diffusers
import torch
from torch import Tensor

from alphabar import forward
from alphabar.diffusers.adapter import in_place_of
from alphabar.diffusers.by_index import Exploding, Preserving
from alphabar.diffusers.grids import Grid
from alphabar.diffusers.steps import Step
from alphabar.errors import ConfigError, look_up
from alphabar.levels import Level
from alphabar.plan import Row
from alphabar.samplers import DEIS, LMS, DPMSolver, Euler, EulerAncestral, Heun, UniPC

__all__ = [
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "LMSDiscreteScheduler",
    "UniPCMultistepScheduler",
]

FEW = 15  # steps below which diffusers lowers the order at the end
RULES = {"midpoint": "midpoint", "heun": "taylor"}


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
        if (
            not self._options["algorithm_type"].endswith("++")
            and self._options["final_sigmas_type"] == "zero"
        ):
            raise ConfigError(
                f"algorithm_type {self._options['algorithm_type']!r} cannot end at clean data, where ε̂ has "
                "no weight: choose final_sigmas_type='sigma_min' or algorithm_type='dpmsolver++'"
            )

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
        rule = "exact" if self.strict and chosen["solver_order"] == 3 else RULES[chosen["solver_type"]]
        settings = {"sde": chosen["algorithm_type"].startswith("sde"), "rule": rule}
        kind = DPMSolver if chosen["algorithm_type"].endswith("++") else DEIS
        table = kind(
            order=chosen["solver_order"], lower_order_final=few and chosen["lower_order_final"], **settings
        )
        if chosen["euler_at_final"]:
            return chain(list(table.rows(levels))[:-1], kind(order=1, **settings).rows(levels[-2:]))
        return table.rows(levels)


@in_place_of(diffusers.DPMSolverSinglestepScheduler)
class DPMSolverSinglestepScheduler(Drawing, Renaming):
    """DPM-Solver++, single-step (Lu et al. 2022)."""

    own: ClassVar = {"algorithm_type": ("dpmsolver++",), "solver_type": ("midpoint", "heun")}
    siblings = ("deis", "logrho", "bh1", "bh2")

    def _rows(self, levels: Sequence[Level], entry: int, *options: Any) -> Iterable[Row]:
        order, rule = self._options["solver_order"], {"midpoint": "midpoint", "heun": "exact"}
        return DPMSolver(order=order, multistep=False, rule=rule[self._options["solver_type"]]).rows(levels)


@in_place_of(diffusers.UniPCMultistepScheduler)
class UniPCMultistepScheduler(Plain, Renaming):
    """UniPC (Zhao et al. 2023)."""

    own: ClassVar = {"solver_type": ("bh2", "bh1")}
    siblings = ("midpoint", "heun", "logrho")

    def _begin(self) -> None:
        super()._begin()
        if not self._options["predict_x0"] or self._options["solver_p"] is not None:
            raise ConfigError("predict_x0=False and solver_p are not offered: leave them as they are")

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


@in_place_of(diffusers.EulerDiscreteScheduler)
class EulerDiscreteScheduler(Exploding):
    """Euler's method (Karras et al. 2022)."""

    keeps_dtype = False
    refuses_places = True

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
        if s_churn:
            raise ConfigError(
                "s_churn is not offered: use EulerAncestralDiscreteScheduler for noise on the way"
            )
        return self._stepped(model_output, timestep, sample, return_dict)

    def _rows(self, levels: Sequence[Level], entry: int, *options: Any) -> Iterable[Row]:
        return Euler().rows(levels)

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

    def _rows(self, levels: Sequence[Level], entry: int, *options: Any) -> Iterable[Row]:
        return EulerAncestral().rows(levels)


@in_place_of(diffusers.HeunDiscreteScheduler)
class HeunDiscreteScheduler(Plain, Exploding):
    """Heun's method (Karras et al. 2022): every t but the first twice."""

    def _lay(self, grid: Grid, device: Any) -> None:
        super()._lay(Grid(grid.timesteps.repeat(2)[1:], grid.levels), device)
        twice = [level for level in grid.levels[1:-1] for _ in range(2)]
        self._visited = (grid.levels[0], *twice, grid.levels[-1])

    def _steps(self, entry: int, *options: Any) -> list[Step]:
        stops = self._stops[(entry + 1) // 2 :]
        return [self._step_of(row) for row in Heun().rows(stops)]

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
