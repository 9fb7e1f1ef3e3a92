r"""The one sequence of numbers that everything follows from.

    α_t = 1 − β_t,    ᾱ_t = α_0 α_1 ⋯ α_t,    t = 0 … T−1

ᾱ_t is the share of the signal's power that is left after t+1 steps of noising (Ho et al. 2020,
arXiv 2006.11239, equation 4, where t counts from 1). All tables are float64. What is kept is log ᾱ: then
1 − ᾱ = −expm1(log ᾱ) is right to rounding even where ᾱ is nearly 1, and no ᾱ is too small.

A family is a function that returns a schedule; your own is one more function:

>>> def quadratic(steps: int) -> NoiseSchedule:
...     return NoiseSchedule.from_beta([0.02 * ((t + 1) / steps) ** 2 for t in range(steps)])
>>> len(quadratic(500))
500
"""

from __future__ import annotations

import copy
import math
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

from alphabar.checks import check_count, checked_alpha_bar, checked_beta, checked_t
from alphabar.errors import ScheduleError, TimestepError
from alphabar.schedule import configs, cubic, families
from alphabar.schedule.families import noise_power, warn_of_leftover
from alphabar.schedule.formulas import Tables

__all__ = ["FAMILIES", "NoiseSchedule"]


class NoiseSchedule:
    """An immutable noise schedule of T steps, in float64.

    Build one by a family (:meth:`linear`, :meth:`scaled_linear`, :meth:`cosine`, :meth:`sigmoid`,
    :meth:`laplace`, :meth:`exponential`, :meth:`rectified_flow`, :meth:`edm`), from numbers
    (:meth:`from_beta`, :meth:`from_alpha_bar`) or from a diffusers ``scheduler_config.json``
    (:meth:`from_config`). Schedules are equal when their log ᾱ are, bit by bit, and their formulas, if any.

    >>> schedule = NoiseSchedule.linear()
    >>> float(schedule.alpha_bar[0])
    0.9999
    >>> schedule == NoiseSchedule.from_config(schedule.to_config())
    True
    """

    _tables: Tables
    _log_alpha_bar: Tensor
    _from_clean: Tensor
    _knots: cubic.Knots
    _key: bytes
    _name: str
    _config: dict[str, Any] | None

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
        self._keep(families.of_beta(checked_beta(beta)), name, config)

    @classmethod
    def _of(cls, tables: Tables, name: str, config: Mapping[str, Any] | None = None) -> NoiseSchedule:
        schedule = cls.__new__(cls)
        schedule._keep(tables, name, config)
        return schedule

    def _keep(self, tables: Tables, name: str, config: Mapping[str, Any] | None) -> None:
        """Make everything that a step looks up, since a traced function cannot make it."""
        log_alpha_bar, formula = tables.log_alpha_bar, tables.formula
        vars(self).update(_tables=tables, _log_alpha_bar=log_alpha_bar, _name=name)
        vars(self).update(
            _from_clean=torch.cat([log_alpha_bar.new_zeros(1), log_alpha_bar]),
            _knots=cubic.through(self.log_snr),
            _key=array("d", log_alpha_bar.tolist()).tobytes() + (formula.name if formula else "").encode(),
            _config=dict(config) if config else None,
        )

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
        return cls._of(*configs.cosine(steps))

    @classmethod
    def laplace(cls, steps: int = 1000) -> NoiseSchedule:
        """log-SNR(u) = −½ sgn(½ − u) log(1 − 2|½ − u|), u = t/T.

        Hang et al. 2024, arXiv 2407.03297, table 1, with μ = 0 and b = ½. diffusers' ``laplace``
        returns √ᾱ where ᾱ is meant: :meth:`from_config` reads its files as it wrote them.
        """
        return cls._of(*configs.laplace(steps))

    @classmethod
    def exponential(cls, steps: int = 1000) -> NoiseSchedule:
        """ᾱ(u) = exp(−12 u), u = t/T: log ᾱ falls evenly and β is constant."""
        return cls._of(*configs.exponential(steps))

    @classmethod
    def rectified_flow(cls, steps: int = 1000, shift: float = 1.0) -> NoiseSchedule:
        """ᾱ_t = (1−u)²/((1−u)² + u²), u = shift · v/(1 + (shift−1) v), v = (t+1)/T; it ends at ᾱ = 0.

        Esser et al. 2024, arXiv 2403.03206, equation 23; diffusers' FlowMatchEulerDiscreteScheduler.

        Args:
            steps: T.
            shift: 1 for time that runs evenly; 3 spends more of it on noise, as large images need.

        Raises:
            ScheduleError, ConfigError: a shift that is not positive; steps < 1.
        """
        return cls._of(*configs.rectified_flow(steps, shift))

    @classmethod
    def edm(
        cls, steps: int = 1000, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0
    ) -> NoiseSchedule:
        """ᾱ_t = 1/(1 + σ_t²), where σ_t^{1/rho} is evenly spaced from ``sigma_min`` to ``sigma_max``.

        Karras et al. 2022, arXiv 2206.00364, equation 5, from the last level to the first.

        Args:
            steps: T.
            sigma_min: σ at t = 0, positive.
            sigma_max: σ at t = T−1, greater.
            rho: the larger, the more levels have little noise; ∞ spaces log σ evenly.

        Raises:
            ScheduleError, ConfigError: σ or rho outside their ranges; steps < 1.
        """
        return cls._of(*configs.edm(steps, sigma_min, sigma_max, rho))

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
        return cls._of(families.of_alpha_bar(checked_alpha_bar(alpha_bar)), "from_alpha_bar")

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> NoiseSchedule:
        """Read a diffusers ``scheduler_config.json``; missing keys take that scheduler's defaults.

        Args:
            config: the keys of the flow-matching or EDM scheduler that ``_class_name`` names; otherwise
                ``num_train_timesteps``, ``beta_start``, ``beta_end``, ``beta_schedule``, ``trained_betas``,
                ``rescale_betas_zero_snr``, with DDPMScheduler's defaults, and what :meth:`to_config` adds.

        Raises:
            UnknownNameError: a ``beta_schedule`` that is not known.
            ScheduleError, ConfigError: β outside (0, 1); ``num_train_timesteps`` < 1; keys that disagree.
        """
        schedule = cls._of(*configs.read(config))
        return schedule.zero_terminal_snr() if configs.is_rescaled(schedule.to_config()) else schedule

    def to_config(self) -> dict[str, Any]:
        """Return the diffusers configuration keys of this schedule; :meth:`from_config` reads them back."""
        return copy.deepcopy(self._config or configs.of_numbers(self._tables))

    @classmethod
    def _of_range(cls, family: str, steps: int, start: float, end: float, rescale: bool) -> NoiseSchedule:
        if rescale:
            check_count(steps=steps)
            start, end = start * 1000 / steps, end * 1000 / steps
        schedule = cls._of(*configs.of_range(family, steps, start, end))
        warn_of_leftover(repr(schedule), float(schedule.alpha_bar[-1]), stacklevel=4)
        return schedule

    @property
    def beta(self) -> Tensor:
        """β_t, (T,) float64: the share of power that step t replaces by noise."""
        return self._tables.beta.clone()

    @property
    def alpha(self) -> Tensor:
        """α_t = 1 − β_t, (T,) float64."""
        return families.alpha_of(self._tables)

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
        index = checked_t(t, lowest, len(self)) + 1
        if isinstance(index, int):
            return self._from_clean[index].clone()
        return self._from_clean.to(index.device).index_select(0, index.reshape(-1)).reshape(index.shape)

    def zero_terminal_snr(self) -> NoiseSchedule:
        """Shift and scale √ᾱ so that it ends at 0 and begins as before.

        Lin et al. 2023, arXiv 2305.08891, algorithm 1. ε-prediction has no answer at t = T−1 then.

        Raises:
            ScheduleError: a schedule of a single step, which cannot both keep its start and end at 0.
        """
        if self._log_alpha_bar[-1] == -math.inf:
            return self
        if len(self) == 1:
            raise ScheduleError("zero terminal SNR needs at least 2 steps: this schedule has 1")
        name, config = f"{self._name}.zero_terminal_snr()", configs.rescaled(self.to_config())
        return NoiseSchedule._of(families.zero_terminal(self._tables), name, config)

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
        t = torch.as_tensor(checked_t(torch.as_tensor(kept), 0, len(self)))
        name = f"{self._name}.respaced(<{len(kept)} of {len(self)} t>)"
        return NoiseSchedule._of(families.respaced(self._tables, t), name)

    def __len__(self) -> int:
        return self._log_alpha_bar.numel()

    def __eq__(self, other: object) -> bool:
        return self._key == other._key if isinstance(other, NoiseSchedule) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"a NoiseSchedule is immutable: build another one instead of setting {name!r}")

    def __repr__(self) -> str:
        if self._name.endswith(")"):
            return f"NoiseSchedule.{self._name}"
        first, last = self.beta[[0, -1]].tolist()
        numbers = f"{len(self)} steps, β {first:.3g} … {last:.3g}, ᾱ_T {self.alpha_bar[-1]:.3g}"
        return f"NoiseSchedule.{self._name or 'from_beta'}(<{numbers}>)"


NAMES = ("linear", "scaled_linear", "cosine", "sigmoid", "laplace", "exponential", "rectified_flow", "edm")
FAMILIES: dict[str, Callable[[int], NoiseSchedule]] = {name: getattr(NoiseSchedule, name) for name in NAMES}
"""The families by name: functions of the number of steps."""
