r"""Densities of t: how often training visits each noise level.

    t = quantile(q),   q uniform in [0, 1)

Stratified numbers q, one in each of B equal parts of [0, 1), have the same density as independent ones and
estimate the loss with less variance. A density is one more function:

>>> TIMESTEPS["low_noise"] = lambda share, log_snr: _at(share.stratified**2, log_snr)
>>> place = torch.arange(4)
>>> TIMESTEPS.pop("low_noise")(shares(torch.full((4,), 0.5), place, 4), torch.linspace(9, -9, 1000))
tensor([ 15, 140, 390, 765])
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["TIMESTEPS", "Shares", "shares"]


class Shares(NamedTuple):
    """Uniform random numbers, (B,) or (B, N) float64 in [0, 1)."""

    independent: Tensor
    stratified: Tensor
    """One in each of so many equal parts as the batch has images; of tokens, independent ones too."""


Density = Callable[[Shares, Tensor], Tensor]


def shares(u: Tensor, place: Tensor, batch: int) -> Shares:
    """Return the numbers that a density turns into t.

    Args:
        u: (B,) independent uniform numbers in (0, 1], or (B, N), one for each token.
        place: (B,) the place of each image in the whole batch, 0 … batch − 1.
        batch: images in the whole batch, over all processes.
    """
    independent = 1 - u.double()
    if u.ndim > 1:  # parts that tokens of an image shared would make their t depend on each other
        return Shares(independent, independent)
    return Shares(independent, (place + independent) / batch)


def _at(q: Tensor, log_snr: Tensor) -> Tensor:
    """Return ⌊T · q⌋."""
    return (q * len(log_snr)).long()


def uniform(share: Shares, log_snr: Tensor) -> Tensor:
    """Every t is as likely, each image by itself (Ho et al. 2020, algorithm 1)."""
    return _at(share.independent, log_snr)


def stratified(share: Shares, log_snr: Tensor) -> Tensor:
    """Every t is as likely, and one lies in each of B equal parts (Kingma et al. 2021, appendix I.1)."""
    return _at(share.stratified, log_snr)


def logit_normal(share: Shares, log_snr: Tensor) -> Tensor:
    """t/T = sigmoid(1.2 n + .2), n standard normal (Esser et al. 2024, arXiv 2403.03206, section 3.1)."""
    return _logit_normal(share, log_snr, 0.2)


def logit_normal_low(share: Shares, log_snr: Tensor) -> Tensor:
    """t/T = sigmoid(1.2 n − .4), with less noise: that of a few pixels hides what they show sooner."""
    return _logit_normal(share, log_snr, -0.4)


def _logit_normal(share: Shares, log_snr: Tensor, centre: float) -> Tensor:
    return _at(torch.sigmoid(1.2 * torch.special.ndtri(share.stratified) + centre), log_snr)


def edm(share: Shares, log_snr: Tensor) -> Tensor:
    """The t nearest in log-SNR to ln σ = 1.2 n − 1.2, n standard normal (Karras et al. 2022, table 1).

    σ = √(1−ᾱ)/√ᾱ, so log-SNR = −2 ln σ. What lies beyond the ends of the schedule falls on its ends.
    """
    wanted = -2 * (1.2 * torch.special.ndtri(share.stratified) - 1.2)
    between = (log_snr[1:] + log_snr[:-1]) / 2
    return torch.searchsorted(-between, -wanted)


TIMESTEPS: dict[str, Density] = {
    "stratified": stratified,
    "uniform": uniform,
    "logit_normal": logit_normal,
    "logit_normal_low": logit_normal_low,
    "edm": edm,
}
"""The densities by name: functions of uniform numbers and of the schedule's (T,) falling log-SNR."""
