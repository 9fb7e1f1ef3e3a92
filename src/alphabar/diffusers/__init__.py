"""Schedulers for diffusers pipelines: the same names, arguments and images, from this library's tables.

    from alphabar.diffusers import DDIMScheduler        where it said: from diffusers import DDIMScheduler

``grids.py`` says where a run stops, ``steps.py`` makes a step of a row, ``adapter.py`` is the protocol; the
schedulers follow, in three kinds by what their step is looked up with: ``by_time.py``, ``by_index.py`` with
``solvers.py`` and ``exploding.py``, and ``pndm.py``. Where results differ from diffusers, docs/diffusers.md
says how and why.
"""

from alphabar.errors import MissingExtraError

try:
    import diffusers as _peer  # noqa: F401
except ImportError:
    raise MissingExtraError("alphabar.diffusers", "diffusers") from None

from alphabar.diffusers.ddpm_ddim import DDIMInverseScheduler, DDIMScheduler, DDPMScheduler
from alphabar.diffusers.installing import install
from alphabar.diffusers.pndm import PNDMScheduler
from alphabar.diffusers.sigma_space import (
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LMSDiscreteScheduler,
)
from alphabar.diffusers.solvers import (
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    DPMSolverSinglestepScheduler,
    UniPCMultistepScheduler,
)

__all__ = [
    "DDIMInverseScheduler",
    "DDIMScheduler",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "UniPCMultistepScheduler",
    "install",
]
