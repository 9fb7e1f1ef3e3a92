"""alphabar: denoising diffusion models from one sequence of numbers, ᾱ_t.

    schedule  → what ᾱ_t is            NoiseSchedule
    noising   → x_t from x_0           add_noise, add_noise_step, add_noise_between, posterior, velocity
    denoising → x̂_0 from x_t           Denoiser, prediction; guided by ClassifierFree, Clipped, …
    sampling  → from noise to images   sample, iter_sample, and a sampler: DDPM, DDIM, DPMSolver, …
    editing   → from images to images  image_to_image, inpaint, interpolate

The parts that need more than torch are imported by name: ``alphabar.data``, ``alphabar.train``,
``alphabar.evaluate``, ``alphabar.plots``, ``alphabar.checkpoint``.
"""

from alphabar import noise, ops, prediction
from alphabar.denoiser import Denoiser, Estimate
from alphabar.editing import image_to_image, inpaint, interpolate
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
from alphabar.guidance import ClassifierFree, ClassifierGuided, Clipped, DynamicThreshold
from alphabar.loop import State, iter_sample, sample
from alphabar.plan import Plan, Row
from alphabar.samplers import (
    DDIM,
    DDPM,
    DEIS,
    LMS,
    PNDM,
    DPMSolver,
    Euler,
    EulerAncestral,
    Fitted,
    Heun,
    UniPC,
)
from alphabar.schedule import NoiseSchedule, ScheduleWarning

__version__ = "0.1.0"

__all__ = [
    "NoiseSchedule",
    "ScheduleWarning",
    "add_noise",
    "add_noise_step",
    "add_noise_between",
    "posterior",
    "Gaussian",
    "velocity",
    "trajectory",
    "prediction",
    "noise",
    "ops",
    "Denoiser",
    "Estimate",
    "ClassifierFree",
    "ClassifierGuided",
    "Clipped",
    "DynamicThreshold",
    "DDPM",
    "DDIM",
    "Euler",
    "EulerAncestral",
    "Heun",
    "DPMSolver",
    "UniPC",
    "DEIS",
    "LMS",
    "PNDM",
    "Fitted",
    "Plan",
    "Row",
    "sample",
    "iter_sample",
    "State",
    "image_to_image",
    "inpaint",
    "interpolate",
    "GaussianMixture",
    "AlphabarError",
]
