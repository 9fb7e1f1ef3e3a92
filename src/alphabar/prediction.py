"""What the network's output means: ε, x_0 or v, and how each is read as the others.

    x_t = √ᾱ_t · x_0 + √(1−ᾱ_t) · ε,        v = √ᾱ_t · ε − √(1−ᾱ_t) · x_0

With x_t given, any one of ε, x_0 and v fixes the other two: each conversion is a linear combination of
x_t and the output. ε: Ho et al. 2020, section 3.2; v: Salimans & Ho 2022, arXiv 2202.00512, appendix D.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from alphabar.checks import check_alike, check_float, checked_t
from alphabar.errors import NoAnswerError, ShapeError, look_up
from alphabar.levels import log_alpha_bar_between
from alphabar.ops import at_once, lincomb, work_dtype
from alphabar.schedule import NoiseSchedule, noise_power

__all__ = ["PREDICTIONS", "Prediction", "target", "to_eps", "to_x_0"]

CPU = torch.device("cpu")
Pair = tuple[float | Tensor, float | Tensor]
Reading = Callable[[float | Tensor, float | Tensor], Pair]


class Prediction(NamedTuple):
    """One reading of the output: three pairs of coefficients, given a = √ᾱ_t and s = √(1−ᾱ_t)."""

    target: Reading
    """Of (x_0, noise): what the network is trained to return."""
    x_0: Reading
    """Of (x_t, output): x̂_0."""
    eps: Reading
    """Of (x_t, output): ε̂."""


PREDICTIONS = {
    "epsilon": Prediction(lambda a, s: (0.0, 1.0), lambda a, s: (1 / a, -s / a), lambda a, s: (0.0, 1.0)),
    "sample": Prediction(lambda a, s: (1.0, 0.0), lambda a, s: (0.0, 1.0), lambda a, s: (1 / s, -a / s)),
    "v_prediction": Prediction(lambda a, s: (-s, a), lambda a, s: (a, -s), lambda a, s: (s, a)),
}
"""The readings by diffusers' names."""


def target(schedule: NoiseSchedule, prediction: str, x_0: Tensor, noise: Tensor, t: int | Tensor) -> Tensor:
    """Return what the network should answer at x_t = √ᾱ_t · x_0 + √(1−ᾱ_t) · noise.

    Args:
        schedule: the noise schedule.
        prediction: ``"epsilon"``, ``"sample"`` or ``"v_prediction"``.
        x_0: (B, …) clean data.
        noise: (B, …) the noise that was added.
        t: an integer, or integers whose shape broadcasts against the leading dimensions of the data.

    Raises:
        UnknownNameError: another prediction.
        TimestepError, ShapeError, DtypeError: t or tensors that do not fit.
    """
    check_alike(x_0=x_0, noise=noise)
    a, s = scales(schedule, t, x_0)
    return lincomb(look_up(PREDICTIONS, prediction, "prediction").target(a, s), (x_0, noise))


def to_x_0(
    schedule: NoiseSchedule,
    prediction: str,
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
        x_t: (B, …) the noisy data the network was given.
        output: (B, …) what it returned.
        t: where; also between the integers.
        dtype: of the result; by default that of ``x_t``.

    Raises:
        NoAnswerError: ε-prediction where ᾱ_t = 0: x_t is pure noise there, and ε says nothing about x_0.
        UnknownNameError, TimestepError, ShapeError, DtypeError: as in :func:`target`.
    """
    read = look_up(PREDICTIONS, prediction, "prediction").x_0
    coefficients = _coefficients(schedule, read, t, x_t)
    if prediction == "epsilon" and not _is_finite(coefficients[0]):
        raise NoAnswerError(
            "ε-prediction at a t with ᾱ_t = 0: x_t is pure noise, so ε says nothing about x_0. Train with "
            "v_prediction or sample, or start at the t before"
        )
    x_0 = at_once(coefficients, (x_t, output), dtype=dtype)
    if x_0 is not None:
        return x_0
    check_alike(x_t=x_t, output=output)
    return lincomb(coefficients, (x_t, output), dtype=dtype)


def to_eps(
    schedule: NoiseSchedule, prediction: str, x_t: Tensor, output: Tensor, t: float | Tensor
) -> Tensor:
    """Return ε̂, the noise that the output stands for; arguments and errors as in :func:`to_x_0`."""
    check_alike(x_t=x_t, output=output)
    read = look_up(PREDICTIONS, prediction, "prediction").eps
    return lincomb(_coefficients(schedule, read, t, x_t), (x_t, output))


def scales(schedule: NoiseSchedule, t: int | Tensor, data: Tensor) -> Pair:
    """Return √ᾱ_t and √(1−ᾱ_t): numbers, or float64 tensors that broadcast over the data.

    Raises:
        ShapeError: the shape of t does not broadcast against the leading dimensions of the data.
    """
    found = scale_rows(schedule, t, data)
    if isinstance(found, Tensor):
        signal, noise = found.reshape(*found.shape[:-1], *[1] * (data.ndim - found.ndim + 1), 2).unbind(-1)
        return signal, noise
    return found


def scale_rows(schedule: NoiseSchedule, t: int | Tensor, data: Tensor) -> tuple[float, float] | Tensor:
    """Return √ᾱ_t and √(1−ᾱ_t): numbers, or (…, 2) float64, a row for each t; errors as :func:`scales`."""
    where = checked_t(t, 0, len(schedule))
    if isinstance(where, int) or (where.ndim < 2 and where.numel() == 1):
        return _scale_numbers(schedule)[int(where)]
    _check_fits(where, data)
    return scale_table(schedule, where.device)[where]


@lru_cache(maxsize=32)
def _scale_numbers(schedule: NoiseSchedule) -> list[tuple[float, float]]:
    """Both scales at every t, as plain numbers."""
    return list(zip(schedule.signal_scale.tolist(), schedule.noise_scale.tolist(), strict=True))


@lru_cache(maxsize=32)
def scale_table(schedule: NoiseSchedule, device: torch.device = CPU) -> Tensor:
    """Both scales at every t, (T, 2) float64, held on the device, by default the CPU."""
    return torch.stack([schedule.signal_scale, schedule.noise_scale], -1).to(device, work_dtype(device))


def _coefficients(schedule: NoiseSchedule, read: Reading, t: float | Tensor, data: Tensor) -> Pair:
    if isinstance(t, Tensor):
        return read(*_scales(spread(log_alpha_bar_between(schedule, t), data)))
    return _numbers(schedule, read, t)


def _numbers(schedule: NoiseSchedule, read: Reading, t: float) -> Pair:
    """Return the coefficients at one t as plain numbers: no step of a chain then waits for its device."""
    return _kept_numbers(schedule, read, t)


@lru_cache(maxsize=4096)
def _kept_numbers(schedule: NoiseSchedule, read: Reading, t: float) -> Pair:
    of_x_t, of_output = read(*_scales(log_alpha_bar_between(schedule, t)))
    return float(of_x_t), float(of_output)


# All that torch.compiler.assume_constant_result does, which itself would load sympy and numpy: a second.
_numbers._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _is_finite(number: float | Tensor) -> bool:
    return bool(number.isfinite().all()) if isinstance(number, Tensor) else math.isfinite(number)


def _scales(log_alpha_bar: Tensor) -> tuple[Tensor, Tensor]:
    return (log_alpha_bar / 2).exp(), noise_power(log_alpha_bar).sqrt()


def spread(values: Tensor, data: Tensor) -> Tensor:
    """Line the values up with the leading dimensions of the data: (B,) becomes (B, 1, 1, 1) over images.

    Raises:
        ShapeError: they do not broadcast.
    """
    check_float(data=data)
    if values.ndim == 0:
        return values
    _check_fits(values, data)
    return values.reshape(values.shape + (1,) * (data.ndim - values.ndim))


def _check_fits(values: Tensor, data: Tensor) -> None:
    shape, lead = values.shape, data.shape[: values.ndim]
    if shape != lead and not (len(shape) == len(lead) and all(map(_stretches, shape, lead))):
        raise ShapeError(
            f"t has shape {tuple(shape)}, the data {tuple(data.shape)}: t must broadcast against its "
            "leading dimensions: one t in all, (B,) one a sample, (B, L) one a token"
        )


def _stretches(size: int, onto: int) -> bool:
    return size in (1, onto)
