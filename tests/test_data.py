import json
import pickle
import sys
from io import BytesIO

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader

from alphabar.data import ImageData, load_data, read_image, sample_photograph, to_uint8, to_unit
from alphabar.errors import DataError, DtypeError, MissingExtraError

ON_DEMAND = {"memory_limit": 0}


def encoded(picture, suffix="PNG", **options):
    buffer = BytesIO()
    picture.save(buffer, suffix, **options)
    return buffer.getvalue()


def plain(*colour, size=(4, 4)):
    return Image.new("RGB" if len(colour) == 3 else "L", size, colour if len(colour) == 3 else colour[0])


def picture_of(array):
    return Image.fromarray(np.asarray(array, dtype=np.uint8))


def write_folder(root, files):
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else encoded(content))
    return str(root)


def write_parquet(path, columns, features=None):
    metadata = {"huggingface": json.dumps({"info": {"features": features}})} if features else None
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), path, row_group_size=3)
    return str(path)


def stored(picture, path=None):
    return {"bytes": encoded(picture), "path": path}


def greys(data):
    """The value of every image that is of one grey."""
    images = data[range(len(data))].images
    assert (images == images[:, :1, :1, :1]).all()
    return images[:, 0, 0, 0].tolist()


@pytest.fixture
def noise_folder(tmp_path):
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (10, 9, 7, 3), dtype=np.uint8)
    return write_folder(
        tmp_path / "noise", {f"{'ab'[k % 2]}/{k}.png": picture_of(p) for k, p in enumerate(pictures)}
    )


# [−1, 1] and back


def test_all_256_values_survive_the_round_trip():
    every = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(to_unit(every)), every)


def test_to_unit_is_the_stated_line():
    every = torch.arange(256, dtype=torch.uint8)
    exact = every.double() / 127.5 - 1
    assert to_unit(every).dtype == torch.float32
    torch.testing.assert_close(to_unit(every).double(), exact, rtol=0, atol=1.2e-7)
    assert to_unit(every)[[0, 255]].tolist() == [-1.0, 1.0]


@given(st.floats(-1.5, 1.5, width=32), st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))
def test_to_uint8_takes_the_nearest_value_in_range(x, dtype):
    x = torch.tensor(x, dtype=dtype)
    exact = min(max((x.double().item() + 1) * 127.5, 0), 255)
    assert abs(to_uint8(x).item() - exact) <= 0.5 + 1e-4


def test_to_unit_leaves_its_argument_alone():
    images, samples = torch.zeros(3, dtype=torch.uint8), torch.full((3,), 0.25)
    to_unit(images), to_uint8(samples)
    assert images.tolist() == [0, 0, 0]
    assert samples.tolist() == [0.25, 0.25, 0.25]


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.bool])
def test_to_unit_wants_uint8(dtype):
    with pytest.raises(DtypeError, match=rf"{dtype}.*expected torch.uint8"):
        to_unit(torch.zeros(2, dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.complex64])
def test_to_uint8_wants_floating_point(dtype):
    with pytest.raises(DtypeError, match=rf"x has dtype {dtype}"):
        to_uint8(torch.zeros(2, dtype=dtype))


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
def test_to_uint8_wants_finite_values(wrong):
    with pytest.raises(DataError, match="1 of 3 values are NaN or infinite"):
        to_uint8(torch.tensor([0.0, wrong, 1.0]))


# One image of each kind


def palette(**colours):
    picture = Image.new("P", (2, 2), 1)
    picture.putpalette([10, 20, 30, 200, 100, 50])
    return picture


MODES = {
    "black and white": (Image.new("1", (2, 2), 1), "PNG", {}, [255]),
    "grey": (Image.new("L", (2, 2), 77), "PNG", {}, [77]),
    "grey with one value transparent": (Image.new("L", (2, 2), 77), "PNG", {"transparency": 77}, [255]),
    "half-transparent black": (Image.new("LA", (2, 2), (0, 128)), "PNG", {}, [127]),
    "colour": (Image.new("RGB", (2, 2), (1, 2, 3)), "PNG", {}, [1, 2, 3]),
    "half-transparent red": (Image.new("RGBA", (2, 2), (255, 0, 0, 128)), "PNG", {}, [255, 127, 127]),
    "nothing at all": (Image.new("RGBA", (2, 2), (9, 9, 9, 0)), "PNG", {}, [255, 255, 255]),
    "palette": (palette(), "PNG", {}, [200, 100, 50]),
    "palette, transparent": (palette(), "PNG", {"transparency": 1}, [255, 255, 255]),
    "palette, another colour transparent": (palette(), "PNG", {"transparency": 0}, [200, 100, 50]),
    "gif": (palette(), "GIF", {}, [200, 100, 50]),
    "cyan ink": (Image.new("CMYK", (2, 2), (255, 0, 0, 0)), "TIFF", {}, [0, 255, 255]),
    "black ink": (Image.new("CMYK", (2, 2), (0, 0, 0, 255)), "TIFF", {}, [0, 0, 0]),
    "32-bit integers": (Image.new("I", (2, 2), 32896), "TIFF", {}, [128]),
}


@pytest.mark.parametrize(("picture", "suffix", "options", "pixel"), MODES.values(), ids=MODES)
def test_every_mode_gives_the_colour_one_sees(tmp_path, picture, suffix, options, pixel):
    path = tmp_path / f"picture.{suffix.lower()}"
    path.write_bytes(encoded(picture, suffix, **options))
    image = read_image(path)
    assert image.dtype == torch.uint8
    assert image.shape == (len(pixel), 2, 2)
    assert (image == torch.tensor(pixel).view(-1, 1, 1)).all()


def test_channels_can_be_chosen(tmp_path):
    path = tmp_path / "red.png"
    path.write_bytes(encoded(plain(255, 0, 0)))
    assert read_image(path, channels=1).unique().tolist() == [76]  # 0.299 · 255, the luma of ITU-R 601
    path.write_bytes(encoded(plain(50)))
    assert torch.equal(read_image(path, channels=3), read_image(path).expand(3, 4, 4))


@pytest.mark.parametrize("suffix", ["PNG", "TIFF"])
def test_16_bits_are_scaled_not_clipped(tmp_path, suffix):
    every = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    path = tmp_path / "deep"
    path.write_bytes(encoded(Image.fromarray(every), suffix))
    assert np.array_equal(read_image(path)[0].numpy(), np.round(every / 257).astype(np.uint8))


TURNED = {  # how a camera that writes this orientation has turned the scene, as arrays
    1: lambda scene: scene,
    2: lambda scene: scene[:, ::-1],
    3: lambda scene: scene[::-1, ::-1],
    4: lambda scene: scene[::-1],
    5: lambda scene: scene.swapaxes(0, 1),
    6: np.rot90,
    7: lambda scene: scene[::-1, ::-1].swapaxes(0, 1),
    8: lambda scene: np.rot90(scene, -1),
}


@pytest.mark.parametrize("orientation", TURNED)
def test_exif_orientation_is_respected(tmp_path, orientation):
    scene = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "photo.png"
    path.write_bytes(encoded(picture_of(np.ascontiguousarray(TURNED[orientation](scene))), exif=exif))
    assert read_image(path).tolist() == [scene.tolist()]
    assert read_image(path, size=2).tolist() == [scene[:, :2].tolist()]


@settings(max_examples=40)
@given(st.integers(1, 12), st.integers(1, 12))
def test_the_crop_is_the_middle(tmp_path_factory, height, width):
    array = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    path = tmp_path_factory.mktemp("crop") / "a.png"
    path.write_bytes(encoded(picture_of(array)))
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    middle = array[top : top + side, left : left + side]
    assert np.array_equal(read_image(path, size=side).permute(1, 2, 0).numpy(), middle)
    assert np.array_equal(read_image(path).permute(1, 2, 0).numpy(), array)


def test_resizing_does_not_alias(tmp_path):
    board = np.indices((96, 96)).sum(0) % 2 * 255
    path = tmp_path / "board.png"
    path.write_bytes(encoded(picture_of(board)))
    small = read_image(path, size=6).int()
    assert (small - 127).abs().max() <= 1


def test_transparent_pixels_leave_no_fringe(tmp_path):
    array = np.zeros((32, 32, 4), dtype=np.uint8)
    array[:, :15] = 255  # opaque white beside transparent black
    path = tmp_path / "a.png"
    path.write_bytes(encoded(picture_of(array)))
    assert read_image(path, size=8).unique().tolist() == [255]


def test_floating_point_pixels_are_refused(tmp_path):
    path = tmp_path / "a.tiff"
    path.write_bytes(encoded(Image.new("F", (2, 2), 0.5), "TIFF"))
    with pytest.raises(DataError, match=r"a\.tiff cannot be read: its pixels are floating-point"):
        read_image(path)


def test_read_image_names_what_it_cannot_read(tmp_path):
    with pytest.raises(DataError, match=r"none\.png cannot be read: .*No such file"):
        read_image(tmp_path / "none.png")


def test_the_photograph_is_scikit_learns():
    image = sample_photograph()
    assert image.dtype == torch.uint8
    assert image.shape == (3, 427, 640)
    assert image[:, 0, 0].tolist() == [174, 201, 231]


# Folders


def test_sub_folders_are_the_labels(tmp_path):
    files = {"dog/x/1.png": plain(3), "cat/2.png": plain(2), "cat/1.PNG": plain(1), "eel/1.png": plain(4)}
    data = load_data(write_folder(tmp_path, files))
    assert data.classes == ("cat", "dog", "eel")
    assert data.labels.dtype == torch.int64
    assert data.labels.tolist() == [0, 0, 1, 2]
    assert greys(data) == [1, 2, 3, 4]
    assert data[[3, 0]].labels.tolist() == [2, 0]


@pytest.mark.parametrize("names", [["b.png", "a.png"], ["a.png", "b/c.png"]])
def test_a_folder_with_images_outside_sub_folders_is_unlabelled(tmp_path, names):
    data = load_data(write_folder(tmp_path, {name: plain(ord(name[0])) for name in names}))
    assert data.labels is None
    assert data.classes is None
    assert data[[0, 1]].labels is None
    assert greys(data) == [97, 98]


def test_hidden_and_other_files_are_left_alone_and_links_followed(tmp_path):
    write_folder(tmp_path / "elsewhere", {"5.png": plain(5)})
    files = {"a/1.png": plain(1), "a/._1.png": b"", ".b/2.png": plain(2), "a/notes.txt": b"", "c": b""}
    root = write_folder(tmp_path / "root", files)
    (tmp_path / "root" / "linked").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    data = load_data(root)
    assert greys(data) == [1, 5]
    assert data.classes == ("a", "linked")


def test_an_empty_folder_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"taken for a folder, .*holds no file .*\.jpeg, \.jpg"):
        load_data(write_folder(tmp_path, {"notes.txt": b"1"}))


def test_the_first_image_gives_the_size(tmp_path):
    root = write_folder(tmp_path, {"a.png": plain(1, size=(9, 6)), "b.png": plain(2, size=(30, 40))})
    assert load_data(root).shape == (1, 6, 6)
    assert load_data(root, size=5).shape == load_data(root, size=5, **ON_DEMAND).shape == (1, 5, 5)
    assert greys(load_data(root, size=50)) == [1, 2]


def test_one_coloured_image_makes_all_coloured(tmp_path):
    root = write_folder(tmp_path, {"a.png": plain(7), "b.png": plain(1, 2, 3)})
    assert load_data(root).shape == (3, 4, 4)
    assert load_data(root)[[0, 1]].images[:, :, 0, 0].tolist() == [[7, 7, 7], [1, 2, 3]]
    assert load_data(root, channels=1).shape == (1, 4, 4)
    assert load_data(write_folder(tmp_path / "grey", {"a.png": plain(7)}), channels=3).shape == (3, 4, 4)


@pytest.mark.parametrize(("greys_first", "channels"), [(63, 3), (64, 1)])
def test_on_demand_looks_at_the_first_64_modes(tmp_path, greys_first, channels):
    rows = [stored(plain(k)) for k in range(greys_first)] + [stored(plain(1, 2, 3))]
    path = write_parquet(tmp_path / "a.parquet", {"image": rows})
    assert load_data(path).shape == (3, 4, 4)
    assert load_data(path, **ON_DEMAND).shape == (channels, 4, 4)
    assert load_data(path, channels=3, **ON_DEMAND).shape == (3, 4, 4)


@pytest.mark.parametrize("load", [load_data, read_image])
def test_size_and_channels_are_checked(load):
    with pytest.raises(DataError, match="size is 0: expected at least 1"):
        load("digits", size=0)
    with pytest.raises(DataError, match=r"channels is 2: expected 1 .* or 3"):
        load("digits", channels=2)


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
    with pytest.raises(DataError, match=r"b\.parquet row 0 cannot be read"):
        load_data(write_parquet(tmp_path / "b.parquet", {"image": [5]}))
    with pytest.raises(DataError, match=r"labels \[3, 7\] are without names: expected 0 … 2"):
        columns = {"image": [stored(plain(0))] * 3, "label": [7, 0, 3]}
        load_data(write_parquet(tmp_path / "c.parquet", columns, FEATURES))
    (tmp_path / "d.parquet").write_bytes(b"no parquet")
    with pytest.raises(
        DataError, match=r"d\.parquet', taken for a \.parquet file, cannot be read: .*Parquet"
    ):
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


@pytest.mark.parametrize("source", ["", "digit", "/nowhere/at/all", "none.parquet"])
def test_an_unknown_source_says_what_forms_are_known(monkeypatch, source):
    def refuse(name, split):
        raise FileNotFoundError(f"no {name} with {split}")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    known = r"not 'digits', a folder or a \.parquet file\), cannot be read: no .* with train"
    with pytest.raises(DataError, match=f"'{source}', taken for a Hugging Face dataset .{known}"):
        load_data(source)


def test_digits_are_scikit_learns():
    data, digits = load_data("digits"), load_digits()
    assert data.shape == (1, 8, 8)
    assert data.classes == tuple("0123456789")
    assert data.labels.tolist() == digits.target.tolist()
    assert np.array_equal(data.tensor[:, 0].numpy(), np.round(digits.images * 255 / 16))
    assert load_data("digits", size=16, channels=3).shape == (3, 16, 16)


# Batches


def test_a_batch_is_in_the_order_asked_for(noise_folder):
    data = load_data(noise_folder)
    whole = data.tensor
    assert len(data) == len(whole) == 10
    for indices in ([3, 5, 8], [9, 0, 0], range(4), torch.tensor([2, 1]), np.array([7]), [-1], []):
        batch, rows = data[indices], torch.tensor([int(k) for k in indices], dtype=torch.int64)
        assert torch.equal(batch.images, whole[rows])
        assert torch.equal(batch.labels, data.labels[rows])


@settings(max_examples=30)
@given(st.lists(st.integers(-20, 19), max_size=8), st.lists(st.integers(0, 19), min_size=20, max_size=20))
def test_in_memory_and_on_demand_answer_alike(indices, chosen):
    for held, read in [(DIGITS, DIGITS_ON_DEMAND), (DIGITS.subset(chosen), DIGITS_ON_DEMAND.subset(chosen))]:
        assert held.shape == read.shape
        assert len(held) == len(read) == 20
        for one, other in zip(held[indices], read[indices], strict=True):
            assert torch.equal(one, other)


DIGITS = load_data("digits", size=6).subset(range(20))
DIGITS_ON_DEMAND = load_data("digits", size=6, **ON_DEMAND).subset(range(20))


@given(st.lists(st.integers(0, 19), min_size=1), st.data())
def test_a_subset_of_a_subset(chosen, draw):
    again = draw.draw(st.lists(st.integers(0, len(chosen) - 1)))
    direct = DIGITS.subset([chosen[k] for k in again])
    assert torch.equal(DIGITS.subset(chosen).subset(again).tensor, direct.tensor)
    assert torch.equal(DIGITS.subset(chosen).subset(again).labels, direct.labels)
    assert direct.classes == DIGITS.classes


def test_memory_limit_is_the_decoded_size_in_bytes(noise_folder):
    size = 10 * 3 * 7 * 7
    assert load_data(noise_folder, memory_limit=size).tensor.shape == (10, 3, 7, 7)
    assert load_data(noise_folder, memory_limit=size - 1).tensor is None


@pytest.mark.parametrize("data", [DIGITS, DIGITS_ON_DEMAND])
@pytest.mark.parametrize("wrong", [3, [0.5], [20], [-21], ["a"], [[1, 2]], None])
def test_an_index_that_is_no_list_of_integers_in_range(data, wrong):
    for use in (data.__getitem__, data.subset):
        with pytest.raises(DataError, match=r"index is .*: expected a list of integers < 20"):
            use(wrong)


def test_images_can_be_given_as_a_tensor():
    images = torch.arange(5, dtype=torch.uint8).view(5, 1, 1, 1).expand(5, 3, 2, 2)
    data = ImageData(images)
    assert data[[4, 1]].images[:, 0, 0, 0].tolist() == [4, 1]
    assert data[[4, 1]].labels is None
    assert repr(data) == "ImageData(classes=None, skipped=())"


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("options", [{}, ON_DEMAND])
def test_a_loader_gives_the_batches_asked_for(noise_folder, workers, options):
    data, plan = load_data(noise_folder, **options), [[4, 2, 9], [0], [7, 7]]
    loader = DataLoader(data, sampler=plan, batch_size=None, num_workers=workers)
    for batch, indices in zip(loader, plan, strict=True):
        assert torch.equal(batch.images, load_data(noise_folder)[indices].images)
        assert batch.labels.tolist() == data.labels[indices].tolist()


@pytest.mark.parametrize("options", [{}, ON_DEMAND])
def test_data_can_be_pickled(tmp_path, noise_folder, options):
    columns = {"image": [stored(plain(k)) for k in range(4)], "label": [0, 1, 1, 0]}
    for source in ("digits", noise_folder, write_parquet(tmp_path / "a.parquet", columns)):
        data = load_data(source, **options)
        copy = pickle.loads(pickle.dumps(data))
        assert torch.equal(copy[[3, 1]].images, data[[3, 1]].images)
        assert copy.classes == data.classes


# Broken images


def cut(content):
    return content[: len(content) // 2]


BROKEN = {
    "truncated png": (cut(encoded(Image.effect_noise((64, 64), 90))), "trunc"),
    "truncated jpeg": (cut(encoded(Image.effect_noise((64, 64), 90), "JPEG")), "truncated"),
    "no image": (b"once upon a time", "in no image format"),
    "empty": (b"", "it is empty"),
    "floating point": (encoded(Image.new("F", (2, 2)), "TIFF"), "floating-point"),
}


@pytest.mark.parametrize(("content", "cause"), BROKEN.values(), ids=BROKEN)
def test_a_broken_image_is_named_or_skipped(tmp_path, content, cause):
    files = {"a/0.png": content, "a/1.png": plain(1), "b/2.png": content, "b/3.png": plain(3)}
    root = write_folder(tmp_path, files)
    message = rf"a/0\.png cannot be read \(.*skip_broken=True, --skip-broken\): .*{cause}"
    with pytest.raises(DataError, match=message):
        load_data(root)
    for limit in (0, 2**31):
        data = load_data(root, skip_broken=True, memory_limit=limit)
        assert data.skipped == (f"{root}/a/0.png", f"{root}/b/2.png")
        assert greys(data) == [1, 3]
        assert data.labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    "content", [b"", None, {"bytes": None, "path": None}, {"bytes": b"x", "path": "x.png"}]
)
def test_a_broken_row_is_named_by_its_number(tmp_path, content):
    rows = [content if k == 17 else stored(plain(k)) for k in range(20)]
    if not isinstance(content, dict) and content is not None:
        rows = [row["bytes"] if isinstance(row, dict) else row for row in rows]
    path = write_parquet(tmp_path / "a.parquet", {"image": rows})
    with pytest.raises(
        DataError, match=r"a\.parquet row 17 cannot be read .*: it is empty, or in no image format"
    ):
        load_data(path)
    data = load_data(path, skip_broken=True, **ON_DEMAND)
    assert data.skipped == (f"{path} row 17",)
    assert greys(data) == [*range(17), 18, 19]
    with pytest.raises(DataError, match="row 17 cannot be read"):
        load_data(path, **ON_DEMAND)[[3, 17]]


def test_nothing_left_is_an_error(tmp_path):
    with pytest.raises(DataError, match="holds no image that can be read, and 2 that cannot"):
        load_data(write_folder(tmp_path, {"a.png": b"", "b.png": b"x"}), skip_broken=True)


@pytest.mark.parametrize(("skip_broken", "passes"), [(False, 1), (True, 2)])
def test_progress_sees_every_image_and_the_end(noise_folder, skip_broken, passes):
    seen = []

    def progress(rows):
        yield from rows
        seen.append(len(rows))

    load_data(noise_folder, skip_broken=skip_broken, progress=progress)
    assert seen == [10] * passes


# Missing packages


@pytest.mark.parametrize(
    ("package", "source"), [("PIL", "x.png"), ("sklearn", "digits"), ("pyarrow", "digits")]
)
def test_a_missing_package_is_named_by_its_extra(monkeypatch, package, source):
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=r"reading images needs .* pip install 'alphabar\[train\]'"):
        (load_data if source == "digits" else read_image)(source)
