"""The pictures that the page noises: those of scikit-learn, and what is uploaded, decoded with limits."""

from __future__ import annotations

import base64
import secrets
import struct
import threading
import zlib
from collections import OrderedDict
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from alphabar.errors import DataError, look_up
from alphabar.explorer.asking import RefusedError
from alphabar.training import to_uint8, to_unit
from alphabar.training.images import (
    MOST_PIXELS,
    PixelsError,
    open_picture,
    pixels,
    sample_photograph,
    translated,
)

__all__ = ["LARGEST_UPLOAD", "SIDE", "Album", "data_url", "decoded", "png", "thinned", "too_large"]

SIDE = 512  # pixels of a side that are kept
LARGEST_UPLOAD = 10 * 2**20  # bytes
KEPT = 8  # uploads
UPLOAD = "upload-"  # begins their names


def too_large() -> RefusedError:
    """Return what is said of a file with too many bytes."""
    return RefusedError("upload_bytes", most=LARGEST_UPLOAD // 2**20)


def decoded(content: bytes) -> Tensor:
    """Return the middle square of an uploaded picture in [−1, 1], float32 (C, S, S), S ≤ 512.

    Size and format are read from the header, before anything is decoded.

    Raises:
        RefusedError: too many bytes or pixels, or no picture that can be read.
    """
    if len(content) > LARGEST_UPLOAD:
        raise too_large()
    try:
        with translated(""), open_picture(content) as picture:
            return to_unit(pixels(picture, min(SIDE, *picture.size))).contiguous()
    except DataError as wrong:
        if isinstance(wrong.__cause__, PixelsError):
            raise RefusedError("upload_pixels", most=MOST_PIXELS // 1_000_000) from wrong
        raise RefusedError("upload_broken") from wrong


class Album:
    """The pictures of one page by name: ``china``, ``flower``, ``digit``, one given at the start, uploads.

    Only the last eight uploads are kept.

    Args:
        given: a file to show first.

    Raises:
        DataError: the file is no picture within the limits.
    """

    def __init__(self, given: Path | None = None) -> None:
        self._given = None if given is None else _read(given)
        self._uploads: OrderedDict[str, Tensor] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def names(self) -> list[str]:
        """What can be chosen, without the uploads; the given one first."""
        return [*(["given"] if self._given is not None else []), *SHIPPED]

    def add(self, picture: Tensor) -> str:
        """Keep an upload; return the name it goes by."""
        name = f"{UPLOAD}{secrets.token_hex(8)}"
        with self._lock:
            self._uploads[name] = picture
            while len(self._uploads) > KEPT:
                self._uploads.popitem(last=False)
        return name

    def __getitem__(self, name: str) -> Tensor:
        """Return a picture, float32 (C, S, S) in [−1, 1].

        Raises:
            RefusedError: an upload that is no longer kept.
            UnknownNameError: another name.
        """
        if self._given is not None and name == "given":
            return self._given
        with self._lock:
            if name in self._uploads:
                return self._uploads[name]
        if name.startswith(UPLOAD):
            raise RefusedError("upload_gone", kept=KEPT)
        return look_up(SHIPPED, name, "picture")()


def _read(path: Path) -> Tensor:
    try:
        with path.open("rb") as file:
            return decoded(file.read(LARGEST_UPLOAD + 1))
    except (OSError, RefusedError) as wrong:
        raise DataError(f"{path}: {getattr(wrong, 'strerror', wrong)}") from wrong


@lru_cache(maxsize=1)
def _china() -> Tensor:
    return _square(sample_photograph())


@lru_cache(maxsize=1)
def _flower() -> Tensor:
    with translated("scikit-learn's sample photograph cannot be read"):
        from sklearn.datasets import load_sample_image

        return _square(torch.tensor(load_sample_image("flower.jpg")).permute(2, 0, 1))


@lru_cache(maxsize=1)
def _digit() -> Tensor:
    with translated("scikit-learn's digits cannot be read"):
        from sklearn.datasets import load_digits

        return (torch.tensor(load_digits().images[0]) / 8 - 1)[None].float()


SHIPPED = {"china": _china, "flower": _flower, "digit": _digit}
"""What comes with scikit-learn."""


def _square(photograph: Tensor) -> Tensor:
    """Return the middle of a photograph, uint8 (3, H, W), at 512×512."""
    side = min(photograph.shape[1:])
    top, left = ((size - side) // 2 for size in photograph.shape[1:])
    square = to_unit(photograph)[None, :, top : top + side, left : left + side]
    grown = torch.nn.functional.interpolate(square, (SIDE, SIDE), mode="bicubic", antialias=True)
    return grown[0].clamp(-1, 1).contiguous()


def thinned(x: Tensor, side: int) -> Tensor:
    """Return every so-manyth pixel of an image (C, H, W), as few as make both sides at most ``side`` long.

    Pixels, not their means, for noise must stay as strong as it is.
    """
    stride = -(-max(x.shape[1:]) // side)
    return x[:, ::stride, ::stride].contiguous()


def png(x: Tensor) -> bytes:
    """Return an image, (C, H, W) with C = 1 or 3, clamped to [−1, 1], as a PNG file that is not compressed.

    Noise does not compress: a library takes twenty milliseconds to find that out, and this is written in a
    fifth of it. Browsers read it in half the time that a BMP takes them. ISO/IEC 15948, sections 5 and 11.
    """
    depth, height, width = x.shape
    rows = torch.zeros(height, 1 + width * depth, dtype=torch.uint8)  # a row begins with its filter: none
    rows[:, 1:] = to_uint8(x).permute(1, 2, 0).reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2 if depth == 3 else 0, 0, 0, 0)
    chunks = {b"IHDR": header, b"IDAT": zlib.compress(rows.numpy().tobytes(), 0), b"IEND": b""}
    checked = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks.items()
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(checked)


def data_url(x: Tensor) -> str:
    """Return a small image as a URL that holds it; see :func:`png`."""
    return f"data:image/png;base64,{base64.b64encode(png(x)).decode()}"
