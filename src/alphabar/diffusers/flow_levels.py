"""Time σ of flow matching: its tables, grids and noising, which its schedulers share.

(1−σ) · x_0 + σ · z,     σ = √(1−ᾱ)/(√ᾱ + √(1−ᾱ))
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alphabar.diffusers.grids import Grid, levels_of
from alphabar.diffusers.index_scheduler import IndexScheduler
from alphabar.diffusers.spacings import Numbers, shifted
from alphabar.diffusers.steps import flow_scale
from alphabar.errors import ConfigError
from alphabar.schedule import Level

__all__ = [
    "SAME_SIGMA",
    "all_levels",
    "check_churn",
    "checked_shift",
    "flow_grid",
    "flow_sigma",
    "flow_sigmas",
    "index_for_timestep",
    "is_inverted",
    "make_tables",
    "precision",
    "scale_noise",
    "set_timesteps",
    "shifted_flow",
    "timesteps_of",
]


SAME_SIGMA = 1e-6  # how near two σ are that rounding may have parted


def precision(self: IndexScheduler) -> Any:
    """Return what σ and timesteps are rounded to: float32 as in diffusers, or not at all."""
    return np.float64 if self.strict else np.float32


def make_tables(self: IndexScheduler) -> None:
    """Make σ of every t, and the ends of the spacing: in diffusers they are shifted already."""
    total = len(self)
    even = np.arange(1, total + 1, dtype=precision(self)) / total
    is_shifted = not self._options.get("use_dynamic_shifting")
    self._shift = float(self._options["shift"])
    table = shifted_flow(even, self._shift) if is_shifted else even
    self._sigmas = self._exact_sigmas = table.astype(float)
    self.sigma_min, self.sigma_max = (float((even if self.strict else table)[k]) for k in (0, -1))


def shifted_flow(sigma: Numbers, shift: float) -> Numbers:
    """Return σ shifted; 1 at most where σ is."""
    return np.minimum(shifted(sigma, shift), np.maximum(sigma, 1))  # rounding may lead beyond


def all_levels(self: IndexScheduler, schedule_sigmas: Numbers) -> Grid:
    """Return the grid before ``set_timesteps``: every t."""
    sigma = schedule_sigmas[::-1]
    return flow_grid(self, sigma, timesteps_of(self, sigma))


def flow_grid(self: IndexScheduler, sigma: Numbers, timesteps: Numbers) -> Grid:
    """Return the grid of these σ, in the network's sense of time, and where the last step lands.

    Raises:
        ConfigError: σ outside 0 … 1.
    """
    beyond = sigma[~((sigma >= 0) & (sigma <= 1))]
    if len(beyond):
        raise ConfigError(
            f"sigmas reach {beyond[0]:g}: they must lie in 0 … 1, and timesteps in 0 … {len(self)}"
        )
    u = np.append(1 - sigma if is_inverted(self) else sigma, 0.0)
    with np.errstate(divide="ignore"):  # σ = 1 is a level too: noise alone
        return Grid(timesteps, levels_of((u / (1 - u)).tolist()))


def set_timesteps(self: IndexScheduler, device: Any = None, **given: Any) -> None:
    """Set a run, whose spacing depends on the shift and the ends that are set now."""
    state = {name: getattr(self, name) for name in ("_shift", "sigma_min", "sigma_max")}
    IndexScheduler._set_timesteps(self, device, **given, **state)


def timesteps_of(self: IndexScheduler, sigma: Numbers) -> Numbers:
    """Return σ · T, multiplied in diffusers' precision."""
    return np.asarray(sigma.astype(precision(self)) * precision(self)(len(self)))


def is_inverted(self: IndexScheduler) -> bool:
    """Whether the network's time runs from noise at 0 to data at 1."""
    return bool(self._options.get("invert_sigmas"))


def flow_sigmas(self: IndexScheduler) -> Tensor:
    """(n + 1,) σ of the levels, where the timesteps are; before ``set_timesteps`` (T,), without the last."""
    sigma = torch.tensor([flow_sigma(level) for level in self._run.evaluations], dtype=torch.float64)
    used = sigma if self._given is not None else sigma[:-1]
    return (1 - used if is_inverted(self) else used).float().to(self.timesteps.device)


def index_for_timestep(
    self: IndexScheduler, timestep: float | Tensor, schedule_timesteps: Tensor | None = None
) -> int:
    """Return the index of a t in ``timesteps``, also of 254 where rounding σ · T has made it 254.00002."""
    t = float(timestep)
    if schedule_timesteps is None and t in self._run.index_of:
        return self._run.index_of[t]
    listed = self._run.timesteps if schedule_timesteps is None else schedule_timesteps
    apart = (listed.cpu().double() - t).abs()
    found = float(listed[int(apart.argmin())])
    nearest = found if abs(found - t) <= SAME_SIGMA * len(self) else t
    return IndexScheduler.index_for_timestep(self, nearest, schedule_timesteps)


def flow_sigma(level: Level) -> float:
    """Return √(1−ᾱ)/(√ᾱ + √(1−ᾱ))."""
    return level.sigma * flow_scale(level)


def check_churn(self: IndexScheduler, s_churn: float) -> None:
    """Refuse churn where what diffusers does with it, or does not, is to be corrected.

    Raises:
        ConfigError: churn, with ``strict``.
    """
    if s_churn and self.strict:
        raise ConfigError(
            "s_churn: noise added to (1−σ) · x_0 + σ · z leaves that path. FlowMatchEulerDiscreteScheduler("
            "stochastic_sampling=True) samples with noise"
        )


def checked_shift(**shift: float) -> float:
    """Return the shift, named by its keyword.

    Raises:
        ConfigError: a shift that is not positive and finite.
    """
    ((name, value),) = shift.items()
    if not 0 < value < math.inf:
        raise ConfigError(f"{name} stands for a shift of {value!r}: it must be positive, 1 for none")
    return float(value)


def scale_noise(
    self: IndexScheduler, sample: Tensor, timestep: float | Tensor, noise: Tensor | None = None
) -> Tensor:
    """Return (1−σ) · sample + σ · noise, worked out in float64 and rounded once.

    Args:
        self: the scheduler.
        sample: (B, …) clean.
        timestep: one of ``timesteps``, or (B,); once a run has begun, its next one counts.
        noise: (B, …) standard normal.

    Raises:
        ConfigError: no noise.
        ShapeError, DtypeError: sample and noise are not alike.
        TimestepError: a t that is not in ``timesteps``.
    """
    if noise is None:
        raise ConfigError("scale_noise needs noise: pass a standard normal tensor like sample")
    is_swapped = is_inverted(self) and not self.strict
    clean, noise = (noise, sample) if is_swapped else (sample, noise)
    return self.add_noise(clean, noise, torch.as_tensor(timestep).reshape(-1))
