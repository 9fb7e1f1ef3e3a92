"""What public functions ask of their arguments: each check names the argument, its value and the remedy."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from alphabar.errors import (
    AlphabarError,
    ConfigError,
    DtypeError,
    ScheduleError,
    ShapeError,
    TimestepError,
)

__all__ = [
    "MOST_LEVELS",
    "check_alike",
    "check_count",
    "check_float",
    "check_levels",
    "checked_alpha_bar",
    "checked_beta",
    "checked_log_alpha_bar",
    "checked_numbers",
    "checked_t",
    "require",
]

MOST_LEVELS = 1_000_000


def check_float(**tensors: Tensor) -> None:
    """Require floating-point tensors, named by their keywords.

    Raises:
        DtypeError: for what is no tensor, or a tensor of integers, complex numbers or bytes.
    """
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise DtypeError(f"{name} is a {type(tensor).__name__}: pass a torch.Tensor")
        if not tensor.is_floating_point():
            raise DtypeError(
                f"{name} has dtype {tensor.dtype}: diffusion works on real numbers; scale images to [-1, 1] "
                "first, x = images / 127.5 - 1 for 8-bit ones"
            )


def check_alike(**tensors: Tensor) -> None:
    """Require floating-point tensors of one shape, one dtype and one device, named by their keywords.

    Raises:
        ShapeError: shapes differ (a noise of batch 1 does not stretch over a batch of 2).
        DtypeError: dtypes or devices differ, or a tensor is not of floating point.
    """
    check_float(**tensors)
    (first, reference), *others = tensors.items()
    for name, tensor in others:
        if tensor.shape != reference.shape:
            raise ShapeError(
                f"{name} has shape {tuple(tensor.shape)}, {first} {tuple(reference.shape)}: make them equal"
            )
        if tensor.dtype != reference.dtype:
            raise DtypeError(f"{name} is {tensor.dtype}, {first} is {reference.dtype}: convert one of them")
        if tensor.device != reference.device:
            raise DtypeError(f"{name} is on {tensor.device}, {first} on {reference.device}: move one of them")


def check_count(**counts: int) -> None:
    """Require whole numbers of at least 1, named by their keywords.

    Raises:
        ConfigError: for anything else.
    """
    for name, count in counts.items():
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ConfigError(f"{name} is {count!r}: it must be a whole number of at least 1")


def check_levels(diffusion_steps: int) -> None:
    """Require 1 … 1,000,000 noise levels: of more, neighbours differ by less than float32 data can show.

    Raises:
        ConfigError: another number.
    """
    check_count(diffusion_steps=diffusion_steps)
    if diffusion_steps > MOST_LEVELS:
        raise ConfigError(f"diffusion_steps is {diffusion_steps}: it must be at most {MOST_LEVELS}")


def require(holds: Tensor, rule: str, error: Callable[[str], AlphabarError]) -> None:
    """Raise ``error(rule)`` unless a condition holds everywhere, under ``torch.func`` in every sample.

    A graph that is being compiled has no values yet: it asserts the rule, as a RuntimeError, when it runs.
    """
    if torch.compiler.is_compiling():
        torch._assert_async(holds.all(), rule)
    elif not unwrapped(holds).all():
        raise error(rule)


def unwrapped(values: Tensor) -> Tensor:
    """Return what ``torch.func`` has wrapped: under vmap, the values of all samples."""
    while torch._C._functorch.is_functorch_wrapped_tensor(values):
        values = torch._C._functorch.get_unwrapped(values)
    return values


def checked_numbers(name: str, values: Tensor | Sequence[float]) -> Tensor:
    """Return a copy as a (T,) float64 tensor on the CPU.

    Raises:
        ScheduleError: not one row of at least one finite number.
    """
    try:
        vector = torch.as_tensor(values, dtype=torch.float64).detach().to("cpu", copy=True)
    except (TypeError, ValueError, RuntimeError):
        raise ScheduleError(f"{name} is {values!r}: give a list of at least one number") from None
    if vector.ndim != 1 or not vector.numel():
        raise ScheduleError(f"{name} has shape {tuple(vector.shape)}: give a list of at least one number")
    if not vector.isfinite().all():
        t = int((~vector.isfinite()).nonzero()[0])
        raise ScheduleError(f"{name}[{t}] is {vector[t]}: every entry must be a finite number")
    return vector


def checked_beta(beta: Tensor | Sequence[float]) -> Tensor:
    """Return a copy of β as (T,) float64.

    Raises:
        ScheduleError: a β outside (0, 1), other than a last one of 1.
    """
    values = checked_numbers("beta", beta)
    wrong = (values <= 0) | (values >= 1)
    wrong[-1] = not 0 < values[-1] <= 1
    if wrong.any():
        t = int(wrong.nonzero()[0])
        raise ScheduleError(
            f"beta[{t}] is {values[t]:g}: β lies in (0, 1), and only the last may be 1 (zero terminal SNR)"
        )
    return values


def checked_alpha_bar(alpha_bar: Tensor | Sequence[float]) -> Tensor:
    """Return a copy of ᾱ as (T,) float64.

    Raises:
        ScheduleError: ᾱ that does not fall from below 1 to 0 at the least.
    """
    values = checked_numbers("alpha_bar", alpha_bar)
    previous = torch.cat([values.new_ones(1), values[:-1]])
    wrong = ~((values >= 0) & (values < previous))
    if wrong.any():
        t = int(wrong.nonzero()[0])
        raise ScheduleError(
            f"alpha_bar[{t}] is {values[t]:g} after {previous[t]:g}: ᾱ must start below 1, always fall, and "
            "reach 0 at the last step if at all"
        )
    return values


def checked_log_alpha_bar(log_alpha_bar: Sequence[float | None]) -> Tensor:
    """Return log ᾱ as (T,) float64; a last None stands for −∞, ᾱ = 0.

    Raises:
        ScheduleError: log ᾱ that does not fall from below 0.
    """
    ends_at_zero = isinstance(log_alpha_bar, Sequence) and bool(log_alpha_bar) and log_alpha_bar[-1] is None
    given = log_alpha_bar[:-1] if ends_at_zero else log_alpha_bar
    values = checked_numbers("log_alpha_bar", given)  # type: ignore[arg-type]  # which a None elsewhere fails
    wrong = (values >= 0) | (values.diff(prepend=values.new_zeros(1)) > 0)
    if wrong.any():
        t = int(wrong.nonzero()[0])
        raise ScheduleError(f"log_alpha_bar[{t}] is {values[t]:g}: log ᾱ must be below 0 and always fall")
    return torch.cat([values, values.new_full((int(ends_at_zero),), -torch.inf)])


def checked_t(t: int | Tensor, lowest: int, steps: int) -> int | Tensor:
    """Return t, a tensor of integers as int64.

    Raises:
        TimestepError: t is no integer or outside lowest … steps−1.
    """
    if isinstance(t, bool) or not isinstance(t, int | Tensor):
        raise TimestepError(f"t is {t!r}: pass an integer or a tensor of integers")
    if isinstance(t, Tensor) and (t.dtype == torch.bool or t.is_floating_point() or t.is_complex()):
        raise TimestepError(f"t has dtype {t.dtype}: pass integers, for instance t.long()")
    if isinstance(t, Tensor) and not t.numel():
        return t.long()
    if isinstance(t, Tensor) and torch.compiler.is_compiling():
        require((t >= lowest) & (t < steps), f"t must be in {lowest} … {steps - 1}", TimestepError)
        return t.long()
    least, most = _range(unwrapped(t)) if isinstance(t, Tensor) else (t, t)
    if least < lowest or most >= steps:
        wrong = least if least < lowest else most
        raise TimestepError(f"t = {wrong} is outside {lowest} … {steps - 1} (t counts from 0, T = {steps})")
    return t if isinstance(t, int) else t.long()


def _range(t: Tensor) -> tuple[int, int]:
    if t.numel() == 1:
        return int(t), int(t)
    least, most = t.aminmax()
    return int(least), int(most)
