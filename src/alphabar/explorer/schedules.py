"""Schedules drawn by control points: β(t) or log-SNR(t) through a few values, evenly spaced over t.

β         log β is a broken line through log β at the points
log-SNR   the library's monotone cubic through the points, ᾱ = 1/(1 + e^{−log-SNR})
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from alphabar.errors import look_up
from alphabar.explorer.asking import RefusedError
from alphabar.explorer.forward import curves
from alphabar.explorer.svg import number
from alphabar.schedule import FAMILIES, NoiseSchedule
from alphabar.schedule.cubic import at, through

__all__ = ["KINDS", "POINTS", "Drawn", "drawn", "points_of", "warnings_of"]

POINTS = 7
LEFT_OVER = 1e-2  # ᾱ_T above which the end still shows the image; the library warns from here as well
NOTHING_LEFT = 1e-4  # ᾱ below which a level shows less than 1 % of the image's contrast
NOTHING_ADDED = 1e-4  # 1 − ᾱ likewise for the noise
LARGEST_STEP = 0.5  # of the power of x_{t−1} replaced in one step

Texts = Mapping[str, str]


def _of_beta(points: Tensor, steps: int) -> NoiseSchedule:
    places = torch.linspace(0, len(points) - 1, steps, dtype=torch.float64)
    low = places.long().clamp(max=len(points) - 2)
    log_beta = torch.lerp(points.log()[low], points.log()[low + 1], places - low)
    return NoiseSchedule.from_beta(log_beta.exp())


def _of_log_snr(points: Tensor, steps: int) -> NoiseSchedule:
    places = torch.linspace(0, len(points) - 1, steps, dtype=torch.float64)
    return NoiseSchedule.from_alpha_bar(at(through(points), places).sigmoid())


BETA_CODE = """\
import torch
from alphabar import NoiseSchedule

beta = torch.tensor({points}, dtype=torch.float64)
place = torch.linspace(0, {last}, {steps}, dtype=torch.float64)
low = place.long().clamp(max={before})
schedule = NoiseSchedule.from_beta(torch.lerp(beta.log()[low], beta.log()[low + 1], place - low).exp())
"""
LOG_SNR_CODE = """\
import torch
from alphabar import NoiseSchedule
from alphabar.schedule.cubic import at, through

log_snr = torch.tensor({points}, dtype=torch.float64)
place = torch.linspace(0, {last}, {steps}, dtype=torch.float64)
schedule = NoiseSchedule.from_alpha_bar(at(through(log_snr), place).sigmoid())
"""


@dataclass(frozen=True)
class Kind:
    """A quantity that can be drawn.

    Args:
        low: the least value that a point can have.
        high: the greatest.
        make: from points and T to the schedule.
        read: from a schedule to the quantity, (T,).
        code: a program that makes the same schedule.
    """

    low: float
    high: float
    make: Callable[[Tensor, int], NoiseSchedule]
    read: Callable[[NoiseSchedule], Tensor]
    code: str


KINDS = {
    "beta": Kind(1e-6, 0.999, _of_beta, lambda schedule: schedule.beta, BETA_CODE),
    "log_snr": Kind(-20.0, 15.0, _of_log_snr, lambda schedule: schedule.log_snr, LOG_SNR_CODE),
}


def points_of(family: str, kind: str, steps: int) -> list[float]:
    """Return the control points that follow a family of schedules, within the range of the kind.

    Raises:
        UnknownNameError: a family or kind in no table.
    """
    chosen = look_up(KINDS, kind, "kind")
    values = chosen.read(look_up(FAMILIES, family, "schedule")(1000))
    picked = values[torch.linspace(0, len(values) - 1, POINTS).round().long()]
    if kind == "beta":
        picked = picked * 1000 / steps  # so that a schedule of any length ends in noise
    return [float(f"{value:.4g}") for value in picked.clamp(chosen.low, chosen.high).tolist()]


class Drawn(NamedTuple):
    """What follows from control points."""

    schedule: NoiseSchedule
    plots: list[str]
    warnings: list[str]
    code: str
    config: str


def drawn(points: Sequence[float], kind: str, steps: int, texts: Texts) -> Drawn:
    """Return the schedule through control points, with its curves, warnings, code and configuration.

    Args:
        points: at least 2, evenly spaced over t.
        kind: "beta" or "log_snr".
        steps: T.
        texts: the sentences of the reader's language.

    Raises:
        UnknownNameError: another kind.
        RefusedError: values out of range, or a log-SNR that does not fall.
    """
    chosen = look_up(KINDS, kind, "kind")
    given = torch.tensor(points, dtype=torch.float64)
    if not ((given >= chosen.low) & (given <= chosen.high)).all():
        raise RefusedError("points_range", low=number(chosen.low), high=number(chosen.high))
    if kind == "log_snr" and not (given.diff() < 0).all():
        raise RefusedError("points_fall")
    schedule = chosen.make(given, steps)
    last = len(given) - 1
    code = chosen.code.format(points=list(points), steps=steps, last=last, before=last - 1)
    plots = curves({"": schedule}, texts, ranges={kind: (chosen.low, chosen.high)})
    config = json.dumps(schedule.to_config(), indent=1)
    return Drawn(schedule, plots, warnings_of(schedule, texts), code, config)


def warnings_of(schedule: NoiseSchedule, texts: Texts) -> list[str]:
    """Return what is to be said against a schedule, in the reader's language."""
    alpha_bar = schedule.alpha_bar
    clean = int((schedule.noise_scale.square() < NOTHING_ADDED).sum())
    empty = int((alpha_bar < NOTHING_LEFT).sum()) - 1  # the last may well hold nothing
    step = float(schedule.beta[:-1].max()) if len(schedule) > 1 else 0.0
    found = {
        "warn_left": (float(alpha_bar[-1]) > LEFT_OVER, f"{float(schedule.signal_scale[-1]):.1%}"),
        "warn_empty": (empty > len(schedule) // 20, str(empty)),
        "warn_clean": (clean > len(schedule) // 20, str(clean)),
        "warn_step": (step > LARGEST_STEP, f"{step:.0%}"),
    }
    return [texts[name].format(value) for name, (is_so, value) in found.items() if is_so]
