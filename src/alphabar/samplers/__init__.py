"""Samplers: each a table of coefficients (``plan.py``, one file a family), run by one loop (``loop.py``)."""

from alphabar.samplers.ddim import DDIM
from alphabar.samplers.ddpm import DDPM
from alphabar.samplers.loop import State, iter_sample, sample
from alphabar.samplers.plan import Plan, Row, Sampler

__all__ = ["DDIM", "DDPM", "Plan", "Row", "Sampler", "State", "iter_sample", "sample"]
