"""Where a drop-in scheduler differs from diffusers' own by more than rounding; docs/diffusers.md says why."""

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from chains import Case


@dataclass(frozen=True)
class Deviation:
    what: str
    where: Callable[[Case], bool]
    example: Case
    """On which it occurs for certain."""
    more: tuple[Case, ...] = ()
    """Where rounding errors decide, which differ among processors: on one of them it occurs."""


SOLVERS = ("DPMSolverMultistep", "DPMSolverSinglestep", "UniPCMultistep", "DEISMultistep")
DPM_2 = ("KDPM2Discrete", "KDPM2AncestralDiscrete")
SPACINGS = ("karras", "exponential", "beta")
COSINE = {"beta_schedule": "squaredcos_cap_v2"}
FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
NOISY_END = {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"}


def example(name, steps=6, **options):
    return Case(name, {**options, "num_inference_steps": steps})


def from_pure_noise(steps):
    settings = {"rescale_betas_zero_snr": True, "set_alpha_to_one": False, "eta": 1.0}
    reading = {"prediction_type": "sample", "use_clipped_model_output": True}
    return example("DDIM", steps, timestep_spacing="trailing", **settings, **reading)


def has(**values):
    """Return whether each option of a case is one of these values."""
    return lambda case: all(case.get(name) in value for name, value in values.items())


def named(*names):
    return lambda case: case.name in names


def both(*conditions):
    return lambda case: all(condition(case) for condition in conditions)


is_flow = has(use_flow_sigmas=[True])


def spaced_by(*names):
    """Return whether σ is spaced in itself."""
    return lambda case: any(case.get(f"use_{name}_sigmas") for name in names)


def set_for(kind, case):
    """Return a scheduler with its timesteps set, or None where they cannot be set."""
    with contextlib.suppress(Exception):
        scheduler = kind(**case.of("__init__"))
        scheduler.set_timesteps(**case.of("set_timesteps"))
        return scheduler
    return None


def timesteps_of(kind, case):
    scheduler = set_for(kind, case)
    return [] if scheduler is None else scheduler.timesteps.tolist()


def is_off_by_one(case):
    ours, theirs = timesteps_of(case.ours, case), timesteps_of(case.peer, case)
    return {abs(x - y) for x, y in zip(ours, theirs, strict=False)} | {0} == {0, 1}


def repeats_the_first_t(case):
    is_looked_up = hasattr(case.peer, "step_index") and not case.options.get("begin")
    timesteps = timesteps_of(case.peer, case) if is_looked_up else []
    return any(t == timesteps[0] for t in timesteps[1:])


def repeats(case):
    """Whether DPM-Solver's, UniPC's or DEIS' whole t, from which they take σ, are the same twice."""
    is_spaced_in_t = case.name in SOLVERS and not is_flow(case) and not spaced_by(*SPACINGS)(case)
    timesteps = timesteps_of(case.peer, case) if is_spaced_in_t else []
    return len(set(timesteps)) < len(timesteps)


def ends_in_place(case):
    scheduler = set_for(case.peer, case)
    return scheduler is not None and bool(scheduler.sigmas[-2] <= scheduler.sigmas[-1] > 0)


def goes_too_far(case):
    """Whether diffusers' trailing timesteps end at t = −1, also where ``lambda_min_clipped`` cuts them."""
    total, clipped = case.get("num_train_timesteps"), case.get("lambda_min_clipped")
    last = total
    if clipped is not None and clipped > -math.inf:
        lambdas = case.new_peer().lambda_t.flip(0).numpy()
        last -= int(np.searchsorted(lambdas, clipped))
    return bool((np.arange(last, 0, -total / case.steps).round() < 1).any())


DEVIATIONS = (
    Deviation(
        "trailing: rounding errors in arange add a step too many, at t = −1",
        both(has(timestep_spacing=["trailing"]), goes_too_far),
        example("DDPM", 61, timestep_spacing="trailing"),
    ),
    Deviation(
        "fixed_large_log: the root of a negative logarithm",
        has(variance_type=["fixed_large_log"]),
        example("DDPM", variance_type="fixed_large_log"),
    ),
    Deviation(
        "learned: the root of the network's output, which is a logarithm",
        has(variance_type=["learned"]),
        example("DDPM", variance_type="learned"),
    ),
    Deviation(
        "DDIM with η = 1 from ᾱ = 0: ε̂ has the root of a rounding error, which may be negative",
        both(
            named("DDIM"),
            has(rescale_betas_zero_snr=[True], eta=[1.0], prediction_type=["sample", "v_prediction"]),
        ),
        from_pure_noise(6),
        tuple(from_pure_noise(steps) for steps in range(16, 48)),
    ),
    Deviation(
        "DDIM inversion of x̂_0 from clean data: ε̂ = (x − x̂_0)/0",
        both(named("DDIMInverse"), has(prediction_type=["sample"], set_alpha_to_one=[True])),
        example("DDIMInverse", prediction_type="sample"),
    ),
    Deviation(
        "PNDM, Euler ancestral and DPM-Solver-2 refuse prediction_type='sample'",
        both(named("PNDM", "EulerAncestralDiscrete", *DPM_2), has(prediction_type=["sample"])),
        example("PNDM", prediction_type="sample"),
    ),
    Deviation(
        "the first t occurs again: the run begins with the second, and ends beyond the last",
        repeats_the_first_t,
        example("UniPCMultistep", 10, use_karras_sigmas=True, **COSINE),
    ),
    Deviation(
        "T steps visit a t twice: nothing lies between, and they divide by it; here that step is left out",
        repeats,
        example("UniPCMultistep", 40, num_train_timesteps=40),
    ),
    Deviation(
        "DPM-Solver's last step has no length: 0/0, or the root of a rounding error; here it is left out",
        both(
            named("DPMSolverMultistep"),
            lambda case: case.get("solver_order") > 1 or case.get("algorithm_type").startswith("sde"),
            ends_in_place,
        ),
        example(
            "DPMSolverMultistep",
            6,
            final_sigmas_type="sigma_min",
            solver_type="heun",
            lower_order_final=False,
            use_exponential_sigmas=True,
        ),
    ),
    Deviation(
        "σ spaced in itself, its whole t cut off: cut off after rounding errors",
        both(
            named(*SOLVERS),
            lambda case: (
                spaced_by("exponential", "beta")(case)
                or (case.get("beta_schedule") == COSINE["beta_schedule"] and spaced_by("karras")(case))
                or (case.get("beta_schedule") == COSINE["beta_schedule"] and case.get("use_lu_lambdas"))
            ),
            is_off_by_one,
        ),
        example("DEISMultistep", 3, use_exponential_sigmas=True, beta_end=0.03),
    ),
    Deviation(
        "zero terminal SNR with log_linear and σ spaced in itself: the first t hangs on float32's last digit",
        both(
            named("EulerDiscrete"),
            has(rescale_betas_zero_snr=[True], interpolation_type=["log_linear"]),
            spaced_by(*SPACINGS),
        ),
        example(
            "EulerDiscrete",
            rescale_betas_zero_snr=True,
            interpolation_type="log_linear",
            use_karras_sigmas=True,
        ),
    ),
    Deviation(
        "PNDM in more steps than T takes all at t = 0; here an error",
        both(named("PNDM"), lambda case: case.steps > case.get("num_train_timesteps")),
        example("PNDM", 50, num_train_timesteps=40),
    ),
    Deviation(
        "leading with an offset that leads to t = T: the network is asked there; here an error",
        both(
            has(timestep_spacing=["leading"], steps_offset=[1]),
            lambda case: case.steps == case.get("num_train_timesteps"),
        ),
        example(
            "EulerAncestralDiscrete", 40, num_train_timesteps=40, timestep_spacing="leading", steps_offset=1
        ),
    ),
    Deviation(
        "UniPC bh1: ∞ · 0 on the way to clean data",
        both(named("UniPCMultistep"), has(solver_type=["bh1"], final_sigmas_type=["zero"])),
        example("UniPCMultistep", solver_type="bh1"),
    ),
    Deviation(
        "UniPC that keeps its order on the way to clean data, or where σ stays: ∞ · 0",
        both(
            named("UniPCMultistep"),
            has(solver_order=[2, 3], lower_order_final=[False]),
            lambda case: (
                case.get("final_sigmas_type") == "zero"
                or is_flow(case)
                or spaced_by(*SPACINGS)(case)
                or ends_in_place(case)
            ),
        ),
        example("UniPCMultistep", lower_order_final=False),
    ),
    Deviation(
        "sde-dpmsolver++ of order 3: a sign in the third coefficient",
        both(
            has(algorithm_type=["sde-dpmsolver++"], solver_order=[3]),
            lambda case: case.name == "DPMSolverMultistep" or case.get("solver_type") == "heun",
        ),
        example("DPMSolverMultistep", algorithm_type="sde-dpmsolver++", solver_order=3),
    ),
    Deviation(
        "sde-dpmsolver has no step of order 3",
        has(algorithm_type=["sde-dpmsolver"], solver_order=[3]),
        example("DPMSolverMultistep", **{**NOISY_END, "algorithm_type": "sde-dpmsolver"}, solver_order=3),
    ),
    Deviation(
        "single-step dpmsolver with thresholding takes ᾱ of all t, and fails",
        both(named("DPMSolverSinglestep"), has(algorithm_type=["dpmsolver"], thresholding=[True])),
        example("DPMSolverSinglestep", **NOISY_END, thresholding=True),
    ),
    Deviation(
        "flow matching solved in ε̂ is an error here",
        both(
            is_flow,
            lambda case: (
                case.get("predict_x0") is False
                or case.get("algorithm_type") in ("dpmsolver", "sde-dpmsolver")
            ),
        ),
        example("DPMSolverMultistep", **NOISY_END, use_flow_sigmas=True),
    ),
    Deviation(
        "timesteps of one's own are ignored in flow matching; here an error",
        both(is_flow, lambda case: "timesteps" in case.options),
        Case("DPMSolverSinglestep", {**FLOW, "timesteps": [900, 500, 100]}),
    ),
    Deviation(
        "UniPC takes √(1−ᾱ)/√ᾱ of two spacings for σ of flow matching; here it is converted, as Karras' is",
        both(named("UniPCMultistep"), is_flow, spaced_by("exponential", "beta")),
        example(
            "UniPCMultistep", **FLOW, use_exponential_sigmas=True, num_train_timesteps=100, beta_end=0.012
        ),
    ),
    Deviation(
        "DPM-Solver and DEIS take another spacing's √(1−ᾱ)/√ᾱ for σ of flow matching; here an error",
        both(
            named("DPMSolverMultistep", "DPMSolverSinglestep", "DEISMultistep"),
            is_flow,
            lambda case: spaced_by(*SPACINGS)(case) or bool(case.get("use_lu_lambdas")),
        ),
        example(
            "DPMSolverMultistep",
            **FLOW,
            use_karras_sigmas=True,
            num_train_timesteps=100,
            beta_end=0.012,
        ),
    ),
    Deviation(
        "DPM-Solver refuses a linear shift of flow matching, and UniPC takes it",
        both(named(*SOLVERS[:2]), is_flow, has(time_shift_type=["linear"])),
        example("DPMSolverMultistep", **FLOW, use_dynamic_shifting=True, mu=1.2, time_shift_type="linear"),
    ),
    Deviation(
        "flow matching inverted and with fresh noise ends in noise",
        has(invert_sigmas=[True], stochastic_sampling=[True]),
        example("FlowMatchEulerDiscrete", invert_sigmas=True, stochastic_sampling=True),
    ),
    Deviation(
        "shift_terminal in one step: 0/0",
        both(
            named("FlowMatchEulerDiscrete", "UniPCMultistep"),
            lambda case: case.steps == 1 and bool(case.get("shift_terminal")),
        ),
        example("FlowMatchEulerDiscrete", 1, shift_terminal=0.1),
    ),
    Deviation(
        "EDM's sde-dpmsolver++ has no step of order 3",
        both(named("EDMDPMSolverMultistep"), has(algorithm_type=["sde-dpmsolver++"], solver_order=[3])),
        example("EDMDPMSolverMultistep", algorithm_type="sde-dpmsolver++", solver_order=3),
    ),
    Deviation(
        "EDM's DPM-Solver++ divides by the nothing between the last σ and itself; here that step is left out",
        both(
            named("EDMDPMSolverMultistep"),
            has(final_sigmas_type=["sigma_min"]),
            lambda case: (
                case.get("solver_order") == 3
                or case.get("solver_type") == "heun"
                or case.get("algorithm_type") == "sde-dpmsolver++"
            ),
        ),
        example(
            "EDMDPMSolverMultistep",
            final_sigmas_type="sigma_min",
            sigma_schedule="exponential",
            solver_type="heun",
            lower_order_final=False,
        ),
    ),
    Deviation(
        "LCM with timesteps of one's own and strength below 1: noise on the finished image",
        both(
            named("LCM"), lambda case: "timesteps" in case.options and case.options.get("strength", 1.0) < 1
        ),
        Case("LCM", {"timesteps": [800, 500, 200, 100], "strength": 0.6}),
    ),
    Deviation(
        "IPNDM in one step: 0; here x̂_0",
        both(named("IPNDM"), lambda case: case.steps == 1),
        example("IPNDM", 1),
    ),
    Deviation(
        "LCM and TCD with timesteps of one's own, of which strength leaves none: no step; here an error",
        both(
            named("LCM", "TCD"),
            lambda case: int(case.steps * case.options.get("strength", 1.0)) == 0,
        ),
        Case("TCD", {"timesteps": [500], "strength": 0.6}),
    ),
)


def deviations_of(case):
    return [deviation.what for deviation in DEVIATIONS if deviation.where(case)]
