"""Drop-ins for networks of EDM: whole chains against diffusers, exact answers, preconditioning, errors."""

import importlib
import math

import diffusers
import numpy as np
import pytest
import torch
from cases import check_error, normals
from peers import Wide

import alphabar.diffusers as ours
from alphabar.errors import ConfigError, ScheduleError, ShapeError, TimestepError, UnknownNameError
from alphabar.process import edm

diffusers.utils.logging.set_verbosity_error()
NAMES = ("EDMEulerScheduler", "EDMDPMSolverMultistepScheduler")
every = pytest.mark.parametrize("name", NAMES)
SHAPE = (2, 2, 3, 3)
X, Z = normals(*SHAPE, seed=1), normals(*SHAPE, seed=2)

OPTIONS = {
    "sigma_min": [0.002, 0.05],
    "sigma_max": [80.0, 12.0],
    "sigma_data": [0.5, 1.0],
    "sigma_schedule": ["karras", "exponential"],
    "prediction_type": ["epsilon", "v_prediction"],
    "rho": [7.0, 3.0],
    "final_sigmas_type": ["zero", "sigma_min"],
}
SOLVER_OPTIONS = {
    "solver_order": [1, 2, 3],
    "thresholding": [False, True],
    "algorithm_type": ["dpmsolver++", "sde-dpmsolver++"],
    "solver_type": ["midpoint", "heun"],
    "lower_order_final": [True, False],
    "euler_at_final": [False, True],
}
CHURNS = [{}, {"s_churn": 3.0}, {"s_churn": 40.0, "s_tmin": 0.3, "s_tmax": 20.0, "s_noise": 1.01}]
COUNTS = [1, 2, 5, 14, 15, 20]


def drawn(draw, options):
    return {name: choices[draw.integers(len(choices))] for name, choices in options.items()}


def network(x, t):
    return torch.tanh(0.7 * x + 0.4 * x.roll(1, -1) - 0.6 * x.roll(1, 1) + t / 2) + 0.1


def run(scheduler, generator, dtype=torch.float64, **options):
    x = torch.randn(SHAPE, generator=generator, dtype=torch.float64).to(dtype) * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        output = network(scheduler.scale_model_input(x, t), t)
        x = scheduler.step(output, t, x, generator=generator, **options).prev_sample
    return x


def two_images(scheduler, steps, **options):
    """Two runs with one generator: the second begins where the draws of the first ended."""
    generator, images = torch.Generator().manual_seed(0), []
    for _ in range(2):
        scheduler.set_timesteps(steps)
        images.append(run(scheduler, generator, **options))
    return images


def of_peer(name, config, steps, sigmas, **options):
    """The peer's images in float64, on the σ that its own round."""
    kind = getattr(diffusers, name)

    class Exact(kind):
        def set_timesteps(self, *args, **kwargs):
            super().set_timesteps(*args, **kwargs)
            torch.testing.assert_close(self.sigmas.double(), sigmas, rtol=1e-5, atol=0)
            self.sigmas = sigmas

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importlib.import_module(kind.__module__), "torch", Wide())
        return two_images(Exact(**config), steps, **options)


@pytest.mark.parametrize("seed", range(120))
@every
def test_random_chains_are_the_peers(name, seed):
    draw = np.random.default_rng(seed)
    is_euler = name == "EDMEulerScheduler"
    config = drawn(draw, OPTIONS if is_euler else OPTIONS | SOLVER_OPTIONS)
    options = CHURNS[draw.integers(3)] if is_euler else {}
    steps = COUNTS[draw.integers(len(COUNTS))]
    mine = getattr(ours, name)(**config)
    images = two_images(mine, steps, **options)
    assert all(image.isfinite().all() for image in images)
    sigmas = torch.tensor([level.sigma_ve for level in mine._run.evaluations], dtype=torch.float64)
    if math.isclose(sigmas[-1], sigmas[-2], rel_tol=1e-9):
        sigmas[-1] = sigmas[-2]  # rounding decides whether diffusers takes the root of a negative number
    try:
        peers = of_peer(name, config, steps, sigmas, **options)
    except UnboundLocalError:
        peers = [torch.full(SHAPE, math.nan)]
    if deviates(config, steps):
        assert peers[0].isnan().any()
        return
    for one, other in zip(images, peers, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6 * max(1.0, float(other.abs().max())))


def deviates(config, steps):
    """Where diffusers has no answer: of the third order with noise, and over a last step of no length."""
    order, is_sde = config.get("solver_order", 1), config.get("algorithm_type") == "sde-dpmsolver++"
    order = min(order, steps)
    if is_sde and order == 3:
        return True
    lowers = config.get("euler_at_final") or (config.get("lower_order_final") and steps < 15)
    still = config["final_sigmas_type"] == "sigma_min" and not lowers and steps > 1
    return still and (order == 3 or (order == 2 and config["solver_type"] == "heun"))


@every
@pytest.mark.parametrize("config", [{}, {"final_sigmas_type": "sigma_min", "sigma_schedule": "exponential"}])
def test_timesteps_and_sigmas_are_the_peers_also_before_they_are_set(name, config):
    mine, theirs = (getattr(library, name)(**config) for library in (ours, diffusers))
    for steps in (None, 1, 7):
        if steps:
            for scheduler in (mine, theirs):
                scheduler.set_timesteps(steps)
        torch.testing.assert_close(mine.timesteps, theirs.timesteps, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(mine.sigmas, theirs.sigmas.float(), rtol=2e-5, atol=0)
        assert mine.init_noise_sigma == pytest.approx(theirs.init_noise_sigma)


# --- exact answers ---


@every
@pytest.mark.parametrize("config", [{}, {"sigma_data": 1.3}, {"sigma_schedule": "exponential"}])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_network_that_knows_the_answer_reaches_it_on_the_straight_path(name, config, sign):
    config = config | {"prediction_type": "epsilon" if sign > 0 else "v_prediction"}
    scheduler, x_0, noise = getattr(ours, name)(**config), X, Z
    kind = edm(config.get("sigma_data", 0.5))
    scheduler.set_timesteps(9)
    x = x_0 + 80.0 * noise
    for i, t in enumerate(scheduler.timesteps):
        sigma = math.exp(4 * float(t))
        a = 1 / math.hypot(sigma, 1)
        of_x_0, of_noise = kind.target(a, sigma * a)
        x = scheduler.step(sign * (of_x_0 * x_0 + of_noise * noise), t, x).prev_sample
        torch.testing.assert_close(x, x_0 + float(scheduler.sigmas[i + 1]) * noise, rtol=0, atol=1e-4)
    torch.testing.assert_close(x, x_0, rtol=0, atol=1e-6)  # t is float32, and so is σ of the answer


@every
def test_data_that_are_one_gaussian_are_reached_with_their_width(name):
    """F = 0 is the exact denoiser of N(0, σ_d²): c_skip · x is the posterior mean."""
    scheduler = getattr(ours, name)(sigma_data=0.7)
    scheduler.set_timesteps(300)
    x = Z * math.hypot(80, 0.7)
    for t in scheduler.timesteps:
        x = scheduler.step(torch.zeros_like(x), t, x).prev_sample
    tolerance = 0.05 if name == "EDMEulerScheduler" else 1e-3  # by their orders
    torch.testing.assert_close(x, 0.7 * Z, rtol=tolerance, atol=0)


@every
def test_noising(name):
    for kind in (getattr(ours, name), getattr(diffusers, name)):
        scheduler = kind()
        scheduler.set_timesteps(6)
        noisy = scheduler.add_noise(X, Z, scheduler.timesteps[[1, 4]])
        sigma = scheduler.sigmas[[1, 4]].double()[:, None, None, None]
        torch.testing.assert_close(noisy, X + sigma * Z, rtol=1e-6, atol=1e-6)


# --- preconditioning ---


@every
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_preconditioning_is_the_peers(name, prediction):
    mine, theirs = (
        getattr(library, name)(prediction_type=prediction, sigma_data=0.8) for library in (ours, diffusers)
    )
    several = torch.tensor([0.3, 7.0], dtype=torch.float64)[:, None, None, None]
    for sigma in (0.4, torch.tensor(3.0), torch.tensor([5.0]), several):
        for method, given in [
            ("precondition_inputs", (X, sigma)),
            ("precondition_noise", (sigma,)),
            ("precondition_outputs", (X, Z, sigma)),
            ("_get_conditioning_c_in", (sigma,)),
        ]:
            answers = [getattr(scheduler, method)(*given) for scheduler in (mine, theirs)]
            torch.testing.assert_close(*answers, rtol=1e-6, atol=1e-6)
    half = mine.precondition_outputs(X.half(), Z.half(), 2.0)
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.double(), mine.precondition_outputs(X, Z, 2.0), rtol=1e-3, atol=2e-3)
    check_error(lambda: mine.precondition_outputs(X, Z[:, :1], 2.0), ShapeError, "(2, 1, 3, 3)")


def test_each_sample_at_its_own_t_enters_with_its_own_scale():
    scheduler = ours.EDMEulerScheduler()
    scheduler.set_timesteps(8)
    inputs = scheduler.scale_model_input(X, scheduler.timesteps[[2, 5]])
    for i, at in enumerate((2, 5)):
        alone = scheduler.fork().scale_model_input(X, scheduler.timesteps[at])
        torch.testing.assert_close(inputs[i], alone[i])


def test_stepping_as_cosmos_does_it():
    """x̂_0 is read first, guided, and given back as ``pred_original_sample`` at the same index."""
    ends = []
    for library in (ours, diffusers):
        scheduler = library.EDMEulerScheduler(sigma_data=1.0, prediction_type="epsilon")
        scheduler.set_timesteps(7)
        x = X.float() * 80
        for t in scheduler.timesteps:
            output = network(scheduler.scale_model_input(x, t), t)
            x_0 = scheduler.step(output, t, x, return_dict=False)[1]
            scheduler._step_index -= 1
            guided = x_0 + 0.3 * torch.tanh(x_0)
            x, same = scheduler.step(guided, t, x, return_dict=False, pred_original_sample=guided)
            torch.testing.assert_close(same, guided)
        ends.append(x)
    torch.testing.assert_close(*ends, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_with_churn_has_the_peers_types_and_nearly_its_numbers(dtype):
    ends = []
    for library in (ours, diffusers):
        scheduler, generator = library.EDMEulerScheduler(), torch.Generator().manual_seed(0)
        scheduler.set_timesteps(6)
        x = (X * 80).to(dtype)
        for t in scheduler.timesteps:
            output = network(scheduler.scale_model_input(x, t).float(), t).to(dtype)
            x, x_0 = scheduler.step(output, t, x, s_churn=2.0, generator=generator, return_dict=False)
            assert (x.dtype, x_0.dtype) == (dtype, torch.float32)
        ends.append(x.float())
    torch.testing.assert_close(*ends, rtol=0, atol=0.05)


# --- positions between sigma_max and sigma_min ---


def test_a_ramp_in_place_of_a_count():
    ramp = torch.tensor([0.0, 0.1, 0.35, 0.9])
    mine, theirs = (library.EDMEulerScheduler() for library in (ours, diffusers))
    for scheduler in (mine, theirs):
        scheduler.set_timesteps(sigmas=ramp)
    torch.testing.assert_close(mine.sigmas, theirs.sigmas, rtol=1e-5, atol=0)
    torch.testing.assert_close(mine.timesteps, theirs.timesteps, rtol=1e-5, atol=1e-6)
    assert mine.num_inference_steps == 4
    mine.set_timesteps(sigmas=ramp.tolist())
    torch.testing.assert_close(mine.sigmas, theirs.sigmas, rtol=1e-5, atol=0)
    with pytest.raises(AttributeError):
        theirs.set_timesteps(sigmas=ramp.tolist())  # as pipelines pass them


def test_the_exponential_spacing_takes_the_ramp_where_strict():
    ramp = [0.0, 0.1, 0.35, 0.9]
    theirs = diffusers.EDMEulerScheduler(sigma_schedule="exponential")
    theirs.set_timesteps(sigmas=torch.tensor(ramp))
    logs = math.log(80) + torch.tensor(ramp, dtype=torch.float64) * math.log(0.002 / 80)
    for strict, expected in ((False, theirs.sigmas[:-1]), (True, logs.exp().float())):
        mine = ours.EDMEulerScheduler(sigma_schedule="exponential", strict=strict)
        mine.set_timesteps(sigmas=ramp)
        torch.testing.assert_close(mine.sigmas[:-1], expected, rtol=1e-5, atol=0)
    assert not torch.allclose(theirs.sigmas[:-1], logs.exp().float()), "no longer so"


@every
def test_one_step_of_the_exponential_spacing_begins_at_sigma_max_where_strict(name):
    for library, options, first in (
        (diffusers, {}, 0.002),
        (ours, {}, 0.002),
        (ours, {"strict": True}, 80.0),
    ):
        scheduler = getattr(library, name)(sigma_schedule="exponential", **options)
        scheduler.set_timesteps(1)
        assert float(scheduler.sigmas[0]) == pytest.approx(first, rel=1e-5)


def test_what_is_wrong_is_named():
    euler, solver = ours.EDMEulerScheduler(), ours.EDMDPMSolverMultistepScheduler()
    for sigmas in ([80.0, 1.0, 0.002], [], 0.5, [[0.0, 1.0]], [0.0, math.nan]):
        check_error(
            lambda given=sigmas: euler.set_timesteps(sigmas=given), ConfigError, "sigmas", "sigma_max"
        )
    check_error(lambda: euler.set_timesteps(3, sigmas=[0.0, 1.0]), ConfigError, "one of")
    check_error(lambda: euler.set_timesteps(0), ConfigError, "num_inference_steps is 0")
    check_error(lambda: solver.set_timesteps(2.5), ConfigError, "num_inference_steps is 2.5")
    check_error(lambda: solver.step(Z, 0.3, X), ConfigError, "set_timesteps")
    euler.set_timesteps(4)
    check_error(lambda: euler.step(Z, 2, X), TimestepError, "whole number")
    check_error(lambda: euler.step(Z, 0.123, X), TimestepError, "0.123")
    for kind in (ours.EDMEulerScheduler, ours.EDMDPMSolverMultistepScheduler):
        check_error(lambda kind=kind: kind(prediction_type="sample"), UnknownNameError, "v_prediction")
        check_error(lambda kind=kind: kind(sigma_schedule="linear"), UnknownNameError, "exponential")
        check_error(lambda kind=kind: kind(final_sigmas_type="one"), UnknownNameError, "sigma_min")
        check_error(lambda kind=kind: kind(sigma_data=0.0), ConfigError, "sigma_data")
        check_error(lambda kind=kind: kind(sigma_min=90.0), ScheduleError, "sigma_min")
        check_error(lambda kind=kind: kind(rho=0.0), ScheduleError, "rho")
    check_error(
        lambda: ours.EDMDPMSolverMultistepScheduler(algorithm_type="dpmsolver"), UnknownNameError, "++"
    )
    config = ours.EDMDPMSolverMultistepScheduler(algorithm_type="deis", solver_type="bh2").config
    assert (config.algorithm_type, config.solver_type) == ("dpmsolver++", "midpoint")
