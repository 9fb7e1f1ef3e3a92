"""Samplers: small frozen objects that make plans, one file a family of tables."""

from alphabar.samplers.adams import DEIS, LMS, PNDM
from alphabar.samplers.ddim import DDIM
from alphabar.samplers.ddpm import DDPM
from alphabar.samplers.dpm import DPMSolver
from alphabar.samplers.euler import Euler, EulerAncestral, Heun
from alphabar.samplers.fitted import Fitted
from alphabar.samplers.unipc import UniPC

__all__ = [
    "DDIM",
    "DDPM",
    "DEIS",
    "LMS",
    "PNDM",
    "DPMSolver",
    "Euler",
    "EulerAncestral",
    "Fitted",
    "Heun",
    "UniPC",
]
