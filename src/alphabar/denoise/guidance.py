"""Guidance: wrappers of a denoiser that change its answer and are denoisers themselves.

    classifier-free    x̂_0 ← x̂_0(∅) + w · (x̂_0(y) − x̂_0(∅)), y a label, conditions, or both
    classifier         x̂_0 ← x̂_0 + w (1−ᾱ)/√ᾱ · ∇ log p(y | x_t)
    clipped            x̂_0 ← x̂_0 clipped to [−1, 1]
    thresholded        x̂_0 ← x̂_0 clipped to [−s, s], over s

They nest, the network innermost: ``Clipped(ClassifierFree(denoiser, 2.0, null_label=10))``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from alphabar.checks import check_float
from alphabar.denoise.denoiser import Denoise, Denoiser, Estimate, batch_time
from alphabar.errors import ConfigError, DtypeError, NoAnswerError, ShapeError
from alphabar.kernels import lincomb
from alphabar.schedule import NoiseSchedule, levels_at

__all__ = ["ClassifierFree", "ClassifierGuided", "Clipped", "DynamicThreshold"]


@dataclass(frozen=True)
class _Wrapper:
    denoiser: Denoise

    @property
    def schedule(self) -> NoiseSchedule:
        """The schedule of the denoiser inside."""
        return self.denoiser.schedule


@dataclass(frozen=True)
class ClassifierFree(_Wrapper):
    """x̂_0 = x̂_0(∅) + w · (x̂_0(y) − x̂_0(∅)): classifier-free guidance, in one batched call.

    Ho & Salimans 2022, arXiv 2207.12598, equation 6, which writes 1 + w for this w. At one x_t, ε̂ and v are
    linear in x̂_0 with the same coefficients for both labels, so guiding any of the three is the same.

    With ``rescale`` φ, the guided x̂_0 is multiplied by φ · σ(x̂_0(y))/σ(x̂_0) + 1 − φ, where σ is the standard
    deviation of a sample (Lin et al. 2023, arXiv 2305.08891, equations 14–16). It is matched in x̂_0, not in
    what the network happens to return: over-exposure is one of the image, and x̂_0 alone is the image at every
    t; ε̂ and v are mostly noise at one end of the schedule, whose spread guidance hardly changes.

    >>> shift = lambda x_t, t, class_labels: x_t + class_labels[:, None]
    >>> denoiser = Denoiser(shift, NoiseSchedule.linear(), "sample", labels=torch.tensor([1, 2]))
    >>> ClassifierFree(denoiser, 3.0, null_label=0)(torch.zeros(2, 1), 500).x_0
    tensor([[3.],
            [6.]])

    Args:
        denoiser: a :class:`Denoiser` with labels or conditions, which are all withheld for ∅.
        scale: w. 1 is the conditional denoiser, 0 the one without label; above 1 the label counts for more.
        null_label: the label that stands for "no label", ``len(classes)`` in this library's networks; needed
            where there are labels. In place of conditions zeros are given, as in this library's networks.
        rescale: φ in [0, 1], how much of the spread is restored; .7 in Lin et al.
        interval: (lowest, highest) t at which guidance acts; at others only y is asked, at half the cost
            (Kynkäänniemi et al. 2024, arXiv 2404.07724). By default everywhere.

    Raises:
        DtypeError: a denoiser that is itself a wrapper.
        ConfigError: a network without labels and conditions, labels without a null_label, φ outside [0, 1],
            an interval upside down, a scale not finite.
    """

    denoiser: Denoiser
    scale: float
    null_label: int | None = None
    rescale: float = 0.0
    interval: tuple[float, float] | None = None
    doubled: Denoiser = field(init=False, repr=False, compare=False)
    """The denoiser of a batch given twice, the second time without label and conditions."""

    def __post_init__(self) -> None:
        if not isinstance(self.denoiser, Denoiser):
            raise DtypeError(
                f"denoiser is a {type(self.denoiser).__name__}: classifier-free guidance asks the network "
                "itself, so wrap the Denoiser first, as in Clipped(ClassifierFree(Denoiser(…), …))"
            )
        if self.denoiser.labels is None and not self.denoiser.conditions:
            raise ConfigError(
                f"guidance of scale {self.scale} on a network without labels: give the Denoiser its labels "
                "or conditions, or train with class_conditional or conditions"
            )
        if self.denoiser.labels is not None and self.null_label is None:
            raise ConfigError("null_label is None: give the label that stands for 'no label'")
        _check_scale(self.scale)
        if not 0 <= self.rescale <= 1:
            raise ConfigError(f"rescale is {self.rescale!r}: it must lie in [0, 1], where 0 does nothing")
        if self.interval is not None and not self.interval[0] <= self.interval[1]:
            raise ConfigError(f"interval is {self.interval!r}: give the lowest t first, then the highest")
        object.__setattr__(self, "doubled", self._doubled())

    def __call__(self, x_t: Tensor, t: float | Tensor) -> Estimate:
        """Return the guided estimate; a learned variance is that of the given label.

        Raises:
            ConfigError: an interval, and a tensor of t.
        """
        if not self._acts(t):
            return self.denoiser(x_t, t)
        both, variance = self._asked_twice(x_t, t)
        given, null = both.reshape(2, *x_t.shape).unbind()
        guided = lincomb((self.scale, 1 - self.scale), (given, null))
        return Estimate(self._rescaled(guided, given), variance)

    def _acts(self, t: float | Tensor) -> bool:
        if isinstance(t, Tensor):
            if self.interval is not None:
                raise ConfigError("interval is given, and each token has a t of its own: leave it out")
            return self.scale != 1
        lowest, highest = self.interval or (-math.inf, math.inf)
        return self.scale != 1 and lowest <= t <= highest

    def _asked_twice(self, x_t: Tensor, t: float | Tensor) -> Estimate:
        if isinstance(t, Tensor) and t.ndim and len(t) == len(x_t):
            t = torch.cat([t, t])
        both = self.doubled(torch.cat([x_t, x_t]), t)
        return both._replace(variance=None if both.variance is None else both.variance[: x_t.shape[0]])

    def _doubled(self) -> Denoiser:
        labels, null = self.denoiser.labels, self.null_label
        if labels is not None and null is not None:
            labels = torch.hstack([labels, torch.full_like(labels, null)])
        conditions = {
            name: torch.cat([code, torch.zeros_like(code)]) for name, code in self.denoiser.conditions.items()
        }
        return replace(self.denoiser, labels=labels, conditions=conditions)

    def _rescaled(self, guided: Tensor, given: Tensor) -> Tensor:
        if not self.rescale:
            return guided
        ratio = _spread(given) / _spread(guided)
        ratio = torch.where(ratio.isfinite(), ratio, 1.0)  # a flat image has no spread to restore
        return lincomb((self.rescale * ratio + 1 - self.rescale,), (guided,))


@dataclass(frozen=True)
class ClassifierGuided(_Wrapper):
    """x̂_0 + w (1−ᾱ)/√ᾱ · ∇ log p(y | x_t): guidance by a classifier of noisy data.

    Dhariwal & Nichol 2021, arXiv 2105.05233, algorithm 2: ε̂ − w √(1−ᾱ) · ∇ log p, written for x̂_0. With w = 1
    and a classifier that is right, the estimate is the mean of x_0 given x_t and y.

    Args:
        denoiser: of the data without labels.
        classifier: called as ``classifier(x_t, t)`` with x_t (B, C, …) and t (B,); returns logits,
            (B, classes).
        labels: (B,) classes, int64.
        scale: w.

    Raises:
        ConfigError: a scale that is not finite.
    """

    classifier: Callable[[Tensor, Tensor], Tensor]
    labels: Tensor
    scale: float = 1.0

    def __post_init__(self) -> None:
        _check_scale(self.scale)

    def __call__(self, x_t: Tensor, t: float | Tensor) -> Estimate:
        """Return the guided estimate.

        Raises:
            NoAnswerError: a t with ᾱ_t = 0.
            ShapeError: logits that are not (B, classes).
            ConfigError: a tensor of t.
        """
        if isinstance(t, Tensor):
            raise ConfigError("each token has a t of its own: a classifier is asked with one t for a sample")
        (level,) = levels_at(self.schedule, [t])
        if not level.signal:
            raise NoAnswerError(
                f"classifier guidance at t = {t}, where ᾱ_t = 0: x_t is pure noise, which no classifier can "
                "read. Start at the t before, or guide without a classifier: ClassifierFree"
            )
        x_0, variance = self.denoiser(x_t, t)
        scale = self.scale * level.sigma**2 / level.signal
        return Estimate(lincomb((1.0, scale), (x_0, self._gradient(x_t, t))), variance)

    def _gradient(self, x_t: Tensor, t: float) -> Tensor:
        """Return ∇ log p(y | x_t), differentiable itself where x_t is."""
        is_wanted = torch.is_grad_enabled() and x_t.requires_grad
        with torch.enable_grad():
            at = x_t if is_wanted else x_t.detach().requires_grad_()
            log_share = self._log_share(at, t)
            (gradient,) = torch.autograd.grad(log_share.sum(), at, create_graph=is_wanted)
        return gradient

    def _log_share(self, x_t: Tensor, t: float) -> Tensor:
        logits = self.classifier(x_t, batch_time(t, x_t))
        check_float(**{"the classifier's answer": logits})
        if logits.ndim != 2 or not len(logits) == len(self.labels) == len(x_t):
            raise ShapeError(
                f"the classifier returned {tuple(logits.shape)} for {len(x_t)} samples and "
                f"{len(self.labels)} labels: it must return (B, classes), and labels must be (B,)"
            )
        return logits.log_softmax(1).gather(1, self.labels[:, None])


@dataclass(frozen=True)
class Clipped(_Wrapper):
    """x̂_0 clipped to [−limit, limit] (Ho et al. 2020, official code): pixels cannot leave their range.

    Args:
        denoiser: what is wrapped.
        limit: > 0.

    Raises:
        ConfigError: limit ≤ 0.
    """

    limit: float = 1.0

    def __post_init__(self) -> None:
        if not self.limit > 0:
            raise ConfigError(f"limit is {self.limit!r}: it must be positive, 1 for images in [-1, 1]")

    def __call__(self, x_t: Tensor, t: float | Tensor) -> Estimate:
        """Return the estimate of the denoiser inside, x̂_0 clipped."""
        estimate = self.denoiser(x_t, t)
        return estimate._replace(x_0=estimate.x_0.clamp(-self.limit, self.limit))


@dataclass(frozen=True)
class DynamicThreshold(_Wrapper):
    """x̂_0 clipped to [−s, s] and divided by s, where s ≥ 1 is a quantile of a sample's |x̂_0|.

    Saharia et al. 2022, arXiv 2205.11487, section 2.3: strong guidance drives x̂_0 out of [−1, 1]; clipping
    alone then saturates it, this brings it back.

    Args:
        denoiser: what is wrapped.
        quantile: in (0, 1]; between two values of the sample it interpolates.
        largest: of s; by default as large as it comes, as in the paper. At 1, diffusers' choice, this clips.

    Raises:
        ConfigError: a quantile outside (0, 1], or largest < 1.
    """

    quantile: float = 0.995
    largest: float = math.inf

    def __post_init__(self) -> None:
        if not 0 < self.quantile <= 1:
            raise ConfigError(f"quantile is {self.quantile!r}: it must lie in (0, 1], .995 in the paper")
        if not self.largest >= 1:
            raise ConfigError(f"largest is {self.largest!r}: it must be at least 1, the range of the data")

    def __call__(self, x_t: Tensor, t: float | Tensor) -> Estimate:
        """Return the estimate of the denoiser inside, each sample brought back into [−1, 1]."""
        estimate = self.denoiser(x_t, t)
        x_0 = estimate.x_0.to(torch.promote_types(estimate.x_0.dtype, torch.float32))
        return estimate._replace(x_0=dynamic_threshold(x_0, self.quantile, self.largest))


def dynamic_threshold(x_0: Tensor, quantile: float, largest: float) -> Tensor:
    """Return x̂_0, (B, …) float32 or wider, as :class:`DynamicThreshold` brings it back."""
    s = _quantile(x_0.abs().flatten(1), quantile).clamp(1, largest)
    s = s.reshape(-1, *[1] * (x_0.ndim - 1))
    return x_0.clamp(-s, s) / s


def _quantile(values: Tensor, quantile: float) -> Tensor:
    """Return a quantile of each row, (B,): torch.quantile's, which refuses more than 2²⁴ numbers."""
    rank = quantile * (values.shape[1] - 1)
    below, above = (values.kthvalue(1 + k, 1).values for k in (math.floor(rank), math.ceil(rank)))
    return lincomb((1 - rank % 1, rank % 1), (below, above))


def _spread(x: Tensor) -> Tensor:
    """Return the standard deviation of each sample, float64, shaped to multiply the batch."""
    return x.double().std(tuple(range(1, x.ndim)), correction=0, keepdim=True)


def _check_scale(scale: float) -> None:
    if not math.isfinite(scale):
        raise ConfigError(f"scale is {scale!r}: it must be a finite number, 1 for the label and no more")
