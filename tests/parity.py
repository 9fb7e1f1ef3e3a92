"""What the schedulers are compared over: a grid of configurations, and the list of deviations."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import diffusers


@dataclass(frozen=True)
class Case:
    name: str
    steps: int
    config: dict

    def get(self, option):
        default = inspect.signature(self.peer).parameters.get(option)
        return self.config.get(option, default and default.default)

    @property
    def peer(self):
        return getattr(diffusers, f"{self.name}Scheduler")

    @property
    def spacing(self):
        return self.get("timestep_spacing")

    def uneven(self):
        """Where steps of ⌊T/n⌋ do not lead from each t to the next."""
        return self.spacing == "linspace" or (self.spacing == "trailing" and 1000 % self.steps > 0)


@dataclass(frozen=True)
class Deviation:
    what: str
    where: Callable[[Case], bool]


SOLVERS = ("DPMSolverMultistep", "DPMSolverSinglestep", "UniPCMultistep", "DEISMultistep")
DEVIATIONS = [
    Deviation(
        "trailing: rounding errors in arange add a step too many, at t = −1",
        # DEIS ends at t = 0, where the step too many leads nowhere.
        lambda case: case.spacing == "trailing" and case.steps == 61 and case.name != "DEISMultistep",
    ),
    Deviation(
        "zero terminal SNR with ε: x̂_0 = (x − ε̂)/0; here an error",
        lambda case: (
            case.name in ("DDPM", "DDIM")
            and case.get("rescale_betas_zero_snr")
            and case.get("prediction_type") == "epsilon"
            and case.spacing != "leading"
        ),
    ),
    Deviation(
        "fixed_large_log: the root of a negative logarithm",
        lambda case: case.get("variance_type") == "fixed_large_log",
    ),
    Deviation(
        "learned: the root of the network's output, which is a logarithm",
        lambda case: case.get("variance_type") == "learned",
    ),
    Deviation(
        "DDIM inversion of x̂_0 from clean data: ε̂ = (x − x̂_0)/0",
        lambda case: case.name == "DDIMInverse" and case.get("prediction_type") == "sample",
    ),
    Deviation("UniPC bh1: ∞ · 0 on the way to clean data", lambda case: case.get("solver_type") == "bh1"),
    Deviation(
        "two equal t at the start: the run begins with the second, and ends beyond the last",
        lambda case: (
            case.name in SOLVERS[1:]
            and case.get("use_karras_sigmas")
            and case.get("beta_schedule") == "squaredcos_cap_v2"
            and case.steps > 1
        ),
    ),
    Deviation(
        "sde-dpmsolver++ of order 3: a sign in the third coefficient",
        lambda case: (
            case.get("algorithm_type") == "sde-dpmsolver++"
            and case.get("solver_order") == 3
            and (case.name == "DPMSolverMultistep" or case.get("solver_type") == "heun")
        ),
    ),
    Deviation(
        "Euler ancestral refuses prediction_type='sample'",
        lambda case: case.name == "EulerAncestralDiscrete" and case.get("prediction_type") == "sample",
    ),
    Deviation(
        "PNDM refuses prediction_type='sample'",
        lambda case: case.name == "PNDM" and case.get("prediction_type") == "sample",
    ),
    Deviation(
        "PNDM with Runge–Kutta in fewer than 4 steps; here an error",
        lambda case: case.name == "PNDM" and not case.get("skip_prk_steps") and case.steps < 4,
    ),
    Deviation(
        "T steps of DPM-Solver, UniPC and DEIS visit a t twice and divide by the nothing between",
        lambda case: case.name in SOLVERS and case.steps == 1000,
    ),
]

COSINE = {"use_karras_sigmas": True, "beta_schedule": "squaredcos_cap_v2"}
STEPS, FEW = [1, 7, 20, 50, 61], [1, 7, 20]
SPACINGS = ["leading", "trailing", "linspace"]
PREDICTIONS = ["epsilon", "sample", "v_prediction"]
SCHEDULES = ["linear", "scaled_linear", "squaredcos_cap_v2"]
FLOW = {
    "use_flow_sigmas": [True],
    "prediction_type": ["flow_prediction", "epsilon"],
    "flow_shift": [1.0, 3.0],
}
FLOW_READ_OTHERWISE = {"use_flow_sigmas": [True], "prediction_type": ["v_prediction", "sample"]}
GRIDS = {
    "DDPM": [
        {
            "timestep_spacing": SPACINGS,
            "beta_schedule": SCHEDULES,
            "prediction_type": PREDICTIONS,
            "thresholding": [False, True],
        },
        {
            "timestep_spacing": SPACINGS,
            "variance_type": [
                "fixed_small_log",
                "fixed_large",
                "fixed_large_log",
                "learned",
                "learned_range",
            ],
        },
        {
            "timestep_spacing": SPACINGS,
            "rescale_betas_zero_snr": [True],
            "prediction_type": PREDICTIONS,
            "clip_sample": [False, True],
        },
        {"beta_schedule": ["sigmoid", "laplace"]},
    ],
    "DDIM": [
        {
            "timestep_spacing": SPACINGS,
            "beta_schedule": SCHEDULES,
            "prediction_type": PREDICTIONS,
            "thresholding": [False, True],
        },
        {
            "timestep_spacing": SPACINGS,
            "rescale_betas_zero_snr": [True],
            "prediction_type": PREDICTIONS,
            "clip_sample": [False, True],
        },
        {"set_alpha_to_one": [False], "steps_offset": [0, 1], "clip_sample": [False]},
    ],
    "DDIMInverse": [
        {
            "timestep_spacing": SPACINGS[:2],
            "beta_schedule": SCHEDULES,
            "prediction_type": PREDICTIONS,
            "clip_sample": [False, True],
        },
        {"set_alpha_to_one": [False]},
    ],
    "DPMSolverMultistep": [
        {
            "timestep_spacing": SPACINGS,
            "beta_schedule": SCHEDULES,
            "prediction_type": PREDICTIONS,
            "solver_order": [2, 3],
        },
        {
            "solver_order": [1, 2, 3],
            "solver_type": ["midpoint", "heun"],
            "use_karras_sigmas": [False, True],
            "thresholding": [False, True],
        },
        {
            "algorithm_type": ["sde-dpmsolver++"],
            "solver_order": [1, 2, 3],
            "solver_type": ["midpoint", "heun"],
        },
        {
            "algorithm_type": ["dpmsolver", "sde-dpmsolver"],
            "final_sigmas_type": ["sigma_min"],
            "solver_type": ["midpoint", "heun"],
        },
        {"rescale_betas_zero_snr": [True], "prediction_type": PREDICTIONS, "timestep_spacing": SPACINGS},
        {
            "euler_at_final": [True],
            "final_sigmas_type": ["zero", "sigma_min"],
            "lower_order_final": [False, True],
            "use_karras_sigmas": [False, True],
        },
        {"lambda_min_clipped": [-3.0], "timestep_spacing": SPACINGS},
        {"use_lu_lambdas": [True], "beta_schedule": SCHEDULES[:2]},
        FLOW,
        FLOW_READ_OTHERWISE,
        {**FLOW, "algorithm_type": ["sde-dpmsolver++"]},
    ],
    "DPMSolverSinglestep": [
        {"beta_schedule": SCHEDULES, "prediction_type": PREDICTIONS, "solver_order": [1, 2, 3]},
        {
            "solver_order": [2, 3],
            "solver_type": ["midpoint", "heun"],
            "use_karras_sigmas": [False, True],
            "thresholding": [False, True],
        },
        {
            "final_sigmas_type": ["sigma_min"],
            "lower_order_final": [False, True],
            "solver_order": [1, 2, 3],
            "solver_type": ["midpoint", "heun"],
            "algorithm_type": ["dpmsolver++", "dpmsolver", "sde-dpmsolver++"],
        },
        {"algorithm_type": ["sde-dpmsolver++"], "solver_order": [2, 3]},
        FLOW,
    ],
    "UniPCMultistep": [
        {"timestep_spacing": SPACINGS, "beta_schedule": SCHEDULES, "prediction_type": PREDICTIONS},
        {"solver_order": [1, 2, 3], "solver_type": ["bh1", "bh2"], "use_karras_sigmas": [False, True]},
        {"rescale_betas_zero_snr": [True], "prediction_type": PREDICTIONS},
        {
            "final_sigmas_type": ["sigma_min"],
            "lower_order_final": [False, True],
            "disable_corrector": [[], [0, 2]],
            "use_karras_sigmas": [False, True],
        },
        {
            "predict_x0": [False],
            "final_sigmas_type": ["sigma_min"],
            "solver_order": [1, 2, 3],
            "solver_type": ["bh1", "bh2"],
        },
        {"predict_x0": [False], "final_sigmas_type": ["sigma_min"], "prediction_type": PREDICTIONS},
        FLOW,
        FLOW_READ_OTHERWISE,
    ],
    "DEISMultistep": [
        {"timestep_spacing": SPACINGS, "beta_schedule": SCHEDULES, "prediction_type": PREDICTIONS},
        {"solver_order": [1, 2, 3], "lower_order_final": [False, True], "use_karras_sigmas": [False, True]},
        FLOW,
    ],
    "EulerDiscrete": [
        {"timestep_spacing": SPACINGS, "beta_schedule": SCHEDULES, "prediction_type": PREDICTIONS},
        {
            "timestep_spacing": SPACINGS,
            "use_karras_sigmas": [True],
            "final_sigmas_type": ["zero", "sigma_min"],
        },
        {"rescale_betas_zero_snr": [True], "prediction_type": PREDICTIONS, "timestep_spacing": SPACINGS},
        {"use_exponential_sigmas": [True]},
        {"use_beta_sigmas": [True]},
        {"interpolation_type": ["log_linear"]},
        {"use_karras_sigmas": [True], "sigma_min": [0.1], "sigma_max": [20.0]},
    ],
    "EulerAncestralDiscrete": [
        {"timestep_spacing": SPACINGS, "beta_schedule": SCHEDULES, "prediction_type": PREDICTIONS},
        {"rescale_betas_zero_snr": [True], "prediction_type": PREDICTIONS[::2]},
    ],
    "HeunDiscrete": [
        {"timestep_spacing": SPACINGS, "beta_schedule": SCHEDULES, "prediction_type": PREDICTIONS},
        {"use_karras_sigmas": [False, True], "clip_sample": [False, True]},
        {"use_exponential_sigmas": [True]},
        {"use_beta_sigmas": [True]},
        {"beta_schedule": ["exp"]},
    ],
    "LMSDiscrete": [
        {
            "timestep_spacing": SPACINGS,
            "beta_schedule": SCHEDULES[1:2],
            "prediction_type": PREDICTIONS[::2],
        },
        {"beta_schedule": SCHEDULES},
        {"use_karras_sigmas": [True]},
        {"use_exponential_sigmas": [True]},
    ],
    "PNDM": [
        {
            "timestep_spacing": SPACINGS,
            "skip_prk_steps": [False, True],
            "set_alpha_to_one": [False, True],
            "prediction_type": PREDICTIONS,
        }
    ],
}
OTHERS = [Case("PNDM", 30, {}), *(Case(name, 10, COSINE) for name in SOLVERS)]
LONG = [Case(name, 1000, {}) for name in GRIDS if name != "LMSDiscrete"]  # whose peer integrates for minutes


def cases(name):
    """All that is run for a class: its first grid with all numbers of steps, the others with small ones."""
    once = {}
    for i, grid in enumerate(GRIDS[name]):
        for values in product(*grid.values()):
            config = dict(zip(grid, values, strict=True))
            once.setdefault(repr(config), (config, FEW if i else STEPS))
    short = [Case(name, n, config) for config, steps in once.values() for n in steps]
    return short + [case for case in LONG + OTHERS if case.name == name]
