"""Fitted tables in diffusers' protocol and pipelines: the chain is that of this library's own loop."""

import pytest
import torch
from cases import check_error, normals

diffusers = pytest.importorskip("diffusers")

from test_pipelines import stable_diffusion, unet  # noqa: E402

from alphabar import Clipped, Denoiser, DPMSolver, FittedTable, NoiseSchedule, fit, sample  # noqa: E402
from alphabar.diffusers import FittedScheduler  # noqa: E402
from alphabar.errors import (  # noqa: E402
    ConfigError,
    NoAnswerError,
    ShapeError,
    TimestepError,
    UnknownNameError,
)
from alphabar.samplers import Distance, Heun  # noqa: E402

COSINE, LINEAR = NoiseSchedule.cosine(), NoiseSchedule.linear()
LATENT = NoiseSchedule.scaled_linear()


def table(steps=4, schedule=COSINE):
    plan = DPMSolver(steps, order=3, lower_order_final=False, spacing="trailing").plan(schedule)
    return FittedTable(plan, schedule, "by hand", Distance(1, 1), Distance(0.5, 0.5))


def network(x_t, t):
    return 0.5 * x_t.tanh() + (t.float() / 1000).reshape(-1, 1)


def run(scheduler, steps, x, begin=0):
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps[begin:]:
        x = scheduler.step(network(scheduler.scale_model_input(x, t), t.expand(len(x))), t, x).prev_sample
    return x


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("clips", [False, True])
def test_its_chain_is_that_of_the_loop(kind, clips):
    denoiser = Denoiser(network, LINEAR, kind)
    x_t, scheduler = normals(3, 5).float(), FittedScheduler.of(
        table(4, LINEAR), table(6, LINEAR), prediction_type=kind, clip_sample=clips, clip_sample_range=0.7
    )  # fmt: skip
    for steps in (6, 4, 4):
        asked = Clipped(denoiser, 0.7) if clips else denoiser
        expected = sample(asked, x_t.shape, table(steps, LINEAR), x_t=x_t, progress=False)
        torch.testing.assert_close(run(scheduler, steps, x_t), expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("named", [False, True])
def test_begun_on_the_way_it_has_the_rows_from_there(named):
    scheduler = FittedScheduler.of(table(6), prediction_type="v_prediction")
    scheduler.set_timesteps(6)
    t = table(6).table.timesteps[2]
    x_0, noise = normals(3, 5).float(), normals(3, 5, seed=1).float()
    x_t = scheduler.add_noise(x_0, noise, scheduler.timesteps[2].expand(3))
    denoiser = Denoiser(network, COSINE, "v_prediction")
    expected = sample(denoiser, x_t.shape, table(6), x_t=x_t, t_start=t, progress=False)
    if named:
        scheduler.set_begin_index(2)
        assert scheduler.begin_index == 2
    for at in scheduler.timesteps[2:]:
        x_t = scheduler.step(network(x_t, at.expand(3)), at, x_t, return_dict=False)[0]
    torch.testing.assert_close(x_t, expected, rtol=2e-5, atol=2e-5)
    assert scheduler.step_index == 6


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_step_in_half_precision_is_the_wide_one_rounded(dtype):
    scheduler, wide = (FittedScheduler.of(table(3), prediction_type="v_prediction") for _ in range(2))
    x = normals(2, 4).to(dtype)
    for each in (scheduler, wide):
        each.set_timesteps(3)
    t = scheduler.timesteps[0]
    found = scheduler.step(x, t, x).prev_sample
    assert found.dtype == dtype
    assert torch.equal(found, wide.step(x.float(), t, x.float()).prev_sample.to(dtype))


def test_it_comes_back_from_a_folder_alone_and_in_a_pipeline(tmp_path):
    scheduler = FittedScheduler.of(table(3), prediction_type="v_prediction", clip_sample=True)
    scheduler.save_pretrained(tmp_path / "alone")
    again = FittedScheduler.from_pretrained(tmp_path / "alone")
    assert again.tables == scheduler.tables and len(again) == 1000
    x_t = normals(2, 3).float()
    assert torch.equal(run(again, 3, x_t), run(scheduler, 3, x_t))

    pipeline = diffusers.DDPMPipeline(unet(), scheduler)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.save_pretrained(tmp_path / "pipeline")
    opened = diffusers.DDPMPipeline.from_pretrained(tmp_path / "pipeline")
    opened.set_progress_bar_config(disable=True)
    assert type(opened.scheduler) is FittedScheduler

    def images(made):
        return made(
            num_inference_steps=3, generator=torch.Generator().manual_seed(0), output_type="np"
        ).images

    assert (images(opened) == images(pipeline)).all()


def test_a_table_fitted_to_a_guided_pipeline_runs_in_it(tmp_path):
    parts = stable_diffusion(tmp_path)
    pipeline = diffusers.StableDiffusionPipeline(
        **parts, scheduler=diffusers.DDIMScheduler(clip_sample=False, steps_offset=1)
    )
    pipeline.set_progress_bar_config(disable=True)
    schedule = NoiseSchedule.from_config(pipeline.scheduler.config)
    with torch.no_grad():
        embedded = pipeline.encode_prompt("a cat", "cpu", 1, True, negative_prompt="dog")
    texts = torch.cat([embedded[1], embedded[0]])

    def guided(x_t, t):
        pairs, context = torch.cat([x_t, x_t]), texts.repeat_interleave(len(x_t), 0)
        without, given = parts["unet"](pairs, t.repeat(2), encoder_hidden_states=context).sample.chunk(2)
        return without + 3.0 * (given - without)

    denoiser = Denoiser(guided, schedule, "epsilon")
    quick = {"batches": 1, "held_out": 1, "teacher": Heun(5), "start": DPMSolver(3), "progress": False}
    made = fit(denoiser, (2, 4, 8, 8), 3, updates=4, **quick)
    assert made.after.rms <= made.before.rms
    pipeline.scheduler = FittedScheduler.of(made)
    x_t = normals(1, 4, 8, 8).float()
    asked = {"prompt": "a cat", "negative_prompt": "dog", "guidance_scale": 3.0, "latents": x_t}
    found = pipeline(**asked, num_inference_steps=3, output_type="latent").images
    expected = sample(denoiser, x_t.shape, made, x_t=x_t, progress=False)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


def stepped(*shapes, t=None, steps=3, **options):
    scheduler = FittedScheduler.of(table(3), **options)
    scheduler.set_timesteps(steps)
    at = scheduler.timesteps[0] if t is None else t
    return scheduler.step(*(torch.zeros(shape) for shape in shapes[:1]), at, torch.zeros(shapes[-1]))


def test_what_makes_no_scheduler_or_step_is_named():
    damaged = table().to_json() | {"rows": []}
    flat = COSINE.zero_terminal_snr()
    for call, error, *fragments in (
        (FittedScheduler, ConfigError, "tables are missing"),
        (lambda: FittedScheduler.from_config({}), ConfigError, "tables are missing"),
        (lambda: FittedScheduler([damaged]), ConfigError, "at least one row"),
        (lambda: FittedScheduler.of(table(), table(5, LINEAR)), ConfigError, "different schedules"),
        (lambda: FittedScheduler.of(table(), table()), ConfigError, "same number"),
        (lambda: FittedScheduler.of(table(), prediction_type="edm"), UnknownNameError, "'v_prediction'"),
        (lambda: stepped((2, 3), steps=5), ConfigError, "tables of 3"),
        (lambda: stepped((2, 6), (2, 3)), ShapeError, "make them equal"),
        (lambda: stepped((2, 3), t=17), TimestepError, "17.0 is not in"),
        (lambda: run(FittedScheduler.of(table(3, flat)), 3, torch.zeros(1, 2)), NoAnswerError, "ᾱ_t = 0"),
    ):
        check_error(call, error, *fragments)
    scheduler = FittedScheduler.of(table(2), prediction_type="sample")
    x = run(scheduler, 2, torch.zeros(1, 2))
    check_error(lambda: scheduler.step(x, scheduler.timesteps[1], x), TimestepError, "the run is over")
