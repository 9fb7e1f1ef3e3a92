"""Two hundred files as disks, networks and people leave them: each is read, or named with the reason."""

import io
import struct
import tarfile
import zlib

import numpy as np
import pytest
import torch
from pictures import encoded, picture_of, write_parquet
from PIL import Image

from alphabar.errors import DataError
from alphabar.training.data import load_data, read_image

pytestmark = [
    pytest.mark.filterwarnings("ignore::alphabar.training.images.CropWarning"),
    pytest.mark.filterwarnings("error::PIL.Image.DecompressionBombWarning"),
]
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")


def noise(rng, size=(24, 20), channels=3):
    return picture_of(rng.integers(0, 256, (*size, channels), dtype=np.uint8).squeeze())


def png(width, height, rows=b""):
    """A PNG whose header says what it likes."""

    def chunk(kind, content):
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def truncated(rng):
    content = encoded(noise(rng), str(rng.choice(FORMATS)))
    return content[: rng.integers(0, len(content))]


def flipped(rng):
    content = bytearray(encoded(noise(rng), str(rng.choice(FORMATS))))
    for place in rng.integers(0, len(content), rng.integers(1, 8)):
        content[place] ^= 1 << rng.integers(8)
    return bytes(content)


def animated(rng):
    first, *others = [noise(rng, channels=1) for _ in range(3)]
    return encoded(first, "GIF", save_all=True, append_images=others)


def deep(rng):
    return encoded(Image.fromarray(rng.integers(0, 65536, (24, 20), dtype=np.uint16)), "PNG")


def bomb(rng):
    side = int(rng.choice([2**13 + 1, 12_000, 2**20, 2**31 - 1]))  # Pillow itself refuses the last two
    return png(side, side, zlib.compress(bytes(10_000)))


SOUND = {
    "wrong suffix": lambda rng: encoded(noise(rng), str(rng.choice(FORMATS))),
    "ink": lambda rng: encoded(noise(rng).convert("CMYK"), str(rng.choice(["JPEG", "TIFF"]))),
    "deep": deep,
    "animated": animated,
}
BAD = {
    "bomb": bomb,
    "empty": lambda rng: b"",
    "zeros": lambda rng: bytes(int(rng.integers(1, 5000))),
    "program": lambda rng: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n",
    "words": lambda rng: b"<html>404 Not Found</html>",
}
EITHER = {
    "truncated": truncated,
    "flipped": flipped,
    "few rows": lambda rng: png(64, 64, zlib.compress(bytes(65))),  # Pillow takes those it misses for black
}
KINDS = SOUND | BAD | EITHER
SUFFIXES = (".png", ".jpg", ".gif", ".JPEG", ".webp", ".tif")


@pytest.fixture(scope="module")
def files():
    rng = np.random.default_rng(20260111)
    kinds = [*KINDS] * 10 + ["truncated", "flipped"] * 40
    return {
        f"{kind.replace(' ', '-')}-{k:03}{rng.choice(SUFFIXES)}": KINDS[kind](rng)
        for k, kind in enumerate(kinds)
    }


@pytest.fixture(scope="module")
def alone(files, tmp_path_factory):
    """What each file is by itself: a picture, or the reason why not."""
    root, found = tmp_path_factory.mktemp("alone"), {}
    for name, content in files.items():
        (root / name).write_bytes(content)
        try:
            found[name] = read_image(root / name, size=16, channels=3)
        except DataError as error:
            assert str(error).startswith(f"{root / name} cannot be read: ")
            found[name] = str(error.__cause__)
    return found


def test_two_hundred_files_are_read_or_named_with_the_reason(files, alone):
    assert len(files) == 200
    for name, found in alone.items():
        kind = name.rsplit("-", 1)[0].replace("-", " ")
        if kind in SOUND:
            assert found.shape == (3, 16, 16), f"{name}: {found}"
        elif kind in BAD:
            assert isinstance(found, str), name
            assert len(found) > 10
    reasons = {reason for reason in alone.values() if isinstance(reason, str)}
    assert any("pixels: at most 67,108,864" in reason for reason in reasons)
    damaged = [found for name, found in alone.items() if name.startswith(("truncated", "flipped"))]
    assert 20 < sum(isinstance(found, str) for found in damaged) < 100  # some flips are harmless


def as_folder(root, files):
    for name, content in files.items():
        (root / name).write_bytes(content)
    return str(root), {name: f"{root / name}" for name in files}


def as_parquet(root, files):
    path = write_parquet(root / "a.parquet", {"image": [files[name] for name in sorted(files)]})
    return path, {name: f"{path} row {k}" for k, name in enumerate(sorted(files))}


def as_shards(root, files):
    for half in range(2):
        with tarfile.open(root / f"s-{half}.tar", "w") as tar:
            for name in sorted(files)[half * 100 : half * 100 + 100]:
                member = tarfile.TarInfo(name)
                member.size = len(files[name])
                tar.addfile(member, io.BytesIO(files[name]))
    return f"{root}/s-{{0..1}}.tar", {
        name: f"{root}/s-{k // 100}.tar, {name}" for k, name in enumerate(sorted(files))
    }


@pytest.mark.parametrize("limit", [0, 2**31])
@pytest.mark.parametrize("write", [as_folder, as_parquet, as_shards])
def test_every_file_of_a_source_is_accounted_for(tmp_path, monkeypatch, files, alone, write, limit):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    source, names = write(tmp_path / "data", files)
    good = [name for name in sorted(files) if not isinstance(alone[name], str)]
    data = load_data(source, size=16, channels=3, skip_broken=True, memory_limit=limit)
    assert len(data) == len(good)
    assert set(data.skipped) == {names[name] for name in files if name not in good}
    assert torch.equal(data[range(len(data))].images, torch.stack([alone[name] for name in good]))
    for name in set(files) - set(good):
        assert data.skipped[names[name]].split(" (")[0] == alone[name].split(" (")[0]


@pytest.mark.parametrize("write", [as_folder, as_parquet, as_shards])
def test_else_the_first_that_cannot_be_read_is_named(tmp_path, monkeypatch, files, alone, write):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    source, names = write(tmp_path / "data", files)
    first = next(name for name in sorted(files) if isinstance(alone[name], str))
    with pytest.raises(DataError) as caught:
        load_data(source, size=16, channels=3)
    assert str(caught.value).startswith(f"{names[first]} cannot be read (repair it")
