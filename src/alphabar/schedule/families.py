"""The β of each family of schedules, as plain functions: (steps, …) → (T,) float64.

Two roads lead to β: from end to end in steps of some shape, or from a function ᾱ(u), u = t/T, cut into
steps: β_t = min(1 − ᾱ((t+1)/T)/ᾱ(t/T), .999), as below equation 17 of Nichol & Dhariwal 2021.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from alphabar.checks import check_count
from alphabar.errors import ScheduleError

__all__ = ["BETA_SCHEDULES", "CONFIG_DEFAULTS", "cosine", "exponential", "family_config", "laplace"]

CONFIG_DEFAULTS: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "rescale_betas_zero_snr": False,
}
MAX_BETA = 0.999  # a β nearer to 1 makes the step back singular


def linear(steps: int, start: float, end: float) -> Tensor:
    """β evenly spaced."""
    _check(steps, start, end)
    return torch.linspace(start, end, steps, dtype=torch.float64)


def scaled_linear(steps: int, start: float, end: float) -> Tensor:
    """√β evenly spaced."""
    _check(steps, start, end)
    return torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64) ** 2


def sigmoid(steps: int, start: float, end: float) -> Tensor:
    """β through a sigmoid on [−6, 6]."""
    _check(steps, start, end)
    return start + (end - start) * torch.linspace(-6, 6, steps, dtype=torch.float64).sigmoid()


def cosine(steps: int) -> Tensor:
    """ᾱ(u) = cos²((u + .008)/1.008 · π/2)."""
    return _cut(lambda u: torch.cos((u + 0.008) / 1.008 * math.pi / 2).square(), steps)


def laplace(steps: int) -> Tensor:
    """ᾱ(u) = sigmoid(−½ sgn(½ − u) log(1 − 2|½ − u| + 10⁻⁶)): the last term keeps the ends finite."""
    return _cut(_laplace_alpha_bar, steps)


def exponential(steps: int) -> Tensor:
    """ᾱ(u) = exp(−12 u)."""
    return _cut(lambda u: torch.exp(-12 * u), steps)


def _laplace_alpha_bar(u: Tensor) -> Tensor:
    log_snr = 0.5 * torch.log(1 - 2 * (0.5 - u).abs() + 1e-6)
    return torch.where(u > 0.5, log_snr, -log_snr).sigmoid()


def _cut(alpha_bar: Callable[[Tensor], Tensor], steps: int) -> Tensor:
    check_count(steps=steps)
    values = alpha_bar(torch.arange(steps + 1, dtype=torch.float64) / steps)
    return (1 - values[1:] / values[:-1]).clamp(max=MAX_BETA)


def _check(steps: int, start: float, end: float) -> None:
    check_count(steps=steps)
    for name, beta in {"beta_start": start, "beta_end": end}.items():
        if not isinstance(beta, int | float):
            raise ScheduleError(f"{name} is {beta!r}: it must be a number in (0, 1)")
        if not 0 < beta < 1:
            hint = f"; {steps} steps are too few to rescale these betas to" if beta >= 1 else ""
            raise ScheduleError(f"{name} is {beta:g}: it must lie in (0, 1){hint}")


BETA_SCHEDULES: dict[str, Callable[[int, float, float], Tensor]] = {
    "linear": linear,
    "scaled_linear": scaled_linear,
    "squaredcos_cap_v2": lambda steps, start, end: cosine(steps),
    "sigmoid": sigmoid,
    "exp": lambda steps, start, end: exponential(steps),
    # diffusers takes the root of this family's ᾱ: its files describe networks trained with the root.
    "laplace": lambda steps, start, end: _cut(lambda u: _laplace_alpha_bar(u).sqrt(), steps),
}
"""β by the names of diffusers' ``beta_schedule``, as diffusers means them."""


def family_config(family: str, steps: int, start: float = 1e-4, end: float = 0.02) -> dict[str, Any]:
    """Return the diffusers configuration keys of a family by its name there."""
    given = {"num_train_timesteps": steps, "beta_start": start, "beta_end": end, "beta_schedule": family}
    return {**CONFIG_DEFAULTS, **given}
