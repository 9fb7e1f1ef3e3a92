"""Schedulers whose step is a function of t alone: DDPM, DDIM and DDIM's inversion."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from alphabar.diffusers.drop_in import drop_in
from alphabar.diffusers.steps import Step
from alphabar.diffusers.timestep_scheduler import TimestepScheduler
from alphabar.errors import ConfigError, UnknownTimestepError, look_up
from alphabar.process import forward
from alphabar.samplers import DDIM, DDPM, VARIANCES, Row
from alphabar.schedule import CLEAN, Level, noise_power

__all__ = ["DDIMInverseScheduler", "DDIMScheduler", "DDPMScheduler"]

MIN_VARIANCE = 1e-20  # what diffusers takes for the variance of a step onto clean data


def powers(t: Level, s: Level) -> tuple[float, float]:
    """Return the smallest and the largest variance of a step, β̃ and β."""
    logs = torch.tensor([t.log_alpha_bar, s.log_alpha_bar], dtype=torch.float64)
    _, _, small = forward.posterior_coefficients(logs[1], logs[0])
    return float(small), float(noise_power(logs[0] - logs[1]))


VARIANCE_FORMS: dict[str, Any] = {
    "fixed_small": lambda small, large, answer: torch.tensor(small),
    "fixed_small_log": lambda small, large, answer: torch.tensor(small).sqrt(),
    "fixed_large": lambda small, large, answer: torch.tensor(large),
    "fixed_large_log": lambda small, large, answer: torch.tensor(large).log(),
    "learned": lambda small, large, answer: answer,
    "learned_range": lambda small, large, answer: torch.lerp(
        torch.tensor(small).log(), torch.tensor(large).log(), (answer + 1) / 2
    ),
}
"""What ``_get_variance`` returns: a variance, its root or its logarithm, as in diffusers."""


@drop_in("scheduling_ddpm")
class DDPMScheduler(TimestepScheduler):
    """Ancestral sampling (Ho et al. 2020)."""

    def _initialise(self) -> None:
        super()._initialise()
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
        step = self._step_at(timestep, sample, self.variance_type)
        previous, x_0, _ = self._compute_step(step, model_output, sample, generator=generator)
        return self._output(previous, x_0, return_dict)

    def _make_steps(self, chosen: Sequence[int], variance: str | None) -> Iterable[Step]:
        levels = [*map(self._level, chosen), self._level_after(chosen[-1])]
        # diffusers accepts any name for a variance, and None: an unknown one is an error where it is used.
        name = variance if chosen[0] and variance is not None else "fixed_small"
        rows = iter(DDPM(variance=name).rows(levels))
        if not self.strict:
            rows = map(self._as_in_diffusers, rows, levels, levels[1:], self._float32_beta(levels))
        for row, t, s in zip(rows, levels, levels[1:], strict=False):
            yield Step.of(row, t, s, self._parameterisation, draws=t.t > 0 or row.is_random)

    def _float32_beta(self, levels: Sequence[Level]) -> list[float]:
        """Return β = 1 − ᾱ_t/ᾱ_s as float32 has it, over the exact one: off by a thousandth at small t."""
        table = self.alphas_cumprod
        rounded = torch.stack([table[int(x.t)] if x.sigma else torch.ones(()) for x in levels])
        logs = torch.tensor([level.log_alpha_bar for level in levels], dtype=torch.float64)
        ratios: list[float] = ((1 - rounded[:-1] / rounded[1:]) / noise_power(-logs.diff())).tolist()
        return ratios

    def _as_in_diffusers(self, row: Row, t: Level, s: Level, off: float) -> Row:
        """Return the row with β as float32 has it; onto clean data with the noise two variances leave."""
        if not s.sigma:
            leaves = t.t and self.variance_type in ("fixed_large", "learned_range")
            noise = VARIANCES[self.variance_type](MIN_VARIANCE, powers(t, s)[1]) if leaves else {}
            return replace(row, **noise)
        if not off:
            return row
        logs = row.log_variance
        if logs is not None:
            logs = logs[0] + math.log(off), logs[1] + math.log(off)
        return replace(row, history=(off * row.history[0],), z=math.sqrt(off) * row.z, log_variance=logs)

    def _level_after(self, t: int) -> Level:
        s = int(self.previous_timestep(t))
        return self._level(s) if s >= 0 else CLEAN

    def previous_timestep(self, timestep: int | Tensor) -> int | Tensor:
        """Return the t where the step from this one lands, −1 for clean data."""
        if self._chosen is None:
            return timestep - 1
        if (following := self._next(int(timestep))) is None:
            raise UnknownTimestepError(
                f"timestep {int(timestep)} is not in the timesteps that were set: take one of those"
            )
        return torch.tensor(following)

    def _get_variance(
        self, t: int, predicted_variance: Tensor | None = None, variance_type: str | None = None
    ) -> Any:
        small, large = powers(self._level(int(t)), self._level_after(int(t)))
        form = look_up(VARIANCE_FORMS, variance_type or self._options["variance_type"], "variance_type")
        return form(max(small, MIN_VARIANCE), large, predicted_variance)


@drop_in("scheduling_ddim")
class DDIMScheduler(TimestepScheduler):
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
        step = self._step_at(timestep, sample, eta, use_clipped_model_output)
        previous, x_0, _ = self._compute_step(
            step, model_output, sample, generator=generator, noise=variance_noise
        )
        return self._output(previous, x_0, return_dict)

    def _make_step(self, t: int, eta: float, clipped_eps: bool) -> Step:
        level, s = self._level(t), self._level_after(t)
        (row,) = DDIM(eta=eta).rows((level, s))
        if clipped_eps or not self._changes_x_0:
            return Step.of(row, level, s, self._parameterisation, draws=eta > 0)
        return replace(
            Step.from_eps(level, s, row.x * level.sigma, row.z, self._parameterisation), draws=eta > 0
        )

    def _level_after(self, t: int) -> Level:
        following, size = self._next(t), self._size()
        s = following if self.strict and following is not None else t - size
        return self._level(s) if s >= 0 else self._last_level

    @property
    def final_alpha_cumprod(self) -> Tensor:
        """ᾱ of the level where the last step lands."""
        return torch.tensor(self._last_level.log_alpha_bar).exp()

    def _get_variance(self, timestep: int, prev_timestep: int) -> Tensor:
        s = self._level(int(prev_timestep)) if prev_timestep >= 0 else self._last_level
        return torch.tensor(powers(self._level(int(timestep)), s)[0])


@drop_in("scheduling_ddim_inverse")
class DDIMInverseScheduler(TimestepScheduler):
    """Inversion of DDIM: from an image to the noise that DDIM makes it of."""

    def _initialise(self) -> None:
        super()._initialise()
        self.timesteps = self.timesteps.flip(0)

    def _set_timesteps(self, **given: Any) -> None:  # type: ignore[override]
        super()._set_timesteps(**given)
        self.timesteps = self.timesteps.flip(0)

    def step(
        self, model_output: Tensor, timestep: int | Tensor, sample: Tensor, return_dict: bool = True
    ) -> Any:
        """Return x at ``timestep`` from x one step below it; ``timestep`` may be (B,)."""
        previous, x_0, _ = self._compute_step(self._step_at(timestep, sample), model_output, sample)
        return self._output(previous, x_0, return_dict)

    def _make_step(self, t: int) -> Step:
        level, s = self._level(t), self._level_below(t)
        if self.strict or (not s.sigma and self._options["prediction_type"] == "sample"):
            (row,) = DDIM(inverse=True).rows((level, s))
            return Step.of(row, level, level, self._parameterisation)
        return Step.from_eps(s, level, level.sigma, 0.0, self._parameterisation)

    def _level_below(self, t: int) -> Level:
        following, size = self._next(t), self._size()
        s = following if self.strict and following is not None else t - size
        return self._level(s) if s >= 0 else self._last_level
