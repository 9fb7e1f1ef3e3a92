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
from alphabar.kernels import lincomb
from alphabar.process import add_noise, normal
from alphabar.schedule import NoiseSchedule

__all__ = ["Moments", "curves", "histogram", "jumped", "moments", "predicted", "walked"]

BINS = 80
SPREAD = 4.0  # the histogram goes from −4 to 4 standard deviations

Texts = Mapping[str, str]


def jumped(x_0: Tensor, schedule: NoiseSchedule, t: int, *, seed: int) -> Tensor:
    """Return x_t of one picture, (C, H, W), made in one jump with one z.

    Args:
        x_0: (C, H, W) in [−1, 1].
        schedule: the noise schedule.
        t: 0 … T−1.
        seed: of the noise.

    Raises:
        TimestepError: t outside 0 … T−1.
    """
    return add_noise(schedule, x_0[None], _noise(1, tuple(x_0.shape), seed), t)[0]


def walked(x_0: Tensor, schedule: NoiseSchedule, t: int, *, seed: int) -> Tensor:
    """Return x_t of one picture, (C, H, W), made by t+1 single steps with a fresh z at each.

    The noises of all T steps are drawn at once and kept, T times the size of the picture: give a small one.
    Arguments and errors as in :func:`jumped`.
    """
    schedule.log_alpha_bar_at(t)  # refuses t
    steps = torch.stack([schedule.alpha.sqrt(), schedule.beta.sqrt()], 1)
    z = _noise(len(schedule), tuple(x_0.shape), seed)
    x_s = x_0.clone()
    for s in range(t + 1):
        lincomb(steps, (x_s, z[s]), rows=s, out=x_s)
    return x_s


@lru_cache(maxsize=2)
def _noise(count: int, shape: tuple[int, ...], seed: int) -> Tensor:
    return normal((count, *shape), seed=seed)


class Moments(NamedTuple):
    """Mean and variance over the pixels of an image."""

    mean: float
    variance: float


def moments(x: Tensor) -> Moments:
    """Return the moments of an image in float64, in a third of the time that ``torch.var_mean`` takes."""
    wide = x.double().flatten()
    mean = float(wide.mean())
    return Moments(mean, float(wide @ wide) / len(wide) - mean**2)  # |x| is below 10: little is lost


def predicted(of_x_0: Moments, schedule: NoiseSchedule, t: int) -> Moments:
    """Return the moments of x_t that those of x_0 and ᾱ_t predict, whichever way it is made."""
    return Moments(
        float(schedule.signal_scale[t]) * of_x_0.mean,
        float(schedule.alpha_bar[t]) * of_x_0.variance + float(schedule.noise_scale[t]) ** 2,
    )


def histogram(x: Mapping[str, Tensor], t: int, texts: Texts) -> str:
    """Return the histograms of several x_t, as densities, with the density of N(0, 1)."""
    width = 2 * SPREAD / BINS
    places = torch.linspace(-SPREAD + width / 2, SPREAD - width / 2, BINS, dtype=torch.float64)
    normal_density = (-places.square() / 2).exp() / (2 * torch.pi) ** 0.5
    shares = {name: _shares(x_t) for name, x_t in x.items()}
    drawn = [
        Curve(name, places, share / width, colour) for colour, (name, share) in enumerate(shares.items())
    ]
    within = places.abs() < 1
    told = "; ".join(f"{name} {float(share[within].sum()):.1%}" for name, share in shares.items())
    return plot(
        [*drawn, Curve("N(0, 1)", places, normal_density, 5, is_dashed=True)],
        title=texts["histogram_title"].format(t=t),
        alt=texts["histogram_alt"].format(t=t, shares=told),
        x_label=texts["pixel_value"],
        x=(-SPREAD, SPREAD),
    )


def _shares(x: Tensor) -> Tensor:
    """Return the share of the values in each bin, (80,), in half the time that ``torch.histc`` takes."""
    bins = ((x.flatten() + SPREAD) * (BINS / (2 * SPREAD))).clamp_(-1, BINS).add_(1).to(torch.uint8)
    return torch.bincount(bins, minlength=BINS + 2)[1:-1] / x.numel()  # without the values beyond both ends


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
        Curve(name, torch.arange(len(value), dtype=torch.float64), value, colour)
        for colour, (name, value) in enumerate(values.items())
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
