"""The drop-in schedulers as diffusers' own: constructors, configurations, files, their place there."""

import inspect
import json
import subprocess
import sys

import diffusers
import numpy as np
import pytest
import torch
from cases import check_error, normals

import alphabar.diffusers as ours
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


TABLES = ("betas", "alphas", "alphas_cumprod")


def check_tables(mine, theirs):
    for table in TABLES:
        assert hasattr(mine, table) == hasattr(theirs, table)  # flow matching and EDM have no β
        ours, peers = (getattr(scheduler, table, X) for scheduler in (mine, theirs))
        torch.testing.assert_close(ours, peers, rtol=0, atol=1e-6)


@every
def test_a_saved_scheduler_opens_in_diffusers_alone_and_back(name, tmp_path):
    made(name, num_train_timesteps=800, strict=True).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "scheduler_config.json").read_text())["_class_name"] == name
    if name == "DDPMScheduler":  # once, in a fresh interpreter
        opened = f"diffusers.{name}.from_pretrained(sys.argv[1])"
        code = f"import diffusers, sys; print({opened}.config.num_train_timesteps, 'alphabar' in sys.modules)"
        run = subprocess.run(
            [sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True
        )
        assert run.stdout.split() == ["800", "False"]
    assert "strict" not in peer(name).from_pretrained(tmp_path).config
    assert SCHEDULERS[name].from_pretrained(tmp_path, strict=True).strict
    again = SCHEDULERS[name].from_pretrained(tmp_path)
    assert not again.strict
    assert len(again) == 800


@pytest.mark.parametrize("name", [name for name in SCHEDULERS if "beta_end" in made(name).config])
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
    check_error(lambda: made("DDPMScheduler", beta_end=5.0, strict=True), ScheduleError, "beta_end")
    check_error(lambda: made("UniPCMultistepScheduler", beta_end=5.0), ScheduleError, "beta_end")
    check_error(lambda: made("DDPMScheduler", beta_end=5.0).step(Z, 999, X), TimestepError, "β reaches 1")
    misspelt = made("DDPMScheduler", variance_type="fixed_smal")
    check_error(lambda: misspelt.step(Z, 999, X), UnknownNameError, "fixed_smal", "fixed_small")
    check_error(lambda: made("DDIMScheduler", prediction_type="eps"), UnknownNameError, "'epsilon'")
    check_error(
        lambda: made("DPMSolverMultistepScheduler", prediction_type="flow_prediction"), ConfigError, "flow"
    )
    scheduler = made("DPMSolverMultistepScheduler")
    check_error(lambda: scheduler.set_timesteps(5, mu=1.0), ConfigError, "mu", "use_flow_sigmas")
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


@every
def test_strict_is_the_same_from_a_config_as_from_the_constructor(name):
    directly, from_config = made(name, strict=True), SCHEDULERS[name].from_config({}, strict=True)
    assert all(torch.equal(*(getattr(one, table, X) for one in (directly, from_config))) for table in TABLES)
    runs = [
        scheduler.set_timesteps(10) or scheduler._run for scheduler in (directly, from_config, made(name))
    ]
    assert runs[0] is runs[1] is not runs[2]
    kept, unused = SCHEDULERS[name].from_config({"other": 1}, return_unused_kwargs=True, strict=True)
    assert kept.strict
    assert unused == {"other": 1}


# --- without optional packages ---

WITHOUT_SCIPY = """
import os
import sys
from importlib import machinery

find, missing = machinery.PathFinder.find_spec, []


def find_spec(name, path=None, target=None):
    if name in missing:  # a module of diffusers that needs scipy
        raise ModuleNotFoundError("No module named 'scipy'", name="scipy")
    return None if name == "scipy" else find(name, path, target)


machinery.PathFinder.find_spec = find_spec
import diffusers.configuration_utils
import torch

if child := os.fork():  # which lacks nothing else
    os.waitpid(child, 0)
    missing = sys.argv[1:]
import alphabar.diffusers as ours
from alphabar.errors import MissingExtraError


def refused(call):
    try:
        call()
    except MissingExtraError as error:
        return str(error)
    return "not refused"


x, names = torch.ones(1, 1, 2, 2), [name for name in ours.__all__ if name.endswith("Scheduler")]
names.remove("FittedScheduler")  # which needs tables
for name in names:
    kind = getattr(ours, name)
    if name in ours.adapter.SCHEDULERS:
        scheduler = kind()
        scheduler.set_timesteps(4)
        t = scheduler.timesteps[0]
        scheduler.step(scheduler.scale_model_input(x, t), t, x)
    else:
        print(refused(kind))
euler = ours.EulerDiscreteScheduler.from_config({"use_beta_sigmas": True})
print(refused(lambda: euler.set_timesteps(4)), flush=True)
"""


def test_scipy_is_needed_by_beta_sigmas_and_by_a_scheduler_whose_peer_needs_it_alone():
    """A fresh interpreter that lacks scipy, and then also a module of diffusers as if that imported it."""
    command = [sys.executable, "-c", WITHOUT_SCIPY, "diffusers.schedulers.scheduling_lms_discrete"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    beta, scheduler, beta_again = run.stdout.splitlines()
    needs = "needs packages that are not installed: pip install scipy"
    assert beta == beta_again == f"use_beta_sigmas=True {needs}"
    assert scheduler == f"LMSDiscreteScheduler {needs}"


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
