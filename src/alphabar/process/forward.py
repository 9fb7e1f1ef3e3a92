"""The forward process, and its exact reversal when x_0 is known.

    q(x_t | x_0)      = N(√ᾱ_t · x_0, 1 − ᾱ_t)              in one jump      (equation 4)
    q(x_t | x_{t−1})  = N(√α_t · x_{t−1}, β_t)              in one step      (equation 2)
    q(x_t | x_s)      = N(√(ᾱ_t/ᾱ_s) · x_s, 1 − ᾱ_t/ᾱ_s)    between any two
    q(x_s | x_t, x_0) = N(μ, σ²)                            back             (equations 6 and 7)

Equations of Ho et al. 2020, arXiv 2006.11239; the third is equation 22 of Kingma et al. 2021, arXiv
2107.00630.

Data of any floating precision: coefficients are float64, and the result is what float64 arithmetic gives,
rounded once.
Everywhere t may be an integer, or a tensor of integers that broadcasts against the leading dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from alphabar.checks import check_alike, check_float, checked_t, require
from alphabar.errors import TimestepError
from alphabar.kernels import Address, lincomb
from alphabar.process import addressed
from alphabar.process.coefficients import CPU, scale_table
from alphabar.process.conversions import check_whole, spread, target
from alphabar.schedule import NoiseSchedule, noise_power

__all__ = [
    "Gaussian",
    "add_noise",
    "add_noise_between",
    "add_noise_step",
    "posterior",
    "posterior_coefficients",
    "trajectory",
    "velocity",
]


def add_noise(
    schedule: NoiseSchedule,
    x_0: Tensor,
    noise: Tensor | Address,
    t: int | Tensor,
    out: Tensor | None = None,
) -> Tensor:
    """x_t = √ᾱ_t · x_0 + √(1−ᾱ_t) · noise: a sample of q(x_t | x_0).

    >>> schedule = NoiseSchedule.linear()
    >>> x_0, noise = torch.ones(2, 1), torch.zeros(2, 1)
    >>> add_noise(schedule, x_0, noise, torch.tensor([0, 999])).squeeze()
    tensor([0.9999, 0.0064])

    Args:
        schedule: the noise schedule.
        x_0: (B, …) clean data, floating point, usually in [−1, 1].
        noise: standard normal, of the shape, dtype and device of x_0; or its address (``process.address``),
            and then the CPU kernels make it on the way.
        t: 0 … T−1: an integer, or integers whose shape broadcasts against the leading dimensions of x_0:
            (B,) one a sample, (B, L) one a token.
        out: where to write, of the shape, dtype and device of x_0; may be x_0 or noise.

    Returns:
        x_t, of the shape and dtype of x_0, within half a unit in the last place of the exact value.

    Raises:
        TimestepError: t is no integer or outside 0 … T−1.
        ShapeError: shapes that do not fit.
        DtypeError: integer data, or dtypes or devices that differ.
    """
    tensors, address = ((x_0,), noise) if isinstance(noise, Address) else ((x_0, noise), None)

    def check() -> None:
        given = dict(zip(("x_0", "noise"), tensors, strict=False))
        check_alike(**given, **({} if out is None else {"out": out}))
        check_whole(schedule, t, x_0)

    table = scale_table(schedule, getattr(x_0, "device", CPU))
    return lincomb(table, tensors, rows=t, noise=address, out=out, check=check)


def add_noise_step(schedule: NoiseSchedule, x_s: Tensor, noise: Tensor, t: int | Tensor) -> Tensor:
    """x_t = √α_t · x_{t−1} + √β_t · noise: one step of the chain; at t = 0 it starts from clean data.

    Arguments and errors as in :func:`add_noise`.
    """
    return add_noise_between(schedule, x_s, noise, _before(schedule, t), t)


def add_noise_between(
    schedule: NoiseSchedule, x_s: Tensor, noise: Tensor, s: int | Tensor, t: int | Tensor
) -> Tensor:
    """x_t = √(ᾱ_t/ᾱ_s) · x_s + √(1 − ᾱ_t/ᾱ_s) · noise: a sample of q(x_t | x_s), s < t.

    Args:
        schedule: the noise schedule.
        x_s: (B, …) data at level s.
        noise: standard normal, of the shape, dtype and device of x_s.
        s: −1 … T−2, where −1 is clean data.
        t: s+1 … T−1.

    Raises:
        TimestepError: s ≥ t, or outside these ranges.
        ShapeError, DtypeError: as in :func:`add_noise`.
    """
    check_alike(x_s=x_s, noise=noise)
    log_s, log_t = _two_levels(schedule, s, t, x_s)
    ratio = log_t - log_s
    return lincomb(((ratio / 2).exp(), noise_power(ratio).sqrt()), (x_s, noise))


class Gaussian(NamedTuple):
    """A normal distribution with independent elements."""

    mean: Tensor
    """(B, …), of the dtype of the data."""
    variance: Tensor
    """Float64, in a shape that broadcasts over the mean."""


def posterior(
    schedule: NoiseSchedule, x_t: Tensor, x_0: Tensor, t: int | Tensor, s: int | Tensor | None = None
) -> Gaussian:
    """q(x_s | x_t, x_0): where x_s may have been, when both ends are known.

        μ  = √(ᾱ_t/ᾱ_s) (1−ᾱ_s)/(1−ᾱ_t) · x_t + √ᾱ_s (1 − ᾱ_t/ᾱ_s)/(1−ᾱ_t) · x_0
        σ² = (1−ᾱ_s)/(1−ᾱ_t) · (1 − ᾱ_t/ᾱ_s)

    Ho et al. 2020, equations 6 and 7, with any s < t in place of t−1.

    Args:
        schedule: the noise schedule.
        x_t: (B, …) noisy data at level t.
        x_0: (B, …) clean data.
        t: s+1 … T−1.
        s: −1 … T−2, where −1 is clean data; by default t−1.

    Raises:
        TimestepError: s ≥ t, or outside these ranges.
        ShapeError, DtypeError: as in :func:`add_noise`.
    """
    check_alike(x_t=x_t, x_0=x_0)
    s = _before(schedule, t) if s is None else s
    of_x_t, of_x_0, variance = posterior_coefficients(*_two_levels(schedule, s, t, x_t))
    return Gaussian(lincomb((of_x_t, of_x_0), (x_t, x_0)), variance)


def posterior_coefficients(log_s: Tensor, log_t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return what multiplies x_t and x_0 in the mean of q(x_s | x_t, x_0), and its variance.

    Args:
        log_s: log ᾱ_s, float64; 0 where s is clean data.
        log_t: log ᾱ_t < log ᾱ_s, of the same shape; −∞ is allowed.
    """
    ratio = log_t - log_s
    power_s, power_t, power_between = map(noise_power, (log_s, log_t, ratio))
    of_x_t = (ratio / 2).exp() * power_s / power_t
    of_x_0 = (log_s / 2).exp() * power_between / power_t
    return of_x_t, of_x_0, power_s / power_t * power_between


def velocity(schedule: NoiseSchedule, x_0: Tensor, noise: Tensor, t: int | Tensor) -> Tensor:
    """v = √ᾱ_t · noise − √(1−ᾱ_t) · x_0 (Salimans & Ho 2022, appendix D).

    Arguments and errors as in :func:`add_noise`.
    """
    return target(schedule, "v_prediction", x_0, noise, t)


def trajectory(schedule: NoiseSchedule, x_0: Tensor, ts: Sequence[int], *, seed: int = 0) -> Tensor:
    """Noise one sample, or a batch, along one chain: each state is made from the one before.

    Args:
        schedule: the noise schedule.
        x_0: (B, …) clean data.
        ts: increasing t, each in 0 … T−1.
        seed: of the addressed noise; each t has its own stream.

    Returns:
        (len(ts), B, …): x_t at the given t.

    Raises:
        TimestepError: ``ts`` is empty, not increasing, or outside 0 … T−1.
        DtypeError: integer data.
    """
    check_float(x_0=x_0)
    if not len(ts) or any(s >= t for s, t in pairwise(ts)):
        raise TimestepError(f"ts is {list(ts)}: give at least one t, in increasing order")
    schedule.log_alpha_bar_at(torch.as_tensor(ts))
    states, x_s = [], x_0
    for s, t in zip([-1, *ts], ts, strict=False):
        z = addressed.normal(x_0.shape, seed=seed, stream=t, dtype=x_0.dtype, device=x_0.device)
        x_s = add_noise_between(schedule, x_s, z, s, t)
        states.append(x_s)
    return torch.stack(states)


def _before(schedule: NoiseSchedule, t: int | Tensor) -> int | Tensor:
    where = checked_t(t, 0, len(schedule))
    return where - 1


def _two_levels(
    schedule: NoiseSchedule, s: int | Tensor, t: int | Tensor, data: Tensor
) -> tuple[Tensor, Tensor]:
    log_s, log_t = schedule.log_alpha_bar_at(s, lowest=-1), schedule.log_alpha_bar_at(t)

    def error(rule: str) -> TimestepError:
        return TimestepError(f"s = {s} and t = {t}: {rule}")

    rule = "s must be smaller than t, for noise only grows"
    if isinstance(s, Tensor) or isinstance(t, Tensor):
        index_s, index_t = (spread(torch.as_tensor(level, device=log_s.device), data) for level in (s, t))
        require(index_s < index_t, rule, error)
    elif s >= t:
        raise error(rule)
    return spread(log_s, data), spread(log_t, data)
