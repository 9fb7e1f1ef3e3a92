"""Our side of the comparisons: one place to change when a faster form of a call exists."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from alphabar.process import addressed
from alphabar.process.forward import add_noise
from alphabar.process.parameterisation import to_x_0
from alphabar.samplers.plan import Row, Sampler
from alphabar.schedule.noise_schedule import NoiseSchedule

__all__ = ["middle_row", "noised", "step"]


def noised(schedule: NoiseSchedule, x_0: Tensor, t: Tensor, out: Tensor, seed: int) -> Tensor:
    """Mix noise into x_0 that is made on the way, by address, and never lies in memory."""
    return add_noise(schedule, x_0, addressed.address(x_0.shape, seed=seed), t, out=out)


def middle_row(sampler: Sampler, schedule: NoiseSchedule) -> Row:
    """Return a row from the middle of a plan, where a multistep method has its full history."""
    rows = sampler.plan(schedule).rows
    return rows[len(rows) // 2]


def step(row: Row, schedule: NoiseSchedule, x_t: Tensor, output: Tensor) -> Callable[[], Tensor]:
    """Return what our loop does between two evaluations of the network: from its output to x_s, in place."""
    past, out = [torch.randn_like(x_t) for _ in row.history[1:]], torch.empty_like(x_t)

    def one() -> Tensor:
        x_0 = to_x_0(schedule, "epsilon", x_t, output, row.t)
        z = addressed.address(x_t.shape, seed=0, stream=1) if row.is_random else None
        x_s = row.advance(x_t, (x_0, *past), z, out=out)
        row.kept(x_t, x_0)
        return x_s

    return one
