"""From noise to data: tables of coefficients, one file a family, and the one loop that runs them."""

from alphabar.samplers.adams import DEIS, LMS, PNDM
from alphabar.samplers.amplification import AmplificationWarning, amplification, warn_if_amplified
from alphabar.samplers.ddim import DDIM
from alphabar.samplers.ddpm import DDPM, VARIANCES
from alphabar.samplers.dpm import RULES, DPMSolver
from alphabar.samplers.dpm2 import DPM2
from alphabar.samplers.editing import image_to_image, inpaint, interpolate, invert
from alphabar.samplers.end_points import EndPoints, end_points, hand_made, ranked
from alphabar.samplers.euler import Euler, EulerAncestral, Heun
from alphabar.samplers.exact import (
    Distance,
    GaussianMixture,
    gaussian_error,
    mixture_error,
    ranking,
    reverse_density,
)
from alphabar.samplers.export import Exported, export_chain
from alphabar.samplers.fitted import Fitted
from alphabar.samplers.fitted_table import FittedTable
from alphabar.samplers.fitting import fit, fitted_to
from alphabar.samplers.free_table import FREEDOMS
from alphabar.samplers.loop import State, iter_sample, sample
from alphabar.samplers.plan import Plan, Row, Sampler, Stepwise
from alphabar.samplers.progress import track
from alphabar.samplers.registry import REGISTRY, SOLVERS, sampler_names
from alphabar.samplers.steps import in_eps, mirrored
from alphabar.samplers.unipc import UniPC

__all__ = [
    "DDIM",
    "DDPM",
    "DEIS",
    "DPM2",
    "FREEDOMS",
    "LMS",
    "PNDM",
    "REGISTRY",
    "RULES",
    "SOLVERS",
    "VARIANCES",
    "AmplificationWarning",
    "DPMSolver",
    "Distance",
    "EndPoints",
    "Euler",
    "EulerAncestral",
    "Exported",
    "Fitted",
    "FittedTable",
    "GaussianMixture",
    "Heun",
    "Plan",
    "Row",
    "Sampler",
    "State",
    "Stepwise",
    "UniPC",
    "amplification",
    "end_points",
    "export_chain",
    "fit",
    "fitted_to",
    "gaussian_error",
    "hand_made",
    "image_to_image",
    "in_eps",
    "inpaint",
    "interpolate",
    "invert",
    "iter_sample",
    "mirrored",
    "mixture_error",
    "ranked",
    "ranking",
    "reverse_density",
    "sample",
    "sampler_names",
    "track",
    "warn_if_amplified",
]
