"""Pipeline folders of any kind of network on any schedule, and of damaged ones the name of what is wrong."""

import json
from dataclasses import replace

import diffusers
import pytest
import torch
from cases import check_error
from safetensors.torch import load_file, save_file
from test_checkpoint import X, checkpoint, their_folder

from alphabar import Denoiser, NoiseSchedule
from alphabar.errors import AlphabarError, CheckpointError, UnknownNameError
from alphabar.process import PARAMETERISATIONS, edm
from alphabar.training.checkpoint import load, save

UNET, TOP, SCHEDULER = "unet/config.json", "alphabar.json", "scheduler/scheduler_config.json"

# --- what diffusers has no word for ---

MINE = replace(PARAMETERISATIONS["v_prediction"], name="mine")


PATHS = {
    "cosine": NoiseSchedule.cosine(20),
    "laplace": NoiseSchedule.laplace(20),
    "rectified_flow": NoiseSchedule.rectified_flow(20, shift=3.0),
    "edm": NoiseSchedule.edm(20),
    "alpha_bar": NoiseSchedule.from_alpha_bar([0.9, 0.5, *(10.0**-k for k in range(1, 19))]),
}
SCHEDULER_OF = {
    ("flow", "rectified_flow"): "FlowMatchEulerDiscreteScheduler",
    ("edm", "edm"): "EDMEulerScheduler",
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "kind", ["v_prediction", "flow", "edm", edm(0.7), edm(1 / 3), MINE], ids=lambda k: getattr(k, "name", k)
)
def test_any_kind_of_network_on_any_schedule_comes_back_as_it_was_saved(kind, path, tmp_path, monkeypatch):
    saved = replace(checkpoint(schedule=PATHS[path]), prediction=kind)
    save(tmp_path / "run", saved)
    if kind is MINE:
        check_error(lambda: load(tmp_path / "run"), UnknownNameError, "'mine'")
        again = Denoiser.from_pretrained(tmp_path / "run", prediction=MINE)
        assert torch.equal(again(X, 7).x_0, saved.denoiser()(X, 7).x_0)
        monkeypatch.setitem(PARAMETERISATIONS, "mine", MINE)
    config = json.loads((tmp_path / "run" / SCHEDULER).read_text())
    base = getattr(kind, "name", kind).partition("(")[0]
    assert config["_class_name"] == SCHEDULER_OF.get((base, path), "DDPMScheduler")
    diffusers.DDPMPipeline.from_pretrained(tmp_path / "run")
    loaded = load(tmp_path / "run")
    assert loaded.schedule == saved.schedule
    assert torch.equal(loaded.schedule.log_snr, saved.schedule.log_snr)
    assert torch.equal(loaded.denoiser()(X, 7.5).x_0, saved.denoiser()(X, 7.5).x_0)
    again = load(loaded.denoiser().save_pretrained(tmp_path / "again"))
    assert torch.equal(again.denoiser()(X, 7.5).x_0, saved.denoiser()(X, 7.5).x_0)


@pytest.mark.parametrize(
    ("name", "settings", "kind", "schedule"),
    [
        ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}, "flow", NoiseSchedule.rectified_flow(shift=3.0)),
        ("FlowMatchHeunDiscreteScheduler", {}, "flow", NoiseSchedule.rectified_flow()),
        ("EDMEulerScheduler", {}, "edm", NoiseSchedule.edm()),
        ("EDMDPMSolverMultistepScheduler", {"sigma_data": 1.0}, "edm(sigma_data=1.0)", NoiseSchedule.edm()),
    ],
)
def test_pipelines_of_flow_matching_and_of_edm_are_opened(name, settings, kind, schedule, tmp_path):
    place = their_folder(tmp_path, scheduler=getattr(diffusers, name)(**settings))
    loaded = load(place)
    assert getattr(loaded.prediction, "name", loaded.prediction) == kind
    assert loaded.schedule == schedule
    config = json.loads((place / SCHEDULER).read_text())
    if kind != "flow":
        (place / SCHEDULER).write_text(json.dumps({**config, "prediction_type": "v_prediction"}))
        check_error(lambda: load(place), CheckpointError, "EDM", "'v_prediction'")


# --- damage ---


def test_a_flipped_bit_in_the_weights_is_named(tmp_path):
    weights = save(tmp_path, checkpoint()) / "unet" / "diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    weights.write_bytes(content)
    check_error(lambda: load(tmp_path), CheckpointError, str(weights), "is damaged", '"files"')
    described = json.loads((tmp_path / "alphabar.json").read_text())
    del described["files"]
    (tmp_path / "alphabar.json").write_text(json.dumps(described))
    load(tmp_path)


def damaged(file, change):
    def spoil(place):
        content = json.loads((place / file).read_text())
        content.pop("files", None)
        change(content)
        (place / file).write_text(json.dumps(content))

    return spoil


def lose_weights(place):
    path = place / "unet" / "diffusion_pytorch_model.safetensors"
    held = load_file(path)
    del held["conv_in.weight"]
    save_file(held, path, metadata={"format": "pt"})
    damaged("alphabar.json", lambda content: None)(place)


def write_text(file, text):
    return lambda place: (place / file).write_text(text)


DAMAGE = {
    "weights missing": (lose_weights, "1 weights are missing, such as conv_in.weight"),
    "a size of words": (damaged(UNET, lambda c: c.update(sample_size="a")), "sample_size is 'a'"),
    "no group": (damaged(UNET, lambda c: c.update(norm_num_groups=0)), "norm_num_groups is 0"),
    "a million layers": (
        damaged(UNET, lambda c: c.update(layers_per_block=10**6)),
        "layers_per_block is 1000000",
    ),
    "a network of a list": (damaged(UNET, lambda c: c.update(_class_name=[])), "holds []"),
    "groups that do not divide": (damaged(UNET, lambda c: c.update(norm_num_groups=3)), "does not load"),
    "brackets": (write_text(UNET, "[" * 100_000), "nested too deeply"),
    "a list": (write_text(UNET, "[]"), "holds a list"),
    "classes of a number": (damaged(TOP, lambda c: c.update(classes=5)), "classes is 5"),
    "no classes": (damaged(TOP, lambda c: c.update(classes=None)), "classes is None"),
    "classes of numbers": (damaged(TOP, lambda c: c.update(classes=[1])), "classes is [1]"),
    "training of a word": (damaged(TOP, lambda c: c.update(training="x")), "training is x"),
    "files of a list": (damaged(TOP, lambda c: c.update(files=[])), "lists files"),
    "files elsewhere": (damaged(TOP, lambda c: c.update(files={"../x": {}})), "lists files"),
    "too many steps": (damaged(SCHEDULER, lambda c: c.update(num_train_timesteps=10**10)), "1 … 1000000"),
    "steps of a word": (
        damaged(SCHEDULER, lambda c: c.update(num_train_timesteps="x")),
        "num_train_timesteps is x",
    ),
    "β of a word": (
        damaged(SCHEDULER, lambda c: c.update(beta_start="x", beta_schedule="linear")),
        "beta_start",
    ),
}


@pytest.mark.parametrize(("spoil", "says"), DAMAGE.values(), ids=DAMAGE)
def test_damage_is_named(spoil, says, tmp_path, caplog):
    spoil(save(tmp_path, checkpoint(("cat", "dog"))))
    with pytest.raises(AlphabarError) as caught:
        load(tmp_path)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not caplog.records
