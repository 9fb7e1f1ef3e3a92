"""Conditions from columns of data to samples: what is read, the command line, and what is refused."""

import io
import json

import numpy as np
import pyarrow as pa
import pytest
import torch
from cases import check_error
from PIL import Image
from pyarrow import parquet

from alphabar import DDPM, Clipped, Heun
from alphabar.cli import fitting, main, sweeping
from alphabar.errors import ConfigError, DataError
from alphabar.evaluation import bits_per_dimension, draw, split
from alphabar.samplers import end_points
from alphabar.training import load, load_data, to_unit
from alphabar.training.conditions import load_conditions
from alphabar.training.permutation import permuted

OWN = "own_networks:Told"
N = 12
PIXELS = (np.arange(N * 64) * 37 % 256).astype("uint8").reshape(N, 8, 8)


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


COLUMNS = {
    "image": [png(each) for each in PIXELS],
    "label": [k % 2 for k in range(N)],
    "ink": PIXELS.reshape(N, -1).mean(1),
    "count": list(range(N)),
    "place": [[float(k), -2.0 * k, 1.0] for k in range(N)],
    "text": [[[k + 0.5 * e for e in range(2)] for _ in range(3)] for k in range(N)],
    "low": [png(each[::2, ::2]) for each in PIXELS],
    "name": [f"image {k}" for k in range(N)],
    "holes": [None if k == 5 else float(k) for k in range(N)],
    "ragged": [[1.0] * (1 + (k == 7)) for k in range(N)],
    "missing": [None if k == 3 else [1.0, float(k)] for k in range(N)],
    "flat": [1.0] * N,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("conditions")
    parquet.write_table(pa.table(COLUMNS), place / "data.parquet")
    (place / "low.png").write_bytes(COLUMNS["low"][3]["bytes"])
    return place


@pytest.fixture
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="module")
def run(folder):
    names = ("ink", "place", "low")
    told = [part for name in names for part in ("--condition", name)]
    where = [str(folder / "data.parquet"), "--out", str(folder / "run")]
    assert main(["train", *where, *told, "--network", OWN, "--steps", "2", "--batch-size", "4"]) == 0
    return folder / "run"


# --- columns ---


@pytest.mark.parametrize("limit", [0, 2**31])
def test_columns_are_read_as_what_they_hold(limit, here):
    names = ("ink", "count", "place", "text", "low")
    data = load_data("data.parquet", conditions=names, memory_limit=limit)
    part = data[[3, 1]]
    assert {name: tuple(values.shape) for name, values in part.conditions.items()} == {
        "ink": (2,),
        "count": (2,),
        "place": (2, 3),
        "text": (2, 3, 2),
        "low": (2, 1, 8, 8),
    }
    assert part.conditions["ink"].tolist() == [COLUMNS["ink"][3], COLUMNS["ink"][1]]
    assert part.conditions["place"].tolist() == [COLUMNS["place"][3], COLUMNS["place"][1]]
    assert part.conditions["text"].tolist() == [COLUMNS["text"][3], COLUMNS["text"][1]]
    assert torch.equal(part.conditions["low"], data.subset([3, 1])[[0, 1]].conditions["low"])
    assert data.held is None if limit == 0 else data.held is not None


def test_lists_of_a_fixed_length_and_numbers_of_any_width(tmp_path):
    fixed = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(8, dtype="float32")), 2)
    table = {"image": COLUMNS["image"][:4], "pair": fixed, "small": pa.array([1, 2, 3, 4], pa.uint16())}
    parquet.write_table(pa.table({**table, "yes": [True, False, True, True]}), tmp_path / "a.parquet")
    found = load_data(str(tmp_path / "a.parquet"), conditions=("pair", "small", "yes")).conditions
    assert found["pair"].tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert found["small"].tolist() == [1, 2, 3, 4]
    assert found["yes"].tolist() == [1, 0, 1, 1]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("hue", "it has no column 'hue' (--condition)"),
        ("name", "column 'name' holds string"),
        ("ragged", "row 7"),
        ("missing", "row 3"),
    ],
)
def test_columns_that_are_no_condition(name, says, here):
    check_error(lambda: load_data("data.parquet", conditions=(name,)), DataError, says)


def test_rows_that_are_left_out_take_their_conditions_with_them(tmp_path):
    images = [*COLUMNS["image"][:3], {"bytes": b"no image", "path": None}, COLUMNS["image"][4]]
    table = {"image": images, "count": [0, 1, 2, 3, 4]}
    parquet.write_table(pa.table(table), tmp_path / "a.parquet")
    data = load_data(str(tmp_path / "a.parquet"), conditions=("count",), skip_broken=True)
    assert data.conditions["count"].tolist() == [0, 1, 2, 4]


# --- the command line ---


def sampled(capsys, *arguments):
    code = main(["sample", "run", "--network", OWN, "--steps", "2", "--precision", "float32", *arguments])
    return code, capsys.readouterr()


def pictures(place, count):
    return [np.asarray(Image.open(place / f"{k:05}.png")) for k in range(count)]


def test_sample_k_takes_row_k_of_those_that_are_given_in_turn(here, run, capsys):
    told = load_data("data.parquet", conditions=("ink", "place", "low")).conditions
    for name, rows in (("three", [0, 1, 2]), ("five", [0, 1, 2, 0, 1])):
        np.savez(
            here / f"{name}.npz", other=np.zeros(1), **{k: each[rows].numpy() for k, each in told.items()}
        )
        more = ("--num", "5", "--batch-size", "2", "--conditions", f"{name}.npz", "--out", name)
        assert sampled(capsys, *more)[0] == 0
    assert np.array_equal(pictures(here / "three", 5), pictures(here / "five", 5))
    more = ("--num", "3", "--batch-size", "3", "--conditions", "data.parquet", "--out", "b")
    assert sampled(capsys, *more)[0] == 0
    first, other = (np.stack(pictures(here / name, 3)).astype(int) for name in ("three", "b"))
    assert np.abs(first - other).max() <= 1  # in batches of other sizes
    assert np.abs(first[0] - first[1]).max() > 1
    again = ("--num", "1", *ALL)
    assert sampled(capsys, *again, "--out", "c")[0] == 0
    record = json.loads((here / "c" / "samples.json").read_text())
    assert set(record["conditions"]) == {"ink", "place", "low"}
    code, said = sampled(capsys, *again, "--out", "b")
    assert code == 2
    assert "conditions was" in said.err


ALL = ("--condition", "ink=100", "--condition", "place=1,2,3", "--condition", "low=low.png")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "ink, low, place missing: this network needs ink (a number, "),
        (ALL[:4], "low missing: this network needs"),
        ((*ALL, "--condition", "hue=3"), "no condition hue: this network needs ink"),
        ((*ALL, "--condition", "ink=3"), "given twice"),
        ((*ALL[2:], "--condition", "ink"), "give NAME=VALUE"),
        ((*ALL[2:], "--condition", "ink=thick"), "condition ink is 'thick': give a number"),
        ((*ALL[2:], "--condition", "ink=nan"), "NaN"),
        ((*ALL[:2], *ALL[4:], "--condition", "place=1,2"), "place has 2 numbers, not 3"),
        ((*ALL[:4], "--condition", "low=none.png"), "none.png"),
        ((*ALL[:4], "--conditions", "none.npz"), "there is no file none.npz"),
        ((*ALL[:4], "--conditions", "low.png"), "low.png"),
        ((*ALL, "--conditions", "data.parquet"), "data.parquet has no column of a condition: leave it out"),
    ],
)
def test_conditions_that_do_not_fit_are_one_line_that_says_what_would(arguments, says, here, run, capsys):
    code, said = sampled(capsys, *arguments, "--out", "never")
    assert code == 2
    assert says in said.err
    assert said.err.count("\n") == 1
    assert not (here / "never").exists()


def test_columns_that_are_images_for_what_is_none(here, run):
    told = {"image": load(run, network=OWN).conditions["ink"]}
    check_error(lambda: load_conditions("data.parquet", told), ConfigError, "column of images")


def test_a_run_is_resumed_with_its_conditions_and_other_commands_say_that_they_take_none(here, run, capsys):
    assert main(["train", "run", "--resume", "--network", OWN, "--steps", "3", "--samples-every", "3"]) == 0
    assert (here / "run/samples/step-00000003.png").is_file()
    assert load("run", network=OWN).training["conditions"] == ["ink", "place", "low"]
    capsys.readouterr()
    assert main(["train", "run", "--resume", "--network", OWN, "--steps", "4", "--condition", "ink"]) == 2
    assert "begun with" in capsys.readouterr().err
    assert main(["edit", "run", "low.png", "--network", OWN, "--steps", "2", "--num", "1", *ALL]) == 0
    for command in (["export", "run", "chain.pt2"], ["explore", "run"]):
        assert main([*command, "--network", OWN]) == 2
        assert "is told conditions, ink (a number, " in capsys.readouterr().err


def test_the_likelihood_of_images_is_that_under_their_own_conditions(here, run):
    asked = ["--data", "data.parquet", "--method", "bound", "--num", "5", "--steps", "3", "--seed", "3"]
    assert main(["likelihood", "run", "--network", OWN, *asked, "--json", "found.json"]) == 0
    data = load_data("data.parquet", conditions=("ink", "place", "low"))
    images, _, told = data[permuted(torch.arange(5), N, seed=3)]
    denoiser = Clipped(load("run", network=OWN).denoiser(conditions=told))
    expected = bits_per_dimension(denoiser, to_unit(images), DDPM(3), seed=3)
    found = json.loads((here / "found.json").read_text())["bound"]["each"]
    assert found == pytest.approx(expected.each.tolist(), rel=1e-6)


def test_samples_of_a_sweep_are_told_what_the_real_images_beside_them_are(here, run, monkeypatch):
    parquet.write_table(pa.concat_tables([pa.table(COLUMNS)] * 4), "four.parquet")
    (here / "own_means.py").write_text("def means(images):\n    return images.float().mean((2, 3))\n")
    told = []
    monkeypatch.setattr(
        sweeping,
        "draw",
        lambda *a, conditions, **k: told.append(conditions) or draw(*a, conditions=conditions, **k),
    )
    asked = ["--samplers", "ddim", "--evals", "2", "--num", "20", "--features", "own_means:means"]
    assert main(["sweep", "run", "--network", OWN, "--data", "four.parquet", *asked]) == 0
    real, _ = split(load_data("four.parquet", conditions=("ink", "place", "low")), 20)
    assert all(torch.equal(told[0][name], each) for name, each in real[range(20)].conditions.items())
    protocol = json.loads((here / "run/sweep.json").read_text())["protocol"]
    assert set(protocol["conditions"]) == {"ink", "place", "low"}


def test_a_table_is_fitted_to_chains_with_the_conditions_that_are_given(here, run, monkeypatch, capsys):
    for name, batches in {"FITTED": 2, "HELD_OUT": 1, "REPORTED": 1}.items():
        monkeypatch.setattr(fitting, name, batches)
    told = []
    monkeypatch.setattr(
        fitting,
        "end_points",
        lambda denoiser, *a, **k: told.append(denoiser) or end_points(denoiser, *a, teacher=Heun(4), **k),
    )
    asked = ["fit", "run", "--network", OWN, "--evals", "2", "--batch-size", "2", "--updates", "1"]
    assert main(asked) == 2
    assert "missing: this network needs ink" in capsys.readouterr().err
    assert main([*asked, *ALL]) == 0
    codes = told[0].denoiser.conditions
    expected = load("run", network=OWN).conditions["place"].code(torch.tensor([[1.0, 2.0, 3.0]] * 2))
    assert torch.equal(codes["place"], expected)


@pytest.mark.parametrize("network", ["unet", OWN])
def test_the_lines_of_a_card_give_conditions_and_sample(network, here):
    told = ["--condition", "ink", "--condition", "low", "--network", network]
    width = ["--width", "8"] if network == "unet" else []
    small = ["--steps", "1", "--batch-size", "4", "--precision", "float32", "--out", "carded", "--overwrite"]
    assert main(["train", "data.parquet", *told, *width, *small]) == 0
    text = (here / "carded/README.md").read_text("utf-8")
    assert "| conditions | ink (a number, " in text
    assert "--conditions WANTED.npz" in text
    names = {}
    exec(text.partition("```python\n")[2].partition("```")[0].replace("PLACE", "carded"), names)
    assert names["images"].shape == (16, 1, 8, 8)


@pytest.mark.parametrize(
    ("condition", "says"),
    [
        ("holes", "row 5"),
        ("flat", "the same in all 12 rows"),
        ("place:number", "a number"),
        ("low:vector", "a vector has 1 axes"),
        ("text:image", "the data are of (1, 8, 8): give both the same sides"),
    ],
)
def test_a_training_on_what_is_no_condition_ends_before_its_first_step(condition, says, here, capsys):
    where = ["data.parquet", "--out", "never", "--network", OWN, "--steps", "1", "--batch-size", "4"]
    assert main(["train", *where, "--condition", condition]) == 2
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1
    assert not (here / "never").exists()


def test_the_network_of_the_house_end_to_end(here, capsys):
    told = ["--condition", "text", "--condition", "low:image", "--class-conditional"]
    small = ["--steps", "1", "--batch-size", "4", "--channels", "8", "--precision", "float32"]
    assert main(["train", "data.parquet", "--out", "house", *told, *small]) == 0
    asked = ["--num", "2", "--steps", "2", "--conditions", "data.parquet", "--guidance", "2"]
    assert main(["sample", "house", *asked]) == 0
    assert len(list((here / "house/samples").glob("*.png"))) == 2
