"""How much a chain's first reading of the network amplifies errors of its output.

    x̂_0 = p · x_t + q · output

ε-prediction has q = −√(1−ᾱ_t)/√ᾱ_t: an error of the output comes back in x̂_0 157 times as large at the end of
the linear schedule of Ho et al. 2020, 20,000 times at that of the cosine schedule of Nichol & Dhariwal 2021,
whose code clips x̂_0. Without clipping, samples then leave the range of the data, in finite numbers.
"""

from __future__ import annotations

import math
import warnings

import torch

from alphabar.denoise import Denoise, Denoiser
from alphabar.process import Parameterisation, coefficients_at
from alphabar.samplers.plan import Plan
from alphabar.schedule import NoiseSchedule

__all__ = ["AmplificationWarning", "amplification", "warn_if_amplified"]

MOST = 1000.0
"""Networks err by some hundredths in ε, so beyond this x̂_0 is off by tens of times the range of the data.
Schedules on which ε-prediction works without clipping stay below: scaled_linear 15, linear 157.
"""


class AmplificationWarning(UserWarning):
    """A chain that starts where small errors of the network become large ones of x̂_0."""


def amplification(schedule: NoiseSchedule, kind: Parameterisation, t: float) -> float:
    """Return |q|, how much larger an error of the output at t is in x̂_0; ∞ where there is no answer.

    >>> from alphabar.process import PARAMETERISATIONS
    >>> kinds = PARAMETERISATIONS["epsilon"], PARAMETERISATIONS["v_prediction"]
    >>> [round(amplification(NoiseSchedule.cosine(), kind, 999)) for kind in kinds]
    [20291, 1]

    Args:
        schedule: the noise schedule.
        kind: how the output is read.
        t: 0 … T−1.

    Raises:
        TimestepError: a t outside 0 … T−1.
    """
    _, of_output = coefficients_at(schedule, kind, t).x_0
    return math.inf if math.isnan(of_output) else abs(of_output)


def warn_if_amplified(denoiser: Denoise, plan: Plan) -> None:
    """Warn where the first reading of a bare :class:`~alphabar.Denoiser` amplifies errors beyond use.

    Wrapped denoisers may bound x̂_0, and where there is no answer asking raises. A graph gives no warning.

    Warns:
        AmplificationWarning: |q| is above 1000 and finite.
    """
    if not isinstance(denoiser, Denoiser) or torch.compiler.is_compiling():
        return
    t = plan.timesteps[0]
    factor = amplification(denoiser.schedule, denoiser.kind, t)
    if MOST < factor < math.inf:
        warnings.warn(
            f"errors of the network's output at t = {t} are {factor:,.0f} times as large in x̂_0: samples may "
            "leave the range of the data. Use Clipped(denoiser), a network with v_prediction, "
            "spacing='leading', or a schedule that ends with more signal",
            AmplificationWarning,
            stacklevel=4,  # of whoever called sample or iter_sample
        )
