"""Data from tables and by name: which column holds the images, and what the labels are called."""

import os
import re

import datasets
import numpy as np
import pyarrow as pa
import pytest
from pictures import encoded, greys, plain, stored, write_folder, write_parquet
from sklearn.datasets import load_digits

from alphabar.errors import DataError
from alphabar.training.data import load_data, read_image

# Tables


@pytest.mark.parametrize("form", ["struct", "struct of paths", "bytes", "path"])
def test_parquet_round_trip(tmp_path, form):
    root = write_folder(tmp_path, {f"{k}.png": plain(k) for k in range(7)})
    rows = {
        "struct": [stored(plain(k), f"{k}.png") for k in range(7)],
        "struct of paths": [{"bytes": None, "path": f"{root}/{k}.png"} for k in range(7)],
        "bytes": [encoded(plain(k)) for k in range(7)],
        "path": [f"{root}/{k}.png" for k in range(7)],
    }
    data = load_data(write_parquet(tmp_path / "a.parquet", {"image": rows[form], "text": ["x"] * 7}))
    assert greys(data) == list(range(7))
    assert data.labels is None


LABELS = {
    "numbers": ([2, 0, 2], [1, 0, 1], ("0", "2")),
    "words": (["cat", "ant", "cat"], [1, 0, 1], ("ant", "cat")),
    "fractions": ([0.5, 1.0, 2.0], None, None),
    "one missing": ([1, None, 0], None, None),
    "one unknown": ([1, -1, 0], None, None),
}


@pytest.mark.parametrize(("values", "labels", "classes"), LABELS.values(), ids=LABELS)
def test_labels_without_names_are_named_by_their_values(tmp_path, values, labels, classes):
    rows = [stored(plain(k)) for k in range(3)]
    data = load_data(write_parquet(tmp_path / "a.parquet", {"image": rows, "label": values}))
    assert data.classes == classes
    assert (data.labels if labels is None else data.labels.tolist()) == labels


FEATURES = {
    "image": {"_type": "Image"},
    "label": {"_type": "ClassLabel", "names": ["zebra", "ape", "cow"]},
    "words": [{"dtype": "string", "_type": "Value"}],
}


def test_class_names_come_from_the_metadata(tmp_path):
    columns = {"image": [stored(plain(k)) for k in range(3)], "label": [2, 0, 2], "words": [["a"]] * 3}
    data = load_data(write_parquet(tmp_path / "a.parquet", columns, FEATURES))
    assert data.classes == ("zebra", "ape", "cow")
    assert data.labels.tolist() == [2, 0, 2]


def test_else_the_first_columns_of_these_kinds_serve(tmp_path):
    pictures = [stored(plain(k)) for k in range(2)]
    columns = {
        "text": ["x"] * 2,
        "img": pictures,
        "mask": pictures[::-1],
        "fine_label": [1, 0],
        "coarse": [0, 0],
    }
    kinds = {"img": "image", "mask": "image", "fine_label": "label", "coarse": "label"}
    features = {column: FEATURES[kind] for column, kind in kinds.items()}
    data = load_data(write_parquet(tmp_path / "a.parquet", columns, features))
    assert greys(data) == [0, 1]
    assert data.labels.tolist() == [1, 0]


def test_a_table_that_holds_no_images_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no column 'image', only text, label"):
        load_data(write_parquet(tmp_path / "a.parquet", {"text": ["x"], "label": [1]}))
    with pytest.raises(DataError, match="holds no image that can be read"):
        load_data(write_parquet(tmp_path / "b.parquet", {"image": pa.array([], pa.binary())}))
    with pytest.raises(DataError, match=r"b\.parquet.* 'image' holds int64: expected images, or lists"):
        load_data(write_parquet(tmp_path / "b.parquet", {"image": [5]}))
    with pytest.raises(DataError, match=r"labels \[3, 7\] are without names: expected 0 … 2"):
        columns = {"image": [stored(plain(0))] * 3, "label": [7, 0, 3]}
        load_data(write_parquet(tmp_path / "c.parquet", columns, FEATURES))
    (tmp_path / "d.parquet").write_bytes(b"no parquet")
    with pytest.raises(DataError, match=r"d\.parquet cannot be read: .*Parquet"):
        load_data(str(tmp_path / "d.parquet"))


def test_hugging_face_data_sets_are_loaded_by_name(monkeypatch):
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=["no", "yes"])})
    columns = {"img": [plain(k) for k in range(5)], "label": [1, 0, 1, 1, 0]}
    tables = {("someone/greys", "test"): datasets.Dataset.from_dict(columns, features=features)}
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: tables[name, split])
    for limit in (0, 2**31):
        data = load_data("someone/greys", split="test", memory_limit=limit)
        assert greys(data) == [0, 1, 2, 3, 4]
        assert data.classes == ("no", "yes")
        assert data.labels.tolist() == [1, 0, 1, 1, 0]


@pytest.mark.parametrize("source", ["someone/digit", "someone/something"])
def test_a_name_is_looked_for_on_the_hub_when_there_is_no_such_folder(monkeypatch, source):
    def refuse(name, split):
        raise FileNotFoundError(f"no {name} with {split}")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    known = "taken for a Hugging Face dataset, as there is no such folder, cannot be read: no .* with train"
    with pytest.raises(DataError, match=f"'{source}', {known}"):
        load_data(source)


@pytest.mark.parametrize(
    "source", ["", "digit", "/nowhere/at/all", "none.parquet", "a/b/c", "photo.png", "no such"]
)
def test_the_hub_is_asked_for_nothing_that_is_no_name_of_its(monkeypatch, source):
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: pytest.fail("asked"))
    known = "no such folder, .* 'digits', a folder, a .npy, .*, .parquet or"
    with pytest.raises(DataError, match=f"'{source}': {known}"):
        load_data(source)


def test_what_is_there_and_holds_no_images_is_not_looked_for_elsewhere(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: pytest.fail("asked"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes").write_text("x")
    os.mkfifo(tmp_path / "pipe")
    os.mkfifo(tmp_path / "pipe.parquet")
    for source in ("notes", "pipe", "pipe.parquet", "/dev/zero"):
        with pytest.raises(DataError, match=f"'{source}' is neither a folder of images nor a .parquet or"):
            load_data(source)
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(DataError, match=r"pipe\.png cannot be read .*no regular file"):
        load_data(str(tmp_path))
    for source in ("pipe.png", "/dev/zero"):
        with pytest.raises(DataError, match="no regular file"):
            read_image(source)


def test_columns_are_chosen_by_name(tmp_path):
    columns = {
        "image": [stored(plain(k)) for k in range(3)],
        "other": [stored(plain(k + 9)) for k in range(3)],
    }
    columns |= {"label": [0, 1, 2], "kind": ["a", "b", "a"]}
    path = write_parquet(tmp_path / "a.parquet", columns)
    data = load_data(path, image_column="other", label_column="kind")
    assert greys(data) == [9, 10, 11]
    assert (data.classes, data.labels.tolist()) == (("a", "b"), [0, 1, 0])
    for flag, known in (("image", "image, other, label, kind"), ("label", "other, label, kind")):
        with pytest.raises(DataError, match=f"no column 'img' .--{flag}-column.*only {known}"):
            load_data(path, **{f"{flag}_column": "img"})


def test_labels_that_cannot_be_used_are_named(tmp_path):
    for values, named in (([0.5, 1.0], "2 of its 2 labels .* 0.5"), ([3, -1], "1 of its 2 labels .* -1")):
        columns = {"image": [stored(plain(k)) for k in range(2)], "label": values}
        data = load_data(write_parquet(tmp_path / "a.parquet", columns))
        assert re.search(named, data.unlabelled)
    assert load_data("digits").unlabelled == ""


def test_digits_are_scikit_learns():
    data, digits = load_data("digits"), load_digits()
    assert data.shape == (1, 8, 8)
    assert data.classes == tuple("0123456789")
    assert data.labels.tolist() == digits.target.tolist()
    assert np.array_equal(data.tensor[:, 0].numpy(), np.round(digits.images * 255 / 16))
    assert load_data("digits", size=16, channels=3).shape == (3, 16, 16)
