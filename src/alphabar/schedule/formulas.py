r"""Families with a formula, at every t, whole or fractional: r(t) = (1−ᾱ_t)/ᾱ_t = σ_ve².

    log ᾱ_t = −log(1 + r(t)),    log-SNR_t = −log r(t),    β_t = (r(t) − r(t−1))/(1 + r(t)),    r(−1) = 0

r is right to rounding at both ends: small where ᾱ is nearly 1, and large where ᾱ is small. The differences
r(t) − r(t−1) are written out, so that nothing is subtracted from what nearly equals it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from alphabar.checks import check_count
from alphabar.errors import ScheduleError

__all__ = ["Formula", "Tables", "cosine", "edm", "exponential", "laplace", "rectified_flow"]

MAX_BETA = 0.999  # a β nearer to 1 makes the step back singular
ANGLE = math.pi / 2 / 1.008
LAPLACE_REST = 1e-6  # keeps the ends of the Laplace family finite


@dataclass(frozen=True)
class Formula:
    """What lies between the integers.

    Args:
        name: the family with its arguments: formulas are equal when their names are.
        sigma_ve_squared: t → (1−ᾱ_t)/ᾱ_t for float64 tensors with 0 ≤ t ≤ T−1.
        gaps: between these whole t it does not hold, since β was clipped or the formula jumps.
    """

    name: str
    sigma_ve_squared: Callable[[Tensor], Tensor] = field(compare=False)
    gaps: tuple[tuple[int, int], ...] = ()


class Tables(NamedTuple):
    """What a schedule is made of; β is given besides log ᾱ since neither holds all digits of the other."""

    beta: Tensor
    """(T,) float64."""
    log_alpha_bar: Tensor
    """(T,) float64, −∞ where nothing of the signal is left."""
    formula: Formula | None = None


def cosine(steps: int) -> Tables:
    """ᾱ(u) = cos²((u + .008)/1.008 · π/2), u = (t+1)/T, over its value at u = 0; β ≤ .999.

    cos²b − cos²a = sin(a+b) sin(a−b), with cos and sin of what is left to π/2 and π towards the end.
    """
    t, angle = _count(steps), ANGLE / steps
    angle_sum = torch.minimum((2 * t + 1) * angle + 0.016 * ANGLE, (2 * steps - 2 * t - 1) * angle)
    beta = angle_sum.sin() * math.sin(angle) / ((steps - t) * angle).sin().square()
    return _clipped(Formula(f"cosine({steps})", partial(_cosine, steps=steps)), beta)


def _cosine(t: Tensor, steps: int) -> Tensor:
    p, angle = t + 1, ANGLE / steps
    a = p * angle
    return (a + 0.016 * ANGLE).sin() * a.sin() / ((steps - p) * angle).sin().square()


def exponential(steps: int) -> Tables:
    """ᾱ(u) = exp(−12 u), u = (t+1)/T; β ≤ .999."""
    t = _count(steps)
    beta = torch.full_like(t, -math.expm1(-12 / steps))
    return _clipped(Formula(f"exponential({steps})", partial(_exponential, steps=steps)), beta)


def _exponential(t: Tensor, steps: int) -> Tensor:
    return (12 * (t + 1) / steps).expm1()


def laplace(steps: int, *, root: bool = False) -> Tables:
    """ᾱ(u) = sigmoid(−½ sgn(½ − u) log(1 − 2|½ − u| + 10⁻⁶)), u = (t+1)/T, over its value at 0; β ≤ .999.

    With w = 1 − 2|½ − u| + 10⁻⁶ it is 1/(1+√w) up to u = ½ and √w/(1+√w) beyond, where it jumps by 10⁻⁶.

    Args:
        steps: T.
        root: take √ᾱ for ᾱ, as diffusers does.
    """
    t = _count(steps)
    before, after = _laplace_w(t, steps).sqrt(), _laplace_w(t + 1, steps).sqrt()
    fall = 2 / steps / (before + after)
    from_half, to_half = (steps - 2 * t) / steps - LAPLACE_REST, (2 * t + 2 - steps) / steps - LAPLACE_REST
    across = (from_half + to_half - from_half * to_half) / (1 + before * after)  # 1 − √w √w'
    is_low, is_high = 2 * (t + 1) <= steps, 2 * t > steps
    beta = torch.where(is_low, fall, torch.where(is_high, fall / before, across)) / (1 + after)
    jump = ((steps // 2 - 1, steps // 2),)
    if root:
        beta = beta / (1 + (1 - beta).sqrt())
    formula = Formula(f"laplace({steps}, {root=})", partial(_laplace, steps=steps, root=root), jump)
    return _clipped(formula, beta)


def _laplace_w(p: Tensor, steps: int) -> Tensor:
    return 2 * torch.minimum(p, steps - p) / steps + LAPLACE_REST


def _laplace(t: Tensor, steps: int, root: bool) -> Tensor:
    p, first = t + 1, LAPLACE_REST**0.5
    w = _laplace_w(p, steps).sqrt()
    r: Tensor = torch.where(2 * p <= steps, 2 * p / steps / (w + first), (1 - w * first) / w) / (1 + first)
    return r / (1 + (1 + r).sqrt()) if root else r


def rectified_flow(steps: int, shift: float) -> Tables:
    """σ_ve = u/(1−u) = shift · (t+1)/(T−1−t), which is ∞ at t = T−1."""
    t = _count(steps)
    _check_positive(shift=shift)
    formula = Formula(f"rectified_flow({steps}, {shift!r})", partial(_flow, steps=steps, shift=shift))
    inverse = (steps - 1 - t) / (shift * (t + 1))  # 1/σ_ve
    ratio = t / (t + 1) * ((steps - 1 - t) / (steps - t))  # of σ_ve at t−1 and t
    beta = steps / ((steps - t) * (t + 1)) * (1 + ratio) / (1 + inverse.square())
    return _tables(formula, beta)


def _flow(t: Tensor, steps: int, shift: float) -> Tensor:
    ratio: Tensor = shift * (t + 1) / (steps - 1 - t)
    return ratio.square()


def edm(steps: int, sigma_min: float, sigma_max: float, rho: float) -> Tables:
    """σ_ve^{1/rho} evenly spaced from σ_min at t = 0 to σ_max at t = T−1; log σ_ve for rho = ∞."""
    t = _count(steps)
    _check_positive(sigma_min=sigma_min, sigma_max=sigma_max)
    if not sigma_min < sigma_max:
        raise ScheduleError(f"sigma_min is {sigma_min!r}, sigma_max {sigma_max!r}: sigma_min must be smaller")
    if not _is_number(rho) or not rho > 0:
        raise ScheduleError(f"rho is {rho!r}: it must be a positive number, 7 in Karras et al. 2022")
    last, whole = max(steps - 1, 1), math.log(sigma_max / sigma_min)
    stride = math.expm1(whole / rho) / last  # of (σ/σ_min)^{1/rho}
    name = f"edm({steps}, {sigma_min!r}, {sigma_max!r}, {rho!r})"
    if steps == 1:
        formula = Formula(name, partial(_even_log_sigma, first=sigma_max, stride=0.0))
        rise = t
    elif math.isinf(rho):
        formula = Formula(name, partial(_even_log_sigma, first=sigma_min, stride=whole / last))
        rise = torch.full_like(t, whole / last)
    else:
        formula = Formula(name, partial(_even_root_sigma, first=sigma_min, stride=stride, rho=rho))
        rise = rho * (stride / (1 + (t - 1) * stride)).log1p()
    rise[0] = math.inf  # of log σ, from clean data
    r = formula.sigma_ve_squared(t)
    return _tables(formula, -torch.expm1(-2 * rise) * r / (1 + r))


def _even_log_sigma(t: Tensor, first: float, stride: float) -> Tensor:
    return first * first * (2 * stride * t).exp()


def _even_root_sigma(t: Tensor, first: float, stride: float, rho: float) -> Tensor:
    return first * first * (2 * rho * (t * stride).log1p()).exp()


def _count(steps: int) -> Tensor:
    check_count(steps=steps)
    return torch.arange(steps, dtype=torch.float64)


def _tables(formula: Formula, beta: Tensor) -> Tables:
    t = torch.arange(len(beta), dtype=torch.float64)
    return Tables(beta, -formula.sigma_ve_squared(t).log1p(), formula)


def _clipped(formula: Formula, beta: Tensor) -> Tables:
    """Return the tables with β ≤ .999; from the first clipped β on, ᾱ follows from β."""
    tables = _tables(formula, beta)
    if not (beta > MAX_BETA).any():
        return tables
    first = int((beta > MAX_BETA).nonzero()[0])
    kept, beta = tables.log_alpha_bar[:first], beta.clamp(max=MAX_BETA)
    log_alpha_bar = torch.cat([kept, (kept[-1] if first else 0) + (-beta[first:]).log1p().cumsum(0)])
    gaps = (*formula.gaps, (first - 1, len(beta) - 1))
    return Tables(beta, log_alpha_bar, Formula(formula.name, formula.sigma_ve_squared, gaps))


def _check_positive(**numbers: float) -> None:
    for name, number in numbers.items():
        if not _is_number(number) or not 1e-100 <= number <= 1e100:
            raise ScheduleError(f"{name} is {number!r}: it must be a positive number, 1e-100 … 1e100")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
