"""Samplers: one file a family of tables, run by one loop (``loop.py``)."""

from alphabar.plan import Plan, Row, Sampler
from alphabar.samplers.adams import DEIS, LMS, PNDM
from alphabar.samplers.ddim import DDIM
from alphabar.samplers.ddpm import DDPM
from alphabar.samplers.dpm import DPMSolver
from alphabar.samplers.euler import Euler, EulerAncestral, Heun
from alphabar.samplers.loop import State, iter_sample, sample
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
    "Heun",
    "Plan",
    "Row",
    "Sampler",
    "State",
    "UniPC",
    "iter_sample",
    "sample",
]
