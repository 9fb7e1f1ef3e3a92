"""The drop-in schedulers as diffusers' own: constructors, configurations, files, places in the run, state."""

import copy
import inspect
import json
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import diffusers
import numpy as np
import pytest
import torch
from cases import check_error, normals

import alphabar.diffusers as ours
from alphabar import NoiseSchedule
from alphabar.diffusers.adapter import SCHEDULERS
from alphabar.errors import (
    ConfigError,
    NoAnswerError,
    ScheduleError,
    ShapeError,
    TimestepError,
    UnknownNameError,
)

diffusers.utils.logging.set_verbosity_error()
every = pytest.mark.parametrize("name", SCHEDULERS)
SHAPE = (2, 2, 3, 3)
X, Z = normals(*SHAPE, seed=1, dtype=torch.float32), normals(*SHAPE, seed=2, dtype=torch.float32)


def peer(name):
    return getattr(diffusers, name)


def made(name, **config):
    return getattr(ours, name)(**config)


# --- constructors and configurations ---


@every
def test_arguments_and_defaults_are_the_peers(name):
    mine, theirs = (inspect.signature(kind.__init__).parameters for kind in (SCHEDULERS[name], peer(name)))
    assert [p for p in mine if p != "strict"] == list(theirs)
    assert all(mine[p].default == theirs[p].default for p in theirs if p != "kwargs")
    for method in ("step", "set_timesteps"):
        mine, theirs = (getattr(kind, method) for kind in (SCHEDULERS[name], peer(name)))
        assert list(inspect.signature(mine).parameters) == list(inspect.signature(theirs).parameters)


@every
def test_the_config_is_the_peers(name):
    assert {**made(name).config} == {**peer(name)().config} | {
        "_use_default_values": made(name).config["_use_default_values"]
    }
    assert SCHEDULERS[name]._compatibles == peer(name)._compatibles
    assert len(made(name)) == 1000
    assert made(name).order == peer(name).order
    check_tables(made(name), peer(name)())


def check_tables(mine, theirs):
    for table in ("betas", "alphas", "alphas_cumprod"):
        torch.testing.assert_close(getattr(mine, table), getattr(theirs, table), rtol=0, atol=1e-6)


@every
def test_a_saved_scheduler_opens_in_diffusers_alone_and_back(name, tmp_path):
    made(name, beta_end=0.015, strict=True).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "scheduler_config.json").read_text())["_class_name"] == name
    if name == "DDPMScheduler":  # once, in a fresh interpreter
        opened = f"diffusers.{name}.from_pretrained(sys.argv[1])"
        code = f"import diffusers, sys; print({opened}.config.beta_end, 'alphabar' in sys.modules)"
        run = subprocess.run(
            [sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True
        )
        assert run.stdout.split() == ["0.015", "False"]
    assert "strict" not in peer(name).from_pretrained(tmp_path).config
    assert SCHEDULERS[name].from_pretrained(tmp_path, strict=True).strict
    again = SCHEDULERS[name].from_pretrained(tmp_path)
    assert not again.strict
    assert again.config.beta_end == 0.015


@every
def test_from_another_schedulers_config(name):
    for other in (diffusers.PNDMScheduler(beta_end=0.013), made("EulerDiscreteScheduler", beta_end=0.013)):
        scheduler = SCHEDULERS[name].from_config(other.config, prediction_type="v_prediction")
        assert (scheduler.config.beta_end, scheduler.config.prediction_type) == (0.013, "v_prediction")


def test_options_of_siblings_become_its_own():
    config = ours.UniPCMultistepScheduler.from_config(ours.DPMSolverMultistepScheduler().config).config
    assert config.solver_type == "bh2"
    assert (
        ours.DEISMultistepScheduler(algorithm_type="dpmsolver++", solver_type="midpoint").config.solver_type
        == "logrho"
    )


def test_what_is_wrong_is_named():
    check_error(lambda: made("DDPMScheduler", beta_end=5.0), ScheduleError, "beta_end")
    check_error(
        lambda: made("DDPMScheduler", variance_type="fixed_smal"),
        UnknownNameError,
        "fixed_smal",
        "fixed_small",
    )
    check_error(lambda: made("DDIMScheduler", prediction_type="eps"), UnknownNameError, "'epsilon'")
    check_error(
        lambda: made("DPMSolverMultistepScheduler", prediction_type="flow_prediction"), ConfigError, "flow"
    )
    scheduler = made("DPMSolverMultistepScheduler", use_flow_sigmas=True)
    check_error(lambda: scheduler.set_timesteps(5), ConfigError, "use_flow_sigmas")
    with pytest.raises(TypeError, match="betas_end"):
        made("DDPMScheduler", betas_end=1.0)
    check_error(
        lambda: made("DDIMScheduler", steps_offset=1).set_timesteps(1000),
        TimestepError,
        "1000",
        "steps_offset",
    )
    check_error(lambda: made("DDPMScheduler").set_timesteps(1001), TimestepError, "1001")
    check_error(lambda: made("DDPMScheduler").set_timesteps(timesteps=[3, 5]), TimestepError, "descending")
    check_error(lambda: made("DDPMScheduler").set_timesteps(5, timesteps=[3]), ConfigError, "one of")
    check_error(lambda: made("DDIMScheduler").step(Z, 5, X), ConfigError, "set_timesteps")
    check_error(lambda: made("DDPMScheduler").step(Z[:, :1], 5, X), ShapeError, "(2, 1, 3, 3)")
    check_error(lambda: made("DDPMScheduler").add_noise(X, Z, torch.tensor([-1, 5])), TimestepError, "-1")
    check_error(lambda: made("DDPMScheduler").add_noise(X, Z, torch.tensor([1000])), TimestepError, "1000")
    zero = made("DDPMScheduler", rescale_betas_zero_snr=True)
    check_error(lambda: zero.step(Z, 999, X), NoAnswerError, "v_prediction")


# --- protocol ---


@every
def test_timesteps_device_and_outputs(name):
    mine, theirs = made(name), peer(name)()
    for scheduler in (mine, theirs):
        scheduler.set_timesteps(8, device="cpu")
    torch.testing.assert_close(mine.timesteps, theirs.timesteps)
    t = mine.timesteps[0]
    for scheduler in (mine, theirs):
        scheduler.scale_model_input(X, t)
    output = mine.step(Z, t, X)
    assert type(output) is type(theirs.step(Z, t, X))
    assert torch.equal(output[0], output.prev_sample)
    assert torch.equal(output["prev_sample"], output.to_tuple()[0])
    tuples = [
        scheduler.fork() if scheduler is mine else copy.deepcopy(scheduler) for scheduler in (mine, theirs)
    ]
    assert len({len(scheduler.step(Z, mine.timesteps[1], X, return_dict=False)) for scheduler in tuples}) == 1


def test_custom_timesteps_and_sigmas():
    mine = made("DDPMScheduler")
    mine.set_timesteps(timesteps=[900, 50, 3])
    assert [int(mine.previous_timestep(t)) for t in (900, 50, 3)] == [50, 3, -1]
    for name, given in [
        ("DPMSolverMultistepScheduler", {"timesteps": [900, 50, 3]}),
        ("EulerDiscreteScheduler", {"timesteps": [900, 50, 3]}),
        ("EulerDiscreteScheduler", {"sigmas": [10.0, 2.0, 0.3, 0.0]}),
        ("HeunDiscreteScheduler", {"timesteps": [900, 50, 3]}),
    ]:
        mine, theirs = made(name), peer(name)()
        for scheduler in (mine, theirs):
            scheduler.set_timesteps(**given)
        torch.testing.assert_close(mine.timesteps, theirs.timesteps, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(mine.sigmas, theirs.sigmas, rtol=1e-5, atol=1e-6)


SOLVERS = [
    name for name in SCHEDULERS if name not in ("DDPMScheduler", "DDIMScheduler", "DDIMInverseScheduler")
]


# Not the two whose peers begin wrongly: LMS with the weights of a run under way, PNDM a step further on.
@pytest.mark.parametrize("name", [name for name in SOLVERS if name[:3] not in ("LMS", "PND")])
def test_beginning_within_the_run_as_image_to_image_does(name):
    ends = []
    for kind in (SCHEDULERS[name], peer(name)):
        scheduler, generator = kind(), torch.Generator().manual_seed(0)
        scheduler.set_timesteps(10)
        scheduler.set_begin_index(4 * scheduler.order)
        x = scheduler.add_noise(X, Z, scheduler.timesteps[4 * scheduler.order :][:1])
        options = (
            {"generator": generator} if "generator" in inspect.signature(scheduler.step).parameters else {}
        )
        for t in scheduler.timesteps[4 * scheduler.order :]:
            output = torch.tanh(scheduler.scale_model_input(x, t)) + 0.1
            x = scheduler.step(output, t, x, **options).prev_sample
        ends.append(x)
    torch.testing.assert_close(*ends, rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_start_scale_and_model_input(name):
    mine, theirs = made(name), peer(name)()
    for scheduler in (mine, theirs):
        scheduler.set_timesteps(10)
    torch.testing.assert_close(
        float(mine.init_noise_sigma), float(theirs.init_noise_sigma), rtol=1e-5, atol=0
    )
    t = mine.timesteps[2]
    torch.testing.assert_close(
        mine.scale_model_input(X, t), theirs.scale_model_input(X, t), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log"])
def test_variances_are_the_peers(variance):
    mine, theirs = (
        made("DDPMScheduler", variance_type=variance),
        diffusers.DDPMScheduler(variance_type=variance),
    )
    for t in (1, 487, 999):
        torch.testing.assert_close(mine._get_variance(t), theirs._get_variance(t), rtol=2e-3, atol=0)
    ddim, theirs = made("DDIMScheduler"), diffusers.DDIMScheduler()
    for t, s in ((420, 400), (980, 960), (0, -1)):
        torch.testing.assert_close(ddim._get_variance(t, s), theirs._get_variance(t, s), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_noise_in_any_precision(dtype):
    schedule, t = NoiseSchedule.linear(), torch.tensor([5, 400])
    scales = [table[t].reshape(2, 1, 1, 1) for table in (schedule.signal_scale, schedule.noise_scale)]
    x, z = X.to(dtype), Z.to(dtype)
    exact = scales[0] * x.double() + scales[1] * z.double()
    for name in ("DDPMScheduler", "DPMSolverMultistepScheduler"):
        noisy = made(name).add_noise(x, z, t)
        assert noisy.dtype == dtype
        torch.testing.assert_close(
            noisy.double(), exact, rtol=torch.finfo(dtype).eps, atol=torch.finfo(dtype).eps
        )
    for one in (5, 400):
        noisy = made("DDPMScheduler").add_noise(X, Z, torch.tensor([one]))
        torch.testing.assert_close(
            noisy[0], made("DDPMScheduler").add_noise(X, Z, torch.tensor([one, one]))[0]
        )


@every
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_half_and_near(name, dtype):
    ends = []
    for kind in (torch.float32, dtype):
        scheduler = made(name)
        scheduler.set_timesteps(5)
        x = X.to(dtype).to(kind)
        for t in scheduler.timesteps[:2]:
            output = scheduler.scale_model_input(x, t) * 0.5
            x = scheduler.step(output, t, x, **seeded(scheduler)).prev_sample
            assert x.dtype == kind
        ends.append(x.float())
    if name not in (
        "DDPMScheduler",
        "EulerAncestralDiscreteScheduler",
    ):  # whose noise is drawn in this precision
        torch.testing.assert_close(ends[1], ends[0], rtol=0.05, atol=0.05)


def seeded(scheduler):
    takes = "generator" in inspect.signature(scheduler.step).parameters
    return (
        {"generator": torch.Generator().manual_seed(0)}
        if takes and not scheduler.config.get("solver_order")
        else {}
    )


# --- more than the peer does ---


@pytest.mark.parametrize("name", ["DDPMScheduler", "DDIMScheduler", "DDIMInverseScheduler"])
def test_each_sample_at_its_own_t(name):
    scheduler = made(name)
    scheduler.set_timesteps(10)
    first, second = scheduler.timesteps[2], scheduler.timesteps[7]
    torch.manual_seed(0)
    both = scheduler.step(Z, torch.stack([first, second]), X).prev_sample
    for i, t in enumerate((first, second)):
        torch.manual_seed(0)
        torch.testing.assert_close(both[i], scheduler.step(Z, t, X).prev_sample[i])


def test_each_sample_at_its_own_t_with_a_learned_variance():
    scheduler, output = made("DDPMScheduler", variance_type="learned_range"), torch.cat([Z, X], 1)
    torch.manual_seed(0)
    both = scheduler.step(output, torch.tensor([30, 700]), X).prev_sample
    torch.manual_seed(0)
    torch.testing.assert_close(both[1], scheduler.step(output, 700, X).prev_sample[1])


def test_a_solver_refuses_a_t_for_each_sample():
    scheduler = made("DPMSolverMultistepScheduler")
    scheduler.set_timesteps(5)
    check_error(lambda: scheduler.step(Z, scheduler.timesteps[:2], X), ShapeError, "DDPM")


@every
def test_forks_run_side_by_side_in_threads(name):
    scheduler = made(name)
    scheduler.set_timesteps(6)

    def request(seed):
        own, x = scheduler.fork(), X + seed
        for t in own.timesteps:
            options = (
                {"generator": torch.Generator().manual_seed(3)}
                if "generator" in inspect.signature(own.step).parameters
                else {}
            )
            x = own.step(torch.tanh(own.scale_model_input(x, t)), t, x, **options).prev_sample
        return x

    alone = [request(seed) for seed in range(6)]
    with ThreadPoolExecutor(6) as pool:
        for one, other in zip(alone, pool.map(request, range(6)), strict=True):
            assert torch.equal(one, other)


@every
def test_copies_and_pickles(name):
    scheduler = made(name, beta_end=0.015)
    scheduler.set_timesteps(6)
    for twin in (copy.deepcopy(scheduler), pickle.loads(pickle.dumps(scheduler))):
        assert type(twin) is type(scheduler)
        assert twin.config == scheduler.config
        t = scheduler.timesteps[0]
        steps = [
            s.step(Z, t, s.scale_model_input(X, t), **seeded(s)).prev_sample for s in (twin, scheduler.fork())
        ]
        torch.testing.assert_close(*steps)


def test_strict_lands_on_the_t_that_is_visited_next():
    for strict, landed in ((True, 888), (False, 899)):
        scheduler = made("DDIMScheduler", timestep_spacing="linspace", clip_sample=False, strict=strict)
        scheduler.set_timesteps(10)
        clean, schedule = normals(*SHAPE, seed=3, dtype=torch.float32), scheduler.schedule
        x, expected = (schedule.signal_scale[t] * clean + schedule.noise_scale[t] * Z for t in (999, landed))
        torch.testing.assert_close(
            scheduler.step(Z, 999, x.float()).prev_sample, expected.float(), rtol=0, atol=1e-4
        )


def test_strict_adds_no_noise_to_the_finished_image():
    for strict, spread in ((True, 0.0), (False, 0.3)):
        scheduler = made(
            "DDPMScheduler", variance_type="fixed_large", timestep_spacing="trailing", strict=strict
        )
        scheduler.set_timesteps(10)
        zero = torch.zeros(1, 1, 32, 32)
        assert scheduler.step(zero, scheduler.timesteps[-1], zero).prev_sample.std() >= spread
        assert strict <= (scheduler.step(zero, scheduler.timesteps[-1], zero).prev_sample.std() == 0)


def test_strict_starts_a_solver_with_the_variance_it_needs():
    for strict, square in ((True, 1.0), (False, 0.0)):
        scheduler = made("EulerDiscreteScheduler", strict=strict)
        assert float(scheduler.init_noise_sigma**2 - scheduler.sigmas.max() ** 2) == pytest.approx(
            square, abs=0.01
        )


# --- in the place of diffusers' own ---


def test_install_and_undo():
    from diffusers.pipelines.ddim import pipeline_ddim

    theirs = {name: peer(name) for name in SCHEDULERS}
    with ours.install():
        assert all(peer(name) is kind for name, kind in SCHEDULERS.items())
        assert pipeline_ddim.DDIMScheduler is ours.DDIMScheduler
        assert type(diffusers.DDIMPipeline(None, diffusers.DDPMScheduler()).scheduler) is ours.DDIMScheduler
    assert {name: peer(name) for name in SCHEDULERS} == theirs
    assert pipeline_ddim.DDIMScheduler is theirs["DDIMScheduler"]
    installed = ours.install()
    assert diffusers.DDPMScheduler is ours.DDPMScheduler
    installed.undo()
    assert diffusers.DDPMScheduler is theirs["DDPMScheduler"]


def test_a_pipeline_names_its_scheduler_as_diffusers_does(tmp_path):
    network = diffusers.UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8, 8), norm_num_groups=4,
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2, layers_per_block=1,
    )  # fmt: skip
    images = []
    for kind in (ours.DDPMScheduler, diffusers.DDPMScheduler):
        pipeline = diffusers.DDPMPipeline(network, kind())
        pipeline.set_progress_bar_config(disable=True)
        images.append(
            pipeline(
                num_inference_steps=4, generator=torch.Generator().manual_seed(0), output_type="np"
            ).images
        )
        pipeline.save_pretrained(tmp_path)
        assert json.loads((tmp_path / "model_index.json").read_text())["scheduler"] == [
            "diffusers",
            "DDPMScheduler",
        ]
    np.testing.assert_allclose(*images, rtol=0, atol=1e-4)
    assert type(diffusers.DDPMPipeline.from_pretrained(tmp_path).scheduler) is diffusers.DDPMScheduler
