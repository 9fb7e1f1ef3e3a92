"""Schedulers for diffusers pipelines: the same names, arguments and images, from this library's tables.

    from alphabar.diffusers import DDIMScheduler        where it said: from diffusers import DDIMScheduler

    adapter.py              diffusers' protocol, the base of all schedulers
    drop_in.py              classes that stand for diffusers'
    steps.py                a row of the core's table as a step in diffusers' coordinates
    spacings.py, grids.py   the timesteps and noise levels of a run
    runs.py                 what set_timesteps decides, built once and kept
    timestep_scheduler.py   the base of those whose step is known by its t
    ddpm_ddim.py            DDPM, DDIM, its inversion
    pndm.py                 PNDM, which counts its calls
    index_scheduler.py      the base of those whose step is known by its index in the run
    solvers.py              DPM-Solver, UniPC, DEIS
    sigma_space.py          Euler, Heun, LMS, which hold x/√ᾱ
    k_dpm.py                DPM-Solver-2, which holds x/√ᾱ too
    edm.py                  Euler and DPM-Solver++ for networks of EDM
    flow_levels.py          σ of flow matching: tables, grids, noising
    flow_matching.py        Euler's and Heun's method in it
    consistency.py          LCM, TCD: few steps of a distilled network
    ipndm.py                IPNDM, which has a schedule of its own
    fitted.py               tables fitted to the network of a pipeline, which diffusers has no scheduler for

Where results differ from diffusers, docs/diffusers.md says how and why.
"""

from alphabar.errors import MissingExtraError

try:
    import diffusers as _peer  # noqa: F401
except ImportError:
    raise MissingExtraError("alphabar.diffusers", "diffusers") from None

from alphabar.diffusers.consistency import LCMScheduler, TCDScheduler
from alphabar.diffusers.ddpm_ddim import DDIMInverseScheduler, DDIMScheduler, DDPMScheduler
from alphabar.diffusers.edm import EDMDPMSolverMultistepScheduler, EDMEulerScheduler
from alphabar.diffusers.fitted import FittedScheduler
from alphabar.diffusers.flow_matching import FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler
from alphabar.diffusers.installing import install
from alphabar.diffusers.ipndm import IPNDMScheduler
from alphabar.diffusers.k_dpm import KDPM2AncestralDiscreteScheduler, KDPM2DiscreteScheduler
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
    "EDMDPMSolverMultistepScheduler",
    "EDMEulerScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "FittedScheduler",
    "FlowMatchEulerDiscreteScheduler",
    "FlowMatchHeunDiscreteScheduler",
    "HeunDiscreteScheduler",
    "IPNDMScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LCMScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "TCDScheduler",
    "UniPCMultistepScheduler",
    "install",
]
