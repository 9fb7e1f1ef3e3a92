"""Every sum of a drop-in step is that of float64 arithmetic, rounded once: with the kernels and without.

The expectation is worked out in extended precision from the step's own coefficients and rounded. A result may
be its neighbour, one unit in the last place away, and off by the roundings of a sum in float64:
n · 2⁻⁵³ · Σ |c · x|.
"""

import inspect

import diffusers
import numpy as np
import pytest
import torch
from cases import normals

from alphabar.diffusers.adapter import SCHEDULERS
from alphabar.diffusers.steps import NOISE, Step, stack
from alphabar.kernels import cpu

diffusers.utils.logging.set_verbosity_error()
SHAPE = (2, 2, 3, 5)
HALF, BRAIN, SINGLE, DOUBLE = torch.float16, torch.bfloat16, torch.float32, torch.float64
DTYPES = [(SINGLE, SINGLE), (DOUBLE, DOUBLE), (HALF, HALF), (BRAIN, BRAIN), (SINGLE, HALF), (HALF, DOUBLE)]
"""Of sample and output."""


@pytest.fixture(params=["kernels", "reference"], autouse=True)
def road(request, monkeypatch):
    if request.param == "reference":
        monkeypatch.setattr(cpu, "LIBRARY", None)
    elif cpu.LIBRARY is None:
        pytest.skip("the kernels are not built")


def wide(x):
    return x.numpy().astype(np.longdouble) if x.dtype == DOUBLE else x.double().numpy().astype(np.longdouble)


def check_sum(result, coefficients, tensors, limit=np.inf):
    if isinstance(coefficients, torch.Tensor):
        coefficients = [column.reshape(-1, 1, 1, 1) for column in coefficients.T]
    terms = [
        (wide(c) if isinstance(c, torch.Tensor) else np.longdouble(c)) * wide(x)
        for c, x in zip(coefficients, tensors, strict=False)
        if isinstance(c, torch.Tensor) or c
    ]
    exact, size = sum(terms).clip(-limit, limit), sum(np.abs(term) for term in terms)
    info = torch.finfo(result.dtype)
    exponent = np.frexp(np.abs(exact).astype(float))[1] - 1
    last_place = np.maximum(info.eps * np.exp2(exponent.astype(float)), info.smallest_normal * info.eps)
    rounded = torch.from_numpy(exact.astype(float)).to(result.dtype)
    off = np.abs(wide(result) - (exact if result.dtype == DOUBLE else wide(rounded)))
    assert (off <= last_place + len(terms) * 2.0**-53 * size).all(), float((off / last_place).max())


def checking(scheduler):
    """Let a scheduler's steps be checked as they are taken; return how many were."""
    compute, count = scheduler._compute_step, [0]

    def checked(step, output, sample, history=(), *, noise=None, **given):
        z = noise
        if step.draws and noise is None:
            z = normals(*sample.shape, seed=count[0], dtype=output.dtype)
        found = previous, x_0, kept = compute(step, output, sample, history, noise=z, **given)
        answer, variance = output, None
        if output.shape != sample.shape:
            answer, variance = output.chunk(2, dim=1)
        if step.x_0 is not None:
            check_sum(x_0, step.x_0, (sample, answer), scheduler._limit)
        coefficients = step.prev_sample
        if step.learned is not None:
            is_table = isinstance(coefficients, torch.Tensor)
            columns = [c.reshape(-1, 1, 1, 1) for c in coefficients.T] if is_table else list(coefficients)
            columns[NOISE] = step.learned.z_scale(variance)
            coefficients = columns
        nothing = torch.zeros_like(sample)
        start = given.get("start")
        tensors = (
            sample,
            answer,
            nothing if z is None else z,
            nothing if start is None else start,
            x_0,
            *history,
        )
        check_sum(previous, coefficients, tensors)
        if kept is not None:
            check_sum(kept, step.kept, (sample, x_0))
        count[0] += 1
        return found

    scheduler._compute_step = checked
    return count


CONFIGS = {
    "DDPMScheduler": [{}, {"variance_type": "learned_range"}, {"clip_sample": False}],
    "DDIMScheduler": [{}, {"clip_sample": False, "timestep_spacing": "trailing"}],
    "DPMSolverMultistepScheduler": [
        {"solver_order": 3},
        {"algorithm_type": "sde-dpmsolver++"},
        {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"},
        {"use_flow_sigmas": True, "prediction_type": "flow_prediction"},
    ],
    "DPMSolverSinglestepScheduler": [{}, {"solver_order": 3}],
    "UniPCMultistepScheduler": [{}, {"predict_x0": False, "final_sigmas_type": "sigma_min"}],
    "PNDMScheduler": [{}, {"skip_prk_steps": True}],
    "EulerDiscreteScheduler": [{}, {"prediction_type": "v_prediction"}],
}


@pytest.mark.parametrize("dtypes", DTYPES, ids=lambda pair: "-".join(str(d)[6:] for d in pair))
@pytest.mark.parametrize("name", SCHEDULERS)
def test_whole_runs(name, dtypes):
    of_sample, of_output = dtypes
    for config in CONFIGS.get(name, [{}]):
        scheduler = SCHEDULERS[name](**config)
        scheduler.set_timesteps(9)
        count, learned = checking(scheduler), config.get("variance_type")
        x = normals(*SHAPE, seed=1, dtype=DOUBLE).to(of_sample)
        for t in scheduler.timesteps:
            output = torch.tanh(scheduler.scale_model_input(x, t).double() + 0.3)
            output = torch.cat([output, -output], 1) if learned else output
            options = {"eta": 0.5} if "eta" in inspect.signature(scheduler.step).parameters else {}
            x = scheduler.step(output.to(of_output), t, x, **options).prev_sample.to(of_sample)
        assert count[0] == len(scheduler.timesteps)


@pytest.mark.parametrize("dtypes", DTYPES, ids=lambda pair: "-".join(str(d)[6:] for d in pair))
@pytest.mark.parametrize("name", ["DDPM", "DDIM", "DDIMInverse", "EulerDiscrete", "EulerAncestralDiscrete"])
def test_each_sample_at_its_own_t(name, dtypes):
    for config in CONFIGS.get(f"{name}Scheduler", [{}]):
        scheduler = SCHEDULERS[f"{name}Scheduler"](**config)
        scheduler.set_timesteps(9)
        count = checking(scheduler)
        x, output = (normals(*SHAPE, seed=i, dtype=DOUBLE) for i in (3, 4))
        output = torch.cat([output, -output], 1) if "variance_type" in config else output
        scheduler.step(output.to(dtypes[1]), scheduler.timesteps[[1, 6]], x.to(dtypes[0]))
        assert count[0] == 1


@pytest.mark.parametrize("dtypes", DTYPES, ids=lambda pair: "-".join(str(d)[6:] for d in pair))
@pytest.mark.parametrize("seed", range(20))
def test_random_coefficients_and_terms_that_cancel(seed, dtypes):
    of_sample, of_output = dtypes
    draw = np.random.default_rng(seed)
    scheduler = SCHEDULERS["DDIMScheduler"](clip_sample_range=float(draw.uniform(0.1, 3)))
    checking(scheduler)
    kept = torch.promote_types(torch.promote_types(of_sample, of_output), SINGLE)
    tensors = [normals(*SHAPE, seed=100 * seed + i, dtype=DOUBLE) for i in range(6)]
    sample = tensors[0].to(of_sample)
    for close in (1.0, 1e-3, 1e-6):
        others = [(sample.double() + close * x).to(kept) for x in tensors[1:]]
        output, noise, start, *history = others
        coefficients = draw.standard_normal(7)
        coefficients[-1] -= coefficients.sum()  # of nearly equal tensors little is left
        read = draw.standard_normal() * np.array([1, -1])
        step = Step((read[0], read[1]), tuple(coefficients), (0.7, -0.7))
        scheduler._compute_step(
            step, output.to(of_output), sample, history, start=start, noise=noise.to(of_output)
        )
        first = Step((read[0], 0.0), tuple(coefficients[::-1]), None)
        scheduler._compute_step(
            stack([step, first], sample),
            output.to(of_output),
            sample,
            history,
            start=start,
            noise=noise.to(of_output),
        )
