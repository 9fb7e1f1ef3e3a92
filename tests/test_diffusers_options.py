"""Options and habits of diffusers' schedulers that a run over a grid of configurations does not meet."""

import math

import diffusers
import numpy as np
import pytest
import torch
from cases import normals

import alphabar.diffusers as ours
from alphabar.errors import ConfigError

SHAPE = (2, 2, 3, 3)
X, Z = normals(*SHAPE, seed=1, dtype=torch.float32), normals(*SHAPE, seed=2, dtype=torch.float32)


def both(name, steps=10, **config):
    """Ours and the peer's, with their timesteps set."""
    pair = [getattr(library, f"{name}Scheduler")(**config) for library in (ours, diffusers)]
    for scheduler in pair:
        scheduler.set_timesteps(steps)
    return pair


def network(x):
    return torch.tanh(x + 0.3 * x.roll(1, -1)) + 0.1


def run(scheduler, x, blend=lambda x, i: x, **options):
    for i, t in enumerate(scheduler.timesteps):
        x = blend(x, i)
        x = scheduler.step(network(scheduler.scale_model_input(x, t)), t, x, **options).prev_sample
    return x


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("churn", [{}, {"s_tmin": 0.3, "s_tmax": 20.0, "s_noise": 1.01}])
def test_churn(prediction, churn):
    ends = []
    for scheduler in both("EulerDiscrete", prediction_type=prediction):
        x, generator = X * scheduler.init_noise_sigma, torch.Generator().manual_seed(0)
        ends.append(run(scheduler, x, s_churn=3.0, generator=generator, **churn))
    torch.testing.assert_close(*ends, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("HeunDiscrete", {}),
        ("DPMSolverSinglestep", {"solver_order": 3}),
        ("DPMSolverSinglestep", {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"}),
        ("PNDM", {}),
        ("PNDM", {"skip_prk_steps": True, "prediction_type": "v_prediction"}),
    ],
)
def test_a_sample_that_is_changed_between_evaluations(name, config):
    """Inpainting pastes into the sample at each step: later evaluations begin where the first one did."""
    ends = [
        run(scheduler, X * scheduler.init_noise_sigma, lambda x, i: x + 0.1 * Z if i % 2 else x)
        for scheduler in both(name, **config)
    ]
    torch.testing.assert_close(*ends, rtol=1e-4, atol=1e-4)


def test_strict_lms_begun_midway_builds_its_order_up():
    ends = []
    for scheduler in (*both("LMSDiscrete"), ours.LMSDiscreteScheduler(strict=True)):
        scheduler.set_timesteps(10)
        scheduler.set_begin_index(6)
        x = X
        for t in scheduler.timesteps[6:]:
            x = scheduler.step(network(scheduler.scale_model_input(x, t)), t, x).prev_sample
        ends.append(x)
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-4, atol=1e-4)
    assert (ends[2] - ends[1]).abs().max() > 0.01, "no longer so: diffusers uses weights of a whole run"


def test_noise_before_the_timesteps_are_set():
    t, ends = torch.tensor([100, 900]), []
    for library in (ours, diffusers):
        ends.append(library.DPMSolverMultistepScheduler().add_noise(X, Z, t))
    expected = ours.DDPMScheduler().add_noise(X, Z, t)
    torch.testing.assert_close(ends[0], expected)
    mirrored = diffusers.DDPMScheduler().add_noise(X, Z, 999 - t)
    torch.testing.assert_close(ends[1], mirrored, rtol=1e-4, atol=1e-4)  # no longer so when this fails


@pytest.mark.parametrize("spacing", ["use_exponential_sigmas", "use_beta_sigmas"])
def test_spacings_cut_off(spacing):
    gaps = []
    for steps in (5, 7, 20, 50):
        mine, theirs = both("UniPCMultistep", steps, beta_schedule="squaredcos_cap_v2", **{spacing: True})
        torch.testing.assert_close(mine.sigmas, theirs.sigmas, rtol=1e-4, atol=1e-5)
        gaps.append((mine.timesteps - theirs.timesteps).abs().max())
    assert max(gaps) == 1, "no longer so: diffusers cuts off t after a rounding error"


@pytest.mark.parametrize("sigmas", [None, np.array([1.0, 0.7, 0.3])])
@pytest.mark.parametrize(
    "config", [{}, {"shift_terminal": 0.1}, {"use_dynamic_shifting": True}, {"flow_shift": 5.0}]
)
def test_flow_matching_with_shifts(config, sigmas):
    ends = []
    for library in (ours, diffusers):
        scheduler = library.UniPCMultistepScheduler(
            use_flow_sigmas=True, prediction_type="flow_prediction", **config
        )
        given = {"sigmas": sigmas.copy()} if sigmas is not None else {"num_inference_steps": 8}
        scheduler.set_timesteps(**given, mu=0.5 if "use_dynamic_shifting" in config else None)
        ends.append((scheduler.timesteps, scheduler.sigmas, run(scheduler, X)))
    for mine, theirs in zip(*ends, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-3)


def test_flow_matching_in_eps_is_refused():
    for config in ({"predict_x0": False}, {"solver_p": 1}):
        with pytest.raises(ConfigError):
            ours.UniPCMultistepScheduler(use_flow_sigmas=True, **config).set_timesteps(5)
    with pytest.raises(ConfigError, match="spacing of its own"):
        ours.DEISMultistepScheduler(use_flow_sigmas=True, use_karras_sigmas=True).set_timesteps(5)


@pytest.mark.parametrize("prediction", ["flow_prediction", "epsilon", "v_prediction", "sample"])
def test_flow_matching_recovers_what_the_network_knows(prediction):
    """A network that knows x_0 and z leads along (1−σ) · x_0 + σ · z; diffusers' reading of v does not."""
    ends = []
    for strict in (True, False):
        scheduler = ours.DPMSolverMultistepScheduler(
            use_flow_sigmas=True, prediction_type=prediction, flow_shift=3.0, strict=strict
        )
        scheduler.set_timesteps(6)
        clean, noise, sample = X.double(), Z.double(), None
        sigmas = [level.sigma / (level.sigma + level.signal) for level in scheduler._run.evaluations]
        for t, sigma in zip(scheduler.timesteps, sigmas, strict=False):
            expected = (1 - sigma) * clean + sigma * noise
            sample = expected if sample is None else sample
            if strict:
                torch.testing.assert_close(sample, expected, rtol=1e-6, atol=1e-6)
            size = math.hypot(1 - sigma, sigma)
            answers = {
                "flow_prediction": noise - clean,
                "epsilon": noise,
                "v_prediction": ((1 - sigma) * noise - sigma * clean) / size,
                "sample": clean,
            }
            sample = scheduler.step(answers[prediction], t, sample).prev_sample
        ends.append((sample - clean).abs().max())
    assert ends[0] < 1e-6
    assert (ends[1] > 0.01) == (prediction == "v_prediction"), "no longer so"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["DDIM", "DDPM"])
def test_step_compiles_whole(name):
    scheduler, _ = both(name)
    t = int(scheduler.timesteps[3])

    def step(output, sample):
        torch.manual_seed(0)
        return scheduler.step(output, t, sample, return_dict=False)[0]

    plain = torch.compile(
        lambda output, sample: scheduler.step(output, t, sample, return_dict=False)[0],
        fullgraph=True,
        backend="aot_eager",
    )
    scheduler.step(Z, t, X)
    torch.manual_seed(0)
    compiled = plain(Z, X)
    torch.testing.assert_close(compiled, step(Z, X))
