r"""The variational bound on the likelihood of data under ancestral sampling, term by term.

    −log p(x_0) ≤ KL(q(x_T | x_0) ‖ N(0, 1)) + Σ_t KL(q(x_s | x_t, x_0) ‖ p(x_s | x_t)) − log p(x_0 | x_0⁺)

Ho et al. 2020, arXiv 2006.11239, equation 5; x_0⁺ is the least noisy state. p is the chain that a
:class:`~alphabar.DDPM` samples with, its variance and its levels included: a chain of 50 steps is another
model than one of 1000, and has a bound of its own. To learn that of a long chain at less cost,
``evaluations`` leaves the chain as it is, and draws which of its terms are computed.

``calc_bpd_loop`` of guided-diffusion and improved-diffusion is ``bits_per_dimension(Clipped(denoiser), x_0,
DDPM(variance="fixed_large"))``, or "learned_range".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from alphabar.checks import check_count
from alphabar.denoise import Denoise
from alphabar.errors import ConfigError, DtypeError, ShapeError
from alphabar.evaluation.likelihood import STREAM, Bits, checked_data, estimated
from alphabar.kernels import lincomb
from alphabar.process import normal, uniform
from alphabar.samplers import DDPM, track
from alphabar.schedule import Level, levels_at
from alphabar.training.bound import Steps, chain_steps, prior_bits, term_bits

__all__ = ["Bound", "bits_per_dimension"]

CHOICE = STREAM + (1 << 24)  # of the terms; before it lie the streams of their noise, one a step
FEWEST = 3  # evaluations: the step to clean data, and two of the others


@dataclass(frozen=True, eq=False)
class Bound(Bits):
    """The bound, and its terms in the order of the noise, the step to clean data first."""

    prior_each: Tensor
    """(N,) float64: KL(q(x_T | x_0) ‖ N(0, 1)) of each image."""
    terms_each: Tensor
    """(N, K) float64: the terms that were computed."""
    t: tuple[float, ...]
    """(K,) where the network was evaluated for each."""
    counts: tuple[float, ...]
    """(K,) for how many terms of the chain each stands; 1 where all were computed."""

    @property
    def prior(self) -> float:
        """KL(q(x_T | x_0) ‖ N(0, 1)), the mean over the images."""
        return float(self.prior_each.mean())

    @property
    def terms(self) -> Tensor:
        """(K,) float64: the terms, each the mean over the images."""
        return self.terms_each.mean(0)

    @property
    def standard_error(self) -> float:
        """Of the mean, by the scatter of images and noise, and by the choice of terms; ∞ for one image."""
        counts = torch.tensor(self.counts, dtype=torch.float64)
        pairs = self.terms.cpu()[counts > 1].reshape(-1, 2)  # two of each part that was not computed whole
        weight = counts[counts > 1][::2]
        of_choice = (weight * (weight - 1) * pairs.diff(dim=1)[:, 0].square()).sum()
        return math.hypot(super().standard_error, float(of_choice.sqrt()))


@torch.no_grad()
def bits_per_dimension(
    denoiser: Denoise,
    x_0: Tensor,
    sampler: DDPM = DDPM(),  # noqa: B008  frozen
    *,
    discrete: bool = True,
    evaluations: int | None = None,
    seed: int = 0,
    first: int = 0,
    dtype: torch.dtype = torch.float32,
    progress: bool | None = None,
) -> Bound:
    """Return the variational bound of each image, and its terms.

    >>> from alphabar import Denoiser, NoiseSchedule
    >>> x_0 = torch.randint(256, (64, 1, 4, 4)) / 127.5 - 1
    >>> grey = Denoiser(lambda x_t, t: torch.zeros_like(x_t), NoiseSchedule.cosine(100), "sample")
    >>> bits_per_dimension(grey, x_0).total > 8  # 256 values, each as probable as the others
    True

    Args:
        denoiser: what estimates x_0; its labels, where it has some, are those of the images. Wrapped in
            ``Clipped`` it is what ``alphabar sample`` and the peers' codes sample with, and nearer the data.
        x_0: (B, …) clean data; several batches are put together by
            :func:`~alphabar.evaluation.likelihood.joined`.
        sampler: the chain: its steps, their levels and the variance. By default all T steps, and the
            smallest variance.
        discrete: the data are 8-bit images; otherwise their density is meant.
        evaluations: terms to compute of each image, 3 … T; by default all. Fewer give an estimate without
            bias: the step to clean data always, and two drawn by the seed from each of as many parts as
            that allows, evenly spaced in log-SNR.
        seed: of the noise, and of which terms are drawn.
        first: the number of the first image, for addressing.
        dtype: the precision the network is fed in; sums are float64.
        progress: show a bar; by default on a terminal.

    Raises:
        DataError: values that are not finite, or none of the 256.
        ConfigError: a guided denoiser, or an argument outside its range.
        ShapeError: shapes that do not fit, or no answer on the variance where the sampler learns it.
        NoAnswerError: the network returned NaN or infinity, or has no answer at a t, as ε where ᾱ = 0.
        DtypeError: a sampler that is no DDPM, or data that are not of floating point.
    """
    clean = checked_data(denoiser, x_0, discrete=discrete)
    if not isinstance(sampler, DDPM):
        raise DtypeError(f"sampler is {sampler!r}: the bound is that of ancestral sampling, DDPM(…)")
    levels = levels_at(denoiser.schedule, sampler.plan(denoiser.schedule).timesteps[::-1])
    steps = chain_steps(denoiser.schedule, sampler, x_0.device, discrete=discrete)
    chosen, counts = _chosen(levels, evaluations, seed)
    terms = [
        _term(denoiser, clean, levels[k], steps, k, seed, first, dtype, discrete)
        for k in track(chosen, len(chosen), "bound", shown=progress)
    ]
    prior, each = prior_bits(levels[-1].log_alpha_bar, clean), torch.stack(terms, 1)
    total = prior + each @ each.new_tensor(counts)
    return Bound(total, prior, each, tuple(levels[k].t for k in chosen), tuple(counts))


def _term(
    denoiser: Denoise,
    x_0: Tensor,
    level: Level,
    steps: Steps,
    step: int,
    seed: int,
    first: int,
    dtype: torch.dtype,
    discrete: bool,
) -> Tensor:
    """Return one term of each image, (B,)."""
    noise = normal(x_0.shape, seed=seed, stream=STREAM + step, first=first, device=x_0.device)
    x_t = lincomb((level.signal, level.sigma), (x_0, noise.to(x_0.dtype))).to(dtype)
    found = estimated(denoiser, x_t, level.t)
    if found.variance is None and steps.low[step] != steps.high[step]:
        raise ShapeError(
            "this sampler takes its variance from the network, and the network returned none: give it twice "
            "the channels of x_t, or choose variance='fixed_small'"
        )
    error = found.x_0.to(x_0.dtype) - x_0
    answer = torch.zeros_like(x_0) if found.variance is None else found.variance.to(x_0.dtype)
    where = torch.full((len(x_0),), step, device=x_0.device)
    return term_bits(steps, where, x_0, error, answer, discrete=discrete)


def _chosen(levels: Sequence[Level], evaluations: int | None, seed: int) -> tuple[list[int], list[float]]:
    """Return which terms are computed, and for how many each stands."""
    steps = len(levels)
    if evaluations is None:
        return list(range(steps)), [1.0] * steps
    check_count(evaluations=evaluations)
    if evaluations >= steps:
        return _chosen(levels, None, seed)
    if evaluations < FEWEST:
        raise ConfigError(
            f"evaluations is {evaluations}: it must be at least {FEWEST}, that to clean data and two others"
        )
    log_snr = torch.tensor([2 * level.half_log_snr for level in levels[1:]], dtype=torch.float64)
    log_snr = log_snr.clamp(min=float(log_snr[log_snr.isfinite()].min()))
    place = (log_snr[0] - log_snr) / (log_snr[0] - log_snr[-1])
    divisions = [_parts(place, parts) for parts in range((evaluations - 1) // 2, evaluations)]
    part = [each for each in divisions if torch.bincount(each).clamp(max=2).sum() < evaluations][-1]
    drawn = uniform(steps - 1, seed=seed, stream=CHOICE)
    order = torch.argsort(part + drawn.double() / 2)  # part by part, at random in each
    ordered = part[order]
    rank = torch.arange(steps - 1) - torch.searchsorted(ordered, ordered)
    size = torch.bincount(part)[ordered].double()
    counts = size / size.clamp(max=2)
    return [0, *(order[rank < 2] + 1).tolist()], [1.0, *counts[rank < 2].tolist()]


def _parts(place: Tensor, count: int) -> Tensor:
    """Return in which of ``count`` equal parts of [0, 1] each place lies."""
    return (place * count).long().clamp(max=count - 1)
