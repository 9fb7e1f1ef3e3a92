"""The base of schedulers whose step is known by its index in the run, and may use what earlier steps kept."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import compress, pairwise
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from alphabar.checks import check_alike
from alphabar.diffusers.adapter import Adapter
from alphabar.diffusers.grids import MIN_ALPHA_BAR, Grid, check_falling, is_same_level, levels_of
from alphabar.diffusers.runs import Indexed, Run, frozen, indices, kept_run
from alphabar.diffusers.spacings import Numbers
from alphabar.diffusers.steps import FLOW_V, Scale, Step, flow_scale, sigma_scale, stack, unit_scale
from alphabar.errors import ConfigError, ShapeError, TimestepError, UnknownTimestepError, look_up
from alphabar.kernels import lincomb
from alphabar.process import spread
from alphabar.samplers import Row
from alphabar.schedule import Level

__all__ = ["IndexScheduler", "exact_tables", "plain_step", "step_with_noise"]


class IndexScheduler(Indexed, Adapter):
    """Looks a step up by its index in the run.

    A scheduler of this kind defines ``_make_grid`` and one of ``_rows``, ``_steps_between``, ``_make_steps``.
    """

    init_noise_sigma: Any = 1.0
    """Standard deviation of the sample that a run starts from."""
    scale: Scale = staticmethod(unit_scale)
    """Level → what x is multiplied by in this scheduler's coordinates."""
    timestep_dtype: ClassVar[torch.dtype] = torch.float32
    takes_any_t: ClassVar[bool] = False
    """Whether a t that is not in ``timesteps`` stands for the last one, or is an error."""
    needs_timesteps: ClassVar[bool] = False
    """Whether ``set_timesteps`` must come before the first step; else all T are set at first."""
    always_draws: ClassVar[bool] = False
    """Whether diffusers draws noise at every step, used or not."""
    has_corrector: ClassVar[bool] = False
    """Whether a step of no length at the end still changes the sample."""
    last_counts: ClassVar[bool] = True
    """Whether such a step counts where the order is lowered towards the end."""
    returns_kept: ClassVar[bool] = False
    """Whether what a step keeps is returned beside prev_sample, or x̂_0."""
    min_alpha_bar: ClassVar[float] = MIN_ALPHA_BAR
    """What diffusers takes for ᾱ_T where it is 0."""
    uses_history: ClassVar[bool] = True
    """Whether a step uses those before it; where none does, each sample of a batch may have its own t."""
    refuses_indices: ClassVar[bool] = False
    """Whether a whole number as timestep is refused: 17 is more likely an index in timesteps than t = 17."""
    option_names: ClassVar[dict[str, tuple[str, ...]]] = {}
    """What an option may be, the default first."""
    names_of_siblings: ClassVar[tuple[str, ...]] = ()
    """What such an option may be in another scheduler's configuration: diffusers takes the default for it."""

    def _initialise(self) -> None:
        super()._initialise()
        self._rename_options()
        self._check_options()
        self._given: dict[str, Any] | None = None
        self._enter_run(None)

    def _make_tables(self) -> None:
        super()._make_tables()
        self.alphas_cumprod[self.alphas_cumprod == 0] = self.min_alpha_bar
        signal = self.schedule.signal_scale
        exact = self.schedule.noise_scale / signal.where(signal > 0, math.sqrt(self.min_alpha_bar))
        alpha_bar = self.alphas_cumprod[: len(self.schedule)]
        rounded = ((1 - alpha_bar) / alpha_bar).sqrt()
        self._sigmas = torch.where(rounded.eq(0) | self.strict, exact, rounded.double()).numpy()
        self._exact_sigmas = exact.numpy()

    def _configure(self) -> None:
        super()._configure()
        if not self._options.get("use_flow_sigmas"):
            return
        self.scale = flow_scale
        if self._options["prediction_type"] == "v_prediction" and not self.strict:
            self._parameterisation = FLOW_V

    def _rename_options(self) -> None:
        for option, names in self.option_names.items():
            given = self._options[option]
            if given in self.names_of_siblings:
                self.register_to_config(**{option: names[0]})
            else:
                look_up(dict.fromkeys(names), given, option)
        self._configure()

    def _check_options(self) -> None:
        """Refuse options that contradict each other."""

    def _set_timesteps(self, device: Any = None, **given: Any) -> None:
        self._configure()
        self._check_given(**given)
        self._given = {name: frozen(value) for name, value in given.items()}
        self._enter_run(device)

    def _check_given(self, **given: Any) -> None:
        """Require of the arguments of ``set_timesteps`` that they say once how many steps there are."""
        if sum(given.get(name) is not None for name in ("num_inference_steps", "timesteps", "sigmas")) != 1:
            raise ConfigError("give one of num_inference_steps, timesteps and sigmas")

    def _enter_run(self, device: Any) -> None:
        self._run = self._find_run()
        self.timesteps = self._run.timesteps.to(device, copy=True)
        self.num_inference_steps = None if self._given is None else self._count(self._given)
        self._restart()

    def _find_run(self, *, exact: bool = False) -> Run:
        """Return the run that was set, on levels as diffusers rounds them or on exact ones."""
        sigmas = self._exact_sigmas if exact else self._sigmas

        def make() -> Run:
            grid = self._all_levels(sigmas) if self._given is None else self._make_grid(sigmas, **self._given)
            return Run(grid, torch.from_numpy(np.array(grid.timesteps)).to(self.timestep_dtype))

        return kept_run((type(self).__name__, self.strict, exact, self._settings, frozen(self._given)), make)

    def _make_grid(self, schedule_sigmas: Numbers, **given: Any) -> Grid:
        """Return the timesteps and levels of a run, from what ``set_timesteps`` was given but the device.

        Args:
            schedule_sigmas: (T,) float64, √(1−ᾱ)/√ᾱ of the schedule.
            given: the arguments by diffusers' names; lists and tensors as tuples.
        """
        raise NotImplementedError

    def _all_levels(self, schedule_sigmas: Numbers) -> Grid:
        """Return the grid before ``set_timesteps``: every t."""
        levels = levels_of([*schedule_sigmas[::-1].tolist(), 0.0])
        return Grid(np.arange(len(schedule_sigmas))[::-1], levels, of_schedule=True)

    def _count(self, given: dict[str, Any]) -> int:
        """Return how many steps a run has: with two evaluations a step fewer than timesteps."""
        steps, listed = given.get("num_inference_steps"), given.get("timesteps") or given.get("sigmas")
        return min(steps or len(listed or ()), len(self._run.timesteps))

    @property
    def sigmas(self) -> Tensor:
        """(n + 1,) √(1−ᾱ)/√ᾱ of the levels; in flow matching √(1−ᾱ)/(√ᾱ + √(1−ᾱ))."""
        is_flow = self.scale is flow_scale
        sigmas = [x.sigma * flow_scale(x) if is_flow else x.sigma_ve for x in self._run.evaluations]
        return torch.tensor(sigmas, dtype=torch.float32)

    def scale_model_input(self, sample: Tensor, timestep: float | Tensor = 0.0) -> Tensor:
        """Return what the network takes: the sample itself, or c_in · √ᾱ · sample of one held as x/√ᾱ."""
        if self.scale is not sigma_scale:
            return sample
        self.is_scale_input_called = True
        if not self.uses_history and isinstance(timestep, Tensor) and timestep.numel() > 1:
            levels = [self._run.evaluations[self.index_for_timestep(t)] for t in timestep]
            scales = torch.tensor([self._input_scale(level) for level in levels], dtype=torch.float64)
            return lincomb((spread(scales.to(sample.device), sample),), (sample,))
        if self._step_index is None:
            self._start_run(timestep)
        level = self._run.evaluations[self._step_index]  # type: ignore[index]
        return lincomb((self._input_scale(level),), (sample,))

    def _input_scale(self, level: Level) -> float:
        return level.signal * float(self._parameterisation.input(level.signal, level.sigma))

    # --- the state of a run ---

    def _restart(self) -> None:
        self._step_index: int | None = None
        self._begin_index: int | None = None
        self._first_index = 0
        self._start: Tensor | None = None
        self._history: deque[Tensor] = deque(maxlen=16)

    def index_for_timestep(self, timestep: float | Tensor, schedule_timesteps: Tensor | None = None) -> int:
        """Return the index of a t in ``timesteps``; the second of a repeated one, as in diffusers."""
        given = schedule_timesteps
        index_of = self._run.index_of if given is None else indices(given.tolist())
        t = timestep.item() if isinstance(timestep, Tensor) else timestep
        if t in index_of:
            return index_of[t]
        if self.takes_any_t:
            return len(self.timesteps) - 1
        raise UnknownTimestepError(f"timestep {t} is not in the timesteps that were set: take one of those")

    def _init_step_index(self, timestep: float | Tensor) -> None:
        begin = self._begin_index
        if begin is None:  # a run from the first t has index 0 even where that t is repeated
            begin = 0 if timestep == self.timesteps[0] else self.index_for_timestep(timestep)
        self._step_index = self._first_index = begin
        self._history.clear()

    # --- a step ---

    def _take_step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        return_dict: bool,
        *options: Any,
        generator: Any = None,
        noise: Tensor | None = None,
    ) -> Any:
        if self.refuses_indices and not (isinstance(timestep, float) or _is_real(timestep)):
            raise TimestepError(
                f"timestep is {timestep!r}, a whole number: pass one of timesteps, not its index"
            )
        if not self.uses_history and isinstance(timestep, Tensor) and timestep.numel() > 1:
            step = stack([self._step_at(self.index_for_timestep(t), options) for t in timestep], sample)
            found = self._compute_step(step, model_output, sample, generator=generator)
            return self._found(*found, return_dict)
        if self.needs_timesteps and self.num_inference_steps is None:
            raise ConfigError("set_timesteps comes first: the steps are not known")
        if self._step_index is None:
            self._start_run(timestep)
        step = self._step_at(self._step_index, options)  # type: ignore[arg-type]
        if step.starts:
            self._start = sample
        previous, x_0, kept = self._compute_step(
            step, model_output, sample, self._history, start=self._start, generator=generator, noise=noise
        )
        if kept is not None and self.uses_history:
            self._history.appendleft(kept)
        self._step_index += 1  # type: ignore[operator]
        return self._found(previous, x_0, kept, return_dict)

    def _found(self, previous: Tensor, x_0: Tensor, kept: Tensor | None, return_dict: bool) -> Any:
        if self.returns_kept and kept is not None:  # kept in float32 of a half-precision sample
            return self._output(previous, kept.to(previous.dtype), return_dict)
        return self._output(previous, x_0, return_dict)

    def _start_run(self, timestep: float | Tensor) -> None:
        if isinstance(timestep, Tensor) and timestep.numel() > 1:
            raise ShapeError(
                f"timestep has shape {tuple(timestep.shape)}: a multistep solver takes the whole batch "
                "through the same timesteps; a t for each sample is for DDPM, DDIM and Euler's method"
            )
        self._init_step_index(timestep)

    def _step_at(self, index: int, options: tuple[Any, ...]) -> Step:
        first = self._first_index if self.uses_history else 0
        key = index, first, options
        step = self._run.steps.get(key)
        if step is None and index < len(self._run.grid.timesteps):
            start = first if self.uses_history else index  # a step not taken may have no answer
            made = enumerate(self._make_steps(start, *options), start)
            step = self._run.keep({(k, first, options): step for k, step in made}).get(key)
        if step is None:
            raise TimestepError(f"step {index} of {len(self.timesteps)}: the run is over: call set_timesteps")
        return step

    def _make_steps(self, first: int, *options: Any) -> list[Step]:
        """Return the steps of a run from this index; between equal levels they have no length."""
        levels = self._run.grid.levels[first:]
        if self.always_draws:
            check_falling(levels)
        moves = [not is_same_level(t, s) for t, s in pairwise(levels)]
        moves[-1] = moves[-1] or self.has_corrector
        distinct = [levels[0], *compress(levels[1:], moves)]
        if not moves[-1] and self.last_counts:
            distinct.append(Level(len(self._run.grid.levels), 0.0))
        steps = iter(self._steps_between(distinct, first, *options) if len(distinct) > 1 else ())
        still = partial(Step.still, self._parameterisation, self.scale, draws=self.always_draws)
        return [next(steps) if move else still(t) for move, t in zip(moves, levels, strict=False)]

    def _steps_between(self, levels: Sequence[Level], first: int, *options: Any) -> Iterable[Step]:
        """Return the steps between levels that differ."""
        return map(self._step_of, self._rows(levels, first, *options))

    def _rows(self, levels: Sequence[Level], first: int, *options: Any) -> Iterable[Row]:
        """Return the core's table on these levels."""
        raise NotImplementedError

    def _step_of(self, row: Row, **start: Any) -> Step:
        levels = self._run.grid.levels
        t, s = levels[int(row.t)], levels[int(row.s)]
        draws = self.always_draws or row.is_random
        return Step.of(row, t, s, self._parameterisation, scale=self.scale, draws=draws, **start)

    # --- noising ---

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return the clean samples with the noise of these t, worked out in float64 and rounded once."""
        check_alike(original_samples=original_samples, noise=noise)
        # diffusers' rounding of ᾱ is not wanted here, but a run spaced in σ goes on from its own levels.
        noising = self._find_run(exact=self._run.grid.of_schedule).evaluations
        levels = [noising[i] for i in self._noising_indices(timesteps)]
        pairs = [(level.signal * self.scale(level), level.sigma * self.scale(level)) for level in levels]
        table = torch.tensor(pairs, dtype=torch.float64, device=original_samples.device)
        of_x_0, of_noise = (spread(column, original_samples) for column in table.T)
        return lincomb((of_x_0, of_noise), (original_samples, noise))

    def _noising_indices(self, timesteps: Tensor) -> list[int]:
        if self._begin_index is None:
            return [self.index_for_timestep(t) for t in timesteps]
        return [self._begin_index if self._step_index is None else self._step_index] * len(timesteps)


def exact_tables(self: IndexScheduler) -> None:
    """Take σ from the schedule as it is: ``_make_tables`` where the configuration has no β."""
    self._sigmas = self._exact_sigmas = (self.schedule.noise_scale / self.schedule.signal_scale).numpy()


def plain_step(
    self: IndexScheduler,
    model_output: Tensor,
    timestep: float | Tensor,
    sample: Tensor,
    return_dict: bool = True,
) -> Any:
    """Return the sample at the next t: ``step`` of the solvers that have no option."""
    return self._take_step(model_output, timestep, sample, return_dict)


def step_with_noise(
    self: IndexScheduler,
    model_output: Tensor,
    timestep: float | Tensor,
    sample: Tensor,
    generator: Any = None,
    return_dict: bool = True,
) -> Any:
    """Return the sample at the next t: ``step`` of the solvers that may add noise."""
    return self._take_step(model_output, timestep, sample, return_dict, generator=generator)


def _is_real(timestep: Any) -> bool:
    return isinstance(timestep, Tensor) and timestep.is_floating_point()
