"""``alphabar fit``, and the commands that take its tables."""

import io
import json
import re
import shutil
from contextlib import redirect_stdout
from functools import partial

import pytest
import torch

from alphabar import Fitted, FittedTable, Heun, sample
from alphabar.cli import fitting, main
from alphabar.cli.sweeping import Sweep
from alphabar.samplers import end_points
from alphabar.training import load, to_unit
from alphabar.training.images import read_image

TRAIN = ["--steps", "2", "--batch-size", "4", "--channels", "8", "--precision", "float32"]
FIT = ["--batch-size", "2", "--updates", "3"]


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A class-conditional run with tables of 2 and 3 evaluations, and what the command printed."""
    place = tmp_path_factory.mktemp("runs") / "run"
    assert main(["train", "--class-conditional", *TRAIN, "--out", str(place)]) == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting, "end_points", partial(end_points, teacher=Heun(4)))
        for name, batches in {"FITTED": 2, "HELD_OUT": 1, "REPORTED": 1}.items():
            patch.setattr(fitting, name, batches)
        with redirect_stdout(io.StringIO()) as printed:
            assert main(["fit", str(place), "--evals", "3,2", *FIT]) == 0
    return place, printed.getvalue()


@pytest.fixture(scope="module")
def run(fitted):
    return fitted[0]


def test_a_table_is_written_for_each_number_and_judged(fitted):
    run, printed = fitted
    head, names, two, three, last = printed.splitlines()
    assert "7 evaluations" in head and "fitted" in names
    assert last.startswith(f"wrote {run / 'fitted'} (2 tables")
    cell = r" +[\d.e-]+ / [\d.e-]+"
    assert re.fullmatch(rf" +2{cell * 4} +\d+", two) and re.fullmatch(rf" +3{cell * 4} +\d+", three)
    assert sorted(path.name for path in (run / "fitted").iterdir()) == ["2.json", "3.json"]
    table = FittedTable.load(run / "fitted" / "2.json")
    assert table.evaluations == 2 and table.about["network"] == load(run).digest()
    assert (table.about["guidance"], table.about["batch"]) == (1.0, [2, 1, 8, 8])


def test_sample_takes_the_table_and_says_so(run, tmp_path, capsys):
    out = tmp_path / "out"
    draw = ["sample", str(run), "--num", "3", "--sampler", "fitted", "--seed", "5", "--out", str(out)]
    draw += ["--precision", "float32"]
    assert main([*draw, "--steps", "2"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == f"sampling by {run / 'fitted' / '2.json'}"
    loaded = load(run)
    denoiser = loaded.guided(loaded.labels(3))
    expected = sample(denoiser, (3, 1, 8, 8), FittedTable.load(run / "fitted" / "2.json"), seed=5)
    found = torch.stack([to_unit(read_image(out / f"{i:05}.png", channels=1)) for i in range(3)])
    assert (found - expected.clamp(-1, 1)).abs().max() < 1 / 127  # eight bits
    assert re.fullmatch("fitted [0-9a-f]{6}", json.loads((out / "samples.json").read_text())["sampler"])
    assert main([*draw, "--steps", "6", "--replace"]) == 0  # of which no table was fitted to the run
    assert "sampling by" not in capsys.readouterr().out
    assert json.loads((out / "samples.json").read_text())["sampler"] == "fitted"


def test_edit_enters_a_table_on_the_way(run, tmp_path):
    image = tmp_path / "digit.png"
    draw = ["sample", str(run), "--num", "1", "--steps", "2", "--out", str(tmp_path / "one")]
    assert main(draw) == 0
    shutil.copy(tmp_path / "one" / "00000.png", image)
    edit = ["edit", str(run), str(image), "--sampler", "fitted", "--steps", "3", "--num", "1"]
    assert main([*edit, "--out", str(tmp_path / "edit.png")]) == 0


def test_a_table_of_something_else_is_one_line_that_says_to_fit_again(run, tmp_path, capsys):
    other = tmp_path / "other"
    assert main(["train", "--class-conditional", *TRAIN, "--seed", "1", "--out", str(other)]) == 0
    shutil.copytree(run / "fitted", other / "fitted")
    shutil.copy(run / "fitted" / "2.json", run / "fitted" / "4.json")
    (run / "fitted" / "5.json").write_text("{}")
    cases = {
        "another network": [str(other), "--steps", "2"],
        "with guidance 1.0, not 2.0": [str(run), "--steps", "2", "--guidance", "2"],
        "takes 2 evaluations": [str(run), "--steps", "4"],
        "no fitted table": [str(run), "--steps", "5"],
    }
    capsys.readouterr()
    for says, arguments in cases.items():
        assert main(["sample", *arguments, "--sampler", "fitted", "--out", str(tmp_path / "no")]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert says in line and "alphabar fit" in line
        assert not (tmp_path / "no").exists()
    for name in ("4", "5"):
        (run / "fitted" / f"{name}.json").unlink()


def test_sweep_tries_the_table_under_a_name_that_changes_with_it(run, capsys):
    sweep = Sweep(run=str(run), data="digits", samplers=("fitted",))
    planned = sweep._planned(load(run), [("fitted", 2), ("fitted", 4), ("fitted", 6)])
    (own, name), (packaged, other) = zip(planned.values(), planned, strict=True)
    assert own == FittedTable.load(run / "fitted" / "2.json") and packaged == Fitted(6)
    assert re.fullmatch("fitted [0-9a-f]{6}", name[0]) and name[1] == 2 and other == ("fitted", 6)
    assert "fitted with 4 evaluations is left out" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--evals", "0,5"], "evals is 0"),
        (["--evals", "five"], "with commas between"),
        (["--evals", "1001"], "at most T = 1000"),
        (["--guidance", "nan"], "scale is nan"),
        (["--updates", "0"], "updates is 0"),
        (["--batch-size", "0"], "batch_size is 0"),
        (["--seconds", "-1"], "seconds is -1"),
        (["--seed", "-1"], "seed is -1"),
    ],
)
def test_a_wrong_argument_is_one_line_and_nothing_is_written(run, arguments, says, capsys, monkeypatch):
    monkeypatch.setattr(fitting, "end_points", partial(end_points, teacher=Heun(1)))
    before = {path: path.read_bytes() for path in (run / "fitted").iterdir()}
    assert (
        main(["fit", str(run), *(["--evals", "2", *FIT] if "--evals" not in arguments else FIT), *arguments])
        == 2
    )
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line
    assert {path: path.read_bytes() for path in (run / "fitted").iterdir()} == before
