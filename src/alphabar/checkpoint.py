"""Checkpoints: a folder that diffusers opens, and that says itself what is in it.

    RUN/model_index.json, unet/, scheduler/     what ``DDPMPipeline.from_pretrained`` reads
    RUN/alphabar.json                           value range, classes, how it was trained

A folder is written beside its place and moved there when it is whole. Weights are safetensors: loading
one runs no code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import alphabar
from alphabar.denoiser import Denoiser
from alphabar.errors import CheckpointError, MissingExtraError, look_up
from alphabar.files import whole_folder
from alphabar.prediction import PREDICTIONS
from alphabar.schedule import NoiseSchedule

__all__ = ["Checkpoint", "check_place", "load", "save"]

DESCRIPTION = "alphabar.json"


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A trained network and everything that sampling from it must know."""

    network: nn.Module
    """Called as ``network(x_t, t)``, with ``class_labels`` where it has classes."""
    schedule: NoiseSchedule
    prediction: str
    shape: tuple[int, int, int]
    """(C, H, W) of its images, whose values lie in [−1, 1]."""
    classes: tuple[str, ...] = ()
    """The names of its labels; empty where it takes none. Label ``len(classes)`` stands for "no label"."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """How it was trained, as JSON values."""

    def denoiser(self, labels: Tensor | None = None) -> Denoiser:
        """Return the network as a denoiser, for (B,) labels where it has classes.

        Raises:
            CheckpointError: labels for a network without classes, or none for one with.
        """
        if (labels is None) == bool(self.classes):
            has = f"knows the classes {', '.join(self.classes)}" if self.classes else "knows no classes"
            raise CheckpointError(f"this network {has}: {'give' if self.classes else 'leave out'} labels")
        return Denoiser(self.network, self.schedule, self.prediction, labels)

    def labels(self, count: int, names: Sequence[str] = ()) -> Tensor | None:
        """Return (count,) labels that go through the named classes in turn, by default all.

        None where the network has no classes.

        Raises:
            UnknownNameError: a name that is no class of this network.
            CheckpointError: names for a network without classes.
        """
        if not self.classes:
            if names:
                raise CheckpointError(f"this network knows no classes: leave out {', '.join(names)}")
            return None
        numbers = {name: number for number, name in enumerate(self.classes)}
        chosen = torch.tensor([look_up(numbers, name, "class") for name in names or self.classes])
        return chosen[torch.arange(count) % len(chosen)]


def save(folder: str | Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint; a folder that is already there is replaced when the new one is whole.

    Args:
        folder: where.
        checkpoint: with a diffusers ``UNet2DModel`` as its network.

    Raises:
        CheckpointError: another kind of network, which no folder could describe; or a place that is a file,
            or a folder that is not a checkpoint.
        MissingExtraError: diffusers is not installed.
    """
    place = Path(folder)
    if not hasattr(checkpoint.network, "save_pretrained"):
        raise CheckpointError(
            f"a {type(checkpoint.network).__name__} cannot be written as a diffusers pipeline: save its "
            "state_dict() yourself, beside schedule.to_config() and the prediction"
        )
    check_place(place)
    with whole_folder(place) as draft:
        _pipeline(checkpoint).save_pretrained(draft)
        Path(draft, DESCRIPTION).write_text(json.dumps(_description(checkpoint), indent=2) + "\n")
    return place


def check_place(folder: str | Path) -> None:
    """Refuse a place that a checkpoint must not replace; to be asked before a long training.

    Raises:
        CheckpointError: a file, or a folder with something in it that is not a checkpoint.
    """
    place = Path(folder)
    if place.exists() and not (place.is_dir() and (_is_checkpoint(place) or not any(place.iterdir()))):
        raise CheckpointError(f"{place} exists and is no checkpoint: choose another place, or move it away")


def load(folder: str | Path) -> Checkpoint:
    """Read a checkpoint, or any diffusers folder with a ``UNet2DModel`` and a scheduler.

    Raises:
        CheckpointError: no such folder, or one that misses or garbles a part.
        MissingExtraError: diffusers is not installed.
    """
    place = Path(folder)
    if not _is_checkpoint(place):
        raise CheckpointError(
            f"{place} is no checkpoint: it has no model_index.json. Train one: alphabar train"
        )
    config = _read_json(place / "scheduler" / "scheduler_config.json")
    described = _read_json(place / DESCRIPTION) if (place / DESCRIPTION).exists() else {}
    prediction = config.get("prediction_type", "epsilon")
    look_up(PREDICTIONS, prediction, "prediction")
    try:
        network = _diffusers().UNet2DModel.from_pretrained(place / "unet", use_safetensors=True)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise CheckpointError(f"{place / 'unet'} does not load: {str(error).splitlines()[0]}") from error
    size = network.config.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    return Checkpoint(
        network.eval(),
        NoiseSchedule.from_config(config),
        prediction,
        (network.config.in_channels, height, width),
        tuple(described.get("classes", ())),
        described.get("training", {}),
    )


def _pipeline(checkpoint: Checkpoint) -> Any:
    diffusers = _diffusers()
    config = {**checkpoint.schedule.to_config(), "prediction_type": checkpoint.prediction}
    scheduler = diffusers.DDPMScheduler(**config, timestep_spacing="trailing")
    return diffusers.DDPMPipeline(unet=checkpoint.network, scheduler=scheduler)


def _description(checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "alphabar": alphabar.__version__,
        "schedule": repr(checkpoint.schedule),
        "prediction": checkpoint.prediction,
        "value_range": [-1, 1],
        "shape": checkpoint.shape,
        "classes": checkpoint.classes,
        "training": dict(checkpoint.training),
    }


def _is_checkpoint(place: Path) -> bool:
    return (place / "model_index.json").is_file()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def _diffusers() -> Any:
    try:
        import diffusers
    except ImportError:
        raise MissingExtraError("a checkpoint", "train") from None
    return diffusers
