"""Each command does what it says and ends by saying what it wrote; a wrong argument is one helpful line."""

import json
import re
import subprocess
import sys
from functools import partial

import pytest
import torch
from PIL import Image

from alphabar import NoiseSchedule
from alphabar.cli import main, training
from alphabar.cli import sampling as commands
from alphabar.cli._main import COMMANDS
from alphabar.samplers import REGISTRY, SOLVERS, ranking
from alphabar.training import load, load_data, read_log

TRAIN = ["--steps", "2", "--batch-size", "4", "--channels", "8", "--precision", "float32"]


@pytest.fixture
def picture(tmp_path):
    Image.new("RGB", (40, 30), (200, 30, 60)).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_noise_writes_a_strip_and_an_animation(picture, tmp_path, capsys):
    out = tmp_path / "strip.png"
    assert (
        main(["noise", str(picture), "--size", "32", "--t", "0", "500", "999", "--gif", "--out", str(out)])
        == 0
    )
    assert capsys.readouterr().out.splitlines() == [f"wrote {out}", f"wrote {out.with_suffix('.gif')}"]
    with Image.open(out.with_suffix(".gif")) as movie:
        assert movie.n_frames == 61  # the picture itself, and sixty t


@pytest.mark.parametrize("arguments", [["samplers"], ["train", "--help"]])
def test_who_stops_reading_gets_no_traceback(arguments):
    command = [sys.executable, "-m", "alphabar", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert (process.stderr.read(), process.wait()) == (b"", 141)
    process.stderr.close()


def test_schedule_prints_the_ends_and_draws_the_curves(tmp_path, capsys):
    assert main(["schedule", "linear", "cosine", "--out", str(tmp_path / "s.png")]) == 0
    printed = capsys.readouterr().out
    assert "β 0.0001 … 0.02" in printed
    assert "4.04e-05" in printed  # ᾱ_T of the linear schedule
    assert (tmp_path / "s.png").stat().st_size > 1000


def test_labels_are_told_unless_it_is_said_otherwise_and_that_is_said(tmp_path, capsys):
    run = tmp_path / "run"
    assert main(["train", *TRAIN, "--unconditional", "--out", str(run)]) == 0
    assert "told the labels" not in capsys.readouterr().out
    assert not load(run).classes
    assert main(["train", str(run), "--resume", "--steps", "3"]) == 0
    assert not load(run).classes
    assert main(["train", str(run), "--resume", "--steps", "4", "--class-conditional"]) == 2
    assert "class_conditional" in capsys.readouterr().err
    assert main(["train", *TRAIN, "--unconditional", "--class-conditional", "--out", str(run)]) == 2
    assert "one of the two" in capsys.readouterr().err


def test_training_then_sampling_from_the_folder(tmp_path, capsys):
    run = tmp_path / "run"
    assert main(["train", *TRAIN, "--out", str(run)]) == 0
    said = capsys.readouterr().out
    assert "told the labels of 10 classes" in said
    assert f"wrote {run}" in said
    described = json.loads((run / "alphabar.json").read_text())
    assert described["training"]["steps"] == 2
    assert "out" not in described["training"]
    arguments = ["sample", str(run), "--num", "5", "--steps", "3", "--seed", "7", "--batch-size"]
    assert main([*arguments, "2"]) == 0
    names = sorted(path.name for path in (run / "samples").iterdir())
    assert names == [*(f"{i:05}.png" for i in range(5)), "samples.json"]
    assert load_data(str(run / "samples")).shape == (1, 8, 8)
    with Image.open(run / "samples.png") as grid:
        assert grid.width > 3 * 64
    assert main([*arguments, "5", "--sampler", "ddim", "--out", str(tmp_path / "again")]) == 0
    pictures = [(place / "00003.png").read_bytes() for place in (run / "samples", tmp_path / "again")]
    assert pictures[0] == pictures[1]  # the batch does not matter


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A network of ten classes of 8×8 digits, hardly trained."""
    out = tmp_path_factory.mktemp("run") / "run"
    assert main(["train", "--class-conditional", *TRAIN, "--out", str(out)]) == 0
    return out


def test_training_again_leaves_what_others_keep_in_the_run(tmp_path):
    place = tmp_path / "run"
    assert main(["train", *TRAIN, "--out", str(place)]) == 0
    for name in ("photo.png", "samples/mine.png", "unet/notes.txt"):
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_bytes(b"precious")
    old = (place / "loss.png").read_bytes()
    assert main(["train", *TRAIN, "--steps", "3", "--overwrite", "--out", str(place)]) == 0
    for name in ("photo.png", "samples/mine.png", "unet/notes.txt"):
        assert (place / name).read_bytes() == b"precious"
    assert (place / "loss.png").read_bytes() != old


def test_what_torchrun_starts_again_goes_on_also_where_it_began_anew(tmp_path, monkeypatch, capsys):
    place = tmp_path / "run"
    again = ["train", *TRAIN, "--log-every", "1", "--overwrite", "--out", str(place)]
    assert main(again) == 0
    kept = (place / "checkpoints/step-00000002/state.safetensors").read_bytes()
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert main(again) == 0
    assert "at step 2, its last" in capsys.readouterr().out
    assert (place / "checkpoints/step-00000002/state.safetensors").read_bytes() == kept
    assert main([*again, "--steps", "3"]) == 0
    assert [entry["step"] for entry in read_log(place)] == [1, 2, 3]


def test_training_anew_that_cannot_begin_leaves_the_checkpoints_of_the_run(tmp_path, capsys):
    place = tmp_path / "run"
    assert main(["train", *TRAIN, "--out", str(place)]) == 0
    assert main(["train", "nowhere/at/all", *TRAIN, "--overwrite", "--out", str(place)]) == 2
    assert (place / "checkpoints/step-00000002/state.safetensors").is_file()


def test_where_training_may_not_write_is_said_before_it_begins(tmp_path, capsys, monkeypatch):
    for k in range(4):
        (tmp_path / "photos").mkdir(exist_ok=True)
        digit(tmp_path / "photos" / f"{k}.png", k)
    (tmp_path / "linked").symlink_to(tmp_path / "photos")
    (tmp_path / "file").write_text("x")
    monkeypatch.setattr(training, "train", lambda *arguments, **more: pytest.fail("training began"))
    photos = str(tmp_path / "photos")
    places = {
        "photos": "one lies in the other",
        "photos/run": "one lies in the other",
        "linked/run": "one lies in the other",
        "": "one lies in the other",
        "file": "is no checkpoint",
        "file/run": "cannot be written: Not a directory",
    }
    for out, says in places.items():
        assert main(["train", photos, *TRAIN, "--out", str(tmp_path / out)]) == 2
        printed = capsys.readouterr().err
        assert says in printed
        assert printed.count("\n") == 1
    assert len(list((tmp_path / "photos").iterdir())) == 4


def digit(path, value):
    Image.new("L", (16, 16), value).save(path)
    return str(path)


@pytest.mark.parametrize("sampler", [name for name in REGISTRY if name != "fitted"])
def test_every_sampler_samples_by_its_name_with_no_more_evaluations_than_asked(sampler, run, tmp_path):
    out = tmp_path / "samples"
    arguments = ["sample", str(run), "--num", "2", "--steps", "4", "--sampler", sampler, "--out", str(out)]
    assert main(arguments) == 0
    assert len(list(out.glob("*.png"))) == 2
    made = REGISTRY[sampler].with_evaluations(4, "karras")
    assert made.spacing == "karras"
    assert len(made.plan(NoiseSchedule.cosine())) <= 4


def test_the_fitted_sampler_samples_and_refuses_what_it_was_not_fitted_to(run, tmp_path, capsys):
    arguments = ["sample", str(run), "--num", "2", "--sampler", "fitted", "--out", str(tmp_path / "out")]
    assert main([*arguments, "--steps", "5"]) == 0
    assert len(list((tmp_path / "out").glob("*.png"))) == 2
    for more, says in ((["--steps", "4"], "5 … 50"), (["--spacing", "karras"], "leave spacing out")):
        assert main([*arguments, *more]) == 2
        assert says in capsys.readouterr().err


def test_guidance_of_1_changes_nothing_and_more_changes_the_pictures(run, tmp_path):
    def pictures(*more):
        out = tmp_path / "".join(more).replace(".", "")
        assert main(["sample", str(run), "--num", "2", "--steps", "3", *more, "--out", str(out)]) == 0
        return out.with_suffix(".png").read_bytes()

    plain = pictures("--label", "3")
    assert pictures("--label", "3", "--guidance", "1") == plain
    # After two steps of training a label hardly counts: it takes a lot of guidance to see.
    assert pictures("--label", "3", "--guidance", "1e6") != plain


def test_a_compiled_network_draws_the_same_pictures(run, tmp_path, monkeypatch):
    asked = []
    compiled = partial(torch.compile, backend="eager")  # neither minutes nor a compiler

    def compile(network, mode):
        asked.append(mode)
        return compiled(network)

    monkeypatch.setattr(torch, "compile", compile)
    for name, more in (("plain", []), ("compiled", ["--compile"])):
        arguments = ["--num", "2", "--steps", "2", "--label", "3", "--out", str(tmp_path / name)]
        assert main(["sample", str(run), *arguments, *more]) == 0
    assert asked == ["reduce-overhead"]
    plain, graph = ((tmp_path / f"{name}.png").read_bytes() for name in ("plain", "compiled"))
    assert plain == graph


def test_editing_writes_the_pictures_side_by_side(run, tmp_path, capsys):
    black, white = digit(tmp_path / "black.png", 0), digit(tmp_path / "white.png", 255)
    commands = {
        "edit": [black, "--t", "300", "--num", "2", "--label", "3", "--guidance", "2"],
        "inpaint": [black, white, "--num", "2", "--resamples", "2"],
        "interpolate": [black, white, "--num", "3"],
    }
    for command, arguments in commands.items():
        out = tmp_path / f"{command}.png"
        assert main([command, str(run), *arguments, "--steps", "3", "--out", str(out)]) == 0
        assert capsys.readouterr().out == f"wrote {out}\n"
        with Image.open(out) as picture:
            assert picture.width > picture.height > 50


def test_what_is_white_in_the_mask_stays(run, tmp_path, monkeypatch):
    shown = {}

    def strip(images, captions, path):
        shown.update(zip(captions, images, strict=True))

    monkeypatch.setattr(commands.plots, "strip", strip)
    mask = Image.new("L", (8, 8), 0)
    mask.paste(255, (0, 0, 4, 8))
    mask.save(tmp_path / "mask.png")
    grey = digit(tmp_path / "grey.png", 153)
    arguments = ["inpaint", str(run), grey, str(tmp_path / "mask.png"), "--num", "1", "--steps", "3"]
    assert main(arguments) == 0
    given, kept, made = shown["given"], shown["kept"], shown["#0"]
    assert given.unique().item() == pytest.approx(0.2)
    assert torch.equal(kept[..., :4], given[..., :4])
    assert torch.equal(made[..., :4], given[..., :4])
    assert not kept[..., 4:].any()
    assert (made[..., 4:] != given[..., 4:]).any()


def test_samplers_prints_a_table_that_agrees_with_the_ranking(tmp_path, capsys):
    out = tmp_path / "samplers.png"
    assert main(["samplers", "--schedule", "cosine", "--evals", "12,5", "--out", str(out)]) == 0
    head, *lines, last = capsys.readouterr().out.splitlines()
    assert head.split() == ["error", "at", "evaluations", "5", "12"]
    assert last == f"wrote {out}"
    best = ranking(NoiseSchedule.cosine(), 12)[0]
    assert lines[0].startswith(best.solver)
    assert lines[0].endswith(f"{best.error:.5f} {best.spacing}")
    errors = [float(line.split()[-2]) for line in lines]
    assert errors == sorted(errors)
    assert {line[:22].strip() for line in lines} == {*SOLVERS, "Fitted"}


def test_samplers_leaves_a_gap_where_nothing_was_fitted(tmp_path, capsys):
    assert main(["samplers", "--evals", "10,60", "--out", str(tmp_path / "samplers.png")]) == 0
    *_, fitted, last = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"Fitted +0\.000\d\d fitted +—", fitted)
    assert last.startswith("wrote")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_every_argument(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert not stop.value.code
    assert COMMANDS[command].__doc__.split(":")[0].split(",")[0][:30] in " ".join(
        capsys.readouterr().out.split()
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "interpolate, average, convert, export, push, demo, explore, info}"),
        (
            ["paint"],
            "samplers, data, encode, train, report, evaluate, sweep, fit, likelihood, sample",
        ),
        (["train", "--stepz", "3"], "--steps"),
        (["train", "--steps", "many"], "--steps"),
        (["train", "--steps", "-3"], "steps is -3"),
        (["train", "--schedule", "cosin"], "'cosine'"),
        (["train", "no/such/folder"], "no/such/folder"),
        (["noise"], "PATH"),
        (["noise", "missing.png"], "missing.png"),
        (["noise", "PICTURE", "--t", "5", "1000"], "0 … 999"),
        (["noise", "PICTURE", "--t", "7", "5"], "increasing"),
        (["noise", "PICTURE", "--size", "0"], "size"),
        (["schedule", "lineal"], "'linear'"),
        (["schedule", "--diffusion-steps", "0"], "steps is 0"),
        (["sample", "nowhere"], "nowhere"),
        (["sample", "nowhere", "--num", "0"], "num is 0"),
        (["edit", "nowhere", "PICTURE"], "nowhere"),
        (["edit", "nowhere"], "PATH"),
        (["edit", "nowhere", "PICTURE", "--num", "0"], "num is 0"),
        (["inpaint", "nowhere", "PICTURE"], "PATH"),
        (["interpolate", "nowhere", "PICTURE", "PICTURE", "--num", "1"], "num is 1"),
        (["samplers", "--schedule", "lineal"], "'linear'"),
        (["samplers", "--evals", "5,many"], "evals is '5,many'"),
        (["samplers", "--evals", "0,5"], "evals is 0"),
        (["samplers", "--evals", "2000"], "T = 1000"),
        (["demo", "--seconds", "0"], "seconds"),
    ],
)
def test_a_wrong_argument_is_one_line_and_exit_code_2(
    arguments, says, picture, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    arguments = [str(picture) if argument == "PICTURE" else argument for argument in arguments]
    try:
        code = main(arguments)
    except SystemExit as stop:
        code = stop.code
    printed = capsys.readouterr()
    assert code == 2
    assert says in printed.err
    assert printed.err.count("\n") == 1
    assert "Traceback" not in printed.err


def test_an_edit_that_cannot_be_is_one_line(run, tmp_path, capsys):
    grey = digit(tmp_path / "grey.png", 153)
    wrong = {
        ("edit", grey, "--guidance", "2"): "Add --label",
        ("edit", grey, "--label", "eleven"): "unknown class 'eleven'",
        ("edit", grey, "--t", "1000"): "t = 1000",
        ("edit", grey, "--spacing", "even"): "'karras'",
        ("inpaint", grey, grey, "--sampler", "unipc"): "take DDPM, DDIM",
        ("inpaint", grey, "missing.png"): "missing.png",
        ("inpaint", grey, grey, "--steps", "3", "--jump", "3"): "jump is 3",
    }
    for (command, *arguments), says in wrong.items():
        assert main([command, str(run), *arguments]) == 2
        printed = capsys.readouterr().err
        assert says in printed
        assert printed.count("\n") == 1


def test_sampling_more_steps_than_there_are_levels_is_refused(tmp_path, capsys):
    run = tmp_path / "run"
    short = ["--diffusion-steps", "10", "--schedule", "cosine", "--unconditional"]
    main(["train", *TRAIN, *short, "--out", str(run)])
    assert main(["sample", str(run), "--steps", "11"]) == 2
    assert "T = 10" in capsys.readouterr().err
    assert main(["sample", str(run), "--label", "3"]) == 2
    assert "no classes" in capsys.readouterr().err
    assert main(["sample", str(run), "--guidance", "2"]) == 2
    assert "this network has no classes and no conditions: leave guidance at 1" in capsys.readouterr().err
    assert main(["sample", str(run), "--sampler", "euler2"]) == 2
    assert "'ddim'" in capsys.readouterr().err
    assert torch.is_grad_enabled()


def test_a_run_whose_time_is_over_says_so_and_goes_on_when_given_more(tmp_path, capsys):
    place = str(tmp_path / "run")
    assert main(["train", *TRAIN[2:], "--seconds", "0.01", "--out", place]) == 0
    kept = (tmp_path / "run/unet/diffusion_pytorch_model.safetensors").read_bytes()
    capsys.readouterr()
    assert main(["train", place, "--resume"]) == 0
    assert "its last: give more --steps or --seconds to go on" in capsys.readouterr().out
    assert (tmp_path / "run/unet/diffusion_pytorch_model.safetensors").read_bytes() == kept
