"""Solvers, whose step is known by how many came before it: a run has a place, and a memory.

Of the two kinds of sample that diffusers' solvers hold, DPM-Solver, UniPC and DEIS keep x itself, on whole t;
Euler, Heun and LMS keep x/√ᾱ, which starts with the standard deviation ``init_noise_sigma``.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable, Iterable, Sequence
from itertools import compress, pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor

from alphabar.checks import check_alike
from alphabar.diffusers.adapter import Adapter
from alphabar.diffusers.grids import Grid, level_grid, ratios_of
from alphabar.diffusers.steps import STAY, Ready, Step
from alphabar.errors import ConfigError, ShapeError, TimestepError
from alphabar.levels import Level
from alphabar.ops import lincomb
from alphabar.plan import Row
from alphabar.prediction import spread

__all__ = ["ByIndex", "Exploding", "Preserving"]


class ByIndex(Adapter):
    """Looks a step up by its place in the run, and remembers what earlier steps kept."""

    whole: ClassVar[bool] = True
    """Whether it is laid out as DPM-Solver is (see ``level_grid``), and keeps x itself."""
    always_draws: ClassVar[bool] = False
    refuses_places: ClassVar[bool] = False
    """Whether a whole number as timestep is refused: 17 is more likely the place of a t than t = 17."""

    def _begin(self) -> None:
        super()._begin()
        self._ratios = ratios_of(self.schedule.alpha_bar.numpy(), self.schedule.noise_scale.square().numpy())
        if self.config.get("rescale_betas_zero_snr"):
            self.alphas_cumprod[-1] = torch.as_tensor(1 / (1 + self._ratios[-1] ** 2))
        self._lay(self._first_grid(), None)
        self.num_inference_steps = None

    def _first_grid(self) -> Grid:
        """All t, until ``set_timesteps``."""
        return level_grid({"final_sigmas_type": "zero"}, self._ratios, len(self._ratios), whole=False)

    def _set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        **others: Any,
    ) -> None:
        self._configure()
        self._refuse(others, sigmas)
        if sum(given is not None for given in (num_inference_steps, timesteps, sigmas)) != 1:
            raise ConfigError("give one of num_inference_steps, timesteps and sigmas")
        count = _count(num_inference_steps, timesteps, sigmas)
        grid = level_grid(
            self._layout(), self._ratios, count, whole=self.whole, timesteps=timesteps, sigmas=sigmas
        )
        self._lay(grid, device)
        self.num_inference_steps = len(grid.levels) - 1

    def _refuse(self, others: dict[str, Any], sigmas: object) -> None:
        if others.get("mu") is not None:
            raise ConfigError("mu shifts the times of flow matching, which is not this kind of diffusion")
        if self.whole and sigmas is not None:
            raise ConfigError("sigmas are those of flow matching here: give timesteps or num_inference_steps")

    def _layout(self) -> dict[str, Any]:
        return {"final_sigmas_type": "zero", **self._options}

    def _lay(self, grid: Grid, device: Any) -> None:
        self._stops = self._visited = grid.levels
        dtype = torch.int64 if self.whole else torch.float32
        self.timesteps = torch.from_numpy(grid.timesteps.copy()).to(device, dtype)
        self._places = _places(self.timesteps.tolist())
        self._ready = {}
        self._restart()

    @property
    def sigmas(self) -> Tensor:
        """(n + 1,) ρ = √(1−ᾱ)/√ᾱ of the stops."""
        return torch.tensor([level.ratio for level in self._visited], dtype=torch.float32)

    # --- the place in the run ---

    def _restart(self) -> None:
        self._step_index: int | None = None
        self._begin_index: int | None = None
        self._entry = 0
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
        if self._step_index is None:
            self._enter(timestep)
        ready = self._at(sample, options)
        previous, x_0, kept = self._made(
            ready, model_output, sample, self._history, generator=generator, noise=noise
        )
        if kept is not None:
            self._history.appendleft(kept)
        self._step_index += 1  # type: ignore[operator]
        return self._result(previous, x_0, return_dict)

    def _enter(self, timestep: float | Tensor) -> None:
        if self.whole and self.num_inference_steps is None:
            raise ConfigError("set_timesteps comes first: the steps are not known")
        if isinstance(timestep, Tensor) and timestep.numel() > 1:
            raise ShapeError(
                f"timestep has shape {tuple(timestep.shape)}: a solver that remembers goes through its t "
                "with the whole batch; a t for each sample is for DDPM and DDIM"
            )
        self._init_step_index(timestep)

    def _at(self, sample: Tensor, options: tuple[Any, ...]) -> Ready:
        key = self._step_index, self._entry, sample.dtype, options
        try:
            return self._ready[key]
        except KeyError:
            self._make(sample.dtype, options)
        try:
            return self._ready[key]
        except KeyError:
            raise TimestepError(
                f"step {self._step_index} of {len(self.timesteps)}: the run is over: call set_timesteps"
            ) from None

    def _make(self, dtype: torch.dtype, options: tuple[Any, ...]) -> None:
        """Build all steps from where the run began."""
        wide = torch.promote_types(dtype, torch.float32)
        for i, step in enumerate(self._steps(self._entry, *options)):
            key: Hashable = self._entry + i, self._entry, dtype, options
            self._ready[key] = step.ready(wide)

    def _steps(self, entry: int, *options: Any) -> list[Step]:
        stops = self._stops[entry:]
        moves = [not math.isclose(t.ratio, s.ratio, rel_tol=1e-9) for t, s in pairwise(stops)]
        distinct = [stops[0], *compress(stops[1:], moves)]
        if not moves[-1]:  # the order of the steps before counts it, though it leads nowhere
            distinct.append(Level(len(self._stops), 0.0))
        rows = iter(self._rows(distinct, entry, *options) if len(distinct) > 1 else ())
        return [self._step_of(next(rows)) if move else STAY for move in moves]

    def _rows(self, levels: Sequence[Level], entry: int, *options: Any) -> Iterable[Row]:
        """Return the core's table on these levels."""
        raise NotImplementedError

    def _step_of(self, row: Row) -> Step:
        t, s = self._stops[int(row.t)], self._stops[int(row.s)]
        return Step.of(row, t, s, self._reading, not self.whole, self.always_draws or row.is_random)

    # --- noising ---

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return the clean samples with the noise of these t, in any precision right to its last bit."""
        check_alike(original_samples=original_samples, noise=noise)
        levels = [self._visited[i] for i in self._indices(timesteps)]
        pairs = [(level.signal, level.noise) if self.whole else (1.0, level.ratio) for level in levels]
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
        largest = max(level.ratio for level in self._stops)
        forgets = not self.strict and self._options["timestep_spacing"] in ("linspace", "trailing")
        return torch.tensor(largest if forgets else math.hypot(largest, 1))

    def scale_model_input(self, sample: Tensor, timestep: float | Tensor) -> Tensor:
        """Return x = √ᾱ · sample, what the network takes."""
        if self._step_index is None:
            self._enter(timestep)
        self.is_scale_input_called = True
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
