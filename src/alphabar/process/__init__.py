"""Noising and what a network is asked: addressed noise, the forward process, parameterisations."""

from alphabar.process.addressed import address, normal, uniform
from alphabar.process.coefficients import Coefficients, Table, coefficients_at, coefficients_table
from alphabar.process.conversions import spread, target, to_eps, to_x_0
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
    SIGMA_DATA,
    Parameterisation,
    edm,
    named,
    no_answer,
)

__all__ = [
    "PARAMETERISATIONS",
    "SIGMA_DATA",
    "Coefficients",
    "Gaussian",
    "Parameterisation",
    "Table",
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
