"""DPM-Solver-2: Euler's step to the middle, an evaluation there, and the whole step with its ε̂.

    x_m/√ᾱ_m = x_t/√ᾱ_t + (ρ_m − ρ_t) · ε̂_t,     ρ = √(1−ᾱ)/√ᾱ,     ρ_m = √(ρ_t ρ_d)
    x_s/√ᾱ_s = x_t/√ᾱ_t + (ρ_d − ρ_t) · ε̂_m + √(ρ_s² − ρ_d²) · z

Without noise ρ_d = ρ_s: algorithm 1 of Lu et al. 2022, arXiv 2206.00927, and ``sample_dpm_2`` of k-diffusion.
With it ρ_d is where DDIM with η goes before it adds noise; for η = 1 that is ρ_s²/ρ_t, so ρ_m = ρ_s, as in
``sample_dpm_2_ancestral``. With x_t and ε̂_m written in x_m, x̂_0 and x̂_0', the second line is

    x_s/√ᾱ_s = ρ_d/ρ_m · x_m/√ᾱ_m + (ρ_t − ρ_d)/ρ_m · x̂_0' − (ρ_t − ρ_m)/ρ_m · x̂_0 + √(ρ_s² − ρ_d²) · z
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise

import torch

from alphabar.errors import ConfigError
from alphabar.samplers.plan import Plan, Row, Stepwise, cached_plan
from alphabar.samplers.steps import check_eta, ddim_row, fresh_noise
from alphabar.schedule import Level, NoiseSchedule, Spacing, levels_at, stops, t_of_log_snr

__all__ = ["DPM2"]


@dataclass(frozen=True)
class DPM2(Stepwise):
    """DPM-Solver-2, of second order without noise.

    >>> from alphabar import NoiseSchedule
    >>> [round(t, 1) for t in DPM2(spacing=[800, 400]).plan(NoiseSchedule.linear()).timesteps]
    [800, 625.3, 400]

    Args:
        steps: two evaluations each but one for the last, so 2n − 1 in all; else as in :class:`Euler`.
        eta: η in [0, 1], how much of DDPM's noise is added.
        spacing: as in :class:`Euler`.

    Raises:
        ConfigError: η outside [0, 1], or steps as in :class:`Stepwise`.
        UnknownNameError, TimestepError: another spacing.
    """

    steps: int | None = None
    eta: float = 0.0
    spacing: Spacing = "karras"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_eta(self.eta)

    @cached_plan
    def plan(self, schedule: NoiseSchedule, t_start: float | None = None) -> Plan:
        """Return the rows on this schedule; arguments and errors as in :class:`Sampler`."""
        levels = stops(schedule, self.steps, self.spacing, t_start)
        alone = _first_is_alone(levels)
        places = [2 * self.middle(t, s).half_log_snr for t, s in pairwise(levels[alone:-1])]
        t = t_of_log_snr(schedule, torch.tensor(places, dtype=torch.float64))
        after = [*levels_at(schedule, t.tolist()), levels[-1]]
        evaluated = chain.from_iterable(zip(levels[alone:-1], after, strict=True))
        return Plan(tuple(self.rows([*levels[:alone], *evaluated])))

    def middle(self, t: Level, s: Level) -> Level:
        """Return the level with ρ_m = √(ρ_t ρ_d) of a step from t to s; its t is that of s."""
        log_square = math.log(self._shrink(t, s)) - 2 * t.half_log_snr
        return Level(s.t, -max(log_square, 0.0) - math.log1p(math.exp(-abs(log_square))))

    def rows(self, levels: Sequence[Level]) -> Iterator[Row]:
        """Return the table on given levels, each noisier than the next: two rows a step.

        Args:
            levels: where a step starts, its middle, where the next one starts, … and where the last one,
                which has no middle, lands. From ᾱ = 0 the first has none either.

        Raises:
            ConfigError: a step without its middle.
        """
        alone = _first_is_alone(levels)
        if (len(levels) - alone) % 2:
            raise ConfigError(
                f"{len(levels)} levels: DPM2 needs the middle of each step but the last after its start"
            )
        if alone:
            yield ddim_row(levels[0], levels[1], self.eta)
        rest = levels[alone:]
        for t, m, s in zip(rest[::2], rest[1::2], rest[2::2], strict=False):
            yield ddim_row(t, m)
            yield self._second_row(t, m, s)
        yield ddim_row(rest[-2], rest[-1], self.eta)

    def _second_row(self, t: Level, m: Level, s: Level) -> Row:
        length, shrink = m.half_log_snr - t.half_log_snr, self._shrink(t, s)
        ratio = math.exp(length)  # ρ_t/ρ_m
        of_x_0 = s.signal * ratio * (1 - shrink), -s.signal * math.expm1(length)
        return Row(m.t, s.t, s.signal / m.signal * ratio * shrink, of_x_0, self.eta * fresh_noise(t, s))

    def _shrink(self, t: Level, s: Level) -> float:
        """Return ρ_d/ρ_t = r √(1 − η² (1 − r²)), r = ρ_s/ρ_t."""
        ratio = math.exp(t.half_log_snr - s.half_log_snr)
        return ratio * math.hypot(math.sqrt((1 - self.eta) * (1 + self.eta)), self.eta * ratio)


def _first_is_alone(levels: Sequence[Level]) -> bool:
    """Whether the first step, not the only one, begins at ᾱ = 0, where ρ_m would be infinite too."""
    return len(levels) > 2 and not math.isfinite(levels[0].half_log_snr)
