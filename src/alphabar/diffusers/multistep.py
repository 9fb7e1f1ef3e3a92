"""Schedulers whose step is known by its index in the run, and may use what earlier steps kept.

They hold the sample in one of three coordinate systems (``steps.py``): DPM-Solver, UniPC and DEIS as x, or as
flow matching's x/(√ᾱ + √(1−ᾱ)); Euler, Heun and LMS as x/√ᾱ (``sigma_space.py``).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import compress, pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor

from alphabar.checks import check_alike
from alphabar.diffusers.adapter import Adapter
from alphabar.diffusers.grids import MIN_ALPHA_BAR, Grid, level_grid
from alphabar.diffusers.steps import NO_STEP, Scale, Step, flow_scale, stack, unit_scale
from alphabar.errors import ConfigError, ShapeError, TimestepError, look_up
from alphabar.kernels import lincomb
from alphabar.process import PARAMETERISATIONS, Parameterisation, spread
from alphabar.samplers import Row
from alphabar.schedule import Level

__all__ = ["MultistepScheduler", "plain_step", "step_with_noise"]

FLOW_V = Parameterisation(
    "v_prediction at flow matching's levels",
    target=PARAMETERISATIONS["v_prediction"].target,
    x_0=lambda a, s: (a / (a + s) / (a + s), -s / (a + s)),
    eps=PARAMETERISATIONS["v_prediction"].eps,
)
"""x̂_0 = (1−σ) · sample − σ · output, as diffusers reads v there; it is v's x̂_0 only where ᾱ is 0 or 1."""


class MultistepScheduler(Adapter):
    """Looks a step up by its index in the run."""

    init_noise_sigma: Any = 1.0
    """Standard deviation of the sample that a run starts from."""
    scale: Scale = staticmethod(unit_scale)
    """Level → what x is multiplied by in this scheduler's coordinates."""
    whole: ClassVar[bool] = True
    """Whether its timesteps are whole and spaced as DPM-Solver's are, or as Euler's (see ``level_grid``)."""
    always_draws: ClassVar[bool] = False
    has_corrector: ClassVar[bool] = False
    """Whether a step of no length at the end still changes the sample."""
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
        self.alphas_cumprod[self.alphas_cumprod == 0] = MIN_ALPHA_BAR
        exact = self.schedule.noise_scale / self.schedule.signal_scale.clamp(min=math.sqrt(MIN_ALPHA_BAR))
        rounded = ((1 - self.alphas_cumprod) / self.alphas_cumprod).sqrt()
        self._sigmas = torch.where(rounded.eq(0) | self.strict, exact, rounded.double()).numpy()
        self._exact_sigmas = exact.numpy()
        # All t, until set_timesteps.
        self._set_grid(
            partial(level_grid, {"final_sigmas_type": "zero"}, steps=len(exact), whole=False), None
        )
        self.num_inference_steps = None
        self._rename_options()
        self._check_options()

    def _configure(self) -> None:
        super()._configure()
        is_flow = self._options.get("use_flow_sigmas")
        self.scale = flow_scale if is_flow else type(self).scale
        if is_flow and self._options["prediction_type"] == "v_prediction" and not self.strict:
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

    def _set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        mu: float | None = None,
    ) -> None:
        self._configure()
        if sum(given is not None for given in (num_inference_steps, timesteps, sigmas)) != 1:
            raise ConfigError("give one of num_inference_steps, timesteps and sigmas")
        count = _count(num_inference_steps, timesteps, sigmas)
        given: dict[str, Any] = {"whole": self.whole, "timesteps": timesteps, "sigmas": sigmas, "mu": mu}
        self._set_grid(partial(level_grid, self._grid_options(), steps=count, **given), device)
        self.num_inference_steps = len(self._grid_levels) - 1

    def _grid_options(self) -> dict[str, Any]:
        return {"final_sigmas_type": "zero", **self._options}

    def _set_grid(self, grid_of: Callable[..., Grid], device: Any) -> None:
        grid = grid_of(schedule_sigmas=self._sigmas)
        key = grid.levels, self.strict, {k: v for k, v in self._options.items() if k != "trained_betas"}
        if key != self.__dict__.get("_grid_key"):  # pipelines set the same timesteps for every request
            self._grid_key, self._cached_steps = key, {}
        self._grid_levels, self._eval_levels, timesteps = grid.levels, *self._evaluations(grid)
        self._grid_of = grid_of
        self._noising_levels: tuple[Level, ...] | None = None
        dtype = torch.int64 if self.whole else torch.float32
        self.timesteps = torch.from_numpy(timesteps.copy()).to(device, dtype)
        self._index_of = _indices(self.timesteps.tolist())
        self._restart()

    def _evaluations(self, grid: Grid) -> tuple[tuple[Level, ...], Any]:
        """Return the levels and timesteps of the network's evaluations, the level of the result included."""
        return grid.levels, grid.timesteps

    @property
    def sigmas(self) -> Tensor:
        """(n + 1,) √(1−ᾱ)/√ᾱ of the levels; in flow matching √(1−ᾱ)/(√ᾱ + √(1−ᾱ))."""
        is_flow = self._options.get("use_flow_sigmas")
        sigmas = [x.sigma * flow_scale(x) if is_flow else x.sigma_ve for x in self._eval_levels]
        return torch.tensor(sigmas, dtype=torch.float32)

    # --- the state of a run ---

    def _restart(self) -> None:
        self._step_index: int | None = None
        self._begin_index: int | None = None
        self._first_index = 0
        self._start: Tensor | None = None
        self._history: deque[Tensor] = deque(maxlen=16)

    @property
    def step_index(self) -> int | None:
        """The index of the next step in ``timesteps``; None before the first."""
        return self._step_index

    @property
    def begin_index(self) -> int | None:
        """Where the run begins in ``timesteps``; None where its first t says it."""
        return self._begin_index

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Begin at this index of ``timesteps``, as pipelines that start from an image do."""
        self._begin_index = begin_index

    def index_for_timestep(self, timestep: float | Tensor, schedule_timesteps: Tensor | None = None) -> int:
        """Return the index of a t in ``timesteps``; the second of a repeated one, as in diffusers."""
        indices = self._index_of if schedule_timesteps is None else _indices(schedule_timesteps.tolist())
        t = timestep.item() if isinstance(timestep, Tensor) else timestep
        if t in indices:
            return indices[t]
        if self.whole:
            return len(self.timesteps) - 1
        raise TimestepError(f"timestep {t} is not in the timesteps that were set: take one of those")

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
            steps = self._make_steps(0, *options)
            chosen = [steps[self.index_for_timestep(t)] for t in timestep]
            step = stack(chosen, sample)
            previous, x_0, _ = self._compute_step(step, model_output, sample, generator=generator)
            return self._output(previous, x_0, return_dict)
        if self._step_index is None:
            self._start_run(timestep)
        step = self._next_step(options)
        if step.starts:
            self._start = sample
        previous, x_0, kept = self._compute_step(
            step, model_output, sample, self._history, start=self._start, generator=generator, noise=noise
        )
        if kept is not None:
            self._history.appendleft(kept)
        self._step_index += 1  # type: ignore[operator]
        return self._output(previous, x_0, return_dict)

    def _start_run(self, timestep: float | Tensor) -> None:
        if self.whole and self.num_inference_steps is None:
            raise ConfigError("set_timesteps comes first: the steps are not known")
        if isinstance(timestep, Tensor) and timestep.numel() > 1:
            raise ShapeError(
                f"timestep has shape {tuple(timestep.shape)}: a multistep solver takes the whole batch "
                "through the same timesteps; a t for each sample is for DDPM, DDIM and Euler's method"
            )
        self._init_step_index(timestep)

    def _next_step(self, options: tuple[Any, ...]) -> Step:
        key = self._step_index, self._first_index, options
        if key not in self._cached_steps:  # then so are all others of a run from this first index
            for i, step in enumerate(self._make_steps(self._first_index, *options)):
                self._cached_steps[self._first_index + i, self._first_index, options] = step
        try:
            return self._cached_steps[key]
        except KeyError:
            raise TimestepError(
                f"step {self._step_index} of {len(self.timesteps)}: the run is over: call set_timesteps"
            ) from None

    def _make_steps(self, first: int, *options: Any) -> list[Step]:
        """Return the steps of a run from this index; between equal levels they have no length."""
        levels = self._grid_levels[first:]
        moves = [not math.isclose(t.sigma_ve, s.sigma_ve, rel_tol=1e-9) for t, s in pairwise(levels)]
        distinct = [levels[0], *compress(levels[1:], moves)]
        if not moves[-1]:  # it counts for the order of the steps before, though it has no length
            distinct.append(levels[-1] if self.has_corrector else Level(len(self._grid_levels), 0.0))
            moves[-1] = self.has_corrector
        steps = iter(self._steps_between(distinct, first, *options) if len(distinct) > 1 else ())
        return [next(steps) if move else NO_STEP for move in moves]

    def _steps_between(self, levels: Sequence[Level], first: int, *options: Any) -> Iterable[Step]:
        """Return the steps between levels that differ."""
        return map(self._step_of, self._rows(levels, first, *options))

    def _rows(self, levels: Sequence[Level], first: int, *options: Any) -> Iterable[Row]:
        """Return the core's table on these levels."""
        raise NotImplementedError

    def _step_of(self, row: Row, **start: Any) -> Step:
        t, s = self._grid_levels[int(row.t)], self._grid_levels[int(row.s)]
        draws = self.always_draws or row.is_random
        return Step.of(row, t, s, self._parameterisation, scale=self.scale, draws=draws, **start)

    # --- noising ---

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return the clean samples with the noise of these t, worked out in float64 and rounded once."""
        check_alike(original_samples=original_samples, noise=noise)
        if self._noising_levels is None:  # diffusers' rounding of ᾱ is not wanted here; Euler's σ are exact
            grid = self._grid_of(schedule_sigmas=self._exact_sigmas) if self.whole else None
            self._noising_levels = grid.levels if grid else self._eval_levels
        levels = [self._noising_levels[i] for i in self._noising_indices(timesteps)]
        pairs = [(level.signal * self.scale(level), level.sigma * self.scale(level)) for level in levels]
        table = torch.tensor(pairs, dtype=torch.float64, device=original_samples.device)
        of_x_0, of_noise = (spread(column, original_samples) for column in table.T)
        return lincomb((of_x_0, of_noise), (original_samples, noise))

    def _noising_indices(self, timesteps: Tensor) -> list[int]:
        if self._begin_index is None:
            return [self.index_for_timestep(t) for t in timesteps]
        return [self._begin_index if self._step_index is None else self._step_index] * len(timesteps)


def plain_step(
    self: MultistepScheduler,
    model_output: Tensor,
    timestep: float | Tensor,
    sample: Tensor,
    return_dict: bool = True,
) -> Any:
    """Return the sample at the next t: ``step`` of the solvers that have no option."""
    return self._take_step(model_output, timestep, sample, return_dict)


def step_with_noise(
    self: MultistepScheduler,
    model_output: Tensor,
    timestep: float | Tensor,
    sample: Tensor,
    generator: Any = None,
    return_dict: bool = True,
) -> Any:
    """Return the sample at the next t: ``step`` of the solvers that may add noise."""
    return self._take_step(model_output, timestep, sample, return_dict, generator=generator)


def _indices(timesteps: Sequence[float]) -> dict[float, int]:
    """Return the index of each t; of a repeated one the second."""
    indices: dict[float, list[int]] = {}
    for index, t in enumerate(timesteps):
        indices.setdefault(t, []).append(index)
    return {t: found[:2][-1] for t, found in indices.items()}


def _is_real(timestep: Any) -> bool:
    return isinstance(timestep, Tensor) and timestep.is_floating_point()


def _count(steps: int | None, timesteps: Any, sigmas: Any) -> int:
    if steps is not None:
        return steps
    return len(timesteps) if sigmas is None else len(sigmas) - 1
