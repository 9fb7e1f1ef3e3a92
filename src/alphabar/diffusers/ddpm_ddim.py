"""Schedulers whose step is known by its t alone: DDPM, DDIM and DDIM's inversion. They hold no run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from math import inf
from typing import Any

import diffusers
import numpy as np
import torch
from torch import Tensor

from alphabar.diffusers.adapter import Adapter, in_place_of
from alphabar.diffusers.grids import check_timesteps, whole_timesteps
from alphabar.diffusers.steps import Ready, Step, mixed
from alphabar.errors import ConfigError, TimestepError, look_up
from alphabar.process import forward
from alphabar.samplers import DDIM, DDPM, VARIANCES, Row
from alphabar.schedule import CLEAN, Level, NoiseSchedule, noise_power

__all__ = ["ByTime", "DDIMInverseScheduler", "DDIMScheduler", "DDPMScheduler"]

NO_NOISE = 1e-20  # the variance that diffusers gives to a step onto clean data


class ByTime(Adapter):
    """Looks a step up by its t, which may also be (B,), one for each sample."""

    init_noise_sigma = 1.0

    def _begin(self) -> None:
        super()._begin()
        self._next: dict[int, int] | None = None
        self._ready = {}
        self.timesteps = torch.arange(len(self) - 1, -1, -1)

    def _schedule(self) -> NoiseSchedule:
        """Where diffusers accepts a linear β that reaches 1: the schedule as far as it does not."""
        start, end, steps = (
            self._options[name] for name in ("beta_start", "beta_end", "num_train_timesteps")
        )
        goes_beyond = self._options["beta_schedule"] == "linear" and 0 < start < 1 <= end
        if self.strict or not goes_beyond or self._options["trained_betas"] is not None:
            return super()._schedule()
        betas = torch.linspace(start, end, steps, dtype=torch.float64)
        return NoiseSchedule.from_beta(betas[betas < 1])

    def _set_timesteps(
        self, num_inference_steps: int | None = None, device: Any = None, timesteps: Any = None
    ) -> None:
        if (num_inference_steps is None) == (timesteps is None):
            raise ConfigError("give one of num_inference_steps and timesteps")
        self._configure()
        visited = self._visited(num_inference_steps, timesteps)
        self._next = dict(pairwise([*visited, -1]))
        self._ready = {}
        self.num_inference_steps = num_inference_steps
        self.timesteps = torch.from_numpy(np.array(visited, dtype=np.int64)).to(device)

    def _visited(self, steps: int | None, timesteps: Sequence[int] | None) -> list[int]:
        if timesteps is None:
            return whole_timesteps(self._options, len(self), steps)  # type: ignore[arg-type]
        given = [int(t) for t in timesteps]
        check_timesteps(given, len(self))
        if not given or any(t <= s for t, s in pairwise(given)):
            raise TimestepError(f"timesteps {given}: give at least one, in descending order")
        return given

    def _level(self, t: int) -> Level:
        if not 0 <= t < len(self._levels):
            beyond = ": β reaches 1 there" if t < len(self) else ""
            raise TimestepError(f"timestep {t} is outside 0 … {len(self._levels) - 1}{beyond}")
        return self._levels[t]

    def _at(self, timestep: Any, sample: Tensor, *options: Any) -> Ready:
        """Return the step at t, from the table where it was asked for before."""
        if isinstance(timestep, Tensor) and timestep.ndim and len(timestep) > 1:
            dtype = torch.promote_types(sample.dtype, torch.float32)
            steps = {t: self._step(t, *options) for t in timestep.tolist()}
            return mixed([steps[t] for t in timestep.tolist()], dtype, sample.ndim, sample.device)
        key = int(timestep), options
        try:
            return self._ready[key]
        except KeyError:
            step = replace(self._step(key[0], *options), keeps=None)  # no step remembers another
            return self._ready.setdefault(key, step.ready())

    def _step(self, t: int, *options: Any) -> Step:
        raise NotImplementedError

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return √ᾱ_t · x_0 + √(1−ᾱ_t) · noise, in any precision right to its last bits."""
        timesteps = timesteps.to(original_samples.device)
        return forward.add_noise(self.schedule, original_samples, noise, timesteps)

    def get_velocity(self, sample: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return v = √ᾱ_t · noise − √(1−ᾱ_t) · x_0."""
        return forward.velocity(self.schedule, sample, noise, timesteps.to(sample.device))

    def _powers(self, t: int, s: Level) -> tuple[float, float]:
        """The smallest and the largest variance of a step."""
        logs = torch.tensor([self._level(t).log_alpha_bar, s.log_alpha_bar], dtype=torch.float64)
        _, _, small = forward.posterior_coefficients(logs[1], logs[0])
        return float(small), float(noise_power(logs[0] - logs[1]))


VARIANCE_FORMS: dict[str, Any] = {
    "fixed_small": lambda small, large, said: torch.tensor(small),
    "fixed_small_log": lambda small, large, said: torch.tensor(small).sqrt(),
    "fixed_large": lambda small, large, said: torch.tensor(large),
    "fixed_large_log": lambda small, large, said: torch.tensor(large).log(),
    "learned": lambda small, large, said: said,
    "learned_range": lambda small, large, said: torch.lerp(
        torch.tensor(small).log(), torch.tensor(large).log(), (said + 1) / 2
    ),
}
"""What ``_get_variance`` returns: a variance, its root or its logarithm, as diffusers has it."""


@in_place_of(diffusers.DDPMScheduler)
class DDPMScheduler(ByTime):
    """Ancestral sampling (Ho et al. 2020)."""

    def _begin(self) -> None:
        super()._begin()
        self.custom_timesteps, self.variance_type = False, self._options["variance_type"]

    def _set_timesteps(self, **given: Any) -> None:  # type: ignore[override]
        super()._set_timesteps(**given)
        self.custom_timesteps = given.get("timesteps") is not None

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        generator: Any = None,
        return_dict: bool = True,
    ) -> Any:
        """Return x at the next t; ``timestep`` may be (B,), one for each sample."""
        ready = self._at(timestep, sample)
        previous, x_0, _ = self._made(ready, model_output, sample, generator=generator)
        return self._result(previous, x_0, return_dict)

    def _step(self, t: int) -> Step:
        level, s = self._level(t), self._landing(t)
        # diffusers accepts any name for a variance, and None: an unknown one is an error where it is used.
        variance = self.variance_type if t and self.variance_type is not None else "fixed_small"
        (row,) = DDPM(variance=variance).rows((level, s))
        row = row if self.strict or not s.sigma else self._rounded(row, level, s)
        if not self.strict and not s.sigma and t and self.variance_type in ("fixed_large", "learned_range"):
            row = replace(row, **VARIANCES[self.variance_type](NO_NOISE, self._powers(t, s)[1]))
        return Step.of(row, level, s, self._reading, draws=t > 0 or row.is_random)

    def _rounded(self, row: Row, t: Level, s: Level) -> Row:
        """The row with β = 1 − ᾱ_t/ᾱ_s as float32 has it: at small t that is a thousandth away."""
        ratio = self.alphas_cumprod[int(t.t)] / self.alphas_cumprod[int(s.t)]
        off = float(1 - ratio) / -math.expm1(t.log_alpha_bar - s.log_alpha_bar)
        if not off:
            return row
        history, noise, logs = (off * row.history[0],), math.sqrt(off) * row.z, row.log_variance
        if logs is not None:
            logs = logs[0] + math.log(off), logs[1] + math.log(off)
        return replace(row, history=history, z=noise, log_variance=logs)

    def _landing(self, t: int) -> Level:
        s = int(self.previous_timestep(t))
        return self._level(s) if s >= 0 else CLEAN

    def previous_timestep(self, timestep: int | Tensor) -> int | Tensor:
        """Return the t where the step from this one lands, −1 for clean data."""
        if self._next is None:
            return timestep - 1
        try:
            return torch.tensor(self._next[int(timestep)])
        except KeyError:
            raise TimestepError(
                f"timestep {int(timestep)} is none of those set: take one of timesteps"
            ) from None

    def _get_variance(
        self, t: int, predicted_variance: Tensor | None = None, variance_type: str | None = None
    ) -> Any:
        small, large = self._powers(int(t), self._landing(int(t)))
        form = look_up(VARIANCE_FORMS, variance_type or self._options["variance_type"], "variance_type")
        return form(max(small, NO_NOISE), large, predicted_variance)


@in_place_of(diffusers.DDIMScheduler)
class DDIMScheduler(ByTime):
    """Denoising diffusion implicit models (Song et al. 2021)."""

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        eta: float = 0.0,
        use_clipped_model_output: bool = False,
        generator: Any = None,
        variance_noise: Tensor | None = None,
        return_dict: bool = True,
    ) -> Any:
        """Return x at the next t; ``timestep`` may be (B,), one for each sample."""
        if variance_noise is not None and generator is not None:
            raise ConfigError("both generator and variance_noise are given: the noise comes from one of them")
        ready = self._at(timestep, sample, eta, use_clipped_model_output)
        previous, x_0, _ = self._made(ready, model_output, sample, generator=generator, noise=variance_noise)
        return self._result(previous, x_0, return_dict)

    def _step(self, t: int, eta: float, follows_clipped: bool) -> Step:
        level, s = self._level(t), self._landing(t)
        (row,) = DDIM(eta=eta).rows((level, s))
        if follows_clipped or (self._threshold is None and self._limit == inf):
            return Step.of(row, level, s, self._reading, draws=eta > 0)
        return replace(Step.along(level, s, row.x * level.sigma, row.z, self._reading), draws=eta > 0)

    def _landing(self, t: int) -> Level:
        if self._next is None:
            raise ConfigError("set_timesteps comes first: the size of the steps is not known")
        size = len(self) // len(self._next)
        s = self._next.get(t, t - size) if self.strict else t - size
        return self._level(s) if s >= 0 else self._end

    @property
    def _end(self) -> Level:
        return CLEAN if self._options["set_alpha_to_one"] else self._levels[0]

    @property
    def final_alpha_cumprod(self) -> Tensor:
        """ᾱ where the last step lands."""
        return torch.tensor(self._end.log_alpha_bar).exp()

    def _get_variance(self, timestep: int, prev_timestep: int) -> Tensor:
        s = self._level(int(prev_timestep)) if prev_timestep >= 0 else self._end
        return torch.tensor(self._powers(int(timestep), s)[0])


@in_place_of(diffusers.DDIMInverseScheduler)
class DDIMInverseScheduler(ByTime):
    """DDIM upwards, from an image to the noise that it comes from."""

    def _begin(self) -> None:
        super()._begin()
        self.timesteps = self.timesteps.flip(0)

    def _set_timesteps(self, **given: Any) -> None:  # type: ignore[override]
        super()._set_timesteps(**given)
        self.timesteps = self.timesteps.flip(0)

    def step(
        self, model_output: Tensor, timestep: int | Tensor, sample: Tensor, return_dict: bool = True
    ) -> Any:
        """Return x at ``timestep`` from x one step below it; ``timestep`` may be (B,)."""
        previous, x_0, _ = self._made(self._at(timestep, sample), model_output, sample)
        return self._result(previous, x_0, return_dict)

    def _step(self, t: int) -> Step:
        level, s = self._level(t), self._leaving(t)
        if self.strict or (not s.sigma and self._options["prediction_type"] == "sample"):
            (row,) = DDIM(inverse=True).rows((level, s))
            return Step.of(row, level, level, self._reading)
        return Step.along(s, level, level.sigma, 0.0, self._reading)

    def _leaving(self, t: int) -> Level:
        if self._next is None:
            raise ConfigError("set_timesteps comes first: the size of the steps is not known")
        size = len(self) // len(self._next)
        s = self._next.get(t, t - size) if self.strict else t - size
        if s >= 0:
            return self._level(s)
        return CLEAN if self._options["set_alpha_to_one"] else self._levels[0]
