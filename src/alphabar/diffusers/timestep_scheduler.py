"""The base of schedulers whose step is a function of t alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alphabar.diffusers.adapter import POWERS, Adapter
from alphabar.diffusers.grids import Grid
from alphabar.diffusers.runs import Run, kept_run
from alphabar.diffusers.spacings import check_timesteps, whole_timesteps
from alphabar.diffusers.steps import Step, stack
from alphabar.errors import ConfigError, TimestepError
from alphabar.process import forward
from alphabar.schedule import CLEAN, Level, NoiseSchedule

__all__ = ["TimestepScheduler", "add_noise", "get_velocity", "schedule_below_one"]


def schedule_below_one(self: Adapter) -> NoiseSchedule:
    """Return the schedule; of a linear β that reaches 1, which diffusers accepts, the part below 1."""
    start, end, steps = (self._options[name] for name in ("beta_start", "beta_end", "num_train_timesteps"))
    power = POWERS.get(self._options["beta_schedule"])
    if self.strict or power is None or not 0 < start < 1 <= end or self._options["trained_betas"] is not None:
        return Adapter._make_schedule(self)
    betas = torch.linspace(start ** (1 / power), end ** (1 / power), steps, dtype=torch.float64) ** power
    return NoiseSchedule.from_beta(betas[betas < 1])


def add_noise(self: Adapter, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """Return √ᾱ_t · x_0 + √(1−ᾱ_t) · noise, worked out in float64 and rounded once."""
    timesteps = timesteps.to(original_samples.device)
    return forward.add_noise(self.schedule, original_samples, noise, timesteps)


def get_velocity(self: Adapter, sample: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """Return v = √ᾱ_t · noise − √(1−ᾱ_t) · x_0."""
    return forward.velocity(self.schedule, sample, noise, timesteps.to(sample.device))


class TimestepScheduler(Adapter):
    """Looks a step up by its t, which may also be (B,), one for each sample.

    A scheduler of this kind defines ``_make_step`` or ``_make_steps``.
    """

    init_noise_sigma = 1.0
    _make_schedule = schedule_below_one
    add_noise = add_noise
    get_velocity = get_velocity

    def _initialise(self) -> None:
        super()._initialise()
        # Steps go by diffusers' rounding of ᾱ: at small t it shows in the fifth digit of an image.
        exact = self.schedule.log_alpha_bar_at(torch.arange(len(self.schedule)))
        rounded = self.alphas_cumprod[: len(self.schedule)].double()
        self._logs = torch.where(rounded.eq(1) | self.strict, exact, rounded.log()).tolist()
        self._chosen: tuple[int, ...] | None = None
        self._run = self._find_run()
        self.timesteps = self._run.timesteps.clone()

    def _set_timesteps(
        self, num_inference_steps: int | None = None, device: Any = None, timesteps: Any = None
    ) -> None:
        if (num_inference_steps is None) == (timesteps is None):
            raise ConfigError("give one of num_inference_steps and timesteps")
        self._configure()
        self._enter_run(self._choose_timesteps(num_inference_steps, timesteps), num_inference_steps, device)

    def _enter_run(self, chosen: Sequence[int], count: int | None, device: Any) -> None:
        """Take these timesteps."""
        self._chosen, self.num_inference_steps = tuple(chosen), count
        self._run = self._find_run()
        self.timesteps = self._run.timesteps.to(device, copy=True)

    def _find_run(self) -> Run:
        """Return the run of the chosen timesteps, or of all T."""
        chosen = self._chosen

        def make() -> Run:
            timesteps = np.array(chosen or range(len(self))[::-1], dtype=np.int64)
            return Run(Grid(timesteps, ()), torch.from_numpy(timesteps))

        return kept_run((type(self).__name__, self.strict, self._settings, chosen), make)

    def _choose_timesteps(self, steps: int | None, timesteps: Sequence[int] | None) -> list[int]:
        if timesteps is None:
            return whole_timesteps(self._options, len(self), steps)  # type: ignore[arg-type]
        given = [int(t) for t in timesteps]
        check_timesteps(given, len(self))
        if not given or any(t <= s for t, s in pairwise(given)):
            raise TimestepError(f"timesteps {given}: give at least one, in descending order")
        return given

    def _next(self, t: int) -> int | None:
        """Return the timestep that follows t, −1 after the last; None if t was not set."""
        index = self._run.index_of.get(t)
        if self._chosen is None or index is None:
            return None
        return self._chosen[index + 1] if index + 1 < len(self._chosen) else -1

    def _size(self) -> int:
        """Return how far apart diffusers takes the timesteps to be, T // n.

        Raises:
            ConfigError: before ``set_timesteps``.
        """
        if self._chosen is None:
            raise ConfigError("set_timesteps comes first: the size of the steps is not known")
        return len(self) // len(self._chosen)

    def _level(self, t: int) -> Level:
        if not 0 <= t < len(self._logs):
            beyond = ": β reaches 1 there" if t < len(self) else ""
            raise TimestepError(f"timestep {t} is outside 0 … {len(self._logs) - 1}{beyond}")
        return Level(t, self._logs[t])

    @property
    def _last_level(self) -> Level:
        """Where the step from the last timestep lands."""
        return CLEAN if self._options["set_alpha_to_one"] else self._level(0)

    def _step_at(self, timestep: Any, sample: Tensor, *options: Any) -> Step:
        """Return the step at t; those of a run are made at once, when the first of them is asked for."""
        if isinstance(timestep, Tensor) and timestep.ndim and len(timestep) > 1:
            steps = [self._step_at(t, sample, *options) for t in timestep.tolist()]
            return stack(steps, sample)
        t, known = int(timestep), self._run.steps
        step = known.get((t, options))
        if step is None:
            together = [k for k in self._made_together(t) if (k, options) not in known]
            made = zip(together, self._make_steps(together, *options), strict=True)
            step = self._run.keep({(at, options): step for at, step in made})[t, options]
        return step

    def _made_together(self, t: int) -> Sequence[int]:
        """Return the t whose steps are made when that at t is asked for: from there to the end of the run.

        Not those before: a run that begins later may avoid a t that has no answer, at ᾱ = 0.
        """
        index = self._run.index_of.get(t)
        return (t,) if self._chosen is None or index is None else self._chosen[index:]

    def _make_steps(self, chosen: Sequence[int], *options: Any) -> Iterable[Step]:
        """Return the steps from each of these t: one, or all of the run."""
        return [self._make_step(t, *options) for t in chosen]

    def _make_step(self, t: int, *options: Any) -> Step:
        """Return the step from t, whose x̂_0 no later step uses."""
        raise NotImplementedError
