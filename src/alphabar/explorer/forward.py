"""The forward process of one picture under several schedules: x_t, its histogram, its moments, the curves.

    one jump       x_t = √ᾱ_t · x_0 + √(1−ᾱ_t) · z
    single steps   x_s = √α_s · x_{s−1} + √β_s · z_s,    s = 0 … t

Both have, over the pixels, mean √ᾱ_t · mean(x_0) and variance ᾱ_t · var(x_0) + 1 − ᾱ_t.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from alphabar.explorer.svg import Curve, number, plot
from alphabar.process import add_noise, add_noise_step, normal
from alphabar.schedule import NoiseSchedule

__all__ = ["Moments", "curves", "histogram", "moments", "noised"]

STRIDE = 24  # of a chain of single steps, every so-manyth state is kept
CHAINS = 3  # are kept: at 512×512 pixels in colour, each holds 130 MB
BINS = 80
SPREAD = 4.0  # the histogram goes from −4 to 4 standard deviations

Texts = Mapping[str, str]


def noised(x_0: Tensor, schedule: NoiseSchedule, t: int, *, seed: int, in_steps: bool) -> Tensor:
    """Return x_t of one picture, (C, H, W).

    Args:
        x_0: (C, H, W) in [−1, 1].
        schedule: the noise schedule.
        t: 0 … T−1.
        seed: of the noise: one z for every t in one jump, a fresh z at each of the single steps.
        in_steps: make it by t+1 single steps.

    Raises:
        TimestepError: t outside 0 … T−1.
    """
    if in_steps:
        schedule.log_alpha_bar_at(t)  # refuses t before the chain is begun
        x_t = _kept(_Picture(x_0), schedule, seed, (t + 1) // STRIDE)
        return _advanced(x_t, schedule, seed, range((t + 1) // STRIDE * STRIDE, t + 1))
    return add_noise(schedule, x_0[None], _noise(tuple(x_0.shape), seed), t)[0]


@lru_cache(maxsize=4)
def _noise(shape: tuple[int, ...], seed: int) -> Tensor:
    return normal((1, *shape), seed=seed)


class _Picture:
    """A tensor as the key of a cache: equal to itself alone."""

    def __init__(self, x_0: Tensor) -> None:
        self.x_0 = x_0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Picture) and self.x_0 is other.x_0

    def __hash__(self) -> int:
        return id(self.x_0)


@lru_cache(maxsize=CHAINS * 42)
def _kept(picture: _Picture, schedule: NoiseSchedule, seed: int, block: int) -> Tensor:
    """Return the state after ``block`` times 24 single steps, made from the one before."""
    if block == 0:
        return picture.x_0
    before = _kept(picture, schedule, seed, block - 1)
    return _advanced(before, schedule, seed, range((block - 1) * STRIDE, block * STRIDE))


def _advanced(x_s: Tensor, schedule: NoiseSchedule, seed: int, ts: range) -> Tensor:
    x_s = x_s[None]
    z = torch.empty_like(x_s)
    for t in ts:
        x_s = add_noise_step(schedule, x_s, normal(x_s.shape, seed=seed, stream=t + 1, out=z), t)
    return x_s[0]


class Moments(NamedTuple):
    """Mean and variance over the pixels of x_t, measured and predicted."""

    mean: float
    mean_predicted: float
    variance: float
    variance_predicted: float


def moments(x_0: Tensor, x_t: Tensor, schedule: NoiseSchedule, t: int) -> Moments:
    """Return the moments of x_t, and what x_0 and ᾱ_t predict."""
    mean, variance = _moments(x_t)
    mean_0, variance_0 = _moments_of(_Picture(x_0))
    return Moments(
        mean,
        float(schedule.signal_scale[t]) * mean_0,
        variance,
        float(schedule.alpha_bar[t]) * variance_0 + float(schedule.noise_scale[t]) ** 2,
    )


def _moments(x: Tensor) -> tuple[float, float]:
    """Return mean and variance in float64, in a third of the time that ``torch.var_mean`` takes."""
    wide = x.double().flatten()
    mean = float(wide.mean())
    return mean, float(wide @ wide) / len(wide) - mean**2  # |x| is below 10: little is lost


@lru_cache(maxsize=16)
def _moments_of(picture: _Picture) -> tuple[float, float]:
    return _moments(picture.x_0)


def histogram(x: Mapping[str, Tensor], t: int, texts: Texts) -> str:
    """Return the histograms of several x_t, as densities, with the density of N(0, 1)."""
    width = 2 * SPREAD / BINS
    places = torch.linspace(-SPREAD + width / 2, SPREAD - width / 2, BINS, dtype=torch.float64)
    density = (-places.square() / 2).exp() / (2 * torch.pi) ** 0.5
    drawn = [
        Curve(name, places, torch.histc(x_t, BINS, -SPREAD, SPREAD) / (x_t.numel() * width), colour)
        for colour, (name, x_t) in enumerate(x.items())
    ]
    shares = {name: float(((x_t >= -1) & (x_t <= 1)).double().mean()) for name, x_t in x.items()}
    told = "; ".join(f"{name} {share:.1%}" for name, share in shares.items())
    return plot(
        [*drawn, Curve("N(0, 1)", places, density, 5, is_dashed=True)],
        title=texts["histogram_title"].format(t=t),
        alt=texts["histogram_alt"].format(t=t, shares=told),
        x_label=texts["pixel_value"],
        x=(-SPREAD, SPREAD),
    )


QUANTITIES: dict[str, tuple[str, bool, Callable[[NoiseSchedule], Tensor]]] = {
    "beta": ("β", True, lambda schedule: schedule.beta),
    "signal": ("√ᾱ", False, lambda schedule: schedule.signal_scale),
    "noise": ("√(1−ᾱ)", False, lambda schedule: schedule.noise_scale),
    "log_snr": ("log-SNR", False, lambda schedule: schedule.log_snr),
}
"""What is drawn of a schedule: its sign, whether on a logarithmic axis, and the function of t."""

NO_RANGES: Mapping[str, tuple[float, float]] = {}


def curves(
    schedules: Mapping[str, NoiseSchedule],
    texts: Texts,
    t: int | None = None,
    ranges: Mapping[str, tuple[float, float]] = NO_RANGES,
) -> list[str]:
    """Return one plot for each quantity of the schedules.

    Args:
        schedules: by name.
        texts: the sentences of the reader's language.
        t: where to put a mark.
        ranges: of the axis of a quantity; by default as suits its values.
    """
    return [_quantity(name, schedules, texts, t, ranges.get(name)) for name in QUANTITIES]


def _quantity(
    quantity: str,
    schedules: Mapping[str, NoiseSchedule],
    texts: Texts,
    t: int | None,
    ends: tuple[float, float] | None,
) -> str:
    sign, is_log, of = QUANTITIES[quantity]
    values = {name: of(schedule) for name, schedule in schedules.items()}
    told = "; ".join(
        f"{name} {_ends(value, texts) if t is None else number(float(value[t]))}"
        for name, value in values.items()
    )
    at = "" if t is None else texts["at_t"].format(t=t)
    drawn = [
        Curve(name, range(len(value)), value, colour) for colour, (name, value) in enumerate(values.items())
    ]
    return plot(
        drawn,
        title=texts["curve_title"].format(sign=sign, what=texts[f"what_{quantity}"]),
        alt=f"{sign}{at}: {told}",
        log_y=is_log,
        y=ends or (None if is_log or quantity == "log_snr" else (0.0, 1.02)),
        mark=t,
    )


def _ends(values: Sequence[float] | Tensor, texts: Texts) -> str:
    return texts["from_to"].format(first=number(float(values[0])), last=number(float(values[-1])))
