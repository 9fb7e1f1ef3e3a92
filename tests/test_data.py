"""Data from folders, in batches; and what is broken in them."""

import pickle
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import encoded, greys, picture_of, plain, stored, write_folder, write_parquet
from PIL import Image
from torch.utils.data import DataLoader

from alphabar.errors import DataError, MissingExtraError
from alphabar.training.data import ImageData, load_data, read_image

pytestmark = pytest.mark.filterwarnings("ignore::alphabar.training.images.CropWarning")
ON_DEMAND = {"memory_limit": 0}


@pytest.fixture
def noise_folder(tmp_path):
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (10, 9, 7, 3), dtype=np.uint8)
    return write_folder(
        tmp_path / "noise", {f"{'ab'[k % 2]}/{k}.png": picture_of(p) for k, p in enumerate(pictures)}
    )


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
        for one, other in zip(held[indices][:2], read[indices][:2], strict=True):
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
    assert repr(data) == "ImageData(classes=None, skipped={})"


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
        assert list(data.skipped) == [f"{root}/a/0.png", f"{root}/b/2.png"]
        assert all(cause in why for why in data.skipped.values())
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
    assert list(data.skipped) == [f"{path} row 17"]
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
        assert isinstance(rows, range)  # whose length costs nothing
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
