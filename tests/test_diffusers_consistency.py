"""LCM and TCD: parity with diffusers, few timesteps, pipelines, and what is refused."""

import importlib
import random
import warnings

import diffusers
import numpy as np
import pytest
import torch
from cases import check_error, normals

import alphabar.diffusers as ours
from alphabar.errors import AlphabarError, ConfigError, NoAnswerError, TimestepError

diffusers.utils.logging.set_verbosity_error()
pytestmark = pytest.mark.filterwarnings("ignore:the given timesteps")
both = pytest.mark.parametrize("name", ["LCM", "TCD"])
SHAPE = (2, 3, 4, 4)
X, Z, CLEAN = (normals(*SHAPE, seed=seed) for seed in (1, 2, 3))
# Theirs rounds c_skip and c_out to float32 and, with a sample of lower precision, every sum to that.
TOLERANCES = {torch.float64: 1e-6, torch.float32: 1e-4, torch.float16: 0.05, torch.bfloat16: 0.3}


def made(library, name, **config):
    return getattr(library, f"{name}Scheduler")(**config)


def network(x):
    return torch.tanh(x + 0.3 * x.roll(1, -1)) + 0.1


def images(scheduler, given, options, dtype=torch.float64, begin=0):
    """Two images of one generator, with all that the steps return, and the t."""
    generator, found = torch.Generator().manual_seed(0), []
    for _ in range(2):
        scheduler.set_timesteps(**given)
        if begin:
            scheduler.set_begin_index(begin)
        x = torch.randn(SHAPE, generator=generator, dtype=torch.float64).to(dtype)
        for t in scheduler.timesteps[begin:]:
            output = scheduler.step(network(x), t, x, generator=generator, **options)
            assert len(output.to_tuple()) == 2
            x = output.prev_sample
            found += [x, output.denoised if "denoised" in output else output.pred_noised_sample]
    return found, scheduler.timesteps


def drawn(name, source):
    """A random configuration, arguments of set_timesteps and of step, precision, and where to begin."""
    config = {
        "num_train_timesteps": source.choice([1000, 1000, 500, 37]),
        "beta_schedule": source.choice(["linear", "scaled_linear", "squaredcos_cap_v2"]),
        "prediction_type": source.choice(["epsilon", "sample", "v_prediction"]),
        "set_alpha_to_one": source.choice([True, False]),
        "rescale_betas_zero_snr": source.choice([True, False, False]),
        "clip_sample": source.choice([True, False, False]),
        "clip_sample_range": source.choice([1.0, 2.0]),
        "thresholding": source.choice([True, False, False]),
        "sample_max_value": source.choice([1.0, 1.5]),
        "original_inference_steps": source.choice([50, 25, 100, 30]),
        "timestep_scaling": source.choice([10.0, 1.0, 0.01]),
        "steps_offset": source.choice([0, 1]),
    }
    given = {"num_inference_steps": source.choice([1, 2, 4, 7, 13])}
    if source.random() < 0.3:
        given["strength"] = source.choice([0.33, 0.5, 0.8])
    if source.random() < 0.3:
        given["original_inference_steps"] = source.choice([20, 40, 100])
    if source.random() < 0.2:
        own = source.sample(range(config["num_train_timesteps"]), 5)
        given = {"timesteps": sorted(own, reverse=True)}
    options = {} if name == "LCM" else {"eta": source.choice([0.0, 0.3, 0.7, 1.0, 0.123])}
    dtype, begin = source.choice(list(TOLERANCES)), source.choice([0, 0, 1])
    return config, given, options, dtype, begin * (given.get("num_inference_steps", 5) > 1)


def outcomes(name, config, *rest):
    """What both come to, images or errors, on one table of ᾱ: rescaling, theirs is rounded on the way."""
    found, mine = [], made(ours, name, **config)
    for scheduler in (mine, made(diffusers, name, **config)):
        scheduler.alphas_cumprod = mine.alphas_cumprod.double()
        try:
            found.append(images(scheduler, *rest))
        except (AlphabarError, ValueError, IndexError) as error:
            found.append(error)
    return found


def has_no_answer(config):
    """The listed deviation: ε at ᾱ = 0, where diffusers divides by 0."""
    return config["rescale_betas_zero_snr"] and config["prediction_type"] == "epsilon"


@both
@pytest.mark.parametrize("seed", range(4))
def test_random_configurations_give_the_peers_images(name, seed):
    source, compared = random.Random(f"{name} {seed}"), 0
    for _ in range(30):
        case = drawn(name, source)
        mine, theirs = outcomes(name, *case)
        if isinstance(mine, Exception):
            assert isinstance(mine, AlphabarError), case
            assert isinstance(theirs, Exception) or (
                isinstance(mine, NoAnswerError) and has_no_answer(case[0])
            )
            continue
        assert not isinstance(theirs, Exception), (case, theirs)
        assert torch.equal(mine[1], theirs[1]), case
        for x, y in zip(mine[0], theirs[0], strict=True):
            assert x.dtype == y.dtype, case
            scale = max(1.0, float(y.double().abs().max()))
            assert (x.double() - y.double()).abs().max() <= TOLERANCES[y.dtype] * scale, case
        compared += 1
    assert compared > 12


@both
def test_samples_of_one_precision_and_outputs_of_another(name):
    for sample, output in ((torch.float32, torch.float16), (torch.float16, torch.float32)):
        ends = []
        for library in (ours, diffusers):
            scheduler, generator = made(library, name), torch.Generator().manual_seed(0)
            scheduler.set_timesteps(2)
            t = scheduler.timesteps[0]
            ends.append(scheduler.step(Z.to(output), t, X.to(sample), generator=generator).to_tuple())
        for mine, theirs in zip(*ends, strict=True):
            assert mine.dtype == theirs.dtype
            torch.testing.assert_close(mine, theirs, rtol=2**-9, atol=2**-8)  # theirs rounds terms to half


# --- timesteps ---


@both
@pytest.mark.parametrize("strict", [False, True])
def test_timesteps_are_the_peers(name, strict):
    for steps in (1, 3, 4, 17, 50):
        for given in (
            {},
            {"original_inference_steps": 100},
            {"strength": 0.37, "original_inference_steps": 200},
        ):
            mine, theirs = made(ours, name, strict=strict), made(diffusers, name)
            for scheduler in (mine, theirs):
                scheduler.set_timesteps(steps, **given)
            assert torch.equal(mine.timesteps, theirs.timesteps)
            assert mine.timesteps.dtype == theirs.timesteps.dtype
            assert mine.num_inference_steps == theirs.num_inference_steps
            assert mine.custom_timesteps == theirs.custom_timesteps is False


@both
def test_public_state_is_the_peers(name):
    for config in ({}, {"set_alpha_to_one": False}):
        mine, theirs = made(ours, name, **config), made(diffusers, name, **config)
        assert mine.final_alpha_cumprod == pytest.approx(float(theirs.final_alpha_cumprod))
        assert mine.previous_timestep(5) == theirs.previous_timestep(5) == 4
        seen = []
        for scheduler in (mine, theirs):
            scheduler.set_timesteps(timesteps=[900, 50, 3])
            seen.append(
                [
                    [int(scheduler.previous_timestep(t)) for t in scheduler.timesteps],
                    scheduler.custom_timesteps,
                ]
            )
            seen[-1] += [scheduler.step_index, scheduler.begin_index, scheduler.init_noise_sigma]
            scheduler.step(X, scheduler.timesteps[0], X)
            seen[-1] += [scheduler.step_index, scheduler.index_for_timestep(3), len(scheduler)]
        assert seen[0] == seen[1]


@both
@pytest.mark.parametrize(
    ("given", "count"),
    [
        ({"timesteps": [999, 759, 499, 259]}, 0),
        ({"timesteps": [900, 759, 499, 259]}, 2),  # theirs does not look whether it knows the first
        ({"timesteps": [999, 750]}, 1),
        ({"timesteps": list(range(999, 900, -1))}, 2),
        ({"timesteps": [999, 759], "strength": 0.5}, 1),
        ({"timesteps": [759, 499, 19], "strength": 0.9}, 0),
        ({"num_inference_steps": 4}, 0),
    ],
)
def test_warnings_of_timesteps_are_the_peers(name, given, count, monkeypatch):
    theirs, said = made(diffusers, name), []
    monkeypatch.setattr(importlib.import_module(type(theirs).__module__).logger, "warning", said.append)
    theirs.set_timesteps(**given)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        made(ours, name, beta_end=0.0121 + count / 1e4).set_timesteps(**given)  # a run not made before
    assert len(caught) == count == len(said) + (given.get("timesteps", [999])[0] == 900)
    assert all(warning.filename == __file__ for warning in caught)


# --- what is wrong there ---


@both
def test_strength_with_own_timesteps_leaves_no_noise_on_the_image(name):
    given = {"timesteps": [999, 759, 499, 259], "strength": 0.5}
    (mine, t), (theirs, same) = (images(made(library, name), given, {}) for library in (ours, diffusers))
    assert t.tolist() == same.tolist() == [499, 259]
    for i in (2, 6):  # the end of each image: theirs draws noise there, so ours does
        assert torch.equal(mine[i], mine[i + 1])
        if name == "LCM":
            assert (theirs[i] - theirs[i + 1]).std() > 0.1, "no longer so: the image is noised again"
            theirs[i] = theirs[i + 1]
    for x, y in zip(mine, theirs, strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=1e-6)


@pytest.mark.parametrize("option", [{"clip_sample": True, "clip_sample_range": 0.5}, {"thresholding": True}])
def test_tcd_clips_if_strict(option):
    plain, same, theirs, strict = (
        images(made(library, "TCD", **config), {"num_inference_steps": 4}, {"eta": 0.0})[0][-1]
        for library, config in (
            (ours, {}),
            (ours, option),
            (diffusers, option),
            (ours, {**option, "strict": True}),
        )
    )
    assert torch.equal(plain, same)
    torch.testing.assert_close(theirs, same, rtol=0, atol=2e-5)  # no longer so when this fails
    assert (strict - same).abs().max() > 0.1


@both
def test_what_is_wrong_is_named(name):
    def setting(**given):
        return lambda: made(ours, name).set_timesteps(**given)

    check_error(setting(), ConfigError, "one of")
    check_error(setting(num_inference_steps=4, timesteps=[5]), ConfigError, "one of")
    check_error(setting(num_inference_steps=0), ConfigError, "num_inference_steps")
    check_error(setting(num_inference_steps=51), ConfigError, "51", "original_inference_steps is 50")
    check_error(setting(num_inference_steps=26, strength=0.5), ConfigError, "26", "leaves 25")
    check_error(setting(num_inference_steps=1, strength=0.001), ConfigError, "leaves 0")
    check_error(setting(num_inference_steps=4, original_inference_steps=0), ConfigError, "original")
    for strength in (0.0, -1.0, 1.5, float("nan")):
        check_error(setting(num_inference_steps=4, strength=strength), ConfigError, "strength", "(0, 1]")
    check_error(setting(timesteps=[5, 5]), TimestepError, "descending")
    check_error(setting(timesteps=[3, 5]), TimestepError, "descending")
    check_error(setting(timesteps=[]), TimestepError, "no step is left")
    check_error(setting(timesteps=[999, 5], strength=0.1), TimestepError, "no step is left")
    check_error(setting(timesteps=[1000, 5]), TimestepError, "1000")
    check_error(setting(timesteps=[999, -5]), TimestepError, "-5")
    made(diffusers, name).set_timesteps(timesteps=[999, -5])  # no longer so when this fails
    few = made(ours, name, num_train_timesteps=20)
    check_error(lambda: few.set_timesteps(4), ConfigError, "original_inference_steps is 50", "T is 20")
    scheduler = made(ours, name)
    check_error(lambda: scheduler.step(Z, 999, X), ConfigError, "set_timesteps")
    scheduler.set_timesteps(2)
    check_error(lambda: scheduler.step(Z, 17, X), TimestepError, "17")
    for t in scheduler.timesteps:
        scheduler.step(Z, t, X)
    check_error(lambda: scheduler.step(Z, t, X), TimestepError, "the run is over")


def test_an_eta_of_tcd_outside_0_to_1():
    scheduler = made(ours, "TCD")
    scheduler.set_timesteps(2)
    for eta in (-0.1, 1.1, float("nan")):
        check_error(lambda eta=eta: scheduler.step(Z, 999, X, eta=eta), ConfigError, "eta", "[0, 1]")


def test_any_original_steps_of_tcd_mean_every_t():
    scheduler = made(ours, "TCD")
    scheduler.set_timesteps(4, original_inference_steps=999)
    assert scheduler.timesteps.tolist() == [999, 749, 499, 249]
    lcm = made(ours, "LCM")
    lcm.set_timesteps(4, original_inference_steps=999)
    assert lcm.timesteps.tolist() == [998, 749, 499, 249]


# --- in pipelines ---


def parts(folder, **changes):
    pipelines = pytest.importorskip("test_pipelines", exc_type=ImportError)
    made_of = pipelines.stable_diffusion(folder)
    torch.manual_seed(3)
    config = {name: value for name, value in made_of["unet"].config.items() if name[0] != "_"}
    made_of["unet"] = diffusers.UNet2DConditionModel(**{**config, **changes}).eval()
    return made_of, pipelines


@pytest.mark.parametrize(
    ("pipeline", "name", "changes"),
    [
        ("LatentConsistencyModelPipeline", "LCM", {"time_cond_proj_dim": 8}),
        ("LatentConsistencyModelImg2ImgPipeline", "LCM", {"time_cond_proj_dim": 8}),
        ("StableDiffusionPipeline", "TCD", {}),
        ("StableDiffusionImg2ImgPipeline", "TCD", {}),
    ],
)
def test_the_same_pictures_in_pipelines(pipeline, name, changes, tmp_path):
    made_of, pipelines = parts(tmp_path, **changes)
    asked = {"prompt": "a picture of cat"} | ({"eta": 0.3} if name == "TCD" else {})
    if "Img2Img" in pipeline:
        asked |= {"image": pipelines.picture(), "strength": 0.75}
    pictures = []
    for library in (diffusers, ours):
        chosen = made(library, name, steps_offset=1)  # without it the pipeline changes the configuration
        whole = pipelines.put(getattr(diffusers, pipeline)(**made_of, scheduler=chosen), chosen)
        pictures.append(pipelines.images(whole, asked, steps=4))
    assert np.abs(pictures[0] - pictures[1]).max() < pipelines.ROUNDING
