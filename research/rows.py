"""Rows of a table as tensors that can be differentiated, for ``fit.py``.

    x_s = σ_s/σ_t x_t + √ᾱ_s [(1 − e^{−h}) x̂_0 + Σ_k w_k (x̂_0⁽ᵏ⁾ − x̂_0)]

λ is half the log-SNR, h its step. There are up to three estimates before the newest.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def of_order(level: Tensor, order: int) -> Tensor:
    """The w of earlier estimates, (n, 3): exact for polynomials of degree order − 1; none in the last row."""
    n, h = len(level), level.diff()
    moment, moments = -torch.expm1(-h), []
    for j in range(1, 4):  # ∫ h e^{h(r − 1)} r^j dr over r in 0 … 1
        moment = 1 - j / h * moment
        moments.append(moment)
    rows = torch.arange(n - 1)[:, None]
    before = torch.arange(1, 4)
    used = before <= torch.minimum(rows, torch.tensor(order - 1))
    u = (level[(rows - before).clamp(min=0)] - level[:-1, None]) / h[:, None]
    powers = torch.stack([u, u**2, u**3], 1)
    both = used[:, :, None] & used[:, None, :]
    system = torch.where(both, powers, torch.eye(3, dtype=level.dtype))
    w = torch.linalg.solve(system, torch.stack(moments, 1) * used)
    return torch.cat([w, w.new_zeros(1, 3)])


def forms(level: Tensor, w: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Each row: its coefficient of x_t and those of the estimates, newest first."""
    signal, noise = torch.sigmoid(2 * level).sqrt(), torch.sigmoid(-2 * level).sqrt()
    rows = []
    for i in range(len(level)):
        last, k = i == len(level) - 1, min(i, 3)
        total = level.new_ones(()) if last else -torch.expm1(level[i] - level[i + 1])
        newest = (total - w[i, :k].sum())[None]
        of_x_t = level.new_zeros(()) if last else noise[i + 1] / noise[i]
        rows.append((of_x_t, torch.cat([newest, w[i, :k]]) * (1 if last else signal[i + 1])))
    return rows


def run(level: Tensor, w: Tensor, x: Tensor, denoise: Any) -> Tensor:
    """Return the end points."""
    history: list[Tensor] = []
    for here, (of_x_t, b) in zip(level, forms(level, w), strict=True):
        history = [denoise(x, here), *history][:4]
        x = of_x_t * x + sum(c * x_0 for c, x_0 in zip(b, history, strict=False))
    return x


def influence(level: Tensor, w: Tensor) -> Tensor:
    """How much of each estimate is in the end point, (n,), while estimates do not respond to each other."""
    n = len(level)
    x = level.new_zeros(n)
    for i, (of_x_t, b) in enumerate(forms(level, w)):
        x = of_x_t * x + torch.cat([x.new_zeros(i + 1 - len(b)), b.flip(0), x.new_zeros(n - 1 - i)])
    return x
