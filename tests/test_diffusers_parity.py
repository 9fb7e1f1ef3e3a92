"""Every scheduler against its namesake in diffusers: whole runs over a grid of configurations.

The peer is given float64 tables, float64 arithmetic and, where it has them, float64 σ: then what differs is
not rounding. Each run must give the same sample to 1e-4 of its scale, or be in DEVIATIONS; and each entry
there must occur. Ours is always finite, or an error by name.
"""

import importlib
import inspect
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import diffusers
import pytest
import torch
from peers import Wide

import alphabar.diffusers as ours
from alphabar.errors import AlphabarError

SHAPE = (2, 2, 2, 3)
TOLERANCE = 1e-4


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
        lambda case: case.get("algorithm_type") == "sde-dpmsolver++" and case.get("solver_order") == 3,
    ),
    Deviation(
        "Euler ancestral refuses prediction_type='sample'",
        lambda case: case.name == "EulerAncestralDiscrete" and case.get("prediction_type") == "sample",
    ),
    Deviation(
        "PNDM refuses prediction_type='sample', and with v remembers v instead of ε̂",
        lambda case: case.name == "PNDM" and case.get("prediction_type") != "epsilon",
    ),
    Deviation(
        "PNDM on uneven grids: its second evaluation belongs to another t",
        lambda case: case.name == "PNDM" and case.uneven(),
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
STEPS = [1, 7, 20, 50, 61]
SPACINGS = ["leading", "trailing", "linspace"]
PREDICTIONS = ["epsilon", "sample", "v_prediction"]
SCHEDULES = ["linear", "scaled_linear", "squaredcos_cap_v2"]
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
    ],
    "DPMSolverSinglestep": [
        {"beta_schedule": SCHEDULES, "prediction_type": PREDICTIONS, "solver_order": [1, 2, 3]},
        {
            "solver_order": [2, 3],
            "solver_type": ["midpoint", "heun"],
            "use_karras_sigmas": [False, True],
            "thresholding": [False, True],
        },
    ],
    "UniPCMultistep": [
        {"timestep_spacing": SPACINGS, "beta_schedule": SCHEDULES, "prediction_type": PREDICTIONS},
        {"solver_order": [1, 2, 3], "solver_type": ["bh1", "bh2"], "use_karras_sigmas": [False, True]},
        {"rescale_betas_zero_snr": [True], "prediction_type": PREDICTIONS},
        {
            "final_sigmas_type": ["sigma_min"],
            "lower_order_final": [False, True],
            "disable_corrector": [[], [0, 2]],
        },
    ],
    "DEISMultistep": [
        {"timestep_spacing": SPACINGS, "beta_schedule": SCHEDULES, "prediction_type": PREDICTIONS},
        {"solver_order": [1, 2, 3], "lower_order_final": [False, True], "use_karras_sigmas": [False, True]},
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
        {"timestep_spacing": SPACINGS, "beta_schedule": SCHEDULES[1:], "prediction_type": PREDICTIONS[::2]},
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
LONG = [
    Case(name, 1000, {}) for name in ("DDPM", "DDIM", "EulerDiscrete", "DPMSolverMultistep", "UniPCMultistep")
]


def cases(name):
    grids = [
        [dict(zip(grid, values, strict=True)) for values in product(*grid.values())] for grid in GRIDS[name]
    ]
    once = {repr(config): config for grid in grids for config in grid}
    short = [Case(name, steps, config) for config in once.values() for steps in STEPS]
    return short + [case for case in LONG + OTHERS if case.name == name]


def network(scheduler, case):
    """A smooth nonlinear network, at any t: v̂ in [−2, 2] keeps x̂_0 and ε̂ as bounded as x."""
    a, s = scheduler.schedule.signal_scale.tolist(), scheduler.schedule.noise_scale.tolist()
    learns = case.get("variance_type") in ("learned", "learned_range")

    def between(table, t):
        low = min(int(t), len(table) - 1)
        return table[low] + (t - low) * (table[min(low + 1, len(table) - 1)] - table[low])

    def answer(x, t):
        t = min(max(float(t), 0.0), len(a) - 1.0)
        signal, noise = between(a, t), between(s, t)
        v = 2 * torch.tanh(0.7 * x + 0.4 * x.roll(1, -1) - 0.6 * x.roll(1, 1) + t / 500 - 1)
        forms = {"epsilon": (noise, signal), "sample": (signal, -noise), "v_prediction": (0, 1)}
        of_x, of_v = forms[case.get("prediction_type")]
        output = of_x * x + of_v * v
        return torch.cat([output, torch.cos(2 * x + t / 100)], 1) if learns else output

    return answer


def run(scheduler, ask, steps):
    generator, options = torch.Generator().manual_seed(0), {}
    takes = inspect.signature(scheduler.step).parameters
    x = torch.randn(SHAPE, generator=generator, dtype=torch.float64) * float(scheduler.init_noise_sigma)
    for t in scheduler.timesteps:
        if "variance_noise" in takes and "algorithm_type" in scheduler.config:
            options["variance_noise"] = torch.randn(SHAPE, generator=generator, dtype=torch.float64)
        elif "generator" in takes:
            options["generator"] = generator
        output = ask(scheduler.scale_model_input(x, t), t)
        x = scheduler.step(output, t, x, **options).prev_sample
    return x


def theirs(case, mine, ask):
    """The peer's sample, or None where it has none."""
    module = importlib.import_module(case.peer.__module__)
    scheduler = case.peer(**case.config)
    scheduler.alphas_cumprod = mine.schedule.alpha_bar
    for end in ("final_alpha_cumprod", "initial_alpha_cumprod"):
        if hasattr(scheduler, end) and not case.get("set_alpha_to_one"):
            setattr(scheduler, end, scheduler.alphas_cumprod[0])
    if case.get("rescale_betas_zero_snr") and hasattr(scheduler, "sigmas"):
        scheduler.alphas_cumprod[-1] = 2**-24
    with pytest.MonkeyPatch.context() as patch:
        try:
            scheduler.set_timesteps(case.steps)
            if hasattr(scheduler, "sigmas") and len(scheduler.sigmas) == len(mine._visited):
                exact = torch.tensor([level.ratio for level in mine._visited], dtype=torch.float64)
                if not torch.allclose(scheduler.sigmas.double(), exact, rtol=1e-5, atol=0):
                    return None
                scheduler.sigmas = exact
            patch.setattr(module, "torch", Wide())
            return run(scheduler, ask, case.steps)
        except (
            ArithmeticError,
            IndexError,
            NotImplementedError,
            ValueError,
            RuntimeError,
            TypeError,
            AssertionError,
        ):
            return None


def agrees(case):
    mine = getattr(ours, f"{case.name}Scheduler")(**case.config)
    ask = network(mine, case)
    try:
        mine.set_timesteps(case.steps)
        x = run(mine, ask, case.steps)
    except AlphabarError:
        return False
    assert x.isfinite().all(), case
    peers = theirs(case, mine, ask)
    if peers is None or not peers.isfinite().all():
        return False
    return bool((x - peers).abs().max() <= TOLERANCE * max(1.0, float(peers.abs().max())))


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.filterwarnings("ignore")
def test_same_samples_or_a_listed_deviation(name):
    unlisted, occurred, listed = [], Counter(), Counter()
    for case in cases(name):
        same, where = agrees(case), [deviation.what for deviation in DEVIATIONS if deviation.where(case)]
        listed.update(where)
        if not same:
            occurred.update(where)
            unlisted += [] if where else [case]
    assert not unlisted, f"{len(unlisted)} of {len(cases(name))}: {unlisted[:10]}"
    assert not listed.keys() - occurred.keys(), "no longer so"


def test_each_deviation_is_met():
    met = {
        deviation.what
        for name in GRIDS
        for case in cases(name)
        for deviation in DEVIATIONS
        if deviation.where(case)
    }
    assert met == {deviation.what for deviation in DEVIATIONS}
