"""Where a pipeline folder is or may be written: on this disk, or on the Hugging Face hub."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alphabar.denoise.files import check_free, check_writable, finish
from alphabar.errors import CheckpointError, MissingExtraError

__all__ = [
    "DESCRIPTION",
    "WEIGHTS",
    "check_place",
    "first_line",
    "is_checkpoint",
    "is_hub_name",
    "loading",
    "local",
    "open_diffusers",
    "part",
    "to_share",
]

DESCRIPTION = "alphabar.json"
WEIGHTS = "network.safetensors"  # of a network that is no diffusers model

HIDDEN = ".alphabar-"  # how the names begin of what a killed process leaves behind
KEPT = frozenset(  # of a run that has no result yet
    {"checkpoints", "averages", "log.jsonl", "samples", "report.html", "tensorboard", "wandb"}
)
WRITTEN = (
    *("model_index.json", "scheduler/scheduler_config.json"),
    *("unet/config.json", "unet/diffusion_pytorch_model.safetensors", WEIGHTS),
)
FILES = ("*.json", "*.safetensors", "unet/*.json", "unet/*.safetensors", "scheduler/*.json")
PICKLED = ("*.bin", "unet/*.bin")
"""What is fetched of a pipeline: its description and weights; older ones have their weights in a pickle."""


def check_place(folder: str | Path, *, also: Sequence[str] = (), size: int = 0) -> None:
    """Refuse a place where no pipeline folder may or can be written; to be asked before a long training.

    Args:
        folder: the place.
        also: names of further files that will be written there.
        size: bytes that will be written.

    Raises:
        CheckpointError: a file; a folder that holds something and is no checkpoint of this library, or one
            with a foreign file where one is to be written; or a place that cannot be written.
    """
    place = Path(folder)
    if place.is_dir():
        finish(place, DESCRIPTION)
    if place.exists() and not _is_free(place):
        raise CheckpointError(
            f"{place} exists and is no checkpoint of alphabar: choose another place, or move it away"
        )
    check_free(place, [*WRITTEN, *also], DESCRIPTION)
    check_writable(place, size)


def _is_free(place: Path) -> bool:
    if not place.is_dir():
        return False
    ours = (place / DESCRIPTION).is_file()
    return ours or all(path.name.startswith(HIDDEN) or path.name in KEPT for path in place.iterdir())


def is_checkpoint(place: Path) -> bool:
    """Return whether a folder is a pipeline's, or holds a network of one's own."""
    own = (place / WEIGHTS).is_file() and (place / DESCRIPTION).is_file()
    return own or (place / "model_index.json").is_file()


def is_hub_name(name: str) -> bool:
    """Return whether a name is the hub's: owner/name."""
    return re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name) is not None


def to_share(training: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record of a training as others will read it: of a path to its data, the last part alone.

    ``"digits"`` and the hub's names stay whole.
    """
    data = training.get("data")
    if isinstance(data, str) and (Path(data).exists() or not is_hub_name(data)):
        return {**training, "data": Path(data).resolve().name}
    return dict(training)


def local(path_or_name: str | Path) -> Path:
    """Return the folder, fetched where the name is one of the hub's."""
    place = Path(path_or_name)
    if place.is_dir():
        finish(place, DESCRIPTION)
    if is_checkpoint(place):
        return place
    if place.exists():
        raise CheckpointError(
            f"{place} is no checkpoint: it has no model_index.json. Train one: alphabar train"
        )
    if isinstance(path_or_name, Path) or not is_hub_name(path_or_name):
        raise CheckpointError(f"{place} is not there: give the folder of a run. Train one: alphabar train")
    open_diffusers()
    import huggingface_hub

    try:
        fetched = Path(huggingface_hub.snapshot_download(path_or_name, allow_patterns=list(FILES)))
        if not any(part(fetched, "unet").glob("*.safetensors")):
            fetched = Path(huggingface_hub.snapshot_download(path_or_name, allow_patterns=[*FILES, *PICKLED]))
    except Exception as error:  # whatever the network and the hub answer
        raise CheckpointError(
            f"{path_or_name}: no such folder with a model_index.json, nor a pipeline that could be fetched: "
            f"{first_line(error)}"
        ) from error
    return fetched


@contextmanager
def loading(folder: Path) -> Iterator[None]:
    """Make a CheckpointError of whatever goes wrong in the block, where a network of a folder is loaded."""
    try:
        yield
    except Exception as error:  # arbitrary numbers and bytes make a network raise whatever it likes
        raise CheckpointError(f"{folder} does not load: {first_line(error)}") from error


def part(place: Path, name: str) -> Path:
    """Return the folder of a part; the oldest pipelines have all their files in one."""
    return place / name if (place / name).is_dir() else place


def first_line(error: Exception) -> str:
    """Return the first line of what an error says, or its name where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def open_diffusers() -> Any:
    """Return the module.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import diffusers
    except ImportError:
        raise MissingExtraError("a checkpoint", "train") from None
    return diffusers
