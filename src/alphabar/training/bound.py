r"""The variational bound of ancestral sampling, by which a network learns its variance and is judged.

    −log p(x_0) ≤ KL(q(x_T | x_0) ‖ N(0, 1)) + Σ_t L_t         Ho et al. 2020, arXiv 2006.11239, equation 5
    L_t = KL(q(x_s | x_t, x_0) ‖ p(x_s | x_t))                 s the level after t
    L_0 = −log p(x_0 | x_t)                                    the step to clean data

Both Gaussians of a KL have the coefficients of the sampler's row, so x_t cancels from the difference of their
means: it is b · (x̂_0 − x_0), b the coefficient of x̂_0. Where the variance of p is learned, it is (Nichol &
Dhariwal 2021, arXiv 2102.09672, equation 15)

    log σ² = v · log β + (1 − v) · log β̃,   v = (answer + 1)/2

p(x_0 | x_t) is the share of the Gaussian that falls on the pixel's own of 256 values (Ho et al. 2020,
equation 13), with the cumulative distribution that the code of both papers approximates it by, and never less
than 1e-12 as there; or, for data that are not 8-bit, its density.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from alphabar.process import spread
from alphabar.samplers import DDPM
from alphabar.samplers.ddpm import VARIANCES
from alphabar.schedule import NoiseSchedule, levels_at

__all__ = ["Steps", "chain_steps", "prior_bits", "term_bits"]

HALF_BIN = 1 / 255  # of the pixel values −1, −1 + 2/255, … 1
EDGE = 0.999  # beyond which a pixel is black or white, and its bin is open
FLOOR = 1e-12  # the smallest probability whose logarithm is taken


class Steps(NamedTuple):
    """What the bound takes of the steps of ancestral sampling, the one to clean data first: (n,) float64."""

    x_0: Tensor
    """The coefficient of x̂_0 in the mean."""
    log_q: Tensor
    """log β̃, the log-variance of q(x_s | x_t, x_0); of the first step, where β̃ is 0, that of the next."""
    low: Tensor
    """The log-variance of p where the network answers −1, or whatever it answers where it is not learned."""
    high: Tensor
    """The log-variance where it answers +1."""


def chain_steps(
    schedule: NoiseSchedule,
    sampler: DDPM = DDPM(variance="learned_range"),  # noqa: B008  frozen
    device: torch.device | str = "cpu",
    *,
    discrete: bool = True,
) -> Steps:
    """Return the numbers of the rows of a sampler; of one that takes every t, step k is that from t = k.

    The step to clean data adds no noise, and its row holds no variance. A fixed one is β̃ of the next step
    there, a learned one lies between that and β, as in the code of both papers. A density is fixed at
    (1−ᾱ)/ᾱ instead, the variance of x_0 given x_t where the data are smooth: β̃ is half of it.

    Args:
        schedule: the noise schedule.
        sampler: whose rows they are.
        device: where the numbers go.
        discrete: as in :func:`term_bits`.

    Raises:
        TimestepError: steps or a spacing that do not fit the schedule.
    """
    rows = sampler.plan(schedule).rows[::-1]
    ranges = replace(sampler, variance="learned_range").plan(schedule).rows[::-1]
    log_q = [row.log_variance[0] for row in ranges if row.log_variance]
    (level,) = levels_at(schedule, [rows[0].t])
    beta = -math.expm1(level.log_alpha_bar)
    first = log_q[0] if log_q else math.log(beta)
    fixed = first if discrete else math.log(beta) - level.log_alpha_bar
    span = VARIANCES[sampler.variance](math.exp(first), beta).get("log_variance", (fixed, fixed))
    spans = [span, *(row.log_variance or (2 * math.log(row.z),) * 2 for row in rows[1:])]
    columns = [row.history[0] for row in rows], [first, *log_q], *zip(*spans, strict=True)
    return Steps(*(torch.tensor(column, dtype=torch.float64, device=device) for column in columns))


def term_bits(
    steps: Steps,
    step: Tensor,
    x_0: Tensor,
    error: Tensor,
    answer: Tensor,
    *,
    discrete: bool = True,
) -> Tensor:
    """Return L of each sample in bits a dimension, (B,): ``_vb_terms_bpd`` in the code of both papers.

    Args:
        steps: of the chain.
        step: (B,) int64, which step: 0 is the one to clean data.
        x_0: (B, …) clean data; 8-bit images in [−1, 1] where ``discrete``.
        error: (B, …) x̂_0 − x_0.
        answer: (B, …) the network's answer on the variance: −1 is the least, +1 the greatest.
        discrete: take the probability of a pixel's value; otherwise the density at x_0.
    """
    scale, log_q, low, high = (spread(column[step], x_0).to(x_0.dtype) for column in steps)
    shift, log_p = scale * error, low + (high - low) * (answer + 1) / 2
    decoder = _log_probability(x_0, -shift, log_p) if discrete else _log_density(shift, log_p)
    return _in_bits(torch.where(spread(step, x_0) == 0, -decoder, _kl(shift, log_q, log_p)))


def prior_bits(log_alpha_bar: float, x_0: Tensor) -> Tensor:
    """Return KL(q(x_t | x_0) ‖ N(0, 1)) of each sample in bits a dimension, (B,); 0 where ᾱ_t = 0.

    Args:
        log_alpha_bar: log ᾱ_t of the noisiest level.
        x_0: (B, …) clean data.
    """
    log_q = x_0.new_tensor(math.log(-math.expm1(log_alpha_bar)))
    return _in_bits(_kl(math.exp(log_alpha_bar / 2) * x_0, log_q, torch.zeros_like(x_0)))


def _in_bits(nats: Tensor) -> Tensor:
    return nats.flatten(1).mean(1) / math.log(2)


def _kl(shift: Tensor, log_q: Tensor, log_p: Tensor) -> Tensor:
    """Return KL(N(0, q) ‖ N(shift, p)) of each element."""
    ratio = log_q - log_p
    return (torch.expm1(ratio) - ratio + shift.square() * torch.exp(-log_p)) / 2


def _log_density(centred: Tensor, log_variance: Tensor) -> Tensor:
    """Return the logarithm of the normal density of each element."""
    return -(math.log(2 * math.pi) + log_variance + centred.square() * torch.exp(-log_variance)) / 2


def _log_probability(x_0: Tensor, centred: Tensor, log_variance: Tensor) -> Tensor:
    """Return the log-probability of each pixel's bin, ``centred`` = x_0 − mean."""
    precision = torch.exp(-log_variance / 2)
    above, below = _cdf(precision * (centred + HALF_BIN)), _cdf(precision * (centred - HALF_BIN))
    inside = torch.where(x_0 > EDGE, 1 - below, above - below)
    return torch.where(x_0 < -EDGE, above, inside).clamp(min=FLOOR).log()


def _cdf(x: Tensor) -> Tensor:
    """½ (1 + tanh(√(2/π) (x + .044715 x³))): the normal distribution's, to 3e-4."""
    return (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2
