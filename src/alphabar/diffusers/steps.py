"""One row of the core's table as one step of a diffusers scheduler, from the network's raw output.

    x̂_0         = p · sample + q · output                                 then clipped
    prev_sample = a · sample + e · output + c · z + d · start + b_0 · x̂_0 + b_1 · kept' + …

The core's rows act on x. A scheduler of diffusers holds its sample in one of three coordinate systems, each x
times a scale that is a function of the level:

    unit_scale     x                   DDPM, DDIM, PNDM, DPM-Solver, UniPC, DEIS
    sigma_scale    x/√ᾱ                Euler, Heun, LMS: variance exploding
    flow_scale     x/(√ᾱ + √(1−ᾱ))     flow matching: (1−σ) · x_0 + σ · z with σ = √(1−ᾱ)/(√ᾱ + √(1−ᾱ))

So a step is a row whose coefficients are multiplied by the scale where it lands, and those of x divided by
the scale where it starts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from alphabar.errors import NoAnswerError
from alphabar.kernels import work_dtype
from alphabar.process import PARAMETERISATIONS, Parameterisation, spread
from alphabar.samplers import Row
from alphabar.schedule import Level

__all__ = [
    "FLOW_V",
    "X_0",
    "Scale",
    "Step",
    "flow_scale",
    "negated",
    "sigma_scale",
    "stack",
    "unit_scale",
]

Coefficients = tuple[float | Tensor, ...] | Tensor
"""Numbers; or (B, n) float64 where each sample takes its own step."""
Scale = Callable[[Level], float]
Number = float | Tensor
Pair = Callable[[Number, Number], tuple[Number, Number]]

FLOW_V = Parameterisation(
    "v_prediction at flow matching's levels",
    target=PARAMETERISATIONS["v_prediction"].target,
    x_0=lambda a, s: (a / (a + s) / (a + s), -s / (a + s)),
    eps=PARAMETERISATIONS["v_prediction"].eps,
)
"""x̂_0 = (1−σ) · sample − σ · output, as diffusers reads v there; it is v's x̂_0 only where ᾱ is 0 or 1."""

X_0 = (0.0, 1.0)
NOISE, HISTORY = 2, 5
"""Indices in ``Step.prev_sample``: of z, and of the first tensor that an earlier step kept."""


def negated(kind: Parameterisation) -> Parameterisation:
    """Return the kind of a network that answers with the other sign."""

    def negative(pair: Pair) -> Pair:
        return lambda a, s: (pair(a, s)[0], -pair(a, s)[1])

    def target(a: Number, s: Number) -> tuple[Number, Number]:
        of_x_0, of_noise = kind.target(a, s)
        return -of_x_0, -of_noise

    name = f"negative {kind.name}"
    return replace(kind, name=name, target=target, x_0=negative(kind.x_0), eps=negative(kind.eps))


def unit_scale(level: Level) -> float:
    """Return 1: the sample is x."""
    return 1.0


def sigma_scale(level: Level) -> float:
    """Return 1/√ᾱ."""
    return 1 / level.signal


def flow_scale(level: Level) -> float:
    """Return 1/(√ᾱ + √(1−ᾱ))."""
    return 1 / (level.signal + level.sigma)


@dataclass(frozen=True)
class Step:
    """The coefficients of a step."""

    x_0: Coefficients | None
    """x̂_0: of the sample and the output; None for the output as it is, where x̂_0 is not used."""
    prev_sample: Coefficients
    """Of the sample, the output, fresh noise, the sample at ``starts``, x̂_0, and what earlier steps kept,
    newest first."""
    kept: Coefficients | None = X_0
    """What later steps use, or what is returned: of the sample and x̂_0; None for nothing."""
    draws: bool = False
    """Whether diffusers draws noise for it, used or not: a generator must advance as it does there."""
    learned: Row | None = None
    """The row whose noise is scaled by the network's answer on the variance."""
    starts: bool = False
    """Whether the evaluations after this one begin at its sample again."""

    @classmethod
    def of(
        cls,
        row: Row,
        t: Level,
        s: Level,
        parameterisation: Parameterisation,
        *,
        scale: Scale = unit_scale,
        draws: bool = False,
        of_start: float = 0.0,
        start: Level | None = None,
        starts: bool = False,
    ) -> Step:
        """Return a row between two levels as a step.

        Args:
            row: of the core's table.
            t: the level where the network is evaluated.
            s: the level where the step lands.
            parameterisation: how the output is read.
            scale: level → what x is multiplied by in the scheduler's coordinates.
            draws: whether noise is drawn.
            of_start: coefficient of x where a step of several evaluations starts.
            start: the level there.
            starts: whether later evaluations begin at this one's sample.

        Raises:
            NoAnswerError: ε-prediction where ᾱ_t = 0.
        """
        before, after = scale(t), scale(s)
        of_x, of_output = x_0_coefficients(parameterisation, t)
        return cls(
            x_0=(of_x / before, of_output),
            prev_sample=(
                row.x * after / before,
                0.0,
                row.z * after,
                of_start * after / (scale(start) if start else before),
                *(b * after for b in row.history),
            ),
            kept=(row.keeps[0] / before, row.keeps[1]),
            draws=draws,
            learned=row if row.log_variance else None,
            starts=starts,
        )

    @classmethod
    def still(cls, parameterisation: Parameterisation, scale: Scale, t: Level, *, draws: bool) -> Step:
        """Return the step from a level to itself, where a spacing visits it twice."""
        of_x, of_output = x_0_coefficients(parameterisation, t)
        return cls((of_x / scale(t), of_output), (1.0,), None, draws)

    @classmethod
    def from_eps(
        cls,
        t: Level,
        s: Level,
        of_eps: float,
        of_noise: float,
        parameterisation: Parameterisation,
        *,
        scale: Scale = unit_scale,
    ) -> Step:
        """Return √ᾱ_s · x̂_0 + of_eps · ε̂ + of_noise · z, with ε̂ of the output also where x̂_0 is clipped."""
        before, after = scale(t), scale(s)
        of_x, of_output = (float(of_eps * c) for c in parameterisation.eps(t.signal, t.sigma))
        prev_sample = (of_x * after / before, of_output * after, of_noise * after, 0.0, s.signal * after)
        p, q = x_0_coefficients(parameterisation, t)
        return cls((p / before, q), prev_sample, draws=of_noise > 0)

    def written_out(self) -> Step:
        """Return the step with prev_sample by sample and output in place of an x̂_0 that nothing changes.

        Its rounding is then not multiplied by a coefficient that is large where little noise is left.
        """
        of_x, of_output, of_noise, of_start, of_x_0, *history = self.prev_sample
        p, q = self.x_0  # type: ignore[misc]
        prev_sample = (of_x + of_x_0 * p, of_output + of_x_0 * q, of_noise, of_start, 0.0, *history)
        return replace(self, prev_sample=prev_sample)

    def without_x_0(self) -> Step:
        """Return the step written out, where nothing else asks for x̂_0."""
        written = self.written_out()
        return replace(written, x_0=None, prev_sample=written.prev_sample[: HISTORY - 1], kept=None)

    @cached_property
    def terms(self) -> tuple[Coefficients, tuple[int, ...]]:
        """The coefficients of prev_sample that are not 0, and their indices."""
        given = self.prev_sample
        if isinstance(given, Tensor):
            indices = tuple(k for k, used in enumerate(given.ne(0).any(0).tolist()) if used)
            return given[:, indices], indices
        indices = tuple(k for k, c in enumerate(given) if c != 0)
        return tuple(given[k] for k in indices), indices

    def terms_with(self, variance: Tensor | None, sample: Tensor) -> tuple[Coefficients, tuple[int, ...]]:
        """Return the terms with the noise scaled by the network's answer on the variance, if it has one."""
        coefficients, indices = self.terms
        if self.learned is None:
            return coefficients, indices
        if isinstance(coefficients, Tensor):
            coefficients = tuple(spread(column, sample) for column in coefficients.T)
        return (*coefficients, self.learned.z_scale(variance)), (*indices, NOISE)


def x_0_coefficients(parameterisation: Parameterisation, t: Level) -> tuple[float, float]:
    """Return x̂_0's coefficients of x_t and the output.

    Raises:
        NoAnswerError: ε-prediction where ᾱ_t = 0.
    """
    try:
        of_x, of_output = parameterisation.x_0(t.signal, t.sigma)
    except ZeroDivisionError:
        raise NoAnswerError(
            "ε-prediction at a t with ᾱ_t = 0: the sample is pure noise, so ε says nothing about x_0. Use a "
            "network with v_prediction, or timestep_spacing='leading', which does not visit that t"
        ) from None
    return float(of_x), float(of_output)


def stack(steps: Sequence[Step], sample: Tensor) -> Step:
    """Return one step for a batch (B, …) whose samples each take their own."""

    def table(rows: Sequence[Any]) -> Tensor:
        return torch.tensor(rows, dtype=torch.float64).to(sample.device, work_dtype(sample.device))

    learned = steps[0].learned
    if learned is not None:
        bounds = table([step.learned.log_variance for step in steps])  # type: ignore[union-attr]
        low, high = (spread(bound, sample) for bound in bounds.T)
        learned = replace(learned, log_variance=(low, high))  # type: ignore[arg-type]
    draws = any(step.draws for step in steps)
    x_0 = None if steps[0].x_0 is None else table([step.x_0 for step in steps])
    keeps = [step.kept for step in steps]
    kept = None if None in keeps or set(keeps) == {X_0} else table(keeps)
    longest = max(len(step.prev_sample) for step in steps)  # a step of no length has one coefficient
    padded = [(*step.prev_sample, *[0.0] * (longest - len(step.prev_sample))) for step in steps]
    return Step(x_0, table(padded), kept, draws, learned)
