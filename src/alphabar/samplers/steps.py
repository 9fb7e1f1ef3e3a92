"""One step between two levels: what all fast solvers have in common.

    x_s = σ_s/σ_t · x_t + √ᾱ_s (1 − e^{−h}) · x̂_0 + √ᾱ_s Σ_k w_k · (x̂_0⁽ᵏ⁾ − x̂_0),     h = λ_s − λ_t

The first two terms are DDIM; they are exact while x̂_0 does not change. The sum accounts for its change by
estimates x̂_0⁽ᵏ⁾ at other levels; solvers differ in which these are and in the integrals that fix w
(``quadrature.py``). Proposition 4.1 of Lu et al. 2022, arXiv 2211.01095, where σ = √(1−ᾱ) and λ = log(√ᾱ/σ).
Solvers in ε̂ have the same step with √ᾱ and σ exchanged (:func:`mirrored`), Σ_k w_k · (ε̂⁽ᵏ⁾ − ε̂) on DDIM.
Where λ is infinite, at clean data and at zero terminal SNR, the sum is left out.

:func:`multistep` gives rows; :func:`step` gives forms, which :func:`compose` and :func:`start_of` combine. A
form is a list of coefficients: of the state, then of the estimates, newest first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise, zip_longest

from alphabar.errors import ConfigError
from alphabar.samplers.plan import X_0, Form, Row
from alphabar.samplers.quadrature import moments, weights
from alphabar.schedule import Level

__all__ = [
    "Moments",
    "add_change",
    "check_eta",
    "check_order",
    "compose",
    "ddim_row",
    "eps_of",
    "fresh_noise",
    "in_eps",
    "mirrored",
    "multistep",
    "sde_row",
    "start_of",
    "step",
    "x_0_of",
]

Moments = Callable[[float, int], list[float]]
Kept = Callable[[Level], tuple[float, float]]
"""What is remembered of the row at a level: coefficients of x_t and x̂_0."""


def x_0_of(t: Level) -> tuple[float, float]:
    """Return the coefficients of x_t and x̂_0 in x̂_0."""
    return X_0


def eps_of(t: Level) -> tuple[float, float]:
    """Return the coefficients of x_t and x̂_0 in ε̂ = (x_t − √ᾱ_t · x̂_0)/√(1−ᾱ_t)."""
    return 1 / t.sigma, -t.signal / t.sigma


def ddim_row(t: Level, s: Level, eta: float = 0.0) -> Row:
    """Return DDIM's row: equations 12 and 16 of Song et al. 2021, arXiv 2010.02502.

    Args:
        t: where the step starts.
        s: where it lands.
        eta: η in [0, 1], how much of DDPM's noise is added.
    """
    shrink = s.sigma / t.sigma
    if not eta:
        return Row(t.t, s.t, shrink, (s.signal - shrink * t.signal,))
    # 1 − ᾱ_s − σ², with the common factor taken out: a difference of nearly equal numbers loses digits.
    power = -math.expm1(t.log_alpha_bar - s.log_alpha_bar)
    of_x_t = shrink * math.sqrt(1 + eta**2 * power / math.expm1(t.log_alpha_bar))
    return Row(t.t, s.t, of_x_t, (s.signal - of_x_t * t.signal,), eta * shrink * math.sqrt(power))


def add_change(row: Row, weights: Sequence[float], keeps: tuple[float, float]) -> Row:
    """Return the row plus Σ_k w_k · (kept⁽ᵏ⁾ − kept), where kept = keeps[0] · x_t + keeps[1] · x̂_0."""
    newest = -sum(weights)
    history = (row.history[0] + newest * keeps[1], *weights)
    return Row(row.t, row.s, row.x + newest * keeps[0], history, row.z, keeps=keeps)


def multistep(
    levels: Sequence[Level],
    order: int,
    place: Callable[[Level], float],
    integrals: Callable[[Level, Level, int], list[float]],
    kept: Kept,
    *,
    lower_order_final: bool = False,
    first_order: Callable[[Level, Level], Row] = ddim_row,
) -> Iterator[Row]:
    """Yield rows of first order plus the change extrapolated by a polynomial through the latest estimates.

    Args:
        levels: each noisier than the next.
        order: how many estimates the polynomial goes through.
        place: what it is a polynomial of: λ, ρ, …; where that is infinite, an estimate is left out.
        integrals: (t, s, n) → what the first n powers contribute to x_s, where t lies at 0 and s at 1.
        kept: what it is a polynomial for: ``x_0_of`` or ``eps_of``.
        lower_order_final: let the order fall to 1 over the last steps.
        first_order: (t, s) → the row while what is remembered does not change.
    """
    for i, (t, s) in enumerate(pairwise(levels)):
        left = len(levels) - 1 - i if lower_order_final else order
        here, length = place(t), place(s) - place(t)
        earlier = (place(levels[k]) for k in range(i - 1, max(i - min(order, left), -1), -1))
        nodes = [(p - here) / length for p in earlier if math.isfinite(length) and math.isfinite(p)]
        w = weights(nodes, integrals(t, s, len(nodes)))
        yield add_change(first_order(t, s), w, kept(t))


def step(
    t: Level, s: Level, known: Mapping[int, Level], rule: Moments, *, base: int = 0, speed: int = 1
) -> Form:
    """Return x_s as a form of x_t and the estimates.

    Args:
        t: where the step starts.
        s: where it lands.
        known: the levels of the estimates that are used, by their place in the history.
        rule: (z, n) → μ_1 … μ_n, the integrals of the first powers.
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
    integrals = rule(-speed * h, len(nodes))
    for k, weight in zip(nodes, weights(list(nodes.values()), integrals), strict=True):
        of_x_0[k] += s.signal * weight
        of_x_0[base] -= s.signal * weight
    decay = s.sigma * t.signal / (t.sigma * s.signal)  # e^{−h}, also where h = ∞
    return [s.sigma / t.sigma * decay ** (speed - 1), *of_x_0]


def sde_row(t: Level, s: Level) -> Row:
    """Return the row of first order for the stochastic equation, which is DDPM's."""
    return Row.of(t, s, step(t, s, {0: t}, moments, speed=2), fresh_noise(t, s))


def fresh_noise(t: Level, s: Level) -> float:
    """σ_s √(1 − e^{−2h}): the noise that a stochastic step adds; none to clean data."""
    return s.sigma * math.sqrt(-math.expm1(2 * (t.half_log_snr - s.half_log_snr)))


def compose(form: Form, start: Form) -> Form:
    """Return a form of a step's start as one of x_t, when the start is itself a form of x_t."""
    earlier = zip_longest(start[1:], form[1:], fillvalue=0.0)
    return [form[0] * start[0], *(form[0] * of_start + of_step for of_start, of_step in earlier)]


def start_of(form: Form) -> Form:
    """Solve a step for its start: a form of where it landed and of the estimates, with one made there."""
    return [1 / form[0], 0.0, *(-of_x_0 / form[0] for of_x_0 in form[1:])]


def mirrored(level: Level) -> Level:
    """Return the level with √ᾱ and √(1−ᾱ) exchanged: a solver in x̂_0 there is the solver in ε̂ here."""
    log_alpha_bar = level.log_alpha_bar
    if log_alpha_bar < -math.log(2):  # each form is right to rounding on its own side of ᾱ = ½
        return Level(level.t, math.log1p(-math.exp(log_alpha_bar)))
    return Level(level.t, math.log(-math.expm1(log_alpha_bar)) if log_alpha_bar else -math.inf)


def in_eps(row: Row, t: Level) -> Row:
    """Return a row whose history is of ε̂ as one in x̂_0 that remembers ε̂."""
    of_x_t, of_x_0 = keeps = eps_of(t)
    now, *before = row.history
    return Row(row.t, row.s, row.x + now * of_x_t, (now * of_x_0, *before), row.z, keeps=keeps)


def check_order(order: int, highest: int) -> None:
    """Require an order of 1 … highest.

    Raises:
        ConfigError: for anything else.
    """
    if isinstance(order, bool) or not isinstance(order, int) or not 1 <= order <= highest:
        raise ConfigError(f"order is {order!r}: it must be a whole number in 1 … {highest}")


def check_eta(eta: float) -> None:
    """Require an η of 0 … 1.

    Raises:
        ConfigError: for anything else.
    """
    if not (isinstance(eta, int | float) and 0 <= eta <= 1):
        raise ConfigError(f"eta is {eta!r}: it must lie in [0, 1], where 0 adds no noise and 1 is DDPM")
