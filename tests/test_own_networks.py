"""A network of one's own is trained, kept, resumed and opened by its name; no code runs without consent."""

import json
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path

import diffusers
import huggingface_hub
import own_networks
import pytest
import torch
from cases import check_error
from PIL import Image
from test_hub import Hub, block

import alphabar.cli
from alphabar import Denoiser
from alphabar.cli import main
from alphabar.denoise.factories import Factory, check_name
from alphabar.errors import CheckpointError, ConfigError, ShapeError
from alphabar.process import PARAMETERISATIONS, edm, named
from alphabar.schedule import FAMILIES
from alphabar.training import Checkpoint, ImageData, TrainConfig, kept, load, push_to_hub, save, train
from alphabar.training.config import GIVEN
from alphabar.training.state import newest

DIT, MLP = "own_networks:Transformer", "own_networks:Perceptron"
CONFIG = TrainConfig(
    network=DIT,
    steps=6,
    batch_size=8,
    warmup=1,
    precision="float32",
    class_conditional=True,
    learning_rate=1e-2,
)
CLASSES = tuple("0123456789")
DATA = ImageData(
    (torch.arange(20 * 64) * 37 % 256).to(torch.uint8).reshape(20, 1, 8, 8), torch.arange(20) % 10, CLASSES
)


def training(config=CONFIG, **more):
    return train(config, **{"data": DATA, **more})


def tensors(step):
    return {name: tensor.clone() for name, tensor in step.state().tensors.items()}


def same(found, expected):
    return found.keys() == expected.keys() and all(torch.equal(found[k], expected[k]) for k in expected)


def checkpoint(name=MLP, classes=(), *, times=1, schedule="cosine", prediction="v_prediction"):
    factory = Factory(name, (2, 4, 4), len(classes), 2 * times)
    about = {"network": name, "seed": 3}
    return Checkpoint(
        *(factory.build(seed=5).eval(), FAMILIES[schedule](1000), prediction, (2, 4, 4), classes, about),
        factory,
    )


def answer(made):
    x = torch.linspace(-1, 1, 64).reshape(2, 2, 4, 4)
    labels = torch.tensor([0, len(made.classes)]) if made.classes else None
    return made.denoiser(labels)(x, 7)


# --- training ---


def test_what_is_built_by_name_trains_as_what_is_handed_over():
    by_name = list(training())
    given = Factory(DIT, (1, 8, 8), 10, 1).build(seed=CONFIG.seed)
    by_hand = list(training(replace(CONFIG, network="unet"), network=given))
    assert [step.loss for step in by_name] == [step.loss for step in by_hand]
    assert same(tensors(by_name[-1]), tensors(by_hand[-1]))
    assert by_name[-1].snapshot().training["network"] == DIT
    assert by_hand[-1].snapshot().training["network"] == GIVEN
    assert by_name[-1].loss < by_name[0].loss


@pytest.mark.parametrize("stop", [2, 5])
def test_a_resumed_run_is_the_one_that_was_never_stopped_and_can_always_be_opened(stop, tmp_path):
    undisturbed = list(training())
    for step in islice(kept(training(), tmp_path, every=2), stop):
        assert step.step == 1 or load(tmp_path, network=DIT).classes == CLASSES
    again = list(kept(training(resume=tmp_path), tmp_path, every=2))
    assert [step.loss for step in again] == [step.loss for step in undisturbed[stop // 2 * 2 :]]
    assert same(tensors(again[-1]), tensors(undisturbed[-1]))
    loaded, expected = load(tmp_path, network=DIT), undisturbed[-1].snapshot()
    assert same(loaded.network.state_dict(), expected.network.state_dict())
    assert loaded.digest() == expected.digest()
    other = replace(CONFIG, network="own_networks:wide")
    check_error(lambda: next(training(other, resume=tmp_path)), ConfigError, "network is", "begun with", DIT)


def test_a_trained_network_is_the_start_of_another_training(tmp_path):
    save(tmp_path / "run", checkpoint(DIT))
    network, data = load(tmp_path / "run", network=DIT).network, torch.zeros(8, 2, 4, 4, dtype=torch.uint8)
    config = replace(CONFIG, class_conditional=False, learning_rate=1e-9)
    step = next(training(config, network=network, data=ImageData(data)))
    found = load(save(tmp_path / "tuned", step.snapshot()), network=DIT).network.state_dict()
    expected = checkpoint(DIT).network.state_dict()
    assert all(torch.allclose(found[name], expected[name], atol=1e-6) for name in expected)
    wide = replace(config, network="own_networks:wide")
    check_error(
        lambda: next(training(wide, network=network, data=ImageData(data))),
        ConfigError,
        "not what own_networks:wide builds",
        "(48,)",
        "(96,)",
    )


@pytest.mark.parametrize(
    ("network", "error", "says"),
    [
        ("resnet", ConfigError, ("'resnet'", "package.module:factory")),
        ("a:b:c", ConfigError, ("'a:b:c'", "package.module:factory")),
        (".own_networks:dit", ConfigError, ("package.module:factory",)),
        (own_networks.Perceptron, ConfigError, ("package.module:factory",)),
        ("", ConfigError, ("package.module:factory",)),
        ("no_such_thing:f", ConfigError, ("no module no_such_thing",)),
        ("own_networks.inner:f", ConfigError, ("no module own_networks.inner",)),
        ("own_networks:missing", ConfigError, ("own_networks has no missing",)),
        ("own_networks:number", ConfigError, ("a int", "a function or a class")),
        ("own_networks:nothing", ConfigError, ("returned a NoneType", "torch.nn.Module")),
        ("own_networks:other_arguments", ConfigError, ("is called as (…, classes=…, out_channels=…)",)),
        ("own_networks:without_labels", ConfigError, ("is called as (…, …, class_labels=…)", "class_labels")),
        ("own_networks:flat", ConfigError, ("class_labels",)),
        (GIVEN, ConfigError, ("hand it over again",)),
    ],
)
def test_what_does_not_build_a_network_is_named(network, error, says):
    check_error(lambda: next(training(replace(CONFIG, network=network))), error, *says)


def test_an_answer_of_another_shape_is_named_before_training():
    config = replace(CONFIG, network="own_networks:flat", class_conditional=False)
    check_error(lambda: next(training(config)), ShapeError, "(2, 64)", "(2, 1, 8, 8)")
    check_error(lambda: replace(config, channels=(8,)), ConfigError, "channels", "U-Net")


def test_an_error_within_the_code_is_not_hidden(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "broken_network.py").write_text("import not_installed_here\n")
    with pytest.raises(ModuleNotFoundError, match="not_installed_here"):
        next(training(replace(CONFIG, network="broken_network:f")))


# --- saving and opening ---


@pytest.mark.parametrize("name", [MLP, DIT])
@pytest.mark.parametrize("times", [1, 2])
def test_what_was_saved_answers_the_same(name, times, tmp_path):
    saved = checkpoint(name, times=times)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    loaded = load(save(tmp_path / "run", saved), network=name)
    assert torch.equal(torch.get_rng_state(), state)
    assert not loaded.network.training
    assert torch.equal(answer(loaded).x_0, answer(saved).x_0)
    assert (answer(loaded).variance is None) == (times == 1)
    assert (loaded.shape, loaded.classes, loaded.training) == (saved.shape, (), saved.training)
    assert loaded.factory == saved.factory
    assert loaded.learns_variance == (times == 2)
    assert loaded.digest() == saved.digest() != checkpoint(name, times=times, schedule="linear").digest()


def test_labels_come_back_and_the_last_stands_for_none(tmp_path):
    saved = checkpoint(DIT, ("cat", "dog"))
    loaded = load(save(tmp_path / "run", saved), network=DIT)
    assert loaded.classes == ("cat", "dog")
    assert torch.equal(answer(loaded).x_0, answer(saved).x_0)
    check_error(loaded.denoiser, CheckpointError, "cat, dog")


KINDS = [*PARAMETERISATIONS, edm(sigma_data=1.5)]


@pytest.mark.parametrize(
    ("schedule", "kind"), [*zip(FAMILIES, KINDS * 2, strict=False), *(("cosine", kind) for kind in KINDS)]
)
def test_every_schedule_and_kind_come_back_without_diffusers(schedule, kind, tmp_path, monkeypatch):
    saved = checkpoint(schedule=schedule, prediction=kind)
    monkeypatch.setitem(sys.modules, "diffusers", None)
    loaded = load(save(tmp_path / "run", saved), network=MLP)
    assert torch.equal(loaded.schedule.log_snr, saved.schedule.log_snr)
    assert named(loaded.prediction).name == named(kind).name
    assert torch.equal(answer(loaded).x_0, answer(saved).x_0)


def test_a_denoiser_opens_a_run_and_writes_it_again(tmp_path):
    saved = save(tmp_path / "run", checkpoint(DIT, ("cat", "dog")))
    denoiser = Denoiser.from_pretrained(saved, torch.tensor([0, 2]), network=DIT)
    again = denoiser.save_pretrained(tmp_path / "again")
    assert load(again, network=DIT).digest() == load(saved, network=DIT).digest()


def test_a_run_becomes_one_of_another_kind_of_network_and_no_file_stays(tmp_path):
    from test_checkpoint import checkpoint as of_diffusers

    for make, there, gone in (
        (checkpoint, "network.safetensors", "unet"),
        (of_diffusers, "unet", "network.s*"),
    ) * 2:
        save(tmp_path / "run", make())
        assert (tmp_path / "run" / there).exists()
        assert not list((tmp_path / "run").glob(gone))
    assert load(tmp_path / "run").factory is None
    check_error(lambda: load(tmp_path / "run", network=MLP), CheckpointError, "a network of diffusers", MLP)


def test_the_folder_says_that_it_is_no_pipeline_and_how_it_is_opened(tmp_path):
    saved = save(tmp_path / "run", checkpoint(DIT, ("cat", "dog")))
    text = (saved / "README.md").read_text("utf-8")
    assert "no diffusers pipeline" in text
    assert f"`{DIT}`" in text
    assert f"alphabar sample PLACE --network {DIT}" in text
    assert "diffusers" not in huggingface_hub.ModelCard(text).data.tags
    names = {}
    exec(block(text).replace("PLACE", str(saved)), names)
    assert names["images"].shape == (16, 2, 4, 4)
    about = json.loads((saved / "alphabar.json").read_text())
    assert about["factory"] == DIT
    assert "no diffusers pipeline" in about["opened_by"]
    with pytest.raises(OSError, match="model_index"):
        diffusers.DDPMPipeline.from_pretrained(saved)


def test_a_run_goes_to_the_hub_and_comes_back_with_consent(tmp_path, monkeypatch):
    saved = save(tmp_path / "run", checkpoint(DIT))
    hub = Hub(tmp_path / "there", monkeypatch)
    push_to_hub(saved, "someone/dit")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **_: str(hub.place))
    check_error(lambda: load("someone/dit"), CheckpointError, DIT)
    assert load("someone/dit", network=DIT).digest() == load(saved, network=DIT).digest()


def test_weights_that_changed_or_belong_to_another_network_are_refused(tmp_path):
    run = save(tmp_path / "run", checkpoint(DIT))
    weights, about = run / "network.safetensors", run / "alphabar.json"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    check_error(lambda: load(run, network=DIT), CheckpointError, "network.safetensors is damaged")
    other = json.loads(about.read_text()) | {"factory": "own_networks:wide"}
    other.pop("files")
    about.write_text(json.dumps(other))
    check_error(
        lambda: load(run, network="own_networks:wide"),
        CheckpointError,
        "does not load into what",
        "size mismatch",
    )
    weights.write_bytes(b"{}")
    check_error(lambda: load(run, network="own_networks:wide"), CheckpointError, "does not load into what")


# --- consent ---


@pytest.fixture
def hostile(tmp_path, monkeypatch):
    """A run that asks for a module which says on import that it was run; and the place where it says so."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "hostile_network", raising=False)
    mark = tmp_path / "executed"
    (tmp_path / "hostile_network.py").write_text(
        f"from own_networks import *\nimport pathlib\npathlib.Path({str(mark)!r}).touch()\n"
    )
    run = save(tmp_path / "run", checkpoint())
    about = json.loads((run / "alphabar.json").read_text())
    (run / "alphabar.json").write_text(json.dumps(about | {"factory": "hostile_network:Perceptron"}))
    return run, mark


def test_nothing_is_imported_without_consent_to_the_name_that_is_recorded(hostile, capsys):
    run, mark = hostile
    says = (CheckpointError, "hostile_network:Perceptron", str(run))
    for open_ in (load, Denoiser.from_pretrained):
        check_error(
            lambda o=open_: o(run), *says, "network='hostile_network:Perceptron' in Python", "--network"
        )
        check_error(lambda o=open_: o(run, network=MLP), *says, f"what may run is {MLP}")
    for command in (["sample"], ["average", "--out", f"{run}-2", "--profile", "0.9"], ["explore"]):
        assert main([command[0], str(run), *command[1:]]) == 2
        assert "--network hostile_network:Perceptron" in capsys.readouterr().err
    assert not mark.exists()
    assert load(run, network="hostile_network:Perceptron").shape == (2, 4, 4)
    assert mark.exists()


def test_a_run_that_is_resumed_does_not_say_what_is_imported(hostile, capsys):
    run, mark = hostile
    for _ in kept(training(replace(CONFIG, steps=1)), run, every=1):
        pass
    manifest = newest(run)[0] / "checkpoint.json"
    about = json.loads(manifest.read_text())
    about["config"]["network"] = "hostile_network:Transformer"
    manifest.write_text(json.dumps(about))
    for given in ([], ["--network", DIT]):
        assert main(["train", str(run), "--resume", "--steps", "2", *given]) == 2
        assert "hostile_network:Transformer" in capsys.readouterr().err
    assert not mark.exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"factory": 7}, "factory"),
        ({"factory": "os.system"}, "package.module:factory"),
        ({"factory": "__import__('os'):x"}, "package.module:factory"),
        ({"factory": None}, "factory"),
        ({"learned_variance": "yes"}, "learned_variance"),
        ({"shape": []}, "shape"),
        ({"shape": [2, 4, 4, 4, 4]}, "shape"),
        ({"shape": [2, 4, 10**9]}, "shape"),
        ({"classes": "cat"}, "classes"),
        ({"noise_schedule": []}, "noise_schedule"),
        ({"noise_schedule": {}}, "no β"),
    ],
)
def test_a_description_of_another_form_is_named(change, says, tmp_path):
    run = save(tmp_path / "run", checkpoint())
    about = json.loads((run / "alphabar.json").read_text())
    (run / "alphabar.json").write_text(json.dumps(about | change))
    check_error(lambda: load(run, network=MLP), CheckpointError, says)


def test_a_function_that_builds_no_networks_is_not_called(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check_error(lambda: Factory("os:system", (1, 8, 8), 0, 1).build(), ConfigError, "is called as")
    check_error(lambda: check_name("touch x; os:system"), ConfigError, "package.module:factory")


# --- the command line ---


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder of one's own with a module in it, and commands that run there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    source = Path(own_networks.__file__).read_text("utf-8")
    (tmp_path / "mine.py").write_text(source, encoding="utf-8")
    return tmp_path


def test_commands_open_runs_in_one_place_that_asks_for_consent():
    sources = Path(alphabar.cli.__file__).parent.glob("*.py")
    assert [path.name for path in sources if "checkpoint.load(" in path.read_text("utf-8")] == ["_opening.py"]


def test_every_command_takes_a_network_from_the_current_folder(here, capsys):
    own = ["--network", "mine:Transformer"]
    train_ = ["train", "digits", "--out", "run", "--class-conditional", "--batch-size", "8", *own]
    kept_ = [
        "--averages",
        "power(0.1)",
        "--snapshot-every",
        "1",
        "--checkpoint-every",
        "1",
        "--tracker",
        "none",
    ]
    assert main([*train_, *kept_, "--steps", "2"]) == 0
    assert main(["train", "run", "--resume", "--steps", "3"]) == 2
    assert "--network mine:Transformer" in capsys.readouterr().err
    assert main(["train", "run", "--resume", "--steps", "3", "--samples-every", "1", *own]) == 0
    sweep_ = [
        "--data",
        "digits",
        "--samplers",
        "ddim",
        "--evals",
        "1",
        "--num",
        "20",
        "--features",
        "mine:pixels",
    ]
    Image.new("L", (8, 8), 200).save("a.png")
    Image.new("L", (8, 8), 10).save("b.png")
    few = ["--steps", "2", *own]
    assert main(["sample", "run", "--num", "3", *few]) == 0
    assert main(["edit", "run", "a.png", "--label", "3", "--num", "1", *few]) == 0
    assert main(["inpaint", "run", "a.png", "b.png", "--num", "1", "--resamples", "1", *few]) == 0
    assert main(["interpolate", "run", "a.png", "b.png", "--num", "2", *few]) == 0
    assert main(["average", "run", "--profile", "power(0.2)", "--out", "other", *own]) == 0
    assert main(["sweep", "run", *sweep_, *own]) == 0
    likely = ["--data", "digits", "--num", "2", "--steps", "2", "--flow-steps", "2"]
    assert main(["likelihood", "run", *likely, *own]) == 0
    scored = ["--data", "digits", "--num", "20", "--features", "mine:pixels"]
    assert main(["evaluate", "run", *scored, *few]) == 0
    assert main(["report", "run"]) == 0
    assert load("other", network="mine:Transformer").training["network"] == "mine:Transformer"
    assert sorted(path.name for path in here.glob("run/samples/0*.png")) == [f"0000{k}.png" for k in range(3)]


@pytest.mark.parametrize(
    ("network", "says"),
    [("none:f", "no module none"), ("mine:number", "a int"), ("mine:flat", "(2, 1, 8, 8)")],
)
def test_a_command_says_in_one_line_what_is_wrong_with_a_network(network, says, here, capsys):
    assert main(["train", "digits", "--network", network, "--steps", "1", "--out", "run"]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert not (here / "run" / "alphabar.json").exists()
