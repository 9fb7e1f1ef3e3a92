"""alphabar: denoising diffusion models from one sequence of numbers, ᾱ_t.

    schedule  → what ᾱ_t is            NoiseSchedule
    noising   → x_t from x_0           add_noise, add_noise_step, add_noise_between, posterior, velocity
    denoising → x̂_0 from x_t           Denoiser, prediction; guided by ClassifierFree, Clipped, …
    sampling  → from noise to images   sample, iter_sample, and a sampler: DDPM, DDIM, DPMSolver, …
    fitting   → a table for a network  fit, FittedTable
    editing   → from images to images  image_to_image, inpaint, interpolate
    exporting → the chain as a file    export_chain

The parts that need more than torch are imported by name: ``alphabar.training``, ``alphabar.evaluation``,
``alphabar.convert``, ``alphabar.diffusers``.
"""

from alphabar.denoise import ClassifierFree, ClassifierGuided, Clipped, Denoiser, DynamicThreshold, Estimate
from alphabar.errors import AlphabarError
from alphabar.kernels import lincomb
from alphabar.process import (
    Gaussian,
    add_noise,
    add_noise_between,
    add_noise_step,
    normal,
    posterior,
    trajectory,
    uniform,
    velocity,
)
from alphabar.samplers import (
    DDIM,
    DDPM,
    DEIS,
    DPM2,
    LMS,
    PNDM,
    AmplificationWarning,
    DPMSolver,
    Euler,
    EulerAncestral,
    Fitted,
    FittedTable,
    GaussianMixture,
    Heun,
    Plan,
    Row,
    State,
    UniPC,
    export_chain,
    fit,
    image_to_image,
    inpaint,
    interpolate,
    iter_sample,
    sample,
)
from alphabar.schedule import NoiseSchedule, ScheduleWarning

__version__ = "0.1.0"

__all__ = [
    "NoiseSchedule",
    "ScheduleWarning",
    "AmplificationWarning",
    "add_noise",
    "add_noise_step",
    "add_noise_between",
    "posterior",
    "Gaussian",
    "velocity",
    "trajectory",
    "lincomb",
    "normal",
    "uniform",
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
    "DPM2",
    "DPMSolver",
    "UniPC",
    "DEIS",
    "LMS",
    "PNDM",
    "Fitted",
    "FittedTable",
    "fit",
    "Plan",
    "Row",
    "sample",
    "iter_sample",
    "State",
    "export_chain",
    "image_to_image",
    "inpaint",
    "interpolate",
    "GaussianMixture",
    "AlphabarError",
]
