"""Flow matching's drop-ins where the answer is known, and all deviations from diffusers, still met."""

import math

import diffusers
import numpy as np
import pytest
import torch
from flows import EULER, HEUN, SHAPE, X, Z, chain, pair

import alphabar.diffusers as ours
from alphabar.diffusers.flow_matching import FLOW, TO_DATA
from alphabar.diffusers.steps import Step, flow_scale
from alphabar.process import parameterisation
from alphabar.samplers import Euler

# --- exact answers ---


def path(sigma):
    return (1 - sigma) * X.double() + sigma * Z.double()


PATHS = [
    *(
        (EULER, config)
        for config in ({}, {"shift": 4.0}, {"use_karras_sigmas": True}, {"invert_sigmas": True})
    ),
    *((HEUN, config) for config in ({}, {"shift": 4.0})),
]


@pytest.mark.parametrize(("name", "config"), PATHS)
def test_a_network_that_knows_the_answer_follows_the_path(name, config):
    sign = -1 if "invert_sigmas" in config else 1
    scheduler = getattr(ours, name)(strict=True, **config)
    scheduler.set_timesteps(5)
    x, sigmas = Z.double(), scheduler._run.grid.levels
    for index, t in enumerate(scheduler.timesteps):
        x = scheduler.step(sign * (Z.double() - X.double()), t, x).prev_sample
        s = sigmas[(index + 2) // 2 if name == HEUN else index + 1]
        torch.testing.assert_close(x, path(s.sigma * flow_scale(s)), rtol=0, atol=1e-13)
    torch.testing.assert_close(x, X.double(), rtol=0, atol=1e-13)


def test_fresh_noise_leads_along_the_path():
    scheduler = ours.FlowMatchEulerDiscreteScheduler(stochastic_sampling=True, invert_sigmas=True)
    scheduler.set_timesteps(4)
    x, generator, same = Z, torch.Generator().manual_seed(5), torch.Generator().manual_seed(5)
    for i, t in enumerate(scheduler.timesteps):
        sigma = 1 - float(scheduler.sigmas[i])
        output = (X - x) / sigma  # x_0 − z of the noise that x now has
        x = scheduler.step(output, t, x, generator=generator).prev_sample
        noise, left = torch.randn(SHAPE, generator=same), 1 - float(scheduler.sigmas[i + 1])
        torch.testing.assert_close(x, (1 - left) * X + left * noise, rtol=0, atol=1e-5)
    torch.testing.assert_close(x, X, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("name", "order"), [(EULER, 1), (HEUN, 2)])
def test_order_of_convergence(name, order):
    """Data N(0, ½²): the path of x is that of √((1−σ)² ½² + σ²), from 1 at noise."""
    errors = []
    for steps in (64, 128):
        scheduler = getattr(ours, name)(strict=True)
        scheduler.sigma_min = 1 / steps
        scheduler.set_timesteps(steps)
        x = torch.ones(1, 1, dtype=torch.float64)
        for t, level in zip(scheduler.timesteps, scheduler._run.evaluations, strict=False):
            sigma = level.sigma * flow_scale(level)
            output = x * (sigma - (1 - sigma) / 4) / ((1 - sigma) ** 2 / 4 + sigma**2)
            x = scheduler.step(output, t, x).prev_sample
        errors.append(abs(float(x) - 0.5))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.2)


def test_a_step_is_the_cores_row_in_these_coordinates():
    scheduler = ours.FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(6)
    levels = scheduler._run.grid.levels
    for row, step in zip(Euler().rows(levels), scheduler._make_steps(0), strict=True):
        t, s = levels[int(row.t)], levels[int(row.s)]
        core = Step.of(row, t, s, FLOW, scale=flow_scale).without_x_0()
        assert step.prev_sample == pytest.approx(core.prev_sample, abs=1e-14)
        sigma = [level.sigma * flow_scale(level) for level in (t, s)]
        assert step.prev_sample == pytest.approx((1.0, sigma[1] - sigma[0], 0.0, 0.0), abs=1e-14)


def test_upwards_and_on_the_spot():
    scheduler = ours.FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(sigmas=[0.0, 0.3, 0.3, 1.0])
    x, sigmas = X, scheduler.sigmas.tolist()
    assert sigmas == pytest.approx([0.0, 0.3, 0.3, 1.0, 0.0])
    for i, s in enumerate(sigmas[1:]):
        scheduler.set_begin_index(i)
        scheduler._step_index = None
        x = scheduler.step(Z - X, scheduler.timesteps[i], x).prev_sample
        torch.testing.assert_close(x, path(s).float(), rtol=0, atol=1e-6)


def test_flow_towards_data_reads_the_other_sign():
    for a, s in ((1.0, 0.0), (0.6, 0.8), (0.0, 1.0)):
        for read in ("x_0", "eps"):
            of_x, of_output = getattr(FLOW, read)(a, s)
            assert getattr(TO_DATA, read)(a, s) == (of_x, -of_output)
    assert TO_DATA.target(0.6, 0.8) == tuple(-c for c in FLOW.target(0.6, 0.8))
    assert isinstance(TO_DATA, parameterisation.Parameterisation)


# --- where they differ ---


def test_strict_shifts_once():
    for name in (EULER, HEUN):
        for strict in (False, True):
            scheduler = getattr(ours, name)(shift=3.0, strict=strict)
            before = scheduler.sigmas
            scheduler.set_timesteps(1000)
            after = scheduler.sigmas[[0, *range(1, len(scheduler.sigmas) - 1, scheduler.order)]]
            assert torch.allclose(before, after, rtol=1e-6, atol=0) == strict
    theirs = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    before = theirs.sigmas
    theirs.set_timesteps(1000)
    assert not torch.allclose(before, theirs.sigmas[:-1]), "diffusers still shifts twice"


@pytest.mark.parametrize("config", [{}, {"invert_sigmas": True}])
def test_strict_gives_own_timesteps_their_levels(config):
    own = [900.0, 500.5, 20.0]
    strict = ours.FlowMatchEulerDiscreteScheduler(shift=3.0, strict=True, **config)
    mine, theirs = pair(EULER, shift=3.0, **config)
    for scheduler in (strict, mine, theirs):
        scheduler.set_timesteps(timesteps=own)
    assert strict.timesteps.tolist() == own
    torch.testing.assert_close(strict.sigmas[:-1] * 1000, torch.tensor(own))
    assert not torch.allclose(theirs.sigmas[:-1] * 1000, torch.tensor(own)), "diffusers still shifts them"
    assert torch.allclose(mine.sigmas, theirs.sigmas)
    strict.set_timesteps(timesteps=own, sigmas=[0.9, 0.5, 0.1])  # separately, as documented
    assert strict.timesteps.tolist() == own
    kept = torch.allclose(theirs.timesteps, torch.tensor(own))
    assert kept == (not config), "diffusers still discards timesteps where σ is inverted"


def test_noise_in_inverted_time():
    strict = ours.FlowMatchEulerDiscreteScheduler(invert_sigmas=True, strict=True)
    mine, theirs = pair(EULER, invert_sigmas=True)
    for scheduler in (strict, mine, theirs):
        scheduler.set_timesteps(4)
    start = theirs.timesteps[:1]
    assert torch.equal(theirs.scale_noise(X, start, Z), X), "diffusers still begins with the image itself"
    assert torch.equal(mine.scale_noise(X, start, Z), X)
    assert torch.equal(strict.scale_noise(X, start, Z), Z)


def test_fresh_noise_in_inverted_time_ends_in_noise_in_diffusers():
    theirs = diffusers.FlowMatchEulerDiscreteScheduler(stochastic_sampling=True, invert_sigmas=True)
    theirs.set_timesteps(4)
    generator, same = torch.Generator().manual_seed(0), torch.Generator().manual_seed(0)
    end = chain(theirs, Z, generator)
    drawn = [torch.randn(SHAPE, generator=same) for _ in range(4)]
    assert torch.equal(end, drawn[-1])


def test_tokens_with_fresh_noise_are_read_with_the_other_sign_in_strict():
    scheduler = ours.FlowMatchEulerDiscreteScheduler(stochastic_sampling=True, strict=True)
    scheduler.set_timesteps(4)
    tokens = scheduler.timesteps[[1, 2, 3]].expand(2, 3)
    x = path(tokens.double()[..., None] / 1000)
    generator, noise = (torch.Generator().manual_seed(6) for _ in range(2))
    options = {"per_token_timesteps": tokens, "generator": generator}
    seen = scheduler.step((X - Z).double(), scheduler.timesteps[0], x, **options).prev_sample
    drawn, below = torch.randn(SHAPE, generator=noise), scheduler.sigmas[[2, 3, 4]].double()[:, None]
    torch.testing.assert_close(seen, (1 - below) * X + below * drawn, rtol=0, atol=1e-7)


TERMINAL = [
    (EULER, {}),
    ("UniPCMultistepScheduler", {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}),
]


@pytest.mark.parametrize(("name", "config"), TERMINAL)
def test_one_step_with_a_terminal_shift(name, config):
    mine, theirs = pair(name, shift_terminal=0.1, **config)
    with np.errstate(invalid="ignore"):
        theirs.set_timesteps(1)
    assert theirs.sigmas.isnan().any()
    mine.set_timesteps(1)
    assert mine.sigmas.tolist() == pytest.approx([1.0, 0.0], abs=2e-6)
    assert mine.step(Z - X, mine.timesteps[0], Z).prev_sample.isfinite().all()


def test_heun_noises_by_the_timestep_that_is_given():
    mine, theirs = pair(HEUN, shift=2.0)
    results = []
    for scheduler in (mine, theirs):
        scheduler.set_timesteps(4)
        results.append([scheduler.scale_noise(X, t, Z) for t in scheduler.timesteps[[0, 3]]])
    assert torch.equal(*results[1]), "diffusers still noises as it did first"
    torch.testing.assert_close(results[0][0], results[1][0])
    sigma = float(mine.sigmas[3])
    torch.testing.assert_close(results[0][1], ((1 - sigma) * X + sigma * Z), rtol=0, atol=1e-6)
    assert mine.step_index is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_noise_in_half_precision_is_rounded_once(dtype):
    mine, theirs = pair(EULER)
    x, z, t = X.to(dtype), Z.to(dtype), mine.timesteps[[3]]
    exact = (0.003 * x.double() + 0.997 * z.double()).to(dtype)
    seen, peers = (scheduler.scale_noise(x, t, z) for scheduler in (mine, theirs))
    assert torch.equal(seen, exact)
    assert not torch.equal(peers, exact), "diffusers still rounds σ first"


def test_diffusers_still_takes_what_is_an_error_here():
    theirs = diffusers.FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True)
    theirs.set_timesteps(timesteps=[1200.0, 500.0, 100.0])
    assert theirs.sigmas[0] > 1
    assert not torch.allclose(theirs.sigmas[:-1] * 1000, theirs.timesteps), "own t on another spacing"
    images = []
    for options in ({}, {"s_churn": 5.0}):
        theirs.set_timesteps(3)
        images.append(theirs.step(Z, theirs.timesteps[0], X, **options).prev_sample)
    assert torch.equal(*images)
    lost = diffusers.FlowMatchEulerDiscreteScheduler.from_config(diffusers.DDPMScheduler(beta_end=0.5).config)
    assert "beta_end" not in lost.config or lost.shift == 1.0
