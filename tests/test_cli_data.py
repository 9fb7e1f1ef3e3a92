"""What ``alphabar data`` says is what is in the data, and what a training on them sees."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pictures import encoded, picture_of, plain, stored, write_folder, write_parquet
from PIL import Image
from pyarrow import parquet

from alphabar.cli import main, plots
from alphabar.cli.data import Data
from alphabar.training import TrainConfig, array_data, load_data, training_data
from alphabar.training.arrays import Arrays
from alphabar.training.encoded import Encoded
from alphabar.training.survey import survey


@pytest.fixture(autouse=True)
def in_its_own_folder(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def facts(source, *more):
    assert main(["data", str(source), *more, "--json", "facts.json"]) == 0
    return json.loads(Path("facts.json").read_text("utf-8"))


def noise(seed, height, width, channels=3):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype="uint8")


def photos(root):
    turned = Image.Exif()
    turned[0x0112] = 6  # stored on its side
    files = {f"cat/{k}.png": picture_of(noise(k, 20, 16)) for k in range(5)}
    files |= {
        "ant/a.png": picture_of(noise(9, 16, 16)),
        "ant/again.png": picture_of(noise(9, 16, 16)),
        "ant/broken.png": encoded(plain(3))[:40],
        "ant/tall.jpg": encoded(picture_of(noise(8, 30, 50)), "JPEG", exif=turned),
    }
    return write_folder(root, files)


def test_of_images_it_says_sizes_statistics_labels_and_what_is_broken_or_there_twice(tmp_path, capsys):
    source = photos(tmp_path / "photos")
    found, printed = facts(source), capsys.readouterr()
    assert (found["count"], found["shape"], found["kind"]) == (8, [3, 16, 16], "images")
    assert sorted(found["sizes"]) == [[16, 16, 2], [20, 16, 5], [50, 30, 1]]
    assert found["sizes"][0] == [20, 16, 5]
    assert found["labels"] == {"ant": 3, "cat": 5}
    assert list(found["broken"]) == [f"{source}/ant/broken.png"]
    assert found["repeated"] == [[f"{source}/ant/again.png", f"{source}/ant/a.png"]]
    data = load_data(source, skip_broken=True)
    x = data[range(8)].images.numpy().astype("float64") / 127.5 - 1
    for key, expected in {
        "mean": x.mean((0, 2, 3)),
        "std": x.std((0, 2, 3)),
        "least": x.min((0, 2, 3)),
    }.items():
        assert np.allclose(found["channels"][key], expected, atol=1e-6)  # of float32 in [−1, 1]
    assert "16×16 … 50×30, most often 20×16, 5 times" in printed.out
    assert "2 classes, 3 … 5 of each: ant (3), cat (5)" in printed.out
    assert f"1 left out\n          {source}/ant/broken.png: " in printed.out
    assert "note: few images: 8, " in printed.err
    assert "--flip" in printed.err
    assert "6 of 8 images are not square" in printed.err
    assert [text.split(":")[0] for text in found["findings"]] == ["few images"]
    with Image.open("data.png") as sheet:
        assert sheet.info["Software"] == "alphabar"
        assert (sheet.width, sheet.height) == (3 * (64 + 4) + 4, 3 * (64 + 4) + 4)  # eight of them, enlarged


def test_it_sees_what_a_training_sees_and_decodes_a_few_at_a_time(tmp_path, monkeypatch):
    root = write_folder(
        tmp_path / "a", {f"{k:02}.png": plain(k) for k in range(70)} | {"99.png": plain(1, 2, 3)}
    )
    there, trained = load_data(root, decode=False), load_data(root)
    assert isinstance(there.images, Encoded)
    assert trained.tensor is not None
    assert there.shape == trained.shape == (3, 4, 4)  # in colour as one of all is
    monkeypatch.setattr("alphabar.training.survey.AT_ONCE", 5 * 48)
    decoded = []
    monkeypatch.setattr(
        "alphabar.training.survey.pixels",
        lambda *form: decoded.append(form) or torch.zeros(3, 4, 4, dtype=torch.uint8),
    )
    blocks = []
    survey(there, progress=lambda rows: (blocks.append(len(decoded)) or row for row in rows))
    assert blocks == list(range(0, 71, 5))
    np.save(tmp_path / "x.npy", np.arange(12.0).reshape(6, 2))
    config = TrainConfig(data=str(tmp_path / "x.npy"))
    assert isinstance(training_data(config, decode=False).images, Arrays)
    assert training_data(config, decode=False).scaling == training_data(config).scaling


@pytest.mark.parametrize("decode", [True, False])
def test_of_arrays_it_says_the_numbers_of_each_channel_in_their_units(decode, tmp_path, monkeypatch):
    monkeypatch.setattr("alphabar.training.survey.AT_ONCE", 50)
    x = np.random.default_rng(0).standard_normal((40, 3, 8)) * [[1], [10], [100]] + 7
    x[17] = x[30] = x[4]
    np.savez(tmp_path / "x.npz", x=x, label=np.arange(40) % 2)
    found = survey(load_data(str(tmp_path / "x.npz"), decode=decode))
    flat = np.moveaxis(x, 1, 0).reshape(3, -1)
    assert (found.kind, found.sizes) == ("arrays", {})
    if not decode:  # of what is decoded, no more than its scaled values is known
        assert np.allclose(found.statistics.mean, flat.mean(1), rtol=1e-12)
        assert np.allclose(found.statistics.std, flat.std(1), rtol=1e-12)
        assert np.array_equal(found.statistics.most, flat.max(1))
    assert found.repeats == [(17, 4), (30, 4)]


@given(arrays.arrays("int8", st.tuples(st.integers(1, 12), st.just(2)), elements=st.integers(0, 2)))
def test_rows_that_are_there_twice_are_those_that_are_equal(x):
    rows = [tuple(row) for row in x.tolist()]
    expected = [(k, rows.index(row)) for k, row in enumerate(rows) if rows.index(row) < k]
    data = array_data(x + 1.0, scaling="none")
    assert survey(data).repeats == expected


def test_columns_that_a_network_can_be_told_are_offered_and_described(tmp_path, capsys):
    columns = {
        "image": [stored(plain(k)) for k in range(6)],
        "label": [0.5] * 6,
        "width": [1.5 + k for k in range(6)],
        "place": [[1.0, k] for k in range(6)],
        "map": [stored(plain(9 + k)) for k in range(6)],
        "name": list("abcdef"),
    }
    path = write_parquet(tmp_path / "a.parquet", columns)
    found = facts(path, "--condition", "width", "--condition", "place")
    numbers, lists = "a number", "a list of numbers"
    assert found["offered"] == {"label": numbers, "width": numbers, "place": lists, "map": "an image"}
    assert found["conditions"]["width"] == "a number, 1.5 … 6.5 in its training data"
    assert "6 of its 6 labels are unusable" in capsys.readouterr().out
    assert main(["data", path, "--condition", "label"]) == 2
    assert "condition label is the same in all 6 rows" in capsys.readouterr().err


@pytest.mark.parametrize(("shape", "drawn"), [((2,), 1), ((5,), 64), ((2, 9), 64), ((1, 4, 4, 4), 64)])
def test_the_sheet_shows_arrays_as_pictures_of_samples_do(shape, drawn, tmp_path, monkeypatch):
    seen, grid = [], plots.grid
    monkeypatch.setattr(plots, "grid", lambda images, path: seen.append(images) or grid(images, path))
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((200, *shape)))
    assert main(["data", str(tmp_path / "x.npy")]) == 0
    assert len(seen[0]) == drawn
    assert plots.is_grid("data.png")


def test_many_names_are_cut_and_written_whole(tmp_path, capsys):
    write_folder(tmp_path / "a", {f"{k:02}.png": plain(k) if k < 3 else b"x" for k in range(20)})
    found = facts(tmp_path / "a")
    printed = capsys.readouterr().out
    assert printed.count(": it is empty") == 10
    assert "broken    17 left out" in printed
    assert "and 7 more: --json" in printed
    assert len(found["broken"]) == 17


def test_it_writes_over_nothing_else_and_refuses_what_cannot_be_read(tmp_path, capsys):
    source = write_folder(tmp_path / "a", {"1.png": plain(1), "2.png": plain(2)})
    (tmp_path / "b.json").write_text("{}", "utf-8")
    table = pa.table({"image": pa.array([], pa.binary())})
    parquet.write_table(table, tmp_path / "none.parquet")
    wrong = {
        (source, "--out", f"{source}/data.png"): "one lies in the other",
        (source, "--out", f"{source}/1.png"): "one lies in the other",
        (source, "--out", "sheet.svg"): ".png",
        (source, "--json", str(tmp_path / "b.json")): "was not written here",
        (source, "--json", "facts.txt"): "json is 'facts.txt'",
        (source, "--scaling", "unit"): "'variance'",
        (source, "--size", "0"): "size is 0",
        (source, "--condition", "two words"): "rename",
        (source, "--condition", "width"): "no column 'width'",
        (source, "--image-column", "photo"): "no column 'photo'",
        ("nowhere",): "nowhere",
        (str(tmp_path / "none.parquet"),): "holds no image that can be read",
    }
    for arguments, says in wrong.items():
        assert main(["data", *arguments]) == 2
        printed = capsys.readouterr().err
        assert says in printed
        assert printed.count("\n") == 1
    assert not plots.is_grid("data.png")
    (tmp_path / "here/data.png").write_bytes(encoded(plain(1)))
    assert main(["data", source]) == 2
    assert "give the name of a new .png file" in capsys.readouterr().err
    assert Data(source).out.name == "data.png"
