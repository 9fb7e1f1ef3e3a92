"""Solvers, whose step is known by how many came before it: a run has a place, and a memory.

Of the two kinds of sample that diffusers' solvers hold, DPM-Solver, UniPC and DEIS keep x itself, on whole t;
Euler, Heun and LMS keep x/√ᾱ, which starts with the standard deviation ``init_noise_sigma``.
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
from alphabar.diffusers.grids import LEAST, Grid, level_grid
from alphabar.diffusers.steps import STAY, Ready, Step, mixed
from alphabar.errors import ConfigError, ShapeError, TimestepError
from alphabar.kernels import lincomb
from alphabar.process import spread
from alphabar.samplers import Row
from alphabar.schedule import Level

__all__ = ["ByIndex", "Exploding", "Preserving"]


class ByIndex(Adapter):
    """Looks a step up by its place in the run, and remembers what earlier steps kept."""

    whole: ClassVar[bool] = True
    """Whether it is laid out as DPM-Solver is (see ``level_grid``), and keeps x itself."""
    always_draws: ClassVar[bool] = False
    corrects: ClassVar[bool] = False
    """Whether a step of no length at the end still changes the sample."""
    remembers: ClassVar[bool] = True
    """Whether a step needs those before it; where it does not, each sample of a batch may have its own t."""
    refuses_places: ClassVar[bool] = False
    """Whether a whole number as timestep is refused: 17 is more likely the place of a t than t = 17."""

    def _begin(self) -> None:
        super()._begin()
        self.alphas_cumprod[self.alphas_cumprod == 0] = LEAST
        exact = self.schedule.noise_scale / self.schedule.signal_scale.clamp(min=math.sqrt(LEAST))
        rounded = ((1 - self.alphas_cumprod) / self.alphas_cumprod).sqrt()
        self._ratios = torch.where(rounded.eq(0) | self.strict, exact, rounded.double()).numpy()
        self._exact = exact.numpy()
        # All t, until set_timesteps.
        self._lay(partial(level_grid, {"final_sigmas_type": "zero"}, steps=len(exact), whole=False), None)
        self.num_inference_steps = None

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
        self._lay(partial(level_grid, self._layout(), steps=count, **given), device)
        self.num_inference_steps = len(self._stops) - 1

    def _layout(self) -> dict[str, Any]:
        return {"final_sigmas_type": "zero", **self._options}

    def _lay(self, grid_of: Callable[..., Grid], device: Any) -> None:
        grid = grid_of(ratios=self._ratios)
        laid = grid.levels, self.strict, {k: v for k, v in self._options.items() if k != "trained_betas"}
        if laid != self.__dict__.get("_laid"):  # pipelines lay the same grid again for every request
            self._laid, self._ready = laid, {}
        self._stops, self._visited, timesteps = grid.levels, *self._asked(grid)
        self._grid_of = grid_of
        self._noising: tuple[Level, ...] | None = None
        dtype = torch.int64 if self.whole else torch.float32
        self.timesteps = torch.from_numpy(timesteps.copy()).to(device, dtype)
        self._places = _places(self.timesteps.tolist())
        self._restart()

    def _asked(self, grid: Grid) -> tuple[tuple[Level, ...], Any]:
        """Return the levels and the t at which the network is asked."""
        return grid.levels, grid.timesteps

    @property
    def sigmas(self) -> Tensor:
        """(n + 1,) ρ = √(1−ᾱ)/√ᾱ of the stops; in flow matching σ."""
        of = "sigma" if self._options.get("use_flow_sigmas") else "sigma_ve"
        return torch.tensor([getattr(level, of) for level in self._visited], dtype=torch.float32)

    # --- the place in the run ---

    def _restart(self) -> None:
        self._step_index: int | None = None
        self._begin_index: int | None = None
        self._entry = 0
        self._begun: Tensor | None = None
        self._history: deque[Tensor] = deque(maxlen=16)

    @property
    def step_index(self) -> int | None:
        """How many steps were taken; None before the first."""
        return self._step_index

    @property
    def begin_index(self) -> int | None:
        """Where the run begins; None where its first t says it."""
        return self._begin_index

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Begin at this place of ``timesteps``, as pipelines that start from an image do."""
        self._begin_index = begin_index

    def index_for_timestep(self, timestep: float | Tensor, schedule_timesteps: Tensor | None = None) -> int:
        """Return the place of a t; where it stands twice, the second, as a run that starts there has it."""
        places = self._places if schedule_timesteps is None else _places(schedule_timesteps.tolist())
        t = timestep.item() if isinstance(timestep, Tensor) else timestep
        if t in places:
            return places[t]
        if self.whole:
            return len(self.timesteps) - 1
        raise TimestepError(f"timestep {t} is none of those set: take one of timesteps")

    def _init_step_index(self, timestep: float | Tensor) -> None:
        begin = self._begin_index
        if begin is None:  # a run that starts with the first t starts there, though it stand there twice
            begin = 0 if timestep == self.timesteps[0] else self.index_for_timestep(timestep)
        self._step_index = self._entry = begin
        self._history.clear()

    # --- a step ---

    def _stepped(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        return_dict: bool,
        *options: Any,
        generator: Any = None,
        noise: Tensor | None = None,
    ) -> Any:
        """Take the step."""
        if self.refuses_places and not (isinstance(timestep, float) or _is_real(timestep)):
            raise TimestepError(
                f"timestep is {timestep!r}, a whole number: pass one of timesteps, not its place"
            )
        if not self.remembers and isinstance(timestep, Tensor) and timestep.numel() > 1:
            return self._stepped_each(
                model_output, timestep, sample, return_dict, *options, generator=generator
            )
        if self._step_index is None:
            self._enter(timestep)
        ready = self._at(options)
        if ready.begins:
            self._begun = sample
        previous, x_0, kept = self._made(
            ready, model_output, sample, self._history, begun=self._begun, generator=generator, noise=noise
        )
        if kept is not None:
            self._history.appendleft(kept)
        self._step_index += 1  # type: ignore[operator]
        return self._result(previous, x_0, return_dict)

    def _stepped_each(
        self,
        model_output: Tensor,
        timesteps: Tensor,
        sample: Tensor,
        return_dict: bool,
        *options: Any,
        generator: Any = None,
    ) -> Any:
        """Take each sample's own step, from its own t."""
        steps = self._steps(0, *options)
        chosen = [steps[self.index_for_timestep(t)] for t in timesteps]
        ready = mixed(chosen, torch.promote_types(sample.dtype, torch.float32), sample.ndim, sample.device)
        previous, x_0, _ = self._made(ready, model_output, sample, generator=generator)
        return self._result(previous, x_0, return_dict)

    def _enter(self, timestep: float | Tensor) -> None:
        if self.whole and self.num_inference_steps is None:
            raise ConfigError("set_timesteps comes first: the steps are not known")
        if isinstance(timestep, Tensor) and timestep.numel() > 1:
            raise ShapeError(
                f"timestep has shape {tuple(timestep.shape)}: a solver that remembers goes through its t "
                "with the whole batch; a t for each sample is for DDPM, DDIM and Euler's method"
            )
        self._init_step_index(timestep)

    def _at(self, options: tuple[Any, ...]) -> Ready:
        key = self._step_index, self._entry, options
        if key not in self._ready:  # then all steps from where the run began are missing
            for i, step in enumerate(self._steps(self._entry, *options)):
                self._ready[self._entry + i, self._entry, options] = step.ready()
        try:
            return self._ready[key]
        except KeyError:
            raise TimestepError(
                f"step {self._step_index} of {len(self.timesteps)}: the run is over: call set_timesteps"
            ) from None

    def _steps(self, entry: int, *options: Any) -> list[Step]:
        stops = self._stops[entry:]
        moves = [not math.isclose(t.sigma_ve, s.sigma_ve, rel_tol=1e-9) for t, s in pairwise(stops)]
        distinct = [stops[0], *compress(stops[1:], moves)]
        if not moves[-1]:  # the order of the steps before counts it, though it leads nowhere
            distinct.append(stops[-1] if self.corrects else Level(len(self._stops), 0.0))
            moves[-1] = self.corrects
        steps = iter(self._between(distinct, entry, *options) if len(distinct) > 1 else ())
        return [next(steps) if move else STAY for move in moves]

    def _between(self, levels: Sequence[Level], entry: int, *options: Any) -> Iterable[Step]:
        """Return the steps between levels that differ."""
        return map(self._step_of, self._rows(levels, entry, *options))

    def _rows(self, levels: Sequence[Level], entry: int, *options: Any) -> Iterable[Row]:
        """Return the core's table on these levels."""
        raise NotImplementedError

    def _step_of(self, row: Row, of_start: float = 0.0, begins: bool = False) -> Step:
        t, s = self._stops[int(row.t)], self._stops[int(row.s)]
        draws = self.always_draws or row.is_random
        return Step.of(row, t, s, self._reading, not self.whole, draws, of_start, begins)

    # --- noising ---

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return the clean samples with the noise of these t, in any precision right to its last bit."""
        check_alike(original_samples=original_samples, noise=noise)
        if self._noising is None:  # diffusers' rounding is not for noising; its σ are for x/√ᾱ
            self._noising = self._grid_of(ratios=self._exact).levels if self.whole else self._visited
        levels = [self._noising[i] for i in self._indices(timesteps)]
        pairs = [(level.signal, level.sigma) if self.whole else (1.0, level.sigma_ve) for level in levels]
        table = torch.tensor(pairs, dtype=torch.float64, device=original_samples.device)
        signal, scale = (spread(column, original_samples) for column in table.T)
        return lincomb((signal, scale), (original_samples, noise))

    def _indices(self, timesteps: Tensor) -> list[int]:
        if self._begin_index is None:
            return [self.index_for_timestep(t) for t in timesteps]
        return [self._begin_index if self._step_index is None else self._step_index] * len(timesteps)


class Preserving(ByIndex):
    """Keeps x, of variance 1 throughout."""

    init_noise_sigma = 1.0


class Exploding(ByIndex):
    """Keeps x/√ᾱ, whose variance grows with the noise."""

    whole = False
    is_scale_input_called = False

    @property
    def init_noise_sigma(self) -> Tensor:
        """What standard normal noise is multiplied by to start from.

        diffusers takes ρ itself for two of the spacings, and forgets the 1 under the root.
        """
        largest = max(level.sigma_ve for level in self._stops)
        forgets = not self.strict and self._options["timestep_spacing"] in ("linspace", "trailing")
        return torch.tensor(largest if forgets else math.hypot(largest, 1))

    def scale_model_input(self, sample: Tensor, timestep: float | Tensor) -> Tensor:
        """Return x = √ᾱ · sample, what the network takes."""
        self.is_scale_input_called = True
        if not self.remembers and isinstance(timestep, Tensor) and timestep.numel() > 1:
            signals = [self._visited[self.index_for_timestep(t)].signal for t in timestep]
            return lincomb((spread(torch.tensor(signals, dtype=torch.float64), sample),), (sample,))
        if self._step_index is None:
            self._enter(timestep)
        level = self._visited[self._step_index]  # type: ignore[index]
        return sample * level.signal


def _places(timesteps: Sequence[float]) -> dict[float, int]:
    """Where each t stands; the second place of one that stands there often."""
    places: dict[float, list[int]] = {}
    for place, t in enumerate(timesteps):
        places.setdefault(t, []).append(place)
    return {t: found[:2][-1] for t, found in places.items()}


def _is_real(timestep: Any) -> bool:
    return isinstance(timestep, Tensor) and timestep.is_floating_point()


def _count(steps: int | None, timesteps: Any, sigmas: Any) -> int:
    if steps is not None:
        return steps
    return len(timesteps) if sigmas is None else len(sigmas) - 1
