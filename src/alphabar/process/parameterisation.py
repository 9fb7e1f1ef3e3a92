r"""How each kind of network is asked and read, one row a kind: ε, x_0, v, flow matching, EDM.

    x = √ᾱ · x_0 + √(1−ᾱ) · z = a · x_0 + s · z

Any Gaussian path α(t) · x_0 + σ(t) · z is this one times a scale, with ᾱ = α²/(α²+σ²). So the library keeps x
everywhere, and kinds of network differ in four things alone, each a function of the level (a, s):

    input       what multiplies x before it enters the network, c_in
    time        what is passed to the network as time
    target      what it is trained to return: a combination of x_0 and z
    x_0, eps    what its output stands for: combinations of x and the output

    kind            input      time          target
    epsilon         1          t             z                           Ho et al. 2020, section 3.2
    sample          1          t             x_0
    v_prediction    1          t             a z − s x_0                 Salimans & Ho 2022, appendix D
    flow            1/(a+s)    1000 u        z − x_0                     Lipman et al. 2023, Esser et al. 2024
    edm             1/h        ¼ log(s/a)    (s x_0 − a σ_d² z)/(σ_d h)  Karras et al. 2022, table 1

where u = s/(a+s) is the time of flow matching, σ_d the standard deviation of the data and h² = s² + a² σ_d².
Whether a kind has an answer where ᾱ = 0 is read off its numbers there: it has none if one is not finite.

Another kind is one more row:

>>> reads = {"x_0": lambda a, s: (1 / a, -2 * s / a), "eps": lambda a, s: (0, 2)}
>>> half = Parameterisation("half epsilon", target=lambda a, s: (0, 0.5), **reads)
>>> half.x_0(0.6, 0.8)
(1.6666666666666667, -2.666666666666667)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from torch import Tensor

from alphabar.errors import ConfigError, NoAnswerError, look_up

__all__ = ["PARAMETERISATIONS", "SIGMA_DATA", "Parameterisation", "edm", "named", "no_answer"]

SIGMA_DATA = 0.5
"""The standard deviation that EDM takes for that of images in [−1, 1]."""

Number = float | Tensor
Scale = Callable[[Number, Number], Number]
Pair = Callable[[Number, Number], tuple[Number, Number]]


@dataclass(frozen=True, eq=False)
class Parameterisation:
    """One kind of network: functions of a = √ᾱ and s = √(1−ᾱ), numbers or float64 tensors.

    Args:
        name: what errors call it.
        target: (a, s) → coefficients of (x_0, z), what the network is trained to return.
        x_0: (a, s) → coefficients of (x, output), what x̂_0 is.
        eps: (a, s) → coefficients of (x, output), what ε̂ is.
        input: (a, s) → what multiplies x before it enters the network.
        time: (a, s) → what is passed to the network as time; None for t itself.
    """

    name: str
    target: Pair
    x_0: Pair
    eps: Pair
    input: Scale = lambda a, s: 1.0
    time: Scale | None = None


@lru_cache
def edm(sigma_data: float = SIGMA_DATA) -> Parameterisation:
    """Return EDM's preconditioning: c_skip, c_out, c_in and c_noise of Karras et al. 2022, table 1.

    There x/a is kept and D(x/a; σ) = c_skip · x/a + c_out · F(c_in · x/a; c_noise), σ = s/a.

    Args:
        sigma_data: σ_d > 0, the standard deviation of the data.

    Raises:
        ConfigError: σ_d is not a positive number.
    """
    if not 0 < sigma_data < math.inf:
        raise ConfigError(
            f"sigma_data is {sigma_data!r}: it must be a positive number, .5 for images in [-1, 1]"
        )
    d = sigma_data

    def h(a: Number, s: Number) -> Number:
        return (s * s + (d * a) * (d * a)) ** 0.5

    return Parameterisation(
        "edm" if d == SIGMA_DATA else f"edm(sigma_data={d!r})",
        target=lambda a, s: (s / (d * h(a, s)), -d * a / h(a, s)),
        x_0=lambda a, s: (d * a * d / h(a, s) ** 2, d * s / h(a, s)),
        eps=lambda a, s: (s / h(a, s) ** 2, -d * a / h(a, s)),
        input=lambda a, s: 1 / h(a, s),
        time=lambda a, s: _log(s / a) / 4,
    )


def _log(number: Number) -> Number:
    return number.log() if isinstance(number, Tensor) else math.log(number)


PARAMETERISATIONS: dict[str, Parameterisation] = {
    kind.name: kind
    for kind in (
        Parameterisation(
            "epsilon",
            target=lambda a, s: (0.0, 1.0),
            x_0=lambda a, s: (1 / a, -s / a),
            eps=lambda a, s: (0.0, 1.0),
        ),
        Parameterisation(
            "sample",
            target=lambda a, s: (1.0, 0.0),
            x_0=lambda a, s: (0.0, 1.0),
            eps=lambda a, s: (1 / s, -a / s),
        ),
        Parameterisation(
            "v_prediction",
            target=lambda a, s: (-s, a),
            x_0=lambda a, s: (a, -s),
            eps=lambda a, s: (s, a),
        ),
        Parameterisation(
            "flow",
            target=lambda a, s: (-1.0, 1.0),
            x_0=lambda a, s: (1 / (a + s), -s / (a + s)),
            eps=lambda a, s: (1 / (a + s), a / (a + s)),
            input=lambda a, s: 1 / (a + s),
            time=lambda a, s: 1000 * s / (a + s),
        ),
        edm(),
    )
}
"""The kinds by name; the first three by diffusers' names for ``prediction_type``."""


def named(prediction: str | Parameterisation) -> Parameterisation:
    """Return the parameterisation of this name, or the given one.

    Raises:
        UnknownNameError: a name that is not in ``PARAMETERISATIONS``.
    """
    if isinstance(prediction, Parameterisation):
        return prediction
    return look_up(PARAMETERISATIONS, prediction, "prediction")


def no_answer(kind: Parameterisation, where: str) -> NoAnswerError:
    """Return the error of asking a kind of network where it has no answer."""
    return NoAnswerError(
        f"prediction {kind.name!r} at {where} with ᾱ_t = 0: x_t is pure noise, so the output says nothing "
        "about x_0. Train with v_prediction or sample, on a schedule that keeps some signal, or sample from "
        "the t before"
    )
