"""The families given by β, and schedules made of schedules, as plain functions that return ``Tables``.

Those given by a formula for ᾱ are in ``formulas.py``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from alphabar.checks import check_count
from alphabar.errors import ScheduleError
from alphabar.schedule.formulas import Tables, cosine, exponential, laplace

__all__ = [
    "BETA_SCHEDULES",
    "ScheduleWarning",
    "alpha_of",
    "noise_power",
    "of_alpha_bar",
    "of_beta",
    "respaced",
    "warn_of_leftover",
    "zero_terminal",
]


LEFTOVER = 0.01  # ᾱ_T above which the end of a schedule still shows the image


class ScheduleWarning(UserWarning):
    """A schedule that is valid, but does not end in pure noise."""


def of_beta(beta: Tensor) -> Tables:
    """ᾱ_t = (1−β_0) ⋯ (1−β_t)."""
    return Tables(beta, torch.log1p(-beta).cumsum(0))


def of_alpha_bar(alpha_bar: Tensor) -> Tables:
    """β_t = 1 − ᾱ_t/ᾱ_{t−1}."""
    previous = torch.cat([alpha_bar.new_ones(1), alpha_bar[:-1]])
    return Tables((previous - alpha_bar) / previous, alpha_bar.log())


def respaced(tables: Tables, t: Tensor) -> Tables:
    """β' = 1 − ᾱ_t/ᾱ_s between the t that are kept; β itself between neighbours."""
    log_alpha_bar = tables.log_alpha_bar[t]
    far = noise_power(log_alpha_bar.diff(prepend=log_alpha_bar.new_zeros(1)))
    is_next = t.diff(prepend=t.new_full((1,), -1)) == 1
    return Tables(torch.where(is_next, tables.beta[t], far), log_alpha_bar)


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


def _check(steps: int, start: float, end: float) -> None:
    check_count(steps=steps)
    for name, beta in {"beta_start": start, "beta_end": end}.items():
        if not isinstance(beta, int | float):
            raise ScheduleError(f"{name} is {beta!r}: it must be a number in (0, 1)")
        if not 0 < beta < 1:
            hint = f"; {steps} steps are too few to rescale these betas to" if beta >= 1 else ""
            raise ScheduleError(f"{name} is {beta:g}: it must lie in (0, 1){hint}")


def warn_of_leftover(name: str, last_alpha_bar: float, stacklevel: int) -> None:
    """Warn if the last ᾱ leaves more than 1 % of the signal's power."""
    if last_alpha_bar > LEFTOVER:
        warnings.warn(
            f"{name} ends at ᾱ = {last_alpha_bar:.2g}: the image is still there. Use rescale_to_steps=True "
            "(β × 1000/T), cosine(), or zero_terminal_snr().",
            ScheduleWarning,
            stacklevel=stacklevel,
        )


BETA_SCHEDULES: dict[str, Callable[[int, float, float], Tables]] = {
    "linear": lambda steps, start, end: of_beta(linear(steps, start, end)),
    "scaled_linear": lambda steps, start, end: of_beta(scaled_linear(steps, start, end)),
    "squaredcos_cap_v2": lambda steps, start, end: cosine(steps),
    "sigmoid": lambda steps, start, end: of_beta(sigmoid(steps, start, end)),
    "exp": lambda steps, start, end: exponential(steps),
    # diffusers takes the root of this family's ᾱ: its files describe networks trained with the root.
    "laplace": lambda steps, start, end: laplace(steps, root=True),
}
"""The families by the names of diffusers' ``beta_schedule``, as diffusers means them."""


def zero_terminal(tables: Tables) -> Tables:
    """√ᾱ' = √ᾱ_0 (√ᾱ − √ᾱ_{T−1})/(√ᾱ_0 − √ᾱ_{T−1}), for T ≥ 2 (Lin et al. 2023, algorithm 1).

    With D_t = log ᾱ_t/ᾱ_{T−1} and E(x) = 1 − e^{−x/2}, nothing is subtracted from what nearly equals it:

        √ᾱ'_t/√ᾱ'_{t−1} = 1 − q_t,    q_t = E(−log α_t)/E(D_{t−1}),    β'_t = q_t (2 − q_t)
        √ᾱ'_t/√ᾱ'_0 = 1 − E(log ᾱ_0/ᾱ_t)/E(D_0) = √(ᾱ_t/ᾱ_0) E(D_t)/E(D_0)
    """
    log_alpha = torch.where(
        tables.beta > 0.5, tables.log_alpha_bar.diff(prepend=tables.beta.new_zeros(1)), (-tables.beta).log1p()
    )
    fallen = -_running_sums(log_alpha[1:])  # log ᾱ_0/ᾱ_t
    to_end = -_running_sums(log_alpha[1:].flip(0)).flip(0)  # D_{t−1}
    q = _share(-log_alpha[1:]) / _share(to_end)
    beta = torch.cat([tables.beta[:1], (q * (2 - q)).clamp(max=1)])
    lost = _share(fallen) / _share(to_end[0])
    left = _share(torch.cat([to_end[1:], to_end.new_zeros(1)])) / _share(to_end[0])
    log_signal = torch.where(lost < 0.5, (-lost).log1p(), left.log() - fallen / 2)
    first = tables.log_alpha_bar[:1]
    return Tables(beta, torch.cat([first, first + 2 * log_signal]))


def _share(x: Tensor) -> Tensor:
    return -torch.expm1(-x / 2)


def _running_sums(values: Tensor) -> Tensor:
    return torch.tensor(list(_compensated(values.tolist())), dtype=values.dtype)


def _compensated(values: list[float]) -> Iterator[float]:
    """Yield the sums of the first 1, 2, … values, each right to rounding (Neumaier 1974)."""
    total = rest = 0.0
    for value in values:
        new = total + value
        rest += (total - new) + value if abs(total) >= abs(value) else (value - new) + total
        total = new
        yield total + rest


def alpha_of(tables: Tables) -> Tensor:
    """α_t = 1 − β_t, from log ᾱ where β is nearly 1."""
    ratio = tables.log_alpha_bar.diff(prepend=tables.beta.new_zeros(1)).exp()
    return torch.where(tables.beta > 0.5, ratio, 1 - tables.beta)


def noise_power(log_alpha_bar: Tensor) -> Tensor:
    """1 − ᾱ from log ᾱ ≤ 0, right to rounding: −expm1, and +0 for clean data."""
    return log_alpha_bar.expm1().abs()
