"""Whatever a person types, a wrong call is one line on stderr and exit code 2, before any work is done."""

import json
import os

import datasets
import huggingface_hub
import pytest
import torch
from pictures import plain, stored, write_parquet
from PIL import Image

from alphabar.cli import main
from alphabar.cli._main import COMMANDS

TRAIN = ["--steps", "2", "--batch-size", "4", "--channels", "8", "--precision", "float32"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a run, pictures of several forms, and files that are none of these."""
    root = tmp_path_factory.mktemp("hostile")
    assert main(["train", *TRAIN, "--unconditional", "--out", str(root / "run")]) == 0
    (root / "old").mkdir()
    for name, size in {
        "square.png": (16, 16),
        "wide.png": (32, 16),
        "pictured.gif": (16, 16),
        "old/digits.png": (8, 8),
    }.items():
        Image.new("L", size, 100).save(root / name)
    (root / "photos").mkdir()
    for k in range(4):
        Image.new("L", (8, 8), k).save(root / "photos" / f"{k}.png")
    for name, content in {
        "empty.pt": b"",
        "text.pt": b"hello there",
        "cut.pt": b"PK\x03\x04",
        "text": b"x",
    }.items():
        (root / name).write_bytes(content)
    torch.save([torch.zeros(2)], root / "list.pt")
    pictures = [stored(plain(k)) for k in range(4)]
    write_parquet(root / "labels.parquet", {"image": pictures, "label": [0.5, 1.0, 2.0, 3.0]})
    os.mkfifo(root / "pipe")
    os.mkfifo(root / "pipe.png")
    os.mkfifo(root / "pipe.pt")
    (root / "mine").mkdir()
    (root / "mine" / "00001.png").write_bytes(b"precious")
    (root / "taken.png").write_bytes(b"precious")
    for name in ("config", "classes"):
        assert main(["train", *TRAIN, "--out", str(root / name)]) == 0
    (root / "config" / "unet" / "config.json").write_text("[" * 100_000)
    described = json.loads((root / "classes" / "alphabar.json").read_text())
    (root / "classes" / "alphabar.json").write_text(json.dumps({**described, "classes": 5}))
    return root


HOSTILE = {
    # memory
    "train --batch-size 100000000": "GiB of memory",
    "train --batch-size 10000000000000000000000": "GiB of memory",
    "train --size 1000000": "at most 16384",
    "train --size 16384": "GiB of memory",
    "train --channels 800000000 8": "channels",
    "train --channels 80000 80000": "GiB of memory",
    "train --diffusion-steps 10000000000": "at most 1000000",
    "sample run --num 100000000000": "make room",
    "sample run --num 100000000 --batch-size 100000000": "GiB of memory",
    "likelihood run --data digits --flow-steps 20000000000": "GiB of memory",
    "likelihood run --data digits --probes 10000000000000": "GiB of memory",
    "edit run square.png --num 1000000000": "GiB of memory",
    "interpolate run square.png square.png --num 1000000000": "GiB of memory",
    "noise square.png --size 1000000": "at most 16384",
    "noise square.png --diffusion-steps 1000000000": "at most 1000000",
    "schedule --diffusion-steps 1000000000": "at most 1000000",
    "samplers --diffusion-steps 1000000000": "at most 1000000",
    # places to write to
    "noise square.png --out photos": "a folder",
    "noise square.png --out ": "a folder",
    "noise square.png --out strip.xyz": ".png",
    "noise square.png --out strip": ".png",
    "noise square.png --out text/strip.png": "cannot be written",
    "noise square.png --out pipe.png": "no regular file",
    "noise square.png --out /dev/null": "no regular file",
    "noise square.png --out square.png": "which is read",
    "noise pictured.gif --gif --out pictured.png": "which is read",
    "edit run square.png --out square.png": "which is read",
    "schedule --out curves.docx": ".png",
    "samplers --out photos": "a folder",
    "edit run square.png --out edit.xyz": ".png",
    "inpaint run square.png square.png --out photos": "a folder",
    "interpolate run square.png square.png --out i.xyz": ".png",
    "train --out text": "is no checkpoint",
    "train --out text/run": "cannot be written",
    "train --out photos": "is no checkpoint",
    "train photos --out photos/run": "one lies in the other",
    "train photos --out .": "one lies in the other",
    "sample run --out run": "a run",
    "sample run --out mine": "00001.png was not written here",
    "sample run --out taken": "taken.png is there",
    "sample run --out text": "cannot be written",
    "demo --out text": "cannot be written",
    "demo --out old": "digits.png was not written here",
    # files that are something else
    "convert empty.pt new": "is empty",
    "convert text.pt new": "no file of weights",
    "convert cut.pt new": "cannot be read",
    "convert list.pt new": "a dict of weights",
    "convert pipe.pt new": "no regular file",
    "convert photos new": "no regular file",
    "convert none.pt new": "No such file",
    "sample config": "nested too deeply",
    "sample classes": "classes is 5",
    "sample photos": "no model_index.json",
    "sample text": "no model_index.json",
    "sample pipe": "no model_index.json",
    "sample /dev/zero": "no model_index.json",
    "sample nowhere": "not there",
    "sample some/where": "no such folder",
    "train pipe": "neither a folder",
    "train /dev/zero": "neither a folder",
    "train text": "neither a folder",
    "train run": "is a trained run",
    "train phtos": "no such folder",
    "train ./phtos": "no such folder",
    "train phtos/": "no such folder",
    "train none.parquet": "no such folder",
    "noise pipe": "no regular file",
    "noise /dev/zero": "no regular file",
    "noise photos": "a folder",
    "noise text": "no image format",
    # what does not fit
    "inpaint run wide.png square.png": "16×16 pixels, the picture 16×32",
    "train photos --class-conditional": "no labels to train on: put its",
    "train labels.parquet --class-conditional": "4 of its 4 labels are unusable, such as 0.5",
    "train photos --image-column img": "column",
    "train --seed -1": "seed is -1",
    f"train --seed {2**64}": "seed is",
    "sample run --seed -1": "seed is -1",
    f"noise square.png --seed {2**64}": "seed is",
    "sample run --num 0": "num is 0",
    "sample run --batch-size 0": "batch_size is 0",
    "sample run --form jpg": "'npz', 'png', 'tar'",
    "sample run --guidance 2": "has no classes",
    "sample run --steps 0": "is 0",
    "sample run --spacing even": "'karras'",
    "noise wide.png --t 5 1000": "0 … 999",
}


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


@pytest.mark.parametrize("call", HOSTILE)
def test_a_hostile_call_is_one_line_and_exit_code_2(call, place, capsys, monkeypatch):
    monkeypatch.chdir(place)
    before = sorted(path.relative_to(place) for path in place.rglob("*"))
    try:
        code = main(call.split(" "))
    except SystemExit as stop:  # of the parser
        code = stop.code
    assert code == 2
    printed = capsys.readouterr()
    assert HOSTILE[call] in printed.err
    assert printed.err.count("\n") == 1
    assert printed.err.startswith("alphabar: ")
    assert len(printed.err) < 600
    assert sorted(path.relative_to(place) for path in place.rglob("*")) == before
    assert (place / "mine" / "00001.png").read_bytes() == (place / "taken.png").read_bytes() == b"precious"


@pytest.mark.parametrize("seed", [2**64 - 1, 2**63, 0])
def test_every_seed_of_64_bits_serves(seed, place, tmp_path, monkeypatch):
    monkeypatch.chdir(place)
    calls = (
        ["train", *TRAIN, "--flip", "--out", "RUN"],
        ["sample", "RUN", "--num", "1", "--steps", "2"],
        ["edit", "RUN", "square.png", "--num", "1", "--steps", "2", "--out", "edit.png"],
        ["noise", "square.png", "--size", "8", "--t", "5", "--out", "noise.png"],
    )
    for call in calls:
        where = {
            "RUN": str(tmp_path / "run"),
            "edit.png": str(tmp_path / "e.png"),
            "noise.png": str(tmp_path / "n.png"),
        }
        assert main([*(where.get(word, word) for word in call), "--seed", str(seed)]) == 0


@pytest.mark.parametrize(
    "error", [MemoryError("so much"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_memory_that_runs_out_is_one_line(error, capsys, monkeypatch):
    def fail(self):
        raise error

    monkeypatch.setattr(COMMANDS["info"], "__call__", fail)
    assert main(["info"]) == 2
    assert capsys.readouterr().err == f"alphabar: not enough memory: {error}\n"


def test_an_error_of_the_program_itself_is_not_hidden(monkeypatch):
    def fail(self):
        raise RuntimeError("a mistake")

    monkeypatch.setattr(COMMANDS["info"], "__call__", fail)
    with pytest.raises(RuntimeError, match="a mistake"):
        main(["info"])


def test_pictures_that_are_cropped_are_noted(place, tmp_path, capsys):
    assert (
        main(["noise", str(place / "wide.png"), "--size", "8", "--t", "5", "--out", str(tmp_path / "n.png")])
        == 0
    )
    assert "alphabar: note:" in (printed := capsys.readouterr().err)
    assert "wide.png has 16×32 pixels" in printed
    (tmp_path / "photos").mkdir()
    for k in range(4):
        Image.new("L", (8, 8 + k), k).save(tmp_path / "photos" / f"{k}.png")
    assert main(["train", str(tmp_path / "photos"), *TRAIN, "--out", str(tmp_path / "run")]) == 0
    assert "3 of 4 images are not square" in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_no_empty_defaults_and_names_what_tables_hold(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for noise in ("{None}", "default: )", "default: None", "default: False"):
        assert noise not in text
    if "--schedule" in text and command != "convert":
        for name in ("rectified_flow", "cosine", "edm"):
            assert name in text
    if "--spacing" in text:
        assert "trailing, leading" in text or "leading, trailing" in text


def test_a_name_on_the_hub_is_sampled_into_a_folder_of_its_name(place, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, allow_patterns: str(place / "run"))
    monkeypatch.chdir(tmp_path)
    assert main(["sample", "someone/digits", "--num", "2", "--steps", "2"]) == 0
    assert len(list((tmp_path / "digits" / "samples").glob("*.png"))) == 2
