"""A folder of latents: written file by file by one process or many, gone on with after a kill, read by need.

    OUT/latents.json              what they are of, and what decodes them
    OUT/000000.safetensors, …     latents (n, C', h, w) and perhaps labels (n,), each file whole or not there

File k holds the images k·n … k·n + n − 1, made in batches of a fixed size, and sampled by the numbers of the
images: it is the same, bit for bit, in any number of processes and however often they were killed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from alphabar.denoise.files import held, read_json, remove_drafts, whole_file
from alphabar.errors import CheckpointError, ConfigError, DataError
from alphabar.training import engine
from alphabar.training.arrays import opened_tensors, read_rows

__all__ = ["RECORD", "Description", "Latents", "is_latents", "read_latents", "write"]

RECORD = "latents.json"
MADE_BY = "latents of images, written by alphabar"
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Description:
    """What a folder of latents says of itself, as JSON values."""

    vae: str
    """The folder of what decodes them."""
    sha256: str
    """:func:`alphabar.training.autoencoder.digest` of it."""
    shift: list[float]
    """m of each channel."""
    scale: list[float]
    """s of each channel."""
    of: str
    """What they are of: images by their source, or samples of a run."""
    images: int
    shape: list[int]
    """(C', h, w)."""
    classes: list[str]
    """Names of the labels; empty where they have none."""
    posterior: str
    """Mean or sample."""
    seed: int
    precision: str
    """Of the arithmetic, and of what is stored."""
    batch_size: int
    """Images that are encoded together."""
    per_file: int
    made_by: str = MADE_BY

    @property
    def files(self) -> list[tuple[str, range]]:
        """The name of each file, and the numbers of its images."""
        starts = range(0, self.images, self.per_file)
        return [
            (_file_name(number), range(first, min(first + self.per_file, self.images)))
            for number, first in enumerate(starts)
        ]

    @property
    def decoder(self) -> dict[str, Any]:
        """What a run on them keeps, so that its samples can be decoded."""
        return {name: getattr(self, name) for name in ("vae", "sha256", "shift", "scale")}


def _file_name(number: int) -> str:
    return f"{number:06}.safetensors"


def is_latents(place: str | Path) -> bool:
    """Return whether a folder holds latents."""
    return place != "" and Path(place, RECORD).is_file()


def write(
    place: Path,
    about: Description,
    make: Callable[[range], Tensor],
    labels: Callable[[range], Tensor | None],
    *,
    progress: Callable[[Sequence[Any]], Iterable[Any]] = iter,
    stop: Callable[[], bool] = lambda: False,
) -> int:
    """Write the files that are missing; return how many images are there then. All processes must take part.

    Args:
        place: the folder.
        about: what the latents depend on.
        make: returns the latents of a batch of numbers, (B, C', h, w).
        labels: returns their labels, (B,), where they have any.
        progress: wraps the files that this process writes, for instance to draw a bar.
        stop: asked after each file whether to end.

    Raises:
        ConfigError: the folder holds latents of other settings, with what differs.
        CheckpointError: it holds something else, or another process writes to it.
    """
    state = engine.processes()
    if state.is_main_process:
        place.mkdir(parents=True, exist_ok=True)
    with held(place) if state.is_main_process else nullcontext():
        if state.is_main_process:
            _claim(place, about)
        state.wait_for_everyone()
        missing = [each for each in about.files if not (place / each[0]).exists()]
        state.wait_for_everyone()  # nobody writes before all have looked, so that all share the same list
        for name, numbers in progress(missing[state.process_index :: state.num_processes]):
            _write_file(place / name, about, numbers, make, labels(numbers))
            if stop():
                break
        state.wait_for_everyone()
    return sum(len(numbers) for name, numbers in about.files if (place / name).exists())


def _claim(place: Path, about: Description) -> None:
    remove_drafts(place)
    new = asdict(about)
    if not (place / RECORD).exists():
        if found := sorted(path.name for path in place.iterdir()):
            raise CheckpointError(f"{place} holds something else, such as {found[0]}: choose another place")
        with whole_file(place / RECORD) as draft:
            draft.write_text(json.dumps(new, indent=2) + "\n", encoding="utf-8")
        return
    old = read_json(place / RECORD)
    differ = [
        f"{key} was {old.get(key)!s:.60}, is {new[key]!s:.60}" for key in new if old.get(key) != new[key]
    ]
    if differ:
        what = f"{place} holds latents of other settings ({'; '.join(differ)})"
        raise ConfigError(f"{what}: choose another place, or remove it")


def _write_file(
    path: Path, about: Description, numbers: range, make: Callable[[range], Tensor], labels: Tensor | None
) -> None:
    from safetensors.torch import save_file

    batches = [numbers[at : at + about.batch_size] for at in range(0, len(numbers), about.batch_size)]
    latents = torch.cat([make(batch).to("cpu", PRECISIONS[about.precision]) for batch in batches])
    tensors = {"latents": latents, **({} if labels is None else {"labels": labels.to(torch.int64)})}
    with whole_file(path) as draft:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, draft)


@dataclass(frozen=True, eq=False)
class Latents:
    """The latents of a folder, (N, C', h, w), of which each can be read alone.

    Args:
        place: the folder.
        about: its description.
    """

    place: Path
    about: Description
    block: ClassVar[int] = 1

    @property
    def shape(self) -> torch.Size:
        """(N, C', h, w)."""
        return torch.Size((self.about.images, *self.about.shape))

    def read(self, numbers: list[int]) -> Tensor:
        """Return some as they are stored, (B, C', h, w)."""
        found = torch.empty(len(numbers), *self.about.shape, dtype=PRECISIONS[self.about.precision])
        asked = torch.tensor(numbers)
        files = asked // self.about.per_file
        for file in set(files.tolist()):
            places = (files == file).nonzero()[:, 0]
            rows = (asked[places] % self.about.per_file).tolist()
            found[places] = read_rows(self.place / _file_name(file), "latents", rows)
        return found


def read_latents(place: str | Path) -> tuple[Latents, Tensor | None]:
    """Return the latents of a folder, of which nothing is read yet, and their labels, (N,) int64.

    Raises:
        DataError: files that are missing or damaged, or a description that is none.
    """
    folder = Path(place)
    about = _described(folder)
    missing = [name for name, _ in about.files if not (folder / name).is_file()]
    if missing:
        raise DataError(
            f"{folder} misses {len(missing)} of {len(about.files)} files, such as {missing[0]}: the same "
            "alphabar encode goes on"
        )
    labels = torch.cat([_labels(folder / name) for name, _ in about.files]) if about.classes else None
    return Latents(folder, about), labels


def _labels(path: Path) -> Tensor:
    with opened_tensors(path) as opened:
        labels: Tensor = opened.get_tensor("labels")
        return labels


def _described(folder: Path) -> Description:
    path = folder / RECORD
    try:
        about = Description(**read_json(path))
    except (CheckpointError, TypeError) as error:
        raise DataError(f"{path} does not describe latents: {error}") from error
    shape = about.shape if isinstance(about.shape, list) and len(about.shape) == 3 else [0]
    are_counts = all(type(count) is int and count > 0 for count in (about.images, about.per_file, *shape))
    if not are_counts or about.precision not in PRECISIONS or not isinstance(about.vae, str):
        raise DataError(f"{path} does not describe latents: images, shape, precision or vae are wrong")
    return about
