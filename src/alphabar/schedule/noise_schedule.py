r"""The one sequence of numbers that everything follows from.

    α_t = 1 − β_t,    ᾱ_t = α_0 α_1 ⋯ α_t,    t = 0 … T−1

ᾱ_t is the share of the signal's power that is left after t+1 steps of noising (Ho et al. 2020,
arXiv 2006.11239, equation 4, where t counts from 1). All tables are float64. What is kept is log ᾱ:
then 1 − ᾱ = −expm1(log ᾱ) is right to rounding even where ᾱ is nearly 1.

A family is a function that returns a schedule; your own is one more function:

>>> def quadratic(steps: int) -> NoiseSchedule:
...     return NoiseSchedule.from_beta([0.02 * ((t + 1) / steps) ** 2 for t in range(steps)])
>>> len(quadratic(500))
500
"""

from __future__ import annotations

import copy
import warnings
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, NoReturn

import torch
from torch import Tensor

from alphabar.checks import check_count, checked_alpha_bar, checked_beta, checked_t
from alphabar.errors import ScheduleError, TimestepError, look_up
from alphabar.schedule.families import (
    BETA_SCHEDULES,
    CONFIG_DEFAULTS,
    cosine,
    exponential,
    family_config,
    laplace,
)

__all__ = ["FAMILIES", "NoiseSchedule", "ScheduleWarning", "noise_power"]

LEFTOVER = 0.01  # ᾱ_T above which the end of a schedule still shows the image


class ScheduleWarning(UserWarning):
    """A schedule that is legal and yet hardly what was meant."""


class NoiseSchedule:
    """An immutable noise schedule of T steps, in float64.

    Build one by a family (:meth:`linear`, :meth:`scaled_linear`, :meth:`cosine`, :meth:`sigmoid`,
    :meth:`laplace`, :meth:`exponential`), from numbers (:meth:`from_beta`, :meth:`from_alpha_bar`) or from
    a diffusers ``scheduler_config.json`` (:meth:`from_config`). Schedules are equal when their β are.

    >>> schedule = NoiseSchedule.linear()
    >>> schedule
    NoiseSchedule.linear(steps=1000, beta_start=0.0001, beta_end=0.02)
    >>> float(schedule.alpha_bar[0])
    0.9999
    >>> schedule == NoiseSchedule.from_config(schedule.to_config())
    True
    """

    _beta: Tensor
    _log_alpha_bar: Tensor
    _name: str
    _config: dict[str, Any]

    def __init__(
        self, beta: Tensor | Sequence[float], *, name: str = "", config: Mapping[str, Any] | None = None
    ) -> None:
        """Check and keep β; the families below are the usual way here.

        Args:
            beta: (T,) numbers in (0, 1); the last one may be 1 (zero terminal SNR).
            name: what ``repr`` shows.
            config: diffusers configuration keys that describe β more briefly than a list.

        Raises:
            ScheduleError: β empty, not finite, or outside (0, 1).
        """
        checked = checked_beta(beta)
        log_alpha_bar = torch.log1p(-checked).cumsum(0)
        vars(self).update(_beta=checked, _log_alpha_bar=log_alpha_bar, _name=name, _config=dict(config or {}))

    @classmethod
    def linear(
        cls,
        steps: int = 1000,
        beta_start: float = 1e-4,
        beta_end: float = 0.02,
        *,
        rescale_to_steps: bool = False,
    ) -> NoiseSchedule:
        """β_t evenly spaced from ``beta_start`` to ``beta_end`` (Ho et al. 2020, section 4).

        Args:
            steps: T.
            beta_start: β_0, in (0, 1).
            beta_end: β_{T−1}, in (0, 1).
            rescale_to_steps: multiply both ends by 1000/T, so that a schedule of any length ends in noise
                (as the improved-DDPM code does).

        Raises:
            ScheduleError, ConfigError: ends outside (0, 1); steps < 1.

        Warns:
            ScheduleWarning: the last ᾱ leaves more than 1 % of the signal's power.
        """
        return cls._of_range("linear", steps, beta_start, beta_end, rescale_to_steps)

    @classmethod
    def scaled_linear(
        cls,
        steps: int = 1000,
        beta_start: float = 0.00085,
        beta_end: float = 0.012,
        *,
        rescale_to_steps: bool = False,
    ) -> NoiseSchedule:
        """√β_t evenly spaced (latent diffusion, Rombach et al. 2022); arguments as in :meth:`linear`."""
        return cls._of_range("scaled_linear", steps, beta_start, beta_end, rescale_to_steps)

    @classmethod
    def sigmoid(
        cls,
        steps: int = 1000,
        beta_start: float = 1e-4,
        beta_end: float = 0.02,
        *,
        rescale_to_steps: bool = False,
    ) -> NoiseSchedule:
        """β_t through a sigmoid on [−6, 6] (GeoDiff, Xu et al. 2022); arguments as in :meth:`linear`."""
        return cls._of_range("sigmoid", steps, beta_start, beta_end, rescale_to_steps)

    @classmethod
    def cosine(cls, steps: int = 1000) -> NoiseSchedule:
        """ᾱ(u) = cos²((u + .008)/1.008 · π/2), u = t/T, β ≤ .999; ``squaredcos_cap_v2`` of diffusers.

        Nichol & Dhariwal 2021, arXiv 2102.09672, equation 17.
        """
        config = family_config("squaredcos_cap_v2", steps)
        return cls(cosine(steps), name=f"cosine(steps={steps})", config=config)

    @classmethod
    def laplace(cls, steps: int = 1000) -> NoiseSchedule:
        """log-SNR(u) = −½ sgn(½ − u) log(1 − 2|½ − u|), u = t/T.

        Hang et al. 2024, arXiv 2407.03297, table 1, with μ = 0 and b = ½. diffusers' ``laplace``
        returns √ᾱ where ᾱ is meant: :meth:`from_config` reads its files as it wrote them.
        """
        return cls(laplace(steps), name=f"laplace(steps={steps})")

    @classmethod
    def exponential(cls, steps: int = 1000) -> NoiseSchedule:
        """ᾱ(u) = exp(−12 u), u = t/T: log ᾱ falls evenly and β is constant."""
        return cls(exponential(steps), name=f"exponential(steps={steps})")

    @classmethod
    def from_beta(cls, beta: Tensor | Sequence[float]) -> NoiseSchedule:
        """Take β itself: (T,) numbers in (0, 1), of which the last may be 1.

        Raises:
            ScheduleError: β empty, not finite, or outside (0, 1).
        """
        return cls(beta, name="from_beta")

    @classmethod
    def from_alpha_bar(cls, alpha_bar: Tensor | Sequence[float]) -> NoiseSchedule:
        """Take ᾱ: (T,) strictly decreasing numbers in (0, 1), of which the last may be 0.

        Raises:
            ScheduleError: ᾱ empty, not finite, not decreasing or outside (0, 1).
        """
        values = checked_alpha_bar(alpha_bar)
        previous = torch.cat([values.new_ones(1), values[:-1]])
        return cls((previous - values) / previous, name="from_alpha_bar")

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> NoiseSchedule:
        """Read a diffusers ``scheduler_config.json``; missing keys take DDPMScheduler's defaults.

        Args:
            config: ``num_train_timesteps``, ``beta_start``, ``beta_end``, ``beta_schedule``,
                ``trained_betas``, ``rescale_betas_zero_snr``; all others are ignored.

        Raises:
            UnknownNameError: a ``beta_schedule`` that is not known.
            ScheduleError, ConfigError: β outside (0, 1); ``num_train_timesteps`` < 1.
        """
        known = {**CONFIG_DEFAULTS, **{key: config[key] for key in CONFIG_DEFAULTS if key in config}}
        if known["trained_betas"] is not None:
            schedule = cls.from_beta(known["trained_betas"])
        else:
            name, steps = known["beta_schedule"], known["num_train_timesteps"]
            start, end = known["beta_start"], known["beta_end"]
            beta = look_up(BETA_SCHEDULES, name, "beta_schedule")(steps, start, end)
            known_as = (
                f"from_config(beta_schedule={name!r}, steps={steps}, beta_start={start}, beta_end={end})"
            )
            schedule = cls(beta, name=known_as, config=family_config(name, steps, start, end))
        return schedule.zero_terminal_snr() if known["rescale_betas_zero_snr"] else schedule

    def to_config(self) -> dict[str, Any]:
        """Return the diffusers configuration keys of this schedule; :meth:`from_config` reads them back."""
        if self._config:
            return copy.deepcopy(self._config)
        return {**CONFIG_DEFAULTS, "num_train_timesteps": len(self), "trained_betas": self._beta.tolist()}

    @classmethod
    def _of_range(cls, family: str, steps: int, start: float, end: float, rescale: bool) -> NoiseSchedule:
        if rescale:
            check_count(steps=steps)
            start, end = start * 1000 / steps, end * 1000 / steps
        beta = BETA_SCHEDULES[family](steps, start, end)
        name = f"{family}(steps={steps}, beta_start={start:.6g}, beta_end={end:.6g})"
        schedule = cls(beta, name=name, config=family_config(family, steps, start, end))
        left = float(schedule.alpha_bar[-1])
        if left > LEFTOVER:
            warnings.warn(
                f"{schedule!r} ends at ᾱ = {left:.2g}: the image is still there. Use rescale_to_steps=True "
                "(β × 1000/T), cosine(), or zero_terminal_snr().",
                ScheduleWarning,
                stacklevel=3,
            )
        return schedule

    @property
    def beta(self) -> Tensor:
        """β_t, (T,) float64: the share of power that step t replaces by noise."""
        return self._beta.clone()

    @property
    def alpha(self) -> Tensor:
        """α_t = 1 − β_t, (T,) float64."""
        return 1 - self._beta

    @property
    def alpha_bar(self) -> Tensor:
        """ᾱ_t = α_0 ⋯ α_t, (T,) float64."""
        return self._log_alpha_bar.exp()

    @property
    def signal_scale(self) -> Tensor:
        """√ᾱ_t, (T,) float64: what multiplies x_0."""
        return (self._log_alpha_bar / 2).exp()

    @property
    def noise_scale(self) -> Tensor:
        """√(1−ᾱ_t), (T,) float64: what multiplies the noise."""
        return noise_power(self._log_alpha_bar).sqrt()

    @property
    def snr(self) -> Tensor:
        """ᾱ_t/(1−ᾱ_t), (T,) float64; 0 where nothing of the signal is left."""
        return self._log_alpha_bar.exp() / noise_power(self._log_alpha_bar)

    @property
    def log_snr(self) -> Tensor:
        """Natural log of ᾱ_t/(1−ᾱ_t), (T,) float64; −∞ where nothing of the signal is left."""
        return self._log_alpha_bar - noise_power(self._log_alpha_bar).log()

    def log_alpha_bar_at(self, t: int | Tensor, *, lowest: int = 0) -> Tensor:
        """Return log ᾱ at t, float64, in the shape and on the device of t; 0 at t = −1, the clean data.

        To check a tensor on an accelerator is to wait for it; on the CPU the check costs nothing.

        Args:
            t: an integer or a tensor of integers of any shape.
            lowest: the smallest t that is allowed, 0 or −1.

        Raises:
            TimestepError: a t that is no integer or lies outside lowest … T−1.
        """
        index = torch.as_tensor(checked_t(t, lowest, len(self)))
        from_clean = self._log_alpha_bar_from_clean.to(index.device)
        return from_clean.index_select(0, (index + 1).reshape(-1)).reshape(index.shape)

    @cached_property
    def _key(self) -> bytes:
        """β, bit by bit: every step looks up tables by schedule, and tensors are slow to compare."""
        return array("d", self._beta.tolist()).tobytes()

    @property
    def _log_alpha_bar_from_clean(self) -> Tensor:
        return torch.cat([self._log_alpha_bar.new_zeros(1), self._log_alpha_bar])

    def zero_terminal_snr(self) -> NoiseSchedule:
        """Shift and scale √ᾱ so that it ends at 0 and begins as before.

        Lin et al. 2023, arXiv 2305.08891, algorithm 1. ε-prediction has no answer at t = T−1 then.

        Raises:
            ScheduleError: a schedule of a single step, which cannot both keep its start and end at 0.
        """
        if len(self) == 1:
            raise ScheduleError("zero terminal SNR needs at least 2 steps: this schedule has 1")
        first, last = self.signal_scale[0], self.signal_scale[-1]
        if last == 0:
            return self
        moved = (self.signal_scale - last) * (first / (first - last))
        beta = NoiseSchedule.from_alpha_bar(moved.square())._beta
        config = {**self.to_config(), "rescale_betas_zero_snr": True}
        return NoiseSchedule(beta, name=f"{self._name}.zero_terminal_snr()", config=config)

    def respaced(self, timesteps: Iterable[int]) -> NoiseSchedule:
        """Keep only some t: β' = 1 − ᾱ_t/ᾱ_s between neighbours (Nichol & Dhariwal 2021, equation 19).

        Args:
            timesteps: distinct t in 0 … T−1, in any order.

        Raises:
            TimestepError: none, repeated, or outside 0 … T−1.
        """
        kept = sorted(timesteps)
        if not kept or len(set(kept)) < len(kept) or any(isinstance(t, str) for t in kept):
            raise TimestepError(f"timesteps {kept}: give at least one whole t, and each t once")
        log_alpha_bar = self.log_alpha_bar_at(torch.as_tensor(kept))
        beta = noise_power(log_alpha_bar.diff(prepend=log_alpha_bar.new_zeros(1)))
        return NoiseSchedule(beta, name=f"{self._name}.respaced(<{len(kept)} of {len(self)} t>)")

    def __len__(self) -> int:
        return self._beta.numel()

    def __eq__(self, other: object) -> bool:
        return self._key == other._key if isinstance(other, NoiseSchedule) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"a NoiseSchedule is immutable: build another one instead of setting {name!r}")

    def __repr__(self) -> str:
        if self._name.endswith(")"):
            return f"NoiseSchedule.{self._name}"
        numbers = (
            f"{len(self)} steps, β {self._beta[0]:.3g} … {self._beta[-1]:.3g}, ᾱ_T {self.alpha_bar[-1]:.3g}"
        )
        return f"NoiseSchedule.{self._name or 'from_beta'}(<{numbers}>)"


FAMILIES: dict[str, Callable[[int], NoiseSchedule]] = {
    "linear": NoiseSchedule.linear,
    "scaled_linear": NoiseSchedule.scaled_linear,
    "cosine": NoiseSchedule.cosine,
    "sigmoid": NoiseSchedule.sigmoid,
    "laplace": NoiseSchedule.laplace,
    "exponential": NoiseSchedule.exponential,
}
"""The families by name: functions of the number of steps."""


def noise_power(log_alpha_bar: Tensor) -> Tensor:
    """1 − ᾱ from log ᾱ ≤ 0, right to rounding: −expm1, and +0 for clean data."""
    return log_alpha_bar.expm1().abs()
