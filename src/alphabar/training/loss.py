r"""Losses: how much the error of the network counts at each noise level.

    loss = w(t) · ‖output − target‖²

With x̂_0 = p · x + q · output and ε̂ = p' · x + q' · output, an error e of the output is an error q · e of x̂_0
and q' · e of ε̂. So a weight W on ‖x̂_0 − x_0‖² is W · q² on the output's error, and one on ‖ε̂ − z‖² is
W · q'²: written so, a loss is the same for every kind of network. A loss is one more function:

>>> LOSSES["snr"] = lambda scales: scales.eps  # SNR · ‖x̂_0 − x_0‖² = ‖ε̂ − z‖²
>>> weights(NoiseSchedule.linear(), "epsilon", "snr")[:2]
tensor([1., 1.], dtype=torch.float64)
>>> del LOSSES["snr"]
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from alphabar.errors import ConfigError, look_up
from alphabar.process import SIGMA_DATA, Parameterisation, coefficients_table, named
from alphabar.schedule import NoiseSchedule

__all__ = ["LOSSES", "Scales", "weights"]


class Scales(NamedTuple):
    """What a squared error of the output is worth at each t, (T,) float64."""

    x_0: Tensor
    """q²: as a squared error of x̂_0; infinite where x̂_0 does not follow from the output."""
    eps: Tensor
    """q'²: as a squared error of ε̂."""
    snr: Tensor
    """ᾱ/(1−ᾱ)."""
    log_snr: Tensor
    """Its natural logarithm, −∞ where ᾱ = 0."""
    sigma_data: float = SIGMA_DATA
    """σ_d, the standard deviation of the data."""


Loss = Callable[[Scales], Tensor]


def simple(scales: Scales) -> Tensor:
    """1 on the output itself, whatever the network returns (Ho et al. 2020, equation 14)."""
    return torch.ones_like(scales.snr)


def min_snr(scales: Scales, gamma: float = 5.0) -> Tensor:
    """min(SNR, γ) on x̂_0 (Hang et al. 2023, arXiv 2303.09556).

    SNR · q² = q'², so it is min(q'², γ q²): finite at ᾱ = 0 for ε too, where SNR = 0 and q = ∞.
    """
    return torch.minimum(scales.eps, gamma * scales.x_0)


def p2(scales: Scales, k: float = 1.0, gamma: float = 1.0) -> Tensor:
    """1/(k + SNR)^γ on ε̂ (Choi et al. 2022, arXiv 2204.00227)."""
    return scales.eps / (k + scales.snr) ** gamma


def edm(scales: Scales) -> Tensor:
    """λ(σ) = (σ² + σ_d²)/(σ σ_d)² on x̂_0, σ² = 1/SNR (Karras et al. 2022, arXiv 2206.00364, table 1).

    λ = 1/σ_d² + SNR, so it is q²/σ_d² + q'²: 1 where the network is EDM's own.
    """
    return scales.x_0 / scales.sigma_data**2 + scales.eps


def sigmoid(scales: Scales, bias: float = -1.0) -> Tensor:
    """1/(1 + SNR/eᵇ) on ε̂, the sigmoid of b − log SNR (Kingma & Gao 2023, arXiv 2303.00848).

    Hoogeboom et al. 2024, arXiv 2410.19324, use it for images: the larger they are, the smaller should b be.
    """
    return torch.sigmoid(bias - scales.log_snr) * scales.eps


LOSSES: dict[str, Loss] = {
    "simple": simple,
    "min_snr": min_snr,
    "p2": p2,
    "edm": edm,
    "sigmoid": sigmoid,
}
"""The losses by name: functions of the scales of an error, which return its weight at each t."""


def weights(
    schedule: NoiseSchedule,
    prediction: str | Parameterisation,
    loss: str,
    sigma_data: float = SIGMA_DATA,
) -> Tensor:
    """Return w(t) at every t, (T,) float64: what multiplies the squared error of the output.

    Args:
        schedule: the noise schedule.
        prediction: the kind of network.
        loss: a name in ``LOSSES``.
        sigma_data: the standard deviation of the data.

    Raises:
        UnknownNameError: another prediction or loss.
        ConfigError: a weight that is not finite, as EDM's is for ε-prediction where ᾱ = 0.
    """
    kind, weigh = named(prediction), look_up(LOSSES, loss, "loss")
    table = coefficients_table(schedule, kind)
    errors = table.x_0[:, 1] ** 2, table.eps[:, 1] ** 2
    found = weigh(Scales(*errors, schedule.snr, schedule.log_snr, sigma_data))
    wrong = (~found.isfinite()).nonzero().flatten()
    if len(wrong):
        t = int(wrong[0])
        raise ConfigError(
            f"loss {loss!r} weighs the error of prediction {kind.name!r} by {found[t]:g} at t = {t}, where "
            f"ᾱ = {schedule.alpha_bar[t]:.3g}: take another loss or prediction, or a schedule that keeps "
            "some signal"
        )
    return found
