r"""How each kind of network is asked and read, one row a kind: ε, x_0, v, flow matching, EDM.

    x = √ᾱ · x_0 + √(1−ᾱ) · z = a · x_0 + s · z

Any Gaussian path α(t) · x_0 + σ(t) · z is this one times a scale, with ᾱ = α²/(α²+σ²). So the library keeps x
everywhere, and kinds of network differ in four things alone, each a function of the level (a, s):

    input       what multiplies x before it enters the network, c_in
    time        what the network is told as time
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
>>> target(NoiseSchedule.linear(), half, torch.zeros(1), torch.ones(1), t=500)
tensor([0.5000])
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from alphabar.checks import check_alike, check_float, checked_t, require
from alphabar.errors import ConfigError, NoAnswerError, ShapeError, look_up
from alphabar.kernels import lincomb, work_dtype
from alphabar.schedule import NoiseSchedule, levels_at, log_alpha_bar_between, noise_power

__all__ = [
    "PARAMETERISATIONS",
    "Coefficients",
    "Parameterisation",
    "Table",
    "coefficients_at",
    "coefficients_table",
    "edm",
    "named",
    "spread",
    "target",
    "to_eps",
    "to_x_0",
]

CPU = torch.device("cpu")
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
        time: (a, s) → what the network is told as time; None for t itself.
    """

    name: str
    target: Pair
    x_0: Pair
    eps: Pair
    input: Scale = lambda a, s: 1.0
    time: Scale | None = None


@lru_cache
def edm(sigma_data: float = 0.5) -> Parameterisation:
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
        "edm" if d == 0.5 else f"edm(sigma_data={d!r})",
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


class Coefficients(NamedTuple):
    """The numbers of a parameterisation at one level."""

    noised: tuple[float, float]
    """Of (x_0, z): what the network is given, input · x."""
    target: tuple[float, float]
    """Of (x_0, z): what it is trained to return."""
    x_0: tuple[float, float]
    """Of (x, output): x̂_0."""
    eps: tuple[float, float]
    """Of (x, output): ε̂."""
    input: float
    """Of x: what the network is given."""
    time: float
    """What it is told as time; NaN for t itself."""

    answers: bool
    """Whether x̂_0 follows from what the network returns here: whether all numbers it takes are finite."""


class Table(NamedTuple):
    """The same at many levels: (…, 2) or (…) float64 tensors."""

    noised: Tensor
    target: Tensor
    x_0: Tensor
    eps: Tensor
    input: Tensor
    time: Tensor


def target(
    schedule: NoiseSchedule, prediction: str | Parameterisation, x_0: Tensor, noise: Tensor, t: int | Tensor
) -> Tensor:
    """Return what the network should answer at x_t = √ᾱ_t · x_0 + √(1−ᾱ_t) · noise.

    Args:
        schedule: the noise schedule.
        prediction: the kind of network: a name in ``PARAMETERISATIONS``, or a parameterisation.
        x_0: (B, …) clean data.
        noise: (B, …) the noise that was added.
        t: an integer, or integers whose shape broadcasts against the leading dimensions of the data.

    Raises:
        UnknownNameError: another prediction.
        TimestepError, ShapeError, DtypeError: t or tensors that do not fit.
    """
    table = table_of(schedule, named(prediction), "target", getattr(x_0, "device", CPU))

    def check() -> None:
        check_alike(x_0=x_0, noise=noise)
        check_whole(schedule, t, x_0)

    return lincomb(table, (x_0, noise), rows=t, check=check)


def to_x_0(
    schedule: NoiseSchedule,
    prediction: str | Parameterisation,
    x_t: Tensor,
    output: Tensor,
    t: float | Tensor,
    *,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Return x̂_0, the clean sample that the output stands for; arguments as in :func:`target`.

    Args:
        schedule: the noise schedule.
        prediction: how the output is read.
        x_t: (B, …) the noisy data, before the scale of the network's input.
        output: (B, …) what the network returned.
        t: where; also between the integers.
        dtype: of the result; by default that of ``x_t``.

    Raises:
        NoAnswerError: ε-prediction where ᾱ_t = 0: x_t is pure noise there, and ε says nothing about x_0.
        UnknownNameError, TimestepError, ShapeError, DtypeError: as in :func:`target`.
    """
    kind = named(prediction)
    coefficients = _rows(schedule, kind, "x_0", t, x_t)
    _check_finite(coefficients, kind)
    tensors = x_t, output
    return lincomb(coefficients, tensors, dtype=dtype, check=lambda: check_alike(x_t=x_t, output=output))


def to_eps(
    schedule: NoiseSchedule,
    prediction: str | Parameterisation,
    x_t: Tensor,
    output: Tensor,
    t: float | Tensor,
) -> Tensor:
    """Return ε̂, the noise that the output stands for; arguments and errors as in :func:`to_x_0`."""
    check_alike(x_t=x_t, output=output)
    return lincomb(_rows(schedule, named(prediction), "eps", t, x_t), (x_t, output))


def no_answer(kind: Parameterisation, where: str) -> NoAnswerError:
    """Return the error of asking a kind of network where it has no answer."""
    return NoAnswerError(
        f"prediction {kind.name!r} at {where} with ᾱ_t = 0: x_t is pure noise, so the output says nothing "
        "about x_0. Train with v_prediction or sample, or start at the t before"
    )


def _rows(
    schedule: NoiseSchedule, kind: Parameterisation, which: str, t: float | Tensor, data: Tensor
) -> tuple[float, float] | Tensor:
    """Return a pair of numbers, or (…, 2) float64 with a row for each t."""
    if not isinstance(t, Tensor):
        pair: tuple[float, float] = getattr(coefficients_at(schedule, kind, t), which)
        return pair
    check_fits(t, data)
    if t.is_floating_point():
        found: Tensor = getattr(_coefficients(kind, log_alpha_bar_between(schedule, t)), which)
        return found
    where = torch.as_tensor(checked_t(t, 0, len(schedule)))
    table = table_of(schedule, kind, which, t.device)
    return table.index_select(0, where.reshape(-1)).reshape(*where.shape, 2)


def coefficients_at(schedule: NoiseSchedule, kind: Parameterisation, t: float) -> Coefficients:
    """Return the numbers at one t, whole or fractional: no step of a chain then waits for its device.

    Raises:
        TimestepError: a t outside 0 … T−1.
    """
    return _coefficients_at(schedule, kind, t)


# All that torch.compiler.assume_constant_result does, which itself would load sympy and numpy: a second.
coefficients_at._dynamo_marked_constant = True  # type: ignore[attr-defined]


@lru_cache(maxsize=4096)
def _coefficients_at(schedule: NoiseSchedule, kind: Parameterisation, t: float) -> Coefficients:
    if isinstance(t, int) and 0 <= t < len(schedule):
        return _whole(schedule, kind)[t]
    (level,) = levels_at(schedule, [t])
    a, s = level.signal, level.sigma  # a > 0: a level without signal is at a whole t
    scale = float(kind.input(a, s))
    time = math.nan if kind.time is None else float(kind.time(a, s))
    target, x_0, eps = (_floats(pair(a, s)) for pair in (kind.target, kind.x_0, kind.eps))
    return Coefficients((scale * a, scale * s), target, x_0, eps, scale, time, answers=True)


def _floats(pair: tuple[Number, Number]) -> tuple[float, float]:
    return float(pair[0]), float(pair[1])


@lru_cache(maxsize=32)
def _whole(schedule: NoiseSchedule, kind: Parameterisation) -> list[Coefficients]:
    return _numbers(coefficients_table(schedule, kind))


def _numbers(table: Table) -> list[Coefficients]:
    pairs = (list(map(tuple, column.tolist())) for column in table[:4])
    single = (column.tolist() for column in table[4:])
    answers = table.x_0.isfinite().all(-1) & table.input.isfinite() & ~table.time.isinf()
    return list(map(Coefficients._make, zip(*pairs, *single, answers.tolist(), strict=True)))


@lru_cache(maxsize=32)
def coefficients_table(schedule: NoiseSchedule, kind: Parameterisation, device: torch.device = CPU) -> Table:
    """Return the numbers at every whole t: (T, 2) and (T,) float64 tensors on the device."""
    table = _coefficients(kind, schedule.log_alpha_bar_at(torch.arange(len(schedule))))
    return Table._make(column.to(device, work_dtype(device)) for column in table)


def _coefficients(kind: Parameterisation, log_alpha_bar: Tensor) -> Table:
    a, s = (log_alpha_bar / 2).exp(), noise_power(log_alpha_bar).sqrt()

    def column(number: Number) -> Tensor:
        return torch.as_tensor(number, dtype=a.dtype, device=a.device).expand_as(a)

    def pair(numbers: tuple[Number, Number]) -> Tensor:
        return torch.stack([column(number) for number in numbers], -1)

    scale = kind.input(a, s)
    time = math.nan if kind.time is None else kind.time(a, s)
    of_noised = pair((a * scale, s * scale))
    return Table(
        of_noised,
        pair(kind.target(a, s)),
        pair(kind.x_0(a, s)),
        pair(kind.eps(a, s)),
        column(scale),
        column(time),
    )


def table_of(
    schedule: NoiseSchedule, kind: Parameterisation, which: str, device: torch.device = CPU
) -> Tensor:
    """Return one pair of coefficients at every t, (T, 2) float64, held on the device."""
    table: Tensor = getattr(coefficients_table(schedule, kind, device), which)
    return table


# As of coefficients_at; or a graph would work the table out again, and hold the schedule's own tensors.
table_of._dynamo_marked_constant = True  # type: ignore[attr-defined]


def scale_table(schedule: NoiseSchedule, device: torch.device = CPU) -> Tensor:
    """Return √ᾱ_t and √(1−ᾱ_t) at every t, (T, 2) float64, held on the device."""
    return table_of(schedule, PARAMETERISATIONS["v_prediction"], "noised", device)


def check_whole(schedule: NoiseSchedule, t: int | Tensor, data: Tensor) -> None:
    """Require a whole t, or several whose shape broadcasts against the leading dimensions of the data.

    Raises:
        TimestepError: t is no integer or outside 0 … T−1.
        ShapeError: its shape does not fit.
    """
    where = checked_t(t, 0, len(schedule))
    if isinstance(where, Tensor):
        check_fits(where, data)


def _check_finite(coefficients: tuple[float, float] | Tensor, kind: Parameterisation) -> None:
    if isinstance(coefficients, Tensor):
        rule = f"prediction {kind.name!r} has no answer at a t with ᾱ_t = 0"
        require(coefficients.isfinite(), rule, lambda rule: no_answer(kind, "a t"))
    elif not all(map(math.isfinite, coefficients)):
        raise no_answer(kind, "a t")


def spread(values: Tensor, data: Tensor) -> Tensor:
    """Line the values up with the leading dimensions of the data: (B,) becomes (B, 1, 1, 1) over images.

    Raises:
        ShapeError: they do not broadcast.
    """
    check_float(data=data)
    if values.ndim == 0:
        return values
    check_fits(values, data)
    return values.reshape(values.shape + (1,) * (data.ndim - values.ndim))


def check_fits(t: Tensor, data: Tensor) -> None:
    """Require a t whose shape broadcasts against the leading dimensions of the data.

    Raises:
        ShapeError: it does not.
    """
    shape, lead = t.shape, data.shape[: t.ndim]
    if shape != lead and not (
        len(shape) == len(lead) and all(n in (1, m) for n, m in zip(shape, lead, strict=True))
    ):
        raise ShapeError(
            f"t has shape {tuple(shape)}, the data {tuple(data.shape)}: t must broadcast against its "
            "leading dimensions: one t in all, (B,) one a sample, (B, L) one a token"
        )
