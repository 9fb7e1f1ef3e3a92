"""What a network is trained to return, and x̂_0 and ε̂ from what it returns, at any t.

Each is a combination of two tensors with coefficients of the parameterisation: one call of ``lincomb``.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from alphabar.checks import check_alike, check_float, checked_t, require
from alphabar.errors import ShapeError
from alphabar.kernels import lincomb
from alphabar.process.coefficients import CPU, coefficients_at, coefficients_between, table_of
from alphabar.process.parameterisation import Parameterisation, named, no_answer
from alphabar.schedule import NoiseSchedule, log_alpha_bar_between

__all__ = ["check_fits", "check_whole", "rows_at", "spread", "target", "to_eps", "to_x_0"]


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
    coefficients = rows_at(schedule, kind, "x_0", t, x_t)
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
    return lincomb(rows_at(schedule, named(prediction), "eps", t, x_t), (x_t, output))


def rows_at(
    schedule: NoiseSchedule, kind: Parameterisation, which: str, t: float | Tensor, data: Tensor
) -> Any:
    """Return what :class:`Coefficients` names ``which`` at one t; at a tensor of them (…, 2) or (…) float64.

    Raises:
        TimestepError, ShapeError: t outside 0 … T−1, or that does not fit the data.
    """
    if not isinstance(t, Tensor):
        return getattr(coefficients_at(schedule, kind, t), which)
    check_fits(t, data)
    if t.is_floating_point():
        return getattr(coefficients_between(kind, log_alpha_bar_between(schedule, t)), which)
    where = torch.as_tensor(checked_t(t, 0, len(schedule)))
    table = table_of(schedule, kind, which, t.device)
    return table.index_select(0, where.reshape(-1)).reshape(where.shape + table.shape[1:])


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


def check_fits(t: Tensor, data: Tensor, name: str = "t") -> None:
    """Require a t, or what has another name, that broadcasts against the leading dimensions of the data.

    Raises:
        ShapeError: it does not.
    """
    shape, lead = t.shape, data.shape[: t.ndim]
    if shape != lead and not (
        len(shape) == len(lead) and all(n in (1, m) for n, m in zip(shape, lead, strict=True))
    ):
        raise ShapeError(
            f"{name} has shape {tuple(shape)}, the data {tuple(data.shape)}: it must broadcast against their "
            "leading dimensions: one in all, (B,) one a sample, (B, L) one a token"
        )
