"""DPM-Solver-2 as drop-ins: what random chains do not meet, and exact answers."""

import copy
import functools
import inspect
import math

import diffusers
import pytest
import torch
from cases import check_error, normals

import alphabar.diffusers as ours
from alphabar import DPM2, Denoiser, sample
from alphabar.errors import ConfigError, TimestepError

diffusers.utils.logging.set_verbosity_error()
NAMES = ("KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler")
every = pytest.mark.parametrize("name", NAMES)
SHAPE = (2, 2, 3, 3)
X, Z = normals(*SHAPE, seed=1), normals(*SHAPE, seed=2)


@functools.cache
def _new_peer(name, options):
    return getattr(diffusers, name)(**dict(options))


def peer(name, **config):
    """The peer as it is when made: a copy, for it visits every t then."""
    return copy.deepcopy(_new_peer(name, tuple(config.items())))


def both(name, steps=6, **config):
    pair = [getattr(ours, name)(**config), peer(name, **config)]
    for scheduler in pair:
        scheduler.set_timesteps(steps)
    return pair


def run(scheduler, x, blend=lambda scheduler, x, i: x, first=0):
    generator = torch.Generator().manual_seed(0)
    takes = "generator" in inspect.signature(scheduler.step).parameters
    options = {"generator": generator} if takes else {}
    for i, t in enumerate(scheduler.timesteps[first:], first):
        x = blend(scheduler, x, i)
        output = torch.tanh(scheduler.scale_model_input(x, t) + 0.3 * x.roll(1, -1) / 100) + 0.1
        x = scheduler.step(output, t, x, **options).prev_sample
    return x


@every
@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("spacing", ["", "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"])
def test_timesteps_and_sigmas_have_the_peers_values_shapes_and_precision(name, steps, spacing):
    mine, theirs = both(name, steps, **({spacing: True} if spacing else {}))
    # diffusers looks t up by float32 σ, and rounds Karras' to whole ones
    torch.testing.assert_close(mine.timesteps, theirs.timesteps, rtol=0, atol=0.02)
    torch.testing.assert_close(mine.sigmas, theirs.sigmas, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(mine.init_noise_sigma, theirs.init_noise_sigma, rtol=1e-5, atol=0)


@every
def test_before_timesteps_are_set_all_of_them_are(name):
    mine, theirs = getattr(ours, name)(), peer(name)
    torch.testing.assert_close(mine.timesteps, theirs.timesteps, rtol=0, atol=0.05)
    torch.testing.assert_close(mine.sigmas, theirs.sigmas, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", [*NAMES, "HeunDiscreteScheduler"])
def test_spacing_over_another_number_of_training_timesteps(name):
    mine, theirs = getattr(ours, name)(), peer(name)
    for scheduler in (mine, theirs):
        scheduler.set_timesteps(5, num_train_timesteps=500)
    torch.testing.assert_close(mine.timesteps, theirs.timesteps, rtol=0, atol=0.02)
    check_error(lambda: mine.set_timesteps(5, num_train_timesteps=1500), TimestepError, "1499")
    check_error(lambda: mine.set_timesteps(0), ConfigError, "num_inference_steps is 0")


# --- within a step ---


@every
def test_whether_a_step_begins_is_known_at_each_evaluation(name):
    stages = [[], []]
    for scheduler, seen in zip(both(name, 5), stages, strict=True):
        run(
            scheduler,
            X * 10,
            lambda scheduler, x, i, seen=seen: seen.append(scheduler.state_in_first_order) or x,
        )
    assert stages[0] == stages[1]


@every
def test_a_sample_that_is_changed_between_evaluations(name):
    """Inpainting pastes into the sample at each step: the second stage begins where the first one did."""
    ends = [
        run(scheduler, X * scheduler.init_noise_sigma, lambda _, x, i: x + 0.1 * Z if i % 2 else x)
        for scheduler in both(name)
    ]
    torch.testing.assert_close(*ends, rtol=1e-4, atol=1e-4)


@every
def test_noising_for_the_middle_of_a_step_is_that_of_its_end_unless_strict(name):
    mine, theirs = both(name)
    strict = getattr(ours, name)(strict=True)
    strict.set_timesteps(6)
    for at in (4, 5):
        t = strict.timesteps[at : at + 1]
        noisy = [
            scheduler.add_noise(X[:1], Z[:1], scheduler.timesteps[at : at + 1])
            for scheduler in (mine, theirs)
        ]
        torch.testing.assert_close(*noisy, rtol=1e-5, atol=1e-5)
        level = strict._run.evaluations[at].sigma_ve
        torch.testing.assert_close(
            strict.add_noise(X[:1], Z[:1], t), X[:1] + level * Z[:1], rtol=1e-3, atol=1e-3
        )
    assert abs(noisy[1] - X[:1] - level * Z[:1]).max() > 0.1 or name == NAMES[1], "no longer so"


@every
def test_a_run_begun_in_the_middle_of_a_step_goes_on_from_its_end(name):
    """With z for ε̂ the path is straight, and without noise each state on it is known."""
    scheduler = getattr(ours, name)()
    scheduler.set_timesteps(6)
    levels, t = scheduler._run.evaluations, scheduler.timesteps
    x = scheduler.step(Z, t[3], X + levels[3].sigma_ve * Z).prev_sample
    torch.testing.assert_close(x, X + levels[4].sigma_ve * Z, rtol=1e-5, atol=1e-5)
    assert scheduler.state_in_first_order
    x = scheduler.step(Z, t[4], x).prev_sample
    torch.testing.assert_close(x, X + levels[5].sigma_ve * Z, rtol=1e-5, atol=1e-5)


# --- exact answers ---


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_a_network_that_knows_the_answer_reaches_it(prediction):
    scheduler = ours.KDPM2DiscreteScheduler(prediction_type=prediction)
    scheduler.set_timesteps(5)
    x = X + float(scheduler.sigmas[0]) * Z
    for level, t in zip(scheduler._run.evaluations, scheduler.timesteps, strict=False):
        targets = {"epsilon": Z, "v_prediction": level.signal * Z - level.sigma * X, "sample": X}
        x, x_0 = scheduler.step(targets[prediction], t, x, return_dict=False)
        torch.testing.assert_close(x_0, X, rtol=0, atol=1e-5)
    torch.testing.assert_close(x, X, rtol=0, atol=1e-6)


@every
def test_the_chain_is_the_cores(name):
    """The drop-in in strict mode, and the sampler on the same levels with the same noise."""
    scheduler = getattr(ours, name)(strict=True, timestep_spacing="trailing")
    scheduler.set_timesteps(6)
    starts = [int(t) for t in scheduler.timesteps[::2]]
    plan = DPM2(spacing=starts, eta=scheduler.solver.eta).plan(scheduler.schedule)
    network = lambda x, t: torch.tanh(x + 0.1)  # noqa: E731
    x = X / scheduler._run.evaluations[0].signal
    drawn = torch.Generator().manual_seed(3)
    takes = "generator" in inspect.signature(scheduler.step).parameters
    for t in scheduler.timesteps:
        output = network(scheduler.scale_model_input(x, t), t)
        x = scheduler.step(output, t, x, **({"generator": drawn} if takes else {})).prev_sample
    generator = torch.Generator().manual_seed(3)
    core = sample(
        Denoiser(network, scheduler.schedule), SHAPE, plan, x_t=X, dtype=torch.float64,
        generator=generator, progress=False,
    )  # fmt: skip
    torch.testing.assert_close(x, core, rtol=0, atol=1e-6)


def test_the_ancestral_chain_keeps_a_gaussian():
    """Of data N(0, c²) every state is a Gaussian: the noise of each step makes up for what it went below."""
    scheduler, width = ours.KDPM2AncestralDiscreteScheduler(strict=True, timestep_spacing="trailing"), 0.5
    scheduler.set_timesteps(60)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 1, 200, 200, generator=generator, dtype=torch.float64)
    x *= math.hypot(scheduler._run.evaluations[0].sigma_ve, width)
    for level, t in zip(scheduler._run.evaluations, scheduler.timesteps, strict=False):
        sigma = level.sigma_ve
        eps = sigma / (sigma**2 + width**2) * x  # ε̂ of the posterior mean
        x = scheduler.step(eps, t, x, generator=generator).prev_sample
    assert float(x.std()) == pytest.approx(width, rel=0.03)
