"""Where images lie: every form of source gives the same images, by number, and opens no more than it must."""

import gzip
import io
import os
import pickle
import tarfile

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pictures import encoded, greys, plain, write_folder
from torch.utils.data import DataLoader

from alphabar.errors import DataError
from alphabar.training import shards
from alphabar.training.data import load_data
from alphabar.training.order import Order
from alphabar.training.permutation import WINDOW
from alphabar.training.stores import RowGroups

COUNT = 60
ON_DEMAND = {"memory_limit": 0}


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "alphabar"


def picture(k):
    return encoded(plain(4 * k))


def label(k):
    return "cat" if k % 3 else "ant"


def folder(root):
    return write_folder(root / "folder", {f"{label(k)}/{k:03}.png": picture(k) for k in range(COUNT)})


def parquet(root, files=1, rows=7):
    parts = [range(COUNT)[k * COUNT // files : (k + 1) * COUNT // files] for k in range(files)]
    for number, part in enumerate(parts):
        table = pa.table({"image": [picture(k) for k in part], "label": [label(k) for k in part]})
        pq.write_table(table, root / f"part-{number:02}.parquet", row_group_size=rows)
    return f"{root}/part-*.parquet" if files > 1 else f"{root}/part-00.parquet"


def write_tar(path, contents):
    with tarfile.open(path, "w") as tar:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return str(path)


def samples(numbers):
    named = ((f"x/{k:03}", k) for k in numbers)
    return {
        name + end: content
        for name, k in named
        for end, content in ((".cls", label(k).encode()), (".PNG", picture(k)), (".json", b"{}"))
    }


def tars(root):
    for number in range(4):
        write_tar(root / f"s-{number:03}.tar", samples(range(number * 15, number * 15 + 15)))
    return f"{root}/s-{{000..003}}.tar"


def saved(root):
    columns = {"image": [plain(4 * k) for k in range(COUNT)], "label": [int(k % 3 > 0) for k in range(COUNT)]}
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["ant", "cat"])}
    )
    datasets.DatasetDict({"train": datasets.Dataset.from_dict(columns, features=features)}).save_to_disk(
        root / "saved"
    )
    return str(root / "saved")


FORMS = {
    "folder": folder,
    "parquet": parquet,
    "parquet files": lambda root: parquet(root, files=4),
    "one row group": lambda root: parquet(root, rows=1000),
    "shards": tars,
    "saved": saved,
}


@pytest.mark.parametrize("limit", [0, 2**31])
@pytest.mark.parametrize("write", FORMS.values(), ids=FORMS)
def test_every_form_gives_the_same_images_and_labels(tmp_path, write, limit):
    data = load_data(write(tmp_path), memory_limit=limit)
    assert (data.tensor is None) == (limit == 0)
    order = sorted(range(COUNT), key=label) if write is folder else range(COUNT)
    assert greys(data) == [4 * k for k in order]
    assert data.classes == ("ant", "cat")
    assert data.labels.tolist() == [int(label(k) == "cat") for k in order]
    some = [COUNT - 1, 3, 3, 0, 30, 29]
    assert data[some].images[:, 0, 0, 0].tolist() == [4 * order[k] for k in some]


@pytest.mark.parametrize(
    ("write", "how"),
    [
        (folder, "fork"),
        (parquet, "fork"),
        (tars, "fork"),
        (saved, "fork"),
        (parquet, "spawn"),
        (tars, "spawn"),
    ],
)
def test_worker_processes_open_it_themselves(tmp_path, write, how):
    data = load_data(write(tmp_path), **ON_DEMAND)
    held = data[range(COUNT)].images  # what the parent has opened does not disturb
    plan = list(Order(COUNT, seed=0, steps=10, batch_size=9, offset=0, share=9, block=data.block))
    workers = {"fork": 2, "spawn": 1}[how]  # one that is spawned imports everything again
    loader = DataLoader(data, None, sampler=plan, num_workers=workers, multiprocessing_context=how)
    for batch, numbers in zip(loader, plan, strict=True):
        assert torch.equal(batch.images, held[numbers])


# Row groups


def test_row_groups_are_read_when_needed_and_few_are_held(tmp_path, monkeypatch):
    pictures = pa.table({"image": [picture(k % 60) for k in range(1000)]})
    pq.write_table(pictures, tmp_path / "a.parquet", row_group_size=10)
    data, read, original = load_data(str(tmp_path / "a.parquet"), **ON_DEMAND), [], RowGroups._rows
    assert data.block == 10
    store = data.images.store
    monkeypatch.setattr(RowGroups, "_rows", lambda self, group: read.append(group) or original(self, group))
    for numbers in Order(1000, seed=0, steps=20, batch_size=50, offset=0, share=50, block=data.block):
        data[numbers]
        assert len(store.held) <= 2 * WINDOW
    assert set(read) == set(range(100))
    assert len(read) <= 100 + 2 * (100 // WINDOW + 1)  # a window's first and last block lie in two windows
    assert not pickle.loads(pickle.dumps(store)).held


def test_files_with_other_columns_are_named(tmp_path):
    parquet(tmp_path, files=2)
    pq.write_table(pa.table({"label": ["ant"]}), tmp_path / "part-01.parquet")
    with pytest.raises(DataError, match=r"part-01\.parquet cannot be read: it has no column 'image'"):
        load_data(f"{tmp_path}/part-*.parquet")
    (tmp_path / "part-01.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match=r"part-01\.parquet cannot be read"):
        load_data(f"{tmp_path}/part-*.parquet")


@pytest.mark.filterwarnings("ignore::alphabar.training.images.CropWarning")
def test_a_row_group_that_is_damaged_is_named_row_by_row(tmp_path):
    path = parquet(tmp_path, files=3, rows=5)
    bad = tmp_path / "part-01.parquet"
    first = pq.ParquetFile(bad).metadata.row_group(1).column(0)
    content = bytearray(bad.read_bytes())
    start = first.dictionary_page_offset or first.data_page_offset
    content[start : start + 20] = bytes(20)
    bad.write_bytes(content)
    with pytest.raises(DataError, match=r"part-01\.parquet row 5 cannot be read"):
        load_data(path)
    data = load_data(path, skip_broken=True)
    assert list(data.skipped) == [f"{bad} row {k}" for k in range(5, 10)]
    assert len(data) == len(data.labels) == COUNT - 5


def test_labels_may_be_of_several_integer_types_or_a_dictionary(tmp_path):
    for number, kind in enumerate((pa.int8(), pa.int64())):
        table = pa.table({"image": [picture(k) for k in range(3)], "label": pa.array([5, 2, 9], kind)})
        pq.write_table(table, tmp_path / f"{number}.parquet")
    data = load_data(f"{tmp_path}/*.parquet")
    assert (data.classes, data.labels.tolist()) == (("2", "5", "9"), [1, 0, 2] * 2)
    words = pa.array(["b", "a", "b"]).dictionary_encode()
    pq.write_table(
        pa.table({"image": [picture(k) for k in range(3)], "label": words}), tmp_path / "0.parquet"
    )
    assert load_data(f"{tmp_path}/0.parquet").labels.tolist() == [1, 0, 1]


# Folders


def test_a_link_that_leads_back_ends_there(tmp_path):
    root = write_folder(tmp_path / "a", {"b/1.png": plain(1)})
    (tmp_path / "a" / "b" / "loop").symlink_to(tmp_path / "a", target_is_directory=True)
    assert greys(load_data(root)) == [1]


def test_a_file_name_need_not_be_text(tmp_path):
    name = os.fsdecode(b"\xff\xfe.png")
    try:
        (tmp_path / name).write_bytes(encoded(plain(7)))
    except OSError:
        pytest.skip("this file system wants text")
    (tmp_path / "b.png").write_bytes(encoded(plain(8)))
    assert greys(load_data(str(tmp_path), **ON_DEMAND)) == [8, 7]


def test_a_folder_of_tables_says_how_they_are_named(tmp_path):
    parquet(tmp_path)
    with pytest.raises(DataError, match=r"\.parquet and .* are named as .*/\*\.parquet"):
        load_data(str(tmp_path))


# Shards


def test_labels_of_shards(tmp_path):
    def labels(**texts):
        contents = {f"{name}.{end}": text for name, (*text_of,) in texts.items() for end, text in text_of}
        return load_data(write_tar(tmp_path / "a.tar", contents))

    def one(text=None):
        return [("jpg", picture(1)), *([("cls", text)] if text is not None else [])]

    numbers = labels(a=one(b"12\n"), b=one(b"3"), c=one(b"12"))
    assert (numbers.classes, numbers.labels.tolist()) == (("3", "12"), [1, 0, 1])
    words = labels(a=one(b"12"), b=one(b"x"))
    assert (words.classes, words.labels.tolist()) == (("12", "x"), [0, 1])
    none = labels(a=one(), b=one())
    assert (none.labels, none.unlabelled) == (None, "")
    some = labels(a=one(), b=one(b"3"))
    assert some.labels is None
    assert "1 of its 2 labels are unusable, such as None" in some.unlabelled


def test_a_sample_may_hold_two_images_and_hidden_files_are_left_alone(tmp_path):
    contents = {"b/1.left.png": picture(1), "b/1.right.png": picture(2), "b/1.cls": b"7", "b/._1.png": b"?"}
    data = load_data(write_tar(tmp_path / "a.tar", contents | {"c/1.png": picture(3), "c/1.cls": b"8"}))
    assert greys(data) == [4, 8, 12]
    assert data.labels.tolist() == [0, 0, 1]


def test_an_index_is_kept_as_long_as_its_shard_is_unchanged(tmp_path, monkeypatch, own_cache):
    source, gone_through, original = tars(tmp_path), [], shards._images
    monkeypatch.setattr(
        shards, "_images", lambda path, suffixes: gone_through.append(path) or original(path, suffixes)
    )
    for _ in range(2):
        assert greys(load_data(source)) == [4 * k for k in range(COUNT)]
    assert len(gone_through) == len(list(own_cache.iterdir())) == 4
    write_tar(tmp_path / "s-001.tar", samples(range(3)))
    assert len(load_data(source)) == COUNT - 15 + 3
    assert gone_through[4:] == [f"{tmp_path}/s-001.tar"]
    for kept in own_cache.iterdir():
        kept.write_bytes(kept.read_bytes()[:100])
    assert len(load_data(source)) == COUNT - 15 + 3
    assert len(gone_through) == 9


def test_without_a_cache_shards_are_read_all_the_same(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert len(load_data(tars(tmp_path))) == COUNT


def cut(content):
    return content[: len(content) // 2 + 100]


def without_end(content):
    return content.rstrip(b"\0") + bytes(-len(content.rstrip(b"\0")) % 512)


def spoilt_in_the_middle(content):
    at = content.index(b"x/007.cls")
    return content[:at] + bytes(b ^ 255 for b in content[at : at + 300]) + content[at + 300 :]


DAMAGE = {
    "cut": (cut, "unexpected end of data|cut off"),
    "without its end": (without_end, "damaged or cut off at byte"),
    "spoilt": (spoilt_in_the_middle, "damaged or cut off at byte"),
    "no tar file": (lambda content: b"once upon a time" * 100, "invalid header"),
    "empty": (lambda content: b"", "empty"),
    "compressed": (gzip.compress, "invalid header"),
}


@pytest.mark.parametrize(("damage", "why"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_shard_is_named(tmp_path, damage, why):
    source = tars(tmp_path)
    bad = tmp_path / "s-002.tar"
    bad.write_bytes(damage(write_tar(bad, samples(range(15))) and bad.read_bytes()))
    for skip in (False, True):
        with pytest.raises(DataError, match=rf"s-002\.tar cannot be read: .*({why})"):
            load_data(source, skip_broken=skip)


def test_a_shard_that_is_missing_or_without_images_is_named(tmp_path):
    source = tars(tmp_path)
    (tmp_path / "s-002.tar").unlink()
    with pytest.raises(DataError, match=r"there is no file .*s-002\.tar"):
        load_data(source)
    with pytest.raises(DataError, match="no file with the suffix of an image"):
        load_data(write_tar(tmp_path / "a.tar", {"a.txt": b""}))


def test_a_file_in_a_shard_that_is_too_long_is_named(tmp_path, monkeypatch):
    source = tars(tmp_path)
    monkeypatch.setattr(shards, "LARGEST", 10)
    with pytest.raises(DataError, match=r"s-000\.tar, x/000\.PNG cannot be read .*: at most 10 are"):
        load_data(source)
