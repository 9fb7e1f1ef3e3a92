r"""GITS, the peer of fitted tables: levels by dynamic programming on what one long Euler step goes wrong by.

    cost(t → s) = how far Euler's step from the teacher's state at t to s lies off the chord of the chain,
                  less how far the teacher's own state at s does
    V_1(t) = cost(t → clean),     V_k(t) = min_s cost(t → s) + γ V_{k−1}(s)

The chord joins the first state to the last; states are x/√ᾱ, so that Euler's steps are straight lines in
σ/√ᾱ. The levels serve any solver. Chen et al. 2024, arXiv 2405.11326, with the settings of the authors' code:
a chain of 60 evaluations, spaced as Karras et al. space them, from 256 noises, and γ = 1.15.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor

from alphabar.denoise import Denoise
from alphabar.process import normal
from alphabar.samplers import UniPC, iter_sample
from alphabar.schedule import CLEAN, levels_at

__all__ = ["Costs", "cheapest"]

TEACHER = UniPC(60, order=3, spacing="karras")
NOISES, GAMMA = 256, 1.15


class Costs:
    """The levels of the teacher's chain, and what each step between two of them costs."""

    def __init__(self, denoiser: Denoise, shape: tuple[int, ...], seed: int) -> None:
        plan = TEACHER.plan(denoiser.schedule)
        x_t = normal((NOISES, *shape), seed=seed)
        with torch.no_grad():
            states = list(iter_sample(denoiser, x_t.shape, plan, x_t=x_t, device=x_t.device))
        levels = (*levels_at(denoiser.schedule, plan.timesteps), CLEAN)
        self.timesteps = plan.timesteps
        self.costs = step_costs(
            torch.stack([state.x_t.flatten(1) / at.signal for state, at in zip(states, levels, strict=True)]),
            torch.stack([state.x_0.flatten(1) for state in states[:-1]]),
            [level.sigma_ve for level in levels],
        )

    def levels(self, evaluations: int) -> tuple[float, ...]:
        """Return the t of the cheapest way of so many steps."""
        return tuple(self.timesteps[i] for i in cheapest(self.costs, evaluations))


def step_costs(states: Tensor, x_0: Tensor, sigma: list[float]) -> Tensor:
    """Return the cost of each step, (n+1, n+1), ∞ where it does not lead to less noise.

    Args:
        states: (n+1, B, D) x/√ᾱ of the teacher's chain, the last of them clean.
        x_0: (n, B, D) its estimates.
        sigma: (n+1,) √(1−ᾱ)/√ᾱ.
    """
    chord = states[-1] - states[0]
    unit = chord / chord.norm(dim=-1, keepdim=True)

    def off(x: Tensor) -> Tensor:
        rest = states[-1] - x
        along = (rest * unit).sum(-1, keepdim=True)
        return (rest - along * unit).norm(dim=-1).mean(-1)

    costs = torch.full((len(sigma), len(sigma)), math.inf, dtype=torch.float64)
    own = off(states).double()
    for i in range(len(x_0)):
        shrink = torch.tensor(sigma[i + 1 :]) / sigma[i]
        reached = x_0[i] + shrink[:, None, None] * (states[i] - x_0[i])
        costs[i, i + 1 :] = off(reached).double() - own[i + 1 :]
    return costs


def cheapest(costs: Tensor, steps: int, gamma: float = GAMMA) -> list[int]:
    """Return where the cheapest way of so many steps from the first level to the last one starts each.

    >>> cheapest(torch.tensor([[math.inf, 1, 5], [math.inf, math.inf, 2], [math.inf] * 3]), 2)
    [0, 1]
    """
    values, ways = [costs[:, -1]], []
    for _ in range(steps - 1):
        found = (costs + gamma * values[-1]).min(1)
        values.append(found.values)
        ways.append(found.indices)
    way = [0]
    for choice in reversed(ways):
        way.append(int(choice[way[-1]]))
    if not all(costs[a, b].isfinite() for a, b in pairwise([*way, len(costs) - 1])):
        raise ValueError(f"no way of {steps} steps leads through {len(costs)} levels")
    return way
