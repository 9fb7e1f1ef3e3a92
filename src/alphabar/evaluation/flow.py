r"""The likelihood of data under the probability flow, whose paths are those of deterministic sampling.

    dx/dλ = ½ √ᾱ (x̂_0 − √ᾱ x)                               λ = log ᾱ/(1−ᾱ)
    −log p(x_0) = −log N(x_T; 0, 1) − ∫ ∇·(dx/dλ) dλ − D/2 log ᾱ_0     from λ_0 to λ_T

The flow of Song et al. 2021, arXiv 2011.13456, equations 13 and 39, in x and log-SNR: finite for every kind
of network. It begins at t = 0, where x = √ᾱ_0 x_0, and ends at the noisiest t that keeps some signal. The
divergence is ½ √ᾱ (tr ∂x̂_0/∂x − √ᾱ D), and the trace of a matrix J is the mean of eᵀJe over random signs e
(Hutchinson 1990): one product by a transposed Jacobian each. The same signs serve all of a path.

Runge–Kutta's method of order 4 goes along even steps of λ, and once more along steps twice as long: a
fifteenth of the difference of both is the error of the finer.

8-bit images are made continuous by uniform noise over a pixel's own bin, of width 2/255, and then
−log₂ P(x_0) ≤ E[−log₂ p(x)] + D log₂(255/2) by Jensen's inequality (Theis et al. 2016, arXiv 1511.01844,
section 3.1). The code of Song et al. places (u + noise)/128 − 1 instead, and adds 7 bits a dimension.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from alphabar.checks import check_count
from alphabar.denoise import Denoise
from alphabar.errors import ConfigError, NoAnswerError
from alphabar.evaluation.likelihood import BIN, STREAM, Bits, checked_data, estimated
from alphabar.kernels import lincomb, uniform
from alphabar.process import address, normal
from alphabar.samplers import track
from alphabar.schedule import SPACINGS, Level, NoiseSchedule, levels_at

__all__ = ["FlowBits", "flow_bits_per_dimension", "flow_levels"]

DEQUANTISATION = STREAM + (2 << 24)
PROBES = DEQUANTISATION + 1  # the first of the streams of the signs
ORDER = 4

Field = Callable[[Tensor, Level], tuple[Tensor, Tensor]]


@dataclass(frozen=True, eq=False)
class FlowBits(Bits):
    """The estimate along the flow."""

    step_error_each: Tensor
    """(N,) float64: what steps of no length would add to each, extrapolated from steps twice as long."""
    evaluations: int
    """Of the network, for each image."""

    @property
    def step_error(self) -> float:
        """What steps of no length would add to the mean."""
        return float(self.step_error_each.mean())

    @property
    def interval(self) -> tuple[float, float]:
        """Where the mean over all data lies with 95 % confidence, the error of the steps included."""
        low, high = super().interval
        return low - abs(self.step_error), high + abs(self.step_error)


@torch.no_grad()
def flow_bits_per_dimension(
    denoiser: Denoise,
    x_0: Tensor,
    steps: int = 64,
    *,
    probes: int | None = 1,
    discrete: bool = True,
    seed: int = 0,
    first: int = 0,
    dtype: torch.dtype = torch.float32,
    progress: bool | None = None,
) -> FlowBits:
    """Return −log₂ p(x_0)/D of each image under the probability flow.

    >>> from alphabar import GaussianMixture, NoiseSchedule
    >>> data = GaussianMixture(torch.zeros(1, 2), torch.tensor([0.5]))
    >>> x_0 = data.draw(256, generator=torch.Generator().manual_seed(0))
    >>> found = flow_bits_per_dimension(data.denoiser(NoiseSchedule.cosine()), x_0, discrete=False)
    >>> abs(found.total + float(data.density(x_0).log2().mean()) / 2) < 0.001
    True

    Args:
        denoiser: what estimates x_0, differentiable in x_t; its labels, where it has some, are those of the
            images. One that is ``Clipped`` has kinks, at which steps lose their order.
        x_0: (B, …) clean data; several batches are put together by
            :func:`~alphabar.evaluation.likelihood.joined`.
        steps: of the finer path, an even number; 6 evaluations of the network are made for each.
        probes: signs for the trace, each a further derivative; None takes the D unit vectors, and is exact.
        discrete: the data are 8-bit images, which are made continuous: the result is an upper bound in
            expectation. Otherwise the density at x_0 is meant.
        seed: of the signs and of the noise within a bin.
        first: the number of the first image, for addressing.
        dtype: the precision the network is fed in; paths and sums are float64.
        progress: show a bar; by default on a terminal.

    Raises:
        DataError: values that are not finite, or none of the 256.
        ConfigError: a guided denoiser, a schedule of one level with signal, or an argument outside its range.
        ShapeError: shapes that do not fit.
        NoAnswerError: the network returned NaN or infinity, or what autograd cannot follow.
        DtypeError: data that are not of floating point.
    """
    data = checked_data(denoiser, x_0, discrete=discrete)
    levels, size = flow_levels(denoiser.schedule, steps), data[0].numel()
    signs = list(_signs(data, probes, seed, first))
    offset = -levels[0].log_alpha_bar / 2
    if discrete:
        place = address(data.shape, seed=seed, stream=DEQUANTISATION, first=first)
        within = uniform(len(data), size, place, data.device).view_as(data)
        data, offset = data + BIN * (within - 0.5), offset - math.log(BIN)

    def field(x: Tensor, level: Level) -> tuple[Tensor, Tensor]:
        x_0, trace = _estimate(denoiser, x.to(dtype), level, signs)
        half = level.signal / 2
        velocity = lincomb((half, -half * level.signal), (x_0.to(x.dtype), x))
        return velocity, half * (trace - level.signal * size)

    def nats(stops: Sequence[Level]) -> Tensor:
        x_t, expansion = _path(field, levels[0].signal * data, stops, progress)
        return (x_t.square() + math.log(2 * math.pi)).flatten(1).mean(1) / 2 - expansion / size + offset

    fine, coarse = (nats(stops) / math.log(2) for stops in (levels, levels[::2]))
    return FlowBits(fine, (fine - coarse) / (2**ORDER - 1), 6 * steps)


def flow_levels(schedule: NoiseSchedule, steps: int) -> tuple[Level, ...]:
    """Return where so many steps evaluate the network: 2 steps + 1 levels, the least noisy first.

    Raises:
        ConfigError: steps that are no even number, or a schedule of one level with signal.
    """
    check_count(steps=steps)
    if steps % 2:
        raise ConfigError(f"steps is {steps}: give an even number, for half as many show the error")
    count, infinite = 2 * steps + 1, int((~schedule.log_snr.isfinite()).sum())
    if len(schedule) - infinite < 2:
        raise ConfigError(f"{schedule} has less than two levels with signal, between which a flow could lead")
    return levels_at(schedule, SPACINGS["log_snr"](schedule, count + infinite)[::-1][:count])


def _signs(x_0: Tensor, probes: int | None, seed: int, first: int) -> Iterator[Tensor]:
    """Yield the e, like x_0, over which the mean of eᵀJe is the trace of J, or estimates it."""
    size = x_0[0].numel()
    if probes is None:
        for unit in torch.eye(size, dtype=x_0.dtype, device=x_0.device) * math.sqrt(size):
            yield unit.view_as(x_0[0]).expand_as(x_0)
        return
    check_count(probes=probes)
    for k in range(probes):
        z = normal(x_0.shape, seed=seed, stream=PROBES + k, first=first, device=x_0.device)
        yield torch.where(z < 0, -1.0, 1.0).to(x_0.dtype)


@torch.enable_grad()
def _estimate(denoiser: Denoise, x_t: Tensor, level: Level, signs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return x̂_0 at x_t, and its divergence, (B,) float64."""
    at = x_t.detach().requires_grad_()
    x_0 = estimated(denoiser, at, level.t).x_0
    traces = []
    for e in signs:
        product = None
        if x_0.requires_grad:
            (product,) = torch.autograd.grad(x_0, at, e.to(x_0.dtype), retain_graph=True, allow_unused=True)
        if product is None:
            raise NoAnswerError(
                f"autograd finds no way from x_t to the denoiser's answer at t = {level.t}: the flow needs "
                "its derivative, so the network must not run under no_grad or detach what it is given"
            )
        traces.append((e * product).flatten(1).sum(1))
    return x_0.detach(), torch.stack(traces).mean(0)


def _path(field: Field, x: Tensor, levels: Sequence[Level], progress: bool | None) -> tuple[Tensor, Tensor]:
    """Return where x arrives, and the integral of the divergence, (B,), by steps from every other level."""
    count = len(levels) // 2
    width = 2 * (levels[-1].half_log_snr - levels[0].half_log_snr) / count
    total = x.new_zeros(len(x))
    weights = 1, width / 6, width / 3, width / 3, width / 6
    steps = zip(levels[:-1:2], levels[1::2], levels[2::2], strict=True)
    for start, middle, end in track(steps, count, "flow", shown=progress):
        v_1, d_1 = field(x, start)
        v_2, d_2 = field(lincomb((1, width / 2), (x, v_1)), middle)
        v_3, d_3 = field(lincomb((1, width / 2), (x, v_2)), middle)
        v_4, d_4 = field(lincomb((1, width), (x, v_3)), end)
        x = lincomb(weights, (x, v_1, v_2, v_3, v_4))
        total = lincomb(weights, (total, d_1, d_2, d_3, d_4))
    return x, total
