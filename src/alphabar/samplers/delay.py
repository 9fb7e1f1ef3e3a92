r"""A t of its own for each token: all take the rows of one plan, some of them later than others.

    a token of delay d takes row k − d at evaluation k,   before its first row and after its last it stays

Diffusion forcing, Chen et al. 2024, arXiv 2407.01392, algorithm 2, whose matrix of levels has a column for
each token. Along a sequence, delays 0, 1, 2, … make a pyramid: each token has more noise than the one before;
0, n, 2n, … of a plan of n rows sample one token after the other; −n or less keeps a token that is known. Only
rows that need a single estimate can be taken so: what others remember was estimated beside other levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from alphabar.errors import ConfigError, DtypeError, ShapeError
from alphabar.kernels import Address, lincomb
from alphabar.process.conversions import check_fits
from alphabar.samplers.plan import X_0, Plan
from alphabar.samplers.registry import sampler_names

__all__ = ["DelayedPlan", "DelayedRow", "delayed"]


@dataclass(frozen=True, eq=False)
class DelayedRow:
    """One evaluation of the network, and the step that follows for each token."""

    times: Tensor
    """(n+3,) where the network is evaluated: before the first row, in each row, and twice after the last."""
    table: Tensor
    """(n+2, 3): of x_t, x̂_0 and noise: of a token that waits, of each row, of one that is done."""
    places: Tensor
    """Where in the table each token is."""
    is_random: bool
    """Whether noise is added to any token."""
    keeps: tuple[float, float] = X_0
    """As of a :class:`~alphabar.samplers.Row`, like :meth:`kept`."""

    @property
    def t(self) -> Tensor:
        """Where the network is evaluated; −1 where a token is clean."""
        return self.times[self.places]

    @property
    def s(self) -> Tensor:
        """Where the step lands."""
        return self.times[self.places + 1]

    def kept(self, x_t: Tensor, x_0: Tensor) -> Tensor:
        """Return what later rows would remember."""
        return x_0.clone()

    def advance(
        self,
        x_t: Tensor,
        history: Sequence[Tensor],
        noise: Tensor | Address | None = None,
        variance: Tensor | None = None,
    ) -> Tensor:
        """Return x_s, like x_t; arguments as of :meth:`Row.advance`, without a learned variance."""
        tensors = x_t, history[0]
        if noise is None:
            return lincomb(self.table[:, :2], tensors, rows=self.places)
        if isinstance(noise, Tensor):
            return lincomb(self.table, (*tensors, noise), rows=self.places)
        return lincomb(self.table, tensors, rows=self.places, noise=noise)


@dataclass(frozen=True, eq=False)
class DelayedPlan:
    """Rows as a :class:`Plan` has them, with a t for each token."""

    rows: tuple[DelayedRow, ...]
    memory: int = 1
    is_inversion: bool = False

    @property
    def timesteps(self) -> tuple[Tensor, ...]:
        """Where the network is evaluated, in order."""
        return tuple(row.t for row in self.rows)

    def __len__(self) -> int:
        return len(self.rows)


def delayed(plan: Plan, delay: Tensor | None, x_t: Tensor) -> Plan | DelayedPlan:
    """Return a plan whose rows tokens take with a delay; the plan itself where there is none.

    Args:
        plan: rows that each need a single estimate, from noise to data.
        delay: integers that broadcast against the leading dimensions of x_t: rows that each token waits;
            where negative, rows that it has behind it.
        x_t: (B, …) where the chain starts.

    Raises:
        ConfigError: rows that remember, an inversion, a learned variance, or no token that is to be sampled.
        DtypeError: other numbers than integers.
        ShapeError: a delay that does not broadcast.
    """
    if delay is None:
        return plan
    _check_plan(plan)
    _check_delay(delay, x_t, len(plan))
    steps, device = len(plan), x_t.device
    rows = ((row.x, row.history[0], row.z) for row in plan.rows)
    stays = (1.0, 0.0, 0.0)
    table = torch.tensor([stays, *rows, stays], dtype=torch.float64, device=device)
    stops = [plan.timesteps[0], *plan.timesteps, plan.rows[-1].s, plan.rows[-1].s]
    is_whole = all(isinstance(t, int) for t in stops)
    times = torch.tensor(stops, dtype=torch.int64 if is_whole else torch.float64, device=device)
    first, is_random = 1 - delay.long(), bool(table[:, 2].any())
    first = first.to(device)
    places = ((first + step).clamp(0, steps + 1) for step in range(steps + int(delay.max())))
    return DelayedPlan(tuple(DelayedRow(times, table, place, is_random) for place in places))


def _check_plan(plan: Plan) -> None:
    if plan.memory > 1:
        raise ConfigError(
            f"the sampler remembers {plan.memory - 1} earlier estimates, and with a delay these were made "
            f"beside other levels: take {sampler_names(remembering=False)}"
        )
    if plan.is_inversion:
        raise ConfigError("the sampler goes from data to noise: a delay is of samplers that go to data")
    if any(row.log_variance for row in plan.rows):
        raise ConfigError(
            "the sampler takes its variance from the network, which a delay does not allow: take "
            "variance='fixed_small', which a network that learns its variance serves as well"
        )


def _check_delay(delay: Tensor, x_t: Tensor, steps: int) -> None:
    if not isinstance(delay, Tensor) or delay.dtype == torch.bool or delay.is_floating_point():
        kind = delay.dtype if isinstance(delay, Tensor) else type(delay).__name__
        raise DtypeError(f"delay is {kind}: give a tensor of integers, as torch.arange(L)[None, None]")
    if not delay.numel():
        raise ShapeError(f"delay has shape {tuple(delay.shape)}: give a number for each token")
    check_fits(delay, x_t, "delay")
    if int(delay.max()) <= -steps:
        raise ConfigError(
            f"delay is at most {int(delay.max())}, and the sampler has {steps} rows: every token is done "
            "before the first; give those that are to be sampled a delay of 0 or more"
        )
