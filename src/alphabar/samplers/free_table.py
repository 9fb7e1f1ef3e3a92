r"""A table with free numbers: how the rows of another may change, and a chain differentiable in them.

    x_s = a · x_t + b_0 · x̂_0 + b_1 · x̂_0' + …                   over all estimates so far

    levels         λ_i = λ_first + (λ_clean − λ_first) Σ_{j<i} softmax(p)_j,  λ = half log-SNR
    shift          the network is shown up to half a step more or less noise than the state is taken to have
    coefficients   a = a° · (σ_s/σ_t)/(σ_s°/σ_t°) + u p,   b_k = √ᾱ_s (b_k°/√ᾱ_s° + u p_k),   k ≥ 1
    history        the same for the earlier estimates, which the start does not use
    sum            b_0 = √ᾱ_s − a √ᾱ_t − Σ_{k≥1} b_k + √ᾱ_s u p_0: without p_0 the b add up as they must for
                   a row to be exact while x̂_0 is constant

° marks the table to start from, u = 1 − e^{−h} of its step h in λ. At p = 0 the table is that one.

Memory stays that of one evaluation: each is made again on the way back. How an estimate changes with the
noise that the network is shown comes from two more evaluations, as a central difference in λ: whatever the
denoiser does with t, it need not be differentiable in it.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from alphabar.denoise import Denoise
from alphabar.errors import ConfigError, NoAnswerError
from alphabar.kernels import lincomb
from alphabar.samplers.plan import Plan, Row
from alphabar.schedule import CLEAN, NoiseSchedule, levels_at
from alphabar.schedule.levels import t_of_log_snr, whole

__all__ = ["FREEDOMS", "FreeTable", "Numbers", "chain", "in_x_0"]

FREEDOMS = ("levels", "shift", "coefficients", "history", "sum")
LEAST = 0.003  # share of the range that a step starts with: at 0 it could never grow
DIFFERENCE = 0.05  # in λ, to each side: a few t, for networks are not smooth from one t to the next
DIGITS = 6  # of t
DOUBLE = torch.float64
SCALES = ("signal", "sigma")
TINY = 1e-12

Parameters = dict[str, Tensor]


class Numbers(NamedTuple):
    """A table as tensors that a chain is differentiable in."""

    shown: Tensor
    """(N,) λ that the network is shown; the first stands for pure noise where that has none."""
    a: Tensor
    """(N,)"""
    b: Tensor
    """(N, N), newest first; zero beyond the estimates there are."""


class Question(NamedTuple):
    """One evaluation: where the denoiser is asked, and to both sides of it."""

    denoiser: Denoise
    dtype: torch.dtype
    t: float
    around: tuple[float, float]
    """The t at less and at more λ."""
    width: float
    """Between them, in λ; 0 where the level cannot move."""

    def asked(self, x_t: Tensor, t: float) -> Tensor:
        """Return x̂_0 in memory of its own: the denoiser may return x_t, or one buffer again and again."""
        return self.denoiser(x_t.to(self.dtype), t).x_0.to(x_t.dtype, copy=True)


class _Asked(torch.autograd.Function):
    """x̂_0 at (x_t, λ), differentiable in both."""

    @staticmethod
    def forward(ctx: Any, x_t: Tensor, shown: Tensor, question: Question) -> Tensor:
        ctx.question = question
        ctx.save_for_backward(x_t)
        return question.asked(x_t, question.t)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        question, (x_t,) = ctx.question, ctx.saved_tensors
        of_x_t = of_shown = None
        if ctx.needs_input_grad[0]:
            with torch.enable_grad():
                at = x_t.detach().requires_grad_()
                x_0 = question.asked(at, question.t)
            of_x_t = _gradient(x_0, at, gradient)
        if ctx.needs_input_grad[1]:
            of_shown = gradient.new_zeros((), dtype=DOUBLE)
            if question.width:
                noisier, cleaner = (question.asked(x_t, t) for t in question.around)
                of_shown = (gradient.double() * (cleaner - noisier).double()).sum() / question.width
            of_shown = of_shown.cpu()
        return of_x_t, of_shown, None


def _gradient(x_0: Tensor, at: Tensor, gradient: Tensor) -> Tensor:
    """Return the gradient of an estimate, zero where it does not depend on x_t."""
    if not x_0.requires_grad:
        return torch.zeros_like(at)
    (found,) = torch.autograd.grad(x_0, at, gradient, allow_unused=True)
    return torch.zeros_like(at) if found is None else found


@dataclass(frozen=True, eq=False)
class FreeTable:
    """What free numbers change, and how: made by :meth:`around` a table to start from."""

    schedule: NoiseSchedule
    start: Plan
    ends: tuple[float, float]
    """λ of the first row, and at t = 0."""
    a: Tensor
    """(N,) a°, of a state whose level moves: a° σ_t°/σ_s° where s is not clean."""
    w: Tensor
    """(N, N) b°/√ᾱ_s°."""
    defect: Tensor
    """(N,) how far the row is from exact where x̂_0 is constant; 0 of every hand-made table."""
    unit: Tensor
    """(N,) u."""
    free: Tensor
    """(N, N): 1 where b may change, else 0."""
    first: tuple[float, float]
    """√ᾱ and √(1−ᾱ) of the first row."""
    names: frozenset[str]
    """What is free, of ``FREEDOMS``."""

    @classmethod
    def around(cls, schedule: NoiseSchedule, start: Plan, free: Collection[str] = FREEDOMS) -> FreeTable:
        """Return the table with these freedoms.

        Raises:
            ConfigError: no freedom or one that is not in ``FREEDOMS``; a start that adds noise, repeats a t,
                or does not end at clean data.
        """
        names = frozenset([free] if isinstance(free, str) else free)
        if not names or not names <= set(FREEDOMS):
            raise ConfigError(f"free is {free!r}: give some of {', '.join(FREEDOMS)}")
        falls = all(t > s for t, s in pairwise(start.timesteps))
        if any(row.is_random for row in start.rows) or not falls or start.rows[-1].s != CLEAN.t:
            raise ConfigError("start must add no noise, visit each t once, downwards, and end at clean data")
        a, b = in_x_0(start)
        levels = (*levels_at(schedule, start.timesteps), CLEAN)
        signal, sigma = (
            torch.tensor([getattr(each, name) for each in levels], dtype=DOUBLE) for name in SCALES
        )
        ratio = torch.where(sigma[1:] > 0, sigma[1:] / sigma[:-1], 1.0)
        steps = torch.tensor([s.half_log_snr - t.half_log_snr for t, s in pairwise(levels)], dtype=DOUBLE)
        return cls(
            schedule,
            start,
            _ends(schedule, levels[0].half_log_snr),
            a=a / ratio,
            w=b / signal[1:, None],
            defect=signal[1:] - a * signal[:-1] - b.sum(1),
            unit=-torch.expm1(-steps),
            free=_free(b, names),
            first=(levels[0].signal, levels[0].sigma),
            names=names,
        )

    def parameters(self) -> Parameters:
        """Return new free numbers, float64, at which the table is the start."""
        n = len(self.start)
        low, high = self.ends
        levels = [low, *(each.half_log_snr for each in levels_at(self.schedule, self.start.timesteps[1:]))]
        share = torch.tensor([*levels, high], dtype=DOUBLE).diff() / max(high - low, TINY)
        least = LEAST if "levels" in self.names else TINY
        numbers = {
            "levels": share.clamp(min=least).log(),
            "shift": torch.zeros(n, dtype=DOUBLE),
            "a": torch.zeros(n, dtype=DOUBLE),
            "b": torch.zeros(n, n, dtype=DOUBLE),
        }
        is_free = {
            "levels": "levels" in self.names,
            "shift": "shift" in self.names,
            "a": "coefficients" in self.names,
            "b": bool(self.free.any()),
        }
        return {name: values.requires_grad_(is_free[name]) for name, values in numbers.items()}

    def numbers(self, p: Parameters) -> Numbers:
        """Return the table at these free numbers."""
        level = self._level(p)
        signal, sigma = (torch.sigmoid(sign * 2 * level).sqrt() for sign in (1, -1))
        signal = torch.cat([signal.new_tensor(self.first[:1]), signal[1:], signal.new_ones(1)])
        sigma = torch.cat([sigma.new_tensor(self.first[1:]), sigma[1:], sigma.new_zeros(1)])
        ratio = torch.cat([sigma[1:-1] / sigma[:-2], sigma.new_ones(1)])
        a = self.a * ratio + self.unit * p["a"]
        added = self.unit[:, None] * self.free * p["b"]
        b = signal[1:, None] * (self.w + added)
        earlier = b[:, 1:].sum(1)
        newest = signal[1:] * (1 + added[:, 0]) - a * signal[:-1] - earlier - self.defect
        return Numbers(self._shown(level, p["shift"]), a, torch.cat([newest[:, None], b[:, 1:]], 1))

    def plan(self, p: Parameters) -> Plan:
        """Return the table at these free numbers as a plan, with t of six digits."""
        shown, a, b = (part.detach() for part in self.numbers(p))
        t = [whole(float(f"{each:.{DIGITS}g}")) for each in self._t(shown)]
        rows = []
        for i, (at, to) in enumerate(pairwise((*t, CLEAN.t))):
            history = b[i, : i + 1].tolist()
            while len(history) > 1 and not history[-1]:
                history.pop()
            rows.append(Row(at, to, float(a[i]), tuple(history)))
        return Plan(tuple(rows))

    def questions(self, denoiser: Denoise, dtype: torch.dtype, shown: Tensor) -> list[Question]:
        """Return the evaluations of a chain whose network is shown these λ."""
        low, high = _ends(self.schedule, -math.inf)
        shown = shown.detach()
        noisier, cleaner = (shown + d for d in (-DIFFERENCE, DIFFERENCE))
        noisier, cleaner = noisier.clamp(low, high), cleaner.clamp(low, high)
        width = (cleaner - noisier).tolist()
        if not self._first_moves:
            width[0] = 0.0
        t = [self._t(each) for each in (shown, noisier, cleaner)]
        return [
            Question(denoiser, dtype, whole(at), (before, after), each)
            for at, before, after, each in zip(*t, width, strict=True)
        ]

    @property
    def _first_moves(self) -> bool:
        """Whether the network may be shown something else first; not where there is no λ."""
        return self.first[0] > 0

    def _level(self, p: Parameters) -> Tensor:
        low, high = self.ends
        share = p["levels"].softmax(0).cumsum(0)
        return low + (high - low) * torch.cat([share.new_zeros(1), share[:-1]])

    def _shown(self, level: Tensor, shift: Tensor) -> Tensor:
        """Move by up to half a step to the next level, or to the one before; the first one only onwards."""
        onwards = torch.cat([level[1:], level.new_tensor([self.ends[1]])]) - level
        back = torch.cat([level.new_zeros(1), onwards[:-1]])
        room = torch.where(shift < 0, back, onwards)
        if not self._first_moves:
            room = torch.cat([room.new_zeros(1), room[1:]])
        return level + room * shift.tanh() / 2

    def _t(self, shown: Tensor) -> list[float]:
        t: list[float] = t_of_log_snr(self.schedule, 2 * shown).tolist()
        if not self._first_moves or shown[0] == self.ends[0]:
            t[0] = self.start.timesteps[0]
        return t


def _ends(schedule: NoiseSchedule, first: float) -> tuple[float, float]:
    """Return the finite λ of a schedule from ``first``, or from the noisiest, to that of t = 0."""
    finite = schedule.log_snr[schedule.log_snr.isfinite()] / 2
    if not len(finite):
        raise NoAnswerError(f"{schedule} has no level with signal: there is nothing to fit")
    return max(first, float(finite[-1])), float(finite[0])


def _free(b: Tensor, names: frozenset[str]) -> Tensor:
    """Return 1 where the freedoms of these names let b, (N, N), change, and 0 elsewhere."""
    n = len(b)
    k, i = torch.arange(n)[None, :], torch.arange(n)[:, None]
    used = ((b.abs() > TINY) * (k + 1)).max(1, keepdim=True).values  # estimates of a row of the start
    kinds = {
        "sum": k == 0,
        "coefficients": (k > 0) & (k < used),
        "history": (k >= used) & (k > 0) & (k <= i),
    }
    return sum(
        (where.to(DOUBLE) for name, where in kinds.items() if name in names), torch.zeros(n, n, dtype=DOUBLE)
    )


def in_x_0(plan: Plan) -> tuple[Tensor, Tensor]:
    """Return a, (N,), and b, (N, N) newest first, of rows that are sums of x_t and of all x̂_0 so far.

    Whatever rows remember, ε̂ or x̂_0, each state is a sum of the first one and of the estimates.
    """
    n = len(plan)
    unit = torch.eye(n + 1, dtype=DOUBLE)
    state = unit[0]
    kept: list[Tensor] = []
    a, b = torch.zeros(n, dtype=DOUBLE), torch.zeros(n, n, dtype=DOUBLE)
    for i, row in enumerate(plan.rows):
        x_0 = unit[i + 1]
        history = [x_0, *kept]
        then = row.x * state + sum(w * past for w, past in zip(row.history, history, strict=False))
        kept = [row.keeps[0] * state + row.keeps[1] * x_0, *kept]
        a[i] = row.x if then[0] == row.x * state[0] else then[0] / state[0]
        b[i, : i + 1] = (then - a[i] * state)[1 : i + 2].flip(0)
        state = then
    return a, b


def chain(denoiser: Denoise, table: FreeTable, p: Parameters, x_t: Tensor, dtype: torch.dtype) -> Tensor:
    """Return where the chain from x_t, (B, C, …), ends, differentiable in the free numbers of the table."""
    numbers = table.numbers(p)
    history: list[Tensor] = []
    for i, question in enumerate(table.questions(denoiser, dtype, numbers.shown)):
        history.insert(0, _Asked.apply(x_t, numbers.shown[i], question))  # type: ignore[no-untyped-call]
        x_t = lincomb((numbers.a[i], *numbers.b[i, : i + 1]), (x_t, *history))
    return x_t
