"""alphabar: denoising diffusion models from one sequence of numbers, ᾱ_t.

    schedule  → what ᾱ_t is            NoiseSchedule
    noising   → x_t from x_0           add_noise, add_noise_step, add_noise_between, posterior, velocity
    denoising → x̂_0 from x_t           Denoiser, Clipped, prediction
    sampling  → from noise to images   DDPM, DDIM, sample, iter_sample

The parts that need more than torch are imported by name: ``alphabar.data``, ``alphabar.train``,
``alphabar.evaluate``, ``alphabar.plots``, ``alphabar.checkpoint``.
"""

from alphabar import noise, ops, prediction
from alphabar.denoiser import Denoiser, Estimate
from alphabar.errors import AlphabarError
from alphabar.exact import GaussianMixture
from alphabar.forward import (
    Gaussian,
    add_noise,
    add_noise_between,
    add_noise_step,
    posterior,
    trajectory,
    velocity,
)
from alphabar.guidance import Clipped
from alphabar.samplers import DDIM, DDPM, Plan, Row, State, iter_sample, sample
from alphabar.schedule import NoiseSchedule, ScheduleWarning

__version__ = "0.1.0"

__all__ = [
    "DDIM",
    "DDPM",
    "AlphabarError",
    "Clipped",
    "Denoiser",
    "Estimate",
    "Gaussian",
    "GaussianMixture",
    "NoiseSchedule",
    "Plan",
    "Row",
    "ScheduleWarning",
    "State",
    "add_noise",
    "add_noise_between",
    "add_noise_step",
    "iter_sample",
    "noise",
    "ops",
    "posterior",
    "prediction",
    "sample",
    "trajectory",
    "velocity",
]
