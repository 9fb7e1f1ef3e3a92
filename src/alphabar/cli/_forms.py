"""The forms of samples: numbered files, or these packed into few when all are there.

    png     00000.png, 00001.png, …
    npz     samples.npz, for the evaluator of guided-diffusion: arr_0, uint8 (N, H, W, C); with classes also
            arr_1, int64 (N,)
    tar     000000.tar, 000001.tar, …, shards of WebDataset: 000000000.png and, with classes, 000000000.cls
    npy     samples.npy, of arrays: (N, C, …) in the units of the training data; beside it labels.npy, int64
            (N,), and conditions.npz, (N, …) each, where the network is told them

Packing holds one sample in memory at a time.
"""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from alphabar.cli import plots
from alphabar.cli._pictures import pictures
from alphabar.denoise.files import whole_file
from alphabar.errors import ConfigError, look_up
from alphabar.training import to_unit

__all__ = ["FORMS", "Form", "form_of", "picture_name", "pixels", "save_array", "save_conditions"]

Pack = Callable[[Path, Path, range, Tensor | None], None]


def picture_name(number: int) -> str:
    """Return the name of the picture of a sample."""
    return f"{number:05}.png"


def pixels(path: Path) -> np.ndarray:
    """Return a picture as uint8 (H, W, C), C = 1 or 3."""
    from PIL import Image

    with Image.open(path) as picture:
        return np.asarray(picture).reshape(picture.height, picture.width, -1)


def _images(paths: Sequence[Path]) -> Tensor:
    return to_unit(torch.from_numpy(np.stack([pixels(path) for path in paths])).permute(0, 3, 1, 2))


@dataclass(frozen=True)
class Form:
    """Into which files samples go."""

    pattern: str
    """The names of the files, by their number."""
    images: int
    """In one file."""
    pack: Pack | None = None
    """``pack(file, place, numbers, labels)`` writes a file from the samples in a folder."""
    suffix: str = ".png"
    """Of the file of one sample."""
    write: Callable[[Tensor, Path], None] = plots.image
    """Writes the file of one sample, (C, …)."""
    shown: Callable[[Sequence[Path]], Tensor] = _images
    """Returns pictures of some, (M, 1 or 3, H, W) in [−1, 1]."""
    is_told: bool = False
    """Whether labels and conditions go into files of their own."""

    def name(self, number: int) -> str:
        """Return the name of the file of a sample."""
        return f"{number:05}{self.suffix}"

    def files(self, num: int) -> Iterator[tuple[str, range]]:
        """Yield the name of each file of ``num`` images, and the numbers of its images."""
        for number, first in enumerate(range(0, num, self.images)):
            yield self.pattern.format(number), range(first, min(first + self.images, num))

    def finish(self, place: Path, num: int, labels: Callable[[range], Tensor | None]) -> None:
        """Pack the pictures that lie in a folder, file by file, and remove those that are packed.

        Killed at any moment, it goes on with the next call.
        """
        if self.pack is None:
            return
        for name, numbers in self.files(num):
            if not (place / name).exists():
                with whole_file(place / name) as draft:
                    self.pack(draft, place, numbers, labels(numbers))
            for i in numbers:
                (place / self.name(i)).unlink(missing_ok=True)


def save_array(x: Tensor, path: Path) -> None:
    """Write a tensor as a .npy file."""
    with whole_file(path) as draft, draft.open("wb") as file:
        np.save(file, x.numpy(force=True))


def _arrays(paths: Sequence[Path]) -> Tensor:
    return pictures(torch.from_numpy(np.stack([np.load(path) for path in paths])))


def save_conditions(
    path: Path, blocks: Sequence[range], told: Callable[[range], Mapping[str, Tensor]]
) -> None:
    """Write the conditions of all samples as an .npz file, (N, …) each, of which one block is in memory.

    Args:
        path: where.
        blocks: the numbers of the samples, in order.
        told: returns the conditions of a block.
    """
    with whole_file(path) as draft, zipfile.ZipFile(draft, "w") as archive:
        for name, first in told(range(1)).items():
            shape = (sum(map(len, blocks)), *first.shape[1:])
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as array:
                _begin(array, first.numpy().dtype, shape)
                for block in blocks:
                    array.write(told(block)[name].contiguous().numpy().tobytes())


def _begin(file: IO[bytes], kind: np.dtype[Any], shape: Sequence[int]) -> None:
    """Write the header of an array, whose rows follow."""
    descr = np.lib.format.dtype_to_descr(kind)
    header = {"descr": descr, "fortran_order": False, "shape": tuple(shape)}
    np.lib.format.write_array_header_1_0(file, header)


def _npy(file: Path, place: Path, numbers: range, labels: Tensor | None) -> None:
    names = [f"{i:05}.npy" for i in numbers]
    first = np.load(place / names[0])
    with file.open("wb") as packed:
        _begin(packed, first.dtype, (len(numbers), *first.shape))
        for name in names:
            packed.write(np.load(place / name).tobytes())


def _npz(file: Path, place: Path, numbers: range, labels: Tensor | None) -> None:
    shape = (len(numbers), *pixels(place / picture_name(numbers[0])).shape)
    with zipfile.ZipFile(file, "w") as archive:
        with archive.open(zipfile.ZipInfo("arr_0.npy"), "w", force_zip64=True) as array:
            _begin(array, np.dtype("uint8"), shape)
            for i in numbers:
                array.write(pixels(place / picture_name(i)).tobytes())
        if labels is not None:
            with archive.open(zipfile.ZipInfo("arr_1.npy"), "w") as array:
                np.lib.format.write_array(array, labels.numpy())


def _shard(file: Path, place: Path, numbers: range, labels: Tensor | None) -> None:
    with tarfile.open(file, "w") as archive:

        def add(name: str, content: bytes) -> None:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))

        for k, i in enumerate(numbers):
            add(f"{i:09}.png", (place / picture_name(i)).read_bytes())
            if labels is not None:
                add(f"{i:09}.cls", str(int(labels[k])).encode())


FORMS = {
    "png": Form("{:05}.png", 1),
    "npz": Form("samples.npz", 2**63 - 1, _npz),
    "tar": Form("{:06}.tar", 1000, _shard),
    "npy": Form("samples.npy", 2**63 - 1, _npy, ".npy", save_array, _arrays, is_told=True),
}


def form_of(name: str | None, *, is_array: bool) -> str:
    """Return the form of samples, a name in ``FORMS``; by default png, of arrays npy.

    Raises:
        UnknownNameError: another name.
        ConfigError: arrays as pictures, or pictures as arrays.
    """
    usual = "npy" if is_array else "png"
    found = name or usual
    look_up(FORMS, found, "form")
    if (found == "npy") != is_array:
        raise ConfigError(
            f"form is {name}, and the run makes {'arrays' if is_array else 'images'}: give {usual}"
        )
    return found
