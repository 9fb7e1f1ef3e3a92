"""One step between two levels: what all fast solvers share.

    x_s = σ_s/σ_t · x_t + √ᾱ_s (1 − e^{−h}) · x̂_0 + √ᾱ_s Σ_k w_k · (x̂_0⁽ᵏ⁾ − x̂_0),     h = λ_s − λ_t

The first two terms are DDIM; they are exact while x̂_0 does not change. The sum follows its change through
estimates x̂_0⁽ᵏ⁾ made elsewhere; solvers differ in which these are and in the integrals that fix w
(``quadrature.py``). Proposition 4.1 of Lu et al. 2022, arXiv 2211.01095, where σ = √(1−ᾱ) and λ = log(√ᾱ/σ).
Where λ is infinite, at clean data and at zero terminal SNR, a change has no slope in λ: DDIM is what is left.

A form is a list of coefficients: of the state, then of the estimates, newest first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import zip_longest

from alphabar.errors import ConfigError
from alphabar.samplers.quadrature import weights
from alphabar.schedule import Level

__all__ = ["Form", "Moments", "apply", "check_order", "fresh_noise", "start_of", "step"]

Form = list[float]
Moments = Callable[[float, int], list[float]]


def step(
    t: Level, s: Level, known: Mapping[int, Level], moments: Moments, *, base: int = 0, speed: int = 1
) -> Form:
    """Return x_s as a form of x_t and the estimates.

    Args:
        t: where the step starts.
        s: where it lands.
        known: the levels of the estimates that are used, by their place in the history.
        moments: (z, n) → μ_1 … μ_n, the integrals of the first powers.
        base: the place of the estimate at t.
        speed: 1 follows the ordinary differential equation; 2 the stochastic one, which draws twice as
            strongly towards x̂_0 (Lu et al. 2022, arXiv 2211.01095, equation 18).
    """
    h = s.half_log_snr - t.half_log_snr
    nodes = {
        k: (level.half_log_snr - t.half_log_snr) / h
        for k, level in known.items()
        if k != base and h and math.isfinite(h) and math.isfinite(level.half_log_snr)
    }
    of_x_0 = [0.0] * (max(known) + 1)
    of_x_0[base] = -s.signal * math.expm1(-speed * h)
    integrals = moments(-speed * h, len(nodes))
    for k, weight in zip(nodes, weights(list(nodes.values()), integrals), strict=True):
        of_x_0[k] += s.signal * weight
        of_x_0[base] -= s.signal * weight
    shrink = s.sigma * t.signal / (t.sigma * s.signal)  # e^{−h}, also where h = ∞
    return [s.sigma / t.sigma * shrink ** (speed - 1), *of_x_0]


def fresh_noise(t: Level, s: Level) -> float:
    """σ_s √(1 − e^{−2h}): the noise that a stochastic step adds; none to clean data."""
    return s.sigma * math.sqrt(-math.expm1(2 * (t.half_log_snr - s.half_log_snr)))


def apply(form: Form, start: Form) -> Form:
    """Return a form of a step's start as one of x_t, when the start is itself a form of x_t."""
    earlier = zip_longest(start[1:], form[1:], fillvalue=0.0)
    return [form[0] * start[0], *(form[0] * of_start + of_step for of_start, of_step in earlier)]


def start_of(form: Form) -> Form:
    """Return a step's start as seen from where it start_of, one estimate later: the step, solved for it."""
    return [1 / form[0], 0.0, *(-of_x_0 / form[0] for of_x_0 in form[1:])]


def check_order(order: int, highest: int) -> None:
    """Require an order of 1 … highest.

    Raises:
        ConfigError: for anything else.
    """
    if isinstance(order, bool) or order not in range(1, highest + 1):
        raise ConfigError(f"order is {order!r}: it must be a whole number in 1 … {highest}")
