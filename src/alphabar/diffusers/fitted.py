"""Tables that were fitted to the network of a pipeline, as its scheduler.

    table = alphabar.fit(denoiser, (4, 4, 64, 64), evaluations=8)      of the network, guided as in use
    pipeline.scheduler = FittedScheduler.of(table, prediction_type="epsilon")
    pipeline(prompt, num_inference_steps=8)

    x̂_0         = p · sample + q · output                     clipped where the configuration says so
    prev_sample = a · sample + b_0 · x̂_0 + b_1 · x̂_0' + …     the rows of the table

diffusers has no scheduler of this name: the tables are in its configuration, so that a pipeline that is saved
opens wherever this library is installed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin, SchedulerOutput
from torch import Tensor

from alphabar.checks import check_alike
from alphabar.diffusers.runs import Indexed
from alphabar.errors import ConfigError, ShapeError, TimestepError, look_up
from alphabar.kernels import lincomb
from alphabar.process import PARAMETERISATIONS, coefficients_at, no_answer, spread
from alphabar.samplers import FittedTable, Plan
from alphabar.schedule import levels_at

__all__ = ["FittedScheduler"]

KINDS = {name: PARAMETERISATIONS[name] for name in ("epsilon", "sample", "v_prediction")}


class FittedScheduler(Indexed, SchedulerMixin, ConfigMixin):  # type: ignore[misc]
    """The rows of fitted tables in diffusers' protocol; ``num_inference_steps`` chooses the table.

    Args:
        tables: as :meth:`FittedTable.to_json` returns them, each of another number of evaluations.
        prediction_type: how the network is read: ``"epsilon"``, ``"sample"`` or ``"v_prediction"``.
        clip_sample: clip x̂_0, as the denoiser did that the tables were fitted to if it was ``Clipped``.
        clip_sample_range: to [−range, range].

    Raises:
        ConfigError: no tables, two of one number of evaluations, or tables of different schedules.
        UnknownNameError: another prediction_type.
    """

    order = 1
    init_noise_sigma = 1.0
    _compatibles: ClassVar[list[str]] = []

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        tables: Sequence[dict[str, Any]] | None = None,
        prediction_type: str = "epsilon",
        clip_sample: bool = False,
        clip_sample_range: float = 1.0,
    ) -> None:
        if not tables:
            raise ConfigError("tables are missing: FittedScheduler.of(alphabar.fit(…)) has them")
        read = [FittedTable.from_json(each) for each in tables]
        self.schedule = read[0].schedule
        if any(each.schedule != self.schedule for each in read):
            raise ConfigError("the tables are of different schedules: give those of one network")
        self.tables = {each.evaluations: each for each in read}
        if len(self.tables) < len(read):
            raise ConfigError("two tables have the same number of evaluations: give one of each")
        self.kind = look_up(KINDS, prediction_type, "prediction_type")
        self._limit = float(clip_sample_range) if clip_sample else math.inf
        self.num_inference_steps: int | None = None
        self._enter(next(iter(self.tables)))

    @classmethod
    def of(cls, *tables: FittedTable, **options: Any) -> FittedScheduler:
        """Return the scheduler of these tables; options as of the class."""
        made: FittedScheduler = cls([table.to_json() for table in tables], **options)
        return made

    def __len__(self) -> int:
        return len(self.schedule)

    def set_timesteps(self, num_inference_steps: int, device: torch.device | str | None = None) -> None:
        """Choose the table of so many evaluations.

        Raises:
            ConfigError: there is none.
        """
        if num_inference_steps not in self.tables:
            known = ", ".join(map(str, sorted(self.tables)))
            raise ConfigError(f"num_inference_steps is {num_inference_steps}: there are tables of {known}")
        self._enter(num_inference_steps, device)
        self.num_inference_steps = num_inference_steps

    def _enter(self, evaluations: int, device: torch.device | str | None = None) -> None:
        self._table = self.tables[evaluations]
        self.timesteps = torch.tensor(self._table.table.timesteps, dtype=torch.float32, device=device)
        self._begin_index: int | None = None
        self._restart()

    def _restart(self) -> None:
        self._step_index: int | None = None
        self._plan: Plan | None = None
        self._first = 0
        self._history: list[Tensor] = []

    def scale_model_input(self, sample: Tensor, timestep: float | Tensor | None = None) -> Tensor:
        """Return the sample: the network takes it as it is."""
        return sample

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        generator: Any = None,
        return_dict: bool = True,
    ) -> SchedulerOutput | tuple[Tensor]:
        """Return the sample at the next t; no noise is added, so the generator is not used.

        A run that begins on the way has its rows from there: see :meth:`FittedTable.plan`.

        Raises:
            ShapeError: an output of another shape.
            NoAnswerError: ε-prediction where ᾱ_t = 0.
            TimestepError: a t that is not in ``timesteps``, or a run that is over.
        """
        if model_output.shape != sample.shape:
            given, held = tuple(model_output.shape), tuple(sample.shape)
            raise ShapeError(f"model_output has shape {given}, sample {held}: make them equal")
        if self._plan is None or self._step_index is None:
            self._plan = self._begin(timestep)
        if self._step_index == len(self.timesteps):
            raise TimestepError("the run is over: call set_timesteps")
        row = self._plan.rows[self._step_index - self._first]  # type: ignore[operator]
        wide = torch.promote_types(torch.promote_types(sample.dtype, model_output.dtype), torch.float32)
        x_t, output = sample.to(wide), model_output.to(wide)
        numbers = coefficients_at(self.schedule, self.kind, row.t)
        if not numbers.answers:
            raise no_answer(self.kind, f"t = {row.t}")
        x_0 = lincomb(numbers.x_0, (x_t, output), limit=self._limit)
        previous = row.advance(x_t, (x_0, *self._history)).to(sample.dtype)
        self._history = [row.kept(x_t, x_0), *self._history][: self._plan.memory]
        self._step_index += 1  # type: ignore[operator]
        return SchedulerOutput(prev_sample=previous) if return_dict else (previous,)

    def _begin(self, timestep: float | Tensor) -> Plan:
        """Return the rows from where the run begins."""
        begin = self._begin_index
        first = self.index_for_timestep(timestep) if begin is None else begin
        self._first = self._step_index = first
        start = self._table.table.timesteps[first]
        return self._table.plan(self.schedule, start if first else None)

    def index_for_timestep(self, timestep: float | Tensor) -> int:
        """Return the index of a t in ``timesteps``.

        Raises:
            TimestepError: it is not there.
        """
        found = (self.timesteps == float(timestep)).nonzero()
        if not len(found):
            known = self.timesteps.tolist()
            raise TimestepError(f"timestep {float(timestep)} is not in {known}: take one of those")
        return int(found[0])

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return √ᾱ_t · x_0 + √(1−ᾱ_t) · noise at the t of the table, (B,), as from ``timesteps``."""
        check_alike(original_samples=original_samples, noise=noise)
        exact = [self._table.table.timesteps[self.index_for_timestep(t)] for t in timesteps.reshape(-1)]
        levels = levels_at(self.schedule, exact)
        table = torch.tensor(
            [(level.signal, level.sigma) for level in levels],
            dtype=torch.float64,
            device=original_samples.device,
        )
        of_x_0, of_noise = (spread(column, original_samples) for column in table.T)
        return lincomb((of_x_0, of_noise), (original_samples, noise))
