"""Noising and what a network is asked: addressed noise, the forward process, parameterisations."""

from alphabar.process.addressed import address, normal, uniform
from alphabar.process.forward import (
    Gaussian,
    add_noise,
    add_noise_between,
    add_noise_step,
    posterior,
    posterior_coefficients,
    trajectory,
    velocity,
)
from alphabar.process.parameterisation import (
    PARAMETERISATIONS,
    Parameterisation,
    coefficients_at,
    coefficients_table,
    edm,
    named,
    no_answer,
    spread,
    target,
    to_eps,
    to_x_0,
)

__all__ = [
    "PARAMETERISATIONS",
    "Gaussian",
    "Parameterisation",
    "add_noise",
    "add_noise_between",
    "add_noise_step",
    "address",
    "coefficients_at",
    "coefficients_table",
    "edm",
    "named",
    "no_answer",
    "normal",
    "posterior",
    "posterior_coefficients",
    "spread",
    "target",
    "to_eps",
    "to_x_0",
    "trajectory",
    "uniform",
    "velocity",
]
