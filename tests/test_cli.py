"""Each command does what it says and ends by saying what it wrote; a wrong argument is one helpful line."""

import json

import pytest
import torch
from PIL import Image

from alphabar.cli import COMMANDS, main

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


def test_schedule_prints_the_ends_and_draws_the_curves(tmp_path, capsys):
    assert main(["schedule", "linear", "cosine", "--out", str(tmp_path / "s.png")]) == 0
    printed = capsys.readouterr().out
    assert "β 0.0001 … 0.02" in printed
    assert "4.04e-05" in printed  # ᾱ_T of the linear schedule
    assert (tmp_path / "s.png").stat().st_size > 1000


def test_training_then_sampling_from_the_folder(tmp_path, capsys):
    run = tmp_path / "run"
    assert main(["train", "--class-conditional", *TRAIN, "--out", str(run)]) == 0
    assert f"wrote {run}" in capsys.readouterr().out
    described = json.loads((run / "alphabar.json").read_text())
    assert described["training"]["steps"] == 2
    assert "out" not in described["training"]
    arguments = ["sample", str(run), "--num", "5", "--steps", "3", "--seed", "7", "--batch-size"]
    assert main([*arguments, "2"]) == 0
    names = sorted(path.name for path in (run / "samples").iterdir())
    assert names == [*(f"{i:05}.png" for i in range(5)), "grid.png"]
    assert main([*arguments, "5", "--sampler", "ddim", "--out", str(tmp_path / "again")]) == 0
    pictures = [(place / "00003.png").read_bytes() for place in (run / "samples", tmp_path / "again")]
    assert pictures[0] == pictures[1]  # the batch does not matter


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
        ([], "{noise, schedule, train, sample, demo}"),
        (["paint"], "noise, schedule, train, sample, demo"),
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


def test_sampling_more_steps_than_there_are_levels_is_refused(tmp_path, capsys):
    run = tmp_path / "run"
    main(["train", *TRAIN, "--diffusion-steps", "10", "--schedule", "cosine", "--out", str(run)])
    assert main(["sample", str(run), "--steps", "11"]) == 2
    assert "T = 10" in capsys.readouterr().err
    assert main(["sample", str(run), "--label", "3"]) == 2
    assert "no classes" in capsys.readouterr().err
    assert main(["sample", str(run), "--sampler", "euler2"]) == 2
    assert "'ddim'" in capsys.readouterr().err
    assert torch.is_grad_enabled()
