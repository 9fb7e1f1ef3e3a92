"""Arrays as data: scaled by statistics in float64, read row by row from every form, trained on, refused."""

import math
import pickle
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from cases import check_error
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pictures import plain, stored, write_parquet
from pyarrow import parquet
from safetensors.torch import save_file
from torch.utils.data import TensorDataset

from alphabar.cli import plots
from alphabar.cli._main import run
from alphabar.cli._pictures import pictures
from alphabar.denoise.scaling import Scaling
from alphabar.errors import CheckpointError, ConfigError, DataError, ShapeError, UnknownNameError
from alphabar.process import edm, named
from alphabar.samplers import DDIM, sample
from alphabar.training import TrainConfig, array_data, load, load_data, save, train
from alphabar.training.arrays import Held, NumpyFile
from alphabar.training.order import Order
from alphabar.training.permutation import WINDOW
from alphabar.training.sources import read_conditions
from alphabar.training.statistics import SCALINGS, ScalingWarning, Statistics, measured, scaling_of
from alphabar.training.stores import RowGroups

SHAPES = ((2,), (3, 8), (6, 4, 6), (1, 4, 4, 4))
TRAIN = ["--steps", "2", "--batch-size", "8", "--precision", "float32", "--width", "8"]


def numbers(shape=(3, 8), count=40, seed=0):
    """Numbers of another mean and deviation in each channel."""
    draw = np.random.default_rng(seed)
    per_channel = (-1, *[1] * (len(shape) - 1))
    scale = 10.0 ** np.arange(shape[0]).reshape(per_channel)
    return (draw.standard_normal((count, *shape)) * scale + 5 * scale).astype("float32")


def by_channel(x):
    return np.moveaxis(x.astype("float64"), 1, 0).reshape(x.shape[1], -1)


@pytest.mark.parametrize("shape", SHAPES)
def test_statistics_are_those_of_numpy_whatever_is_read_at_once(shape, monkeypatch):
    x = numbers(shape)
    monkeypatch.setattr("alphabar.training.statistics.AT_ONCE", 7 * x[0].size)
    found, broken = measured(Held(torch.tensor(x)))
    flat = by_channel(x)
    assert not broken
    assert found.count == flat.shape[1]
    assert np.allclose(found.mean, flat.mean(1), rtol=1e-13)
    assert np.allclose(found.std, flat.std(1), rtol=1e-12)
    assert np.array_equal(found.least, flat.min(1))
    assert np.array_equal(found.most, flat.max(1))


def test_statistics_keep_their_digits_far_from_zero():
    x = torch.randn(5000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    parts = [Statistics.of(part + 1e9) for part in x.split(100)]
    total = parts[0]
    for part in parts[1:]:
        total += part
    assert float(total.std) == pytest.approx(float(x.std(correction=0)), rel=1e-6)  # of values to 1e-7


values = st.floats(-1e5, 1e5, allow_nan=False).map(lambda value: round(value, 3))
tables = arrays.arrays(
    "float64", st.tuples(st.integers(2, 9), st.integers(1, 3), st.integers(1, 4)), elements=values
)


@pytest.mark.filterwarnings("ignore::alphabar.training.statistics.ScalingWarning")
@given(tables, st.sampled_from(sorted(SCALINGS)))
def test_scaling_is_inverted_and_gives_each_channel_its_unit(x, name):
    scaling = scaling_of(Statistics.of(torch.tensor(x)), name)
    z = scaling(torch.tensor(x))
    assert z.dtype == torch.float32
    back = scaling.invert(z).double().numpy()
    scale = np.array(scaling.scale)[:, None]
    rounded = np.abs(z.numpy()) / scale + np.abs(scaling.shift)[:, None] + np.abs(x)
    assert (np.abs(back - x) <= 1.2e-7 * rounded + 1e-12).all()
    flat = by_channel(z.numpy())
    moves = by_channel(x).min(1) < by_channel(x).max(1)
    if name == "variance":
        assert np.allclose(flat[moves].std(1), 1, atol=1e-4)
        assert np.allclose(flat.mean(1), 0, atol=1e-4)
    if name == "range":
        assert np.allclose(flat[moves].min(1), -1, atol=1e-5)
        assert np.allclose(flat[moves].max(1), 1, atol=1e-5)


def test_samples_far_from_zero_are_returned_in_double_precision():
    far, near = Scaling((1e9,), (1.0,)), Scaling((1.0,), (1.0,))
    z = torch.tensor([[0.25]])
    assert far.invert(z).item() == 1e9 + 0.25
    assert near.invert(z).dtype == torch.float32
    check_error(lambda: near(torch.zeros(3, 2)), ShapeError, "(B, 1, …)")


def test_a_channel_that_never_changes_keeps_its_scale_and_is_told():
    x = np.stack([np.full(9, 0.1), np.arange(9.0)], 1)
    with pytest.warns(ScalingWarning, match="1 of 2 channels are the same in all rows: 0"):
        data = array_data(x)
    assert data.scaling.scale[0] == 1
    assert (data[range(9)].images[:, 0] == 0).all()


def write(place, x, labels):
    """Each form of the same arrays, by its path."""
    lists = x.reshape(len(x), -1).tolist() if x.ndim == 2 else x.tolist()
    table = pa.table({"signal": lists, "label": labels.tolist()})
    np.save(place / "x.npy", x)
    np.save(place / "big.npy", np.asfortranarray(x.astype(">f4")))
    np.savez(place / "x.npz", data=x, labels=labels)
    save_file({"data": torch.tensor(x), "labels": torch.tensor(labels)}, place / "x.safetensors")
    parquet.write_table(table, place / "x.parquet")
    return [place / name for name in ("x.npy", "big.npy", "x.npz", "x.safetensors", "x.parquet")]


@pytest.mark.parametrize("shape", SHAPES)
def test_every_form_gives_the_same_rows(shape, tmp_path):
    x, labels = numbers(shape), np.arange(40) % 3
    dataset = TensorDataset(torch.tensor(x), torch.tensor(labels))
    sources = write(tmp_path, x, labels)
    found = [load_data(str(path)) for path in sources] + [array_data(dataset), array_data(x, labels)]
    found += [load_data(str(path), memory_limit=0) for path in sources] + [
        array_data(dataset, memory_limit=0)
    ]
    z = (by_channel(x) - by_channel(x).mean(1, keepdims=True)) / by_channel(x).std(1, keepdims=True)
    expected = np.moveaxis(z.reshape(shape[0], 40, *shape[1:]), 0, 1)
    for data in found:
        assert data.shape == shape
        assert len(data) == 40
        batch = data[[7, 3, 39, 3]]
        assert batch.images.dtype == torch.float32
        assert np.allclose(batch.images, expected[[7, 3, 39, 3]], atol=1e-5)
        back = data.scaling.invert(data.subset([5, 6])[[1]].images)
        assert np.allclose(back, x[[6]], rtol=1e-5, atol=1e-5 * float(np.abs(x).max()))
        if data.labels is not None:
            assert data.classes == ("0", "1", "2")
            assert batch.labels.tolist() == [1, 0, 0, 0]
    assert sum(data.labels is None for data in found) == 4  # the .npy files


@pytest.mark.parametrize("suffix", ["npy", "npz", "safetensors"])
@pytest.mark.parametrize("limit", [0, 2**31])
def test_files_that_a_name_stands_for_follow_each_other(suffix, limit, tmp_path):
    x, labels = numbers((3, 8)), np.arange(40) % 3
    for number, some in enumerate(np.split(np.arange(40), [7, 7, 30])):
        place = tmp_path / str(number)
        place.mkdir()
        write(place, x[some], labels[some])
    data = load_data(f"{tmp_path}/*/x.{suffix}", memory_limit=limit)
    places = [39, 3, 29, 30, 3, 7, 6]
    assert data.scaling == array_data(x).scaling
    assert torch.equal(data[places].images, array_data(x)[places].images)
    assert data.labels is None or data.labels.tolist() == labels.tolist()
    assert load_data(f"{tmp_path}/{{0..2}}/x.{suffix}").shape == (3, 8)
    np.savez(tmp_path / "3/x.npz", data=x[:, :2], labels=labels)
    save_file({"values": torch.tensor(x)}, tmp_path / "3/x.safetensors")
    np.save(tmp_path / "3/x.npy", x[:, :, :5])
    named = "no array 'data'" if suffix == "safetensors" else "holds rows of shape"
    check_error(lambda: load_data(f"{tmp_path}/*/x.{suffix}"), DataError, named, f"3/x.{suffix}")


@pytest.mark.parametrize("shape", SHAPES)
def test_of_a_folder_of_arrays_each_file_is_one_row_and_sub_folders_are_labels(shape, tmp_path):
    x = numbers(shape, 12)
    for k in range(12):
        place = tmp_path / "ab"[k % 2] / f"{k:02}.npy"
        place.parent.mkdir(exist_ok=True)
        np.save(place, x[k])
    order = [*range(0, 12, 2), *range(1, 12, 2)]
    for limit in (0, 2**31):
        data = load_data(str(tmp_path), memory_limit=limit)
        assert torch.equal(data[range(12)].images, array_data(x[order])[range(12)].images)
        assert (data.classes, data.labels.tolist()) == (("a", "b"), [0] * 6 + [1] * 6)
    (tmp_path / "alphabar.json").write_text("{}")
    check_error(lambda: load_data(str(tmp_path)), DataError, "trained run")
    (tmp_path / "alphabar.json").unlink()
    (tmp_path / "one").mkdir()
    np.save(tmp_path / "one/x.npy", x)
    check_error(lambda: load_data(str(tmp_path / "one")), DataError, "name the file", "one/x.npy")
    (tmp_path / "one/x.npy").unlink()
    np.save(tmp_path / "b/99.npy", x)
    check_error(lambda: load_data(str(tmp_path)), DataError, "b/99.npy", "hold one row each")
    (tmp_path / "b/99.npy").write_bytes(b"")
    check_error(lambda: load_data(str(tmp_path)), DataError, "b/99.npy cannot be read")


def test_files_of_one_row_may_hold_its_label_and_what_a_network_is_told(tmp_path):
    x = numbers((3, 8), 9)
    for k in range(9):
        np.savez(tmp_path / f"{k}.npz", x=x[k], label=np.array("cat" if k % 2 else "ant"), width=float(k))
        save_file(
            {"x": torch.tensor(x[k]), "y": torch.tensor(k % 2), "at": torch.tensor([k, 1.0])},
            tmp_path / f"{k}.safetensors",
        )
    (both := tmp_path / "other").mkdir()
    for path in tmp_path.glob("*.safetensors"):
        path.rename(both / path.name)
    told = load_data(str(both), conditions=["at"])
    assert told.labels.tolist() == [k % 2 for k in range(9)]
    assert told.conditions["at"].tolist() == [[k, 1.0] for k in range(9)]
    for path in both.iterdir():
        path.unlink()
    data = load_data(str(tmp_path), conditions=["width"])
    assert (data.shape, data.classes) == ((3, 8), ("ant", "cat"))
    assert data.conditions["width"].tolist() == list(range(9))
    np.savez(tmp_path / "4.npz", x=x[4].astype("uint8"), label=np.array("cat"))
    check_error(lambda: load_data(str(tmp_path)), DataError, "4.npz", "uint8")


def test_lists_of_a_table_are_read_by_row_groups_and_few_are_held(tmp_path, monkeypatch):
    x = numbers((3, 8), 400)
    table = pa.table({"x": x.tolist(), "label": [k % 2 for k in range(400)]})
    parquet.write_table(table, tmp_path / "x.parquet", row_group_size=10)
    whole = array_data(x)
    read, original = [], RowGroups._rows
    monkeypatch.setattr(RowGroups, "_rows", lambda self, group: read.append(group) or original(self, group))
    data = load_data(str(tmp_path / "x.parquet"), memory_limit=0)
    assert sorted(set(read)) == list(range(40))
    assert len(read) <= 42  # once, and for the form of the first row
    assert data.block == 10
    read.clear()
    for places in ([399, 0, 5, 27], [27, 20]):
        assert np.allclose(data[places].images, whole[places].images, atol=1e-6)
    assert len(data.images.stored.stored.held) <= 2 * WINDOW
    assert set(read) <= {39, 0, 2}
    order = Order(400, seed=0, steps=20, batch_size=20, offset=0, share=20, block=data.block)
    for places in order:
        assert np.allclose(data[places].images, whole[places].images, atol=1e-6)
    copied = pickle.loads(pickle.dumps(data.images))
    assert torch.equal(copied[[3]].decode(), data[[3]].images)


@pytest.mark.parametrize(
    ("row", "says"),
    [([1.0], "row 25 "), (None, "row 25 "), ([1.0, None], "row 25 holds a NaN"), ([math.inf, 0.0], "row 25")],
)
def test_a_list_that_is_not_as_the_others_is_named_by_its_row(row, says, tmp_path):
    rows = [[float(k), 1.0] for k in range(30)]
    rows[25] = row
    parquet.write_table(pa.table({"x": rows}), tmp_path / "x.parquet", row_group_size=10)
    check_error(lambda: load_data(str(tmp_path / "x.parquet")), DataError, says)


def test_files_of_lists_may_be_of_several_types(tmp_path):
    x = numbers((2,), 20)
    for number, (some, kind) in enumerate(zip((x[:9], x[9:]), (pa.float32(), pa.float64()), strict=True)):
        parquet.write_table(
            pa.table({"x": pa.array(some.tolist(), pa.list_(kind))}), tmp_path / f"{number}.parquet"
        )
    data = load_data(f"{tmp_path}/*.parquet", memory_limit=0)
    assert np.allclose(data.scaling.invert(data[[19, 0, 10, 3]].images), x[[19, 0, 10, 3]], rtol=1e-5)


def test_a_byte_that_is_missing_is_named_and_a_condition_that_is_too(tmp_path):
    images = [[[[k, 1]]] for k in range(20)]
    images[13][0][0][1] = None
    of_bytes = pa.list_(pa.list_(pa.list_(pa.uint8())))
    columns = {"x": pa.array(images, of_bytes), "number": pa.array([*range(19), None])}
    parquet.write_table(pa.table(columns), tmp_path / "x.parquet", row_group_size=5)
    path = str(tmp_path / "x.parquet")
    check_error(lambda: load_data(path), DataError, "column 'x'", "a number is missing or no uint8")
    told = read_conditions(path, ["number"])["number"]
    assert told[:19].tolist() == list(range(19))
    assert told[19].isnan()


def test_hugging_face_columns_of_lists_are_read(tmp_path):
    from datasets import Array2D, Dataset, Features

    x = numbers((3, 8))
    Dataset.from_dict({"signal": list(x)}, Features({"signal": Array2D((3, 8), "float32")})).save_to_disk(
        tmp_path
    )
    data = load_data(str(tmp_path))
    assert np.allclose(data.scaling.invert(data[range(40)].images), x, rtol=1e-5, atol=1e-3)


def test_images_that_a_network_is_told_beside_fields_have_their_size(tmp_path):
    shape, count = (2, 8, 8), 12
    x = numbers(shape, count)
    x[3, 0, 0, 0] = np.nan
    columns = {"x": x.tolist(), "map": [stored(plain(k)) for k in range(count)]}
    path = write_parquet(tmp_path / "a.parquet", columns)
    options = {"conditions": ["map"], "image_column": "x", "skip_broken": True}
    for limit in (2**31, 0):
        told = load_data(path, **options, memory_limit=limit)[[2, 3, 10]].conditions["map"]
        assert told.shape == (3, 1, 8, 8)
        assert told[:, 0, 0, 0].tolist() == [2, 4, 11]  # without row 3
    config = TrainConfig(data=path, image_column="x", conditions=("map",), skip_broken=True)
    assert next(train(replace(config, steps=1, batch_size=4, width=8))).loss > 0
    path = write_parquet(tmp_path / "b.parquet", columns | {"x": numbers((3, 8), count).tolist()})
    check_error(lambda: load_data(path, **options), DataError, "condition map", "(3, 8)")


def test_of_a_mapped_file_only_the_rows_that_are_asked_for_are_read(tmp_path):
    place = tmp_path / "huge.npy"
    mapped = np.lib.format.open_memmap(
        place, "w+", "float32", (2**22, 2**10)
    )  # 16 GiB, of which none is stored
    mapped[2**22 - 1] = 7
    mapped.flush()
    rows = NumpyFile(str(place), torch.Size(mapped.shape))
    assert rows.read([0, 2**22 - 1]).mean(1).tolist() == [0, 7]


def test_bytes_of_one_or_three_channels_are_images(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (5, 3, 4, 6), dtype="uint8")
    np.save(tmp_path / "x.npy", x)
    for data in (array_data(x), load_data(str(tmp_path / "x.npy"), memory_limit=0)):
        assert data.scaling is None
        assert torch.equal(data[range(5)].images, torch.tensor(x))
    assert array_data(x[:, :2]).scaling is not None


@pytest.mark.parametrize("kind", ["int8", "int64", "uint16", "float16", "float64", "bool"])
def test_numbers_of_every_type_are_scaled(kind):
    x = np.arange(12).reshape(6, 2) % 5
    data = array_data(x.astype(kind))
    assert np.allclose(data.scaling.invert(data[range(6)].images), x.astype(kind), atol=1e-6)


def test_rows_that_are_not_finite_are_named_or_left_out():
    x = numbers((2,))
    x[7, 1], x[9, 0] = np.nan, np.inf
    check_error(lambda: array_data(x), DataError, "row 7")
    data = array_data(x, np.arange(40), skip_broken=True)
    assert list(data.skipped) == ["row 7", "row 9"]
    assert data.labels.tolist() == [n for n in range(40) if n not in (7, 9)]
    check_error(lambda: array_data(x[[7, 9]], skip_broken=True), DataError, "all of 2")


class Odd:
    """A dataset of the user's that gives whatever it is made of."""

    def __init__(self, *items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, number):
        return self.items[number]


def test_data_that_cannot_be_trained_on_are_named_errors(tmp_path):
    for shape in ((5,), (0, 2), (2, 0), (2, 1, 1, 1, 1, 1)):
        check_error(lambda shape=shape: array_data(np.zeros(shape)), DataError, "expected (N, C)")
    wrong = {
        "complex": np.zeros((2, 2), "complex64"),
        "<U1": np.array([["a", "b"]]),
        "cannot be scaled": np.array([[-1e300], [1e300]]),
        "a str": Odd("a"),
        "no items": Odd(),
        "item 1 has shape": Odd(torch.zeros(2), torch.zeros(3)),
        "a function": iter,
    }
    wrong["a builtin_function_or_method"] = wrong.pop("a function")
    for says, values in wrong.items():
        check_error(lambda values=values: array_data(values), DataError, says)
    check_error(lambda: array_data(numbers(), range(3)), DataError, "3 labels for 40 rows")
    check_error(lambda: array_data(numbers(), scaling="unit"), UnknownNameError, "variance")


def test_hostile_files_are_named_errors_and_nothing_is_unpickled(tmp_path):
    x = numbers()
    paths = write(tmp_path, x, np.arange(40))
    for path in paths[:4]:
        path.write_bytes(path.read_bytes()[:-200])
        check_error(lambda path=path: load_data(str(path)), DataError, path.name)
        path.write_bytes(b"")
        check_error(lambda path=path: load_data(str(path)), DataError, path.name)
    objects = np.array([[Bomb()], [Bomb()]], dtype=object)
    np.save(tmp_path / "x.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "x.npz", x=objects)
    (tmp_path / "big.npy").write_bytes(pickle.dumps(Bomb()))
    for name in ("x.npy", "x.npz", "big.npy"):
        check_error(lambda name=name: load_data(str(tmp_path / name)), DataError, name)
    np.savez(tmp_path / "two.npz", a=x, b=x)
    both = str(tmp_path / "two.npz")
    assert load_data(both, image_column="b").shape == (3, 8)
    check_error(lambda: load_data(both, image_column="c"), DataError, "only a, b")
    check_error(lambda: load_data(both, size=8), DataError, "leave out size")
    check_error(lambda: load_data(str(tmp_path / "none.npy")), DataError, "none.npy")


class Bomb:
    def __reduce__(self):
        return pytest.fail, ("a pickle was opened",)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_run_keeps_the_scaling_of_its_data_and_can_be_opened(shape, tmp_path, capsys):
    np.save(tmp_path / "x.npy", numbers(shape))
    place = tmp_path / "run"
    assert run(["train", str(tmp_path / "x.npy"), "--out", str(place), *TRAIN]) == 0
    loaded, data = load(place), load_data(str(tmp_path / "x.npy"))
    assert loaded.scaling == data.scaling
    assert loaded.shape == shape
    far = torch.full((1, *shape), 30.0)
    unclipped = loaded.denoiser()(far, 0).x_0
    assert torch.equal(loaded.guided()(far, 0).x_0, unclipped)
    assert unclipped.abs().max() > 2  # at t = 0 the answer is near x_t
    words = ["sample", str(place), "--num", "5", "--steps", "2", "--precision", "float32"]
    assert run([*words, "--batch-size", "2"]) == 0
    drawn = np.load(place / "samples/samples.npy")
    options = {"seed": 0, "progress": False}
    z = sample(loaded.guided(), (5, *shape), DDIM(steps=2), **options)
    assert np.allclose(drawn, loaded.scaling.invert(z), rtol=1e-4, atol=1e-3 / min(loaded.scaling.scale))
    assert sorted(path.name for path in (place / "samples").iterdir()) == ["samples.json", "samples.npy"]
    assert plots.is_grid(place / "samples.png")
    for wrong in (["--form", "png"], ["--form", "tar"]):
        assert run([*words, *wrong, "--out", str(tmp_path / "out")]) == 2
    same = ["--data", str(tmp_path / "x.npy")]
    more = {"edit": ["x.png"], "evaluate": same, "likelihood": same, "export": ["x.onnx"]}
    for command, words in more.items():
        assert run([command, str(place), *words]) == 2
        assert "makes arrays" in capsys.readouterr().err
    words = ["train", str(tmp_path / "x.npy"), "--out", str(place), "--resume", "--steps", "3"]
    assert run([*words, "--samples-every", "1"]) == 0
    assert plots.is_grid(place / "samples/step-00000003.png")
    np.save(tmp_path / "x.npy", 2 * numbers(shape))
    assert run([*words[:-1], "4"]) == 2  # other data


def test_labels_and_conditions_lie_beside_samples_and_give_them_again(tmp_path, capsys):
    x, width = numbers((2,)), np.linspace(1, 3, 40)
    np.savez(tmp_path / "x.npz", x=x, label=np.arange(40) % 3, width=width)
    place = str(tmp_path / "run")
    words = ["--class-conditional", "--condition", "width", "--out", place]
    assert run(["train", str(tmp_path / "x.npz"), *words, *TRAIN]) == 0
    words = ["sample", place, "--num", "5", "--steps", "2", "--batch-size", "2"]
    out = tmp_path / "run/samples"
    assert run([*words, "--condition", "width=1.5,2,3"]) == 0
    names = ["conditions.npz", "labels.npy", "samples.json", "samples.npy"]
    assert sorted(path.name for path in out.iterdir()) == names
    assert np.load(out / "labels.npy").tolist() == [0, 1, 2, 0, 1]
    with np.load(out / "conditions.npz") as told:
        assert told["width"].tolist() == [1.5, 2, 3, 1.5, 2]
    drawn, again = np.load(out / "samples.npy"), tmp_path / "again"
    assert run([*words, "--conditions", str(out / "conditions.npz"), "--out", str(again)]) == 0
    assert np.array_equal(np.load(again / "samples.npy"), drawn)
    assert run([*words, "--condition", "width=2", "--label", "1", "--replace"]) == 0
    assert np.load(out / "labels.npy").tolist() == [1] * 5
    (foreign := tmp_path / "foreign").mkdir()
    (foreign / "labels.npy").write_bytes(b"mine")
    assert run([*words, "--condition", "width=2", "--out", str(foreign)]) == 2
    assert "labels.npy was not written here before" in capsys.readouterr().err


@pytest.mark.parametrize("name", SCALINGS)
def test_edm_takes_the_deviation_that_the_scaled_data_have_and_the_run_keeps_it(name, tmp_path):
    x = numbers((3, 4))
    data = array_data(x, scaling=name)
    variances = by_channel(data[range(40)].images.numpy()).var(1)
    assert data.sigma_data == pytest.approx(variances.mean() ** 0.5, rel=1e-3)
    if name == "variance":
        assert data.sigma_data == 1
    config = TrainConfig(prediction="edm", loss="edm", steps=1, batch_size=8, width=8, scaling=name)
    *_, last = train(config, data=data)
    loaded = load(save(tmp_path / "run", last.snapshot()))
    kind = named(loaded.prediction)
    assert kind.name == f"edm(sigma_data={data.sigma_data!r})"
    assert kind.input(0.6, 0.8) == edm(data.sigma_data).input(0.6, 0.8)
    assert torch.equal(
        last.snapshot().denoiser()(torch.ones(1, 3, 4), 5).x_0, loaded.denoiser()(torch.ones(1, 3, 4), 5).x_0
    )


def test_edm_keeps_half_for_images_and_one_for_channels_that_never_change():
    assert load_data("digits").sigma_data == 0.5
    constant = np.stack([np.full(9, 3.0), np.arange(9.0)], 1)
    with pytest.warns(ScalingWarning):
        assert array_data(constant).sigma_data == 1
    with pytest.warns(ScalingWarning):
        assert array_data(constant[:, :1]).sigma_data == 1


def test_a_garbled_scaling_is_refused(tmp_path):
    for record in (
        {},
        [],
        {"shift": [0], "scale": [0]},
        {"shift": [0], "scale": ["1"]},
        {"shift": [0, 1], "scale": [1, 1]},
    ):
        check_error(lambda record=record: Scaling.described(record, 1), CheckpointError, "scal")


def test_a_dataset_of_the_users_is_trained_on():
    x = torch.tensor(numbers((2,)))
    config = TrainConfig(steps=2, batch_size=8, width=8, class_conditional=True)
    *_, last = train(config, data=TensorDataset(x, torch.arange(40) % 2))
    assert last.snapshot().classes == ("0", "1")
    assert last.snapshot().scaling.shift == pytest.approx(x.double().mean(0).tolist())
    check_error(
        lambda: next(train(TrainConfig(jitter=0.1, steps=1), data=array_data(numbers((3, 4, 4))))),
        ConfigError,
        "jitter",
    )
    check_error(lambda: next(train(TrainConfig(flip=True, steps=1), data=array_data(x))), ConfigError, "flip")


def test_pictures_show_points_curves_channels_and_slices_where_they_lie():
    corners = pictures(torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
    assert corners.shape[0] == 1
    assert (corners[0, 0, -1, 0], corners[0, 0, 0, -1], corners.lt(0).sum()) == (-1, -1, 2)
    rising = pictures(torch.linspace(5, 9, 64)[None, None])[0, 0]
    assert (rising[-1, 0], rising[0, -1]) == (-1, -1)
    assert rising.lt(0).any(0).all()  # a curve without gaps
    assert pictures(torch.zeros(2, 5)).shape == (2, 1, 64, 64)
    x = torch.arange(2 * 2 * 3 * 4).reshape(2, 2, 3, 4)
    tiled = pictures(x)
    assert torch.allclose(tiled, torch.cat([x[:, :1], x[:, 1:]], -1).double() / 47 * 2 - 1)
    assert pictures(torch.rand(2, 1, 9, 3, 4)).shape == (2, 1, 3, 16)
