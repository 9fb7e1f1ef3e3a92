"""Checkpoints: a folder that diffusers opens, and that says itself what is in it.

    RUN/model_index.json, unet/, scheduler/     what ``DDPMPipeline.from_pretrained`` reads
    RUN/alphabar.json                           value range, classes, how it was trained

A folder is written beside its place and moved there when it is whole. Weights are safetensors, or are read
as weights alone: loading one runs no code.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import alphabar
from alphabar.denoise import Denoiser
from alphabar.errors import CheckpointError, MissingExtraError, look_up
from alphabar.process import PARAMETERISATIONS, named
from alphabar.schedule import NoiseSchedule
from alphabar.training.files import whole_folder

__all__ = ["Checkpoint", "check_place", "load", "of", "save"]

DESCRIPTION = "alphabar.json"

NETWORKS = {
    "UNet2DModel": "diffusers",
    "GuidedUNet": "alphabar.convert.networks",
    "LucidUNet": "alphabar.convert.networks",
}
"""Networks that a folder may hold, all called with x_t, t and perhaps labels, and where they are defined."""

FILES = ("*.json", "*.safetensors", "unet/*.json", "unet/*.safetensors", "scheduler/*.json")
PICKLED = ("*.bin", "unet/*.bin")
"""What is fetched of a pipeline: its description and weights; older ones have their weights in a pickle."""


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
    """The names of its labels; empty where it takes none. Label ``len(classes)`` stands for "no label" in a
    network that was trained here."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """How it was trained, as JSON values."""

    @property
    def learns_variance(self) -> bool:
        """Whether the network returns twice the channels of the image."""
        config = getattr(self.network, "config", None)
        return getattr(config, "out_channels", self.shape[0]) == 2 * self.shape[0]

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
        checkpoint: with a diffusers model as its network, as ``UNet2DModel`` is.

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


def load(path_or_name: str | Path) -> Checkpoint:
    """Read a checkpoint, or any diffusers pipeline with a ``UNet2DModel`` and a scheduler.

    Args:
        path_or_name: a folder, or the name of a pipeline on the Hugging Face hub such as
            ``"google/ddpm-cifar10-32"``, of which the weights and the description are fetched.

    Raises:
        CheckpointError: no such folder or pipeline; one that misses or garbles a part; a network that needs
            more than x_t, t and a label; a scheduler without β.
        UnknownNameError: a prediction or a noise schedule that is not known.
        MissingExtraError: diffusers is not installed.
    """
    place = _local(path_or_name)
    config = _read_json(_part(place, "scheduler") / "scheduler_config.json")
    described = _read_json(place / DESCRIPTION) if (place / DESCRIPTION).exists() else {}
    prediction = config.get("prediction_type", "epsilon")
    look_up(PARAMETERISATIONS, prediction, "prediction")
    _check_beta(place, config)
    network = _network(_part(place, "unet"))
    network.alphabar = described  # travels with the network, so that saving it again loses nothing
    return of(Denoiser(network, NoiseSchedule.from_config(config), prediction))


def of(denoiser: Denoiser) -> Checkpoint:
    """Return what a denoiser says about itself, and what the folder said that its network was loaded from.

    Raises:
        CheckpointError: a network without a diffusers configuration.
    """
    config = getattr(denoiser.network, "config", None)
    size = getattr(config, "sample_size", None)
    if config is None or size is None or not isinstance(denoiser.network, nn.Module):
        raise CheckpointError(
            f"a {type(denoiser.network).__name__} does not say the size of its images: build a "
            "Checkpoint yourself, or give a UNet2DModel its sample_size"
        )
    described = getattr(denoiser.network, "alphabar", {})
    height, width = (size, size) if isinstance(size, int) else size
    count = getattr(config, "num_class_embeds", None) or 0
    return Checkpoint(
        denoiser.network,
        denoiser.schedule,
        named(denoiser.prediction).name,
        (config.in_channels, height, width),
        tuple(described.get("classes", map(str, range(count)))),
        described.get("training", {}),
    )


def _local(path_or_name: str | Path) -> Path:
    """Return the folder, fetched where the name is one of the hub's."""
    place = Path(path_or_name)
    if _is_checkpoint(place):
        return place
    if place.exists() or isinstance(path_or_name, Path) or path_or_name.count("/") != 1:
        raise CheckpointError(
            f"{place} is no checkpoint: it has no model_index.json. Train one: alphabar train"
        )
    _diffusers()
    import huggingface_hub

    try:
        fetched = Path(huggingface_hub.snapshot_download(path_or_name, allow_patterns=list(FILES)))
        if not any(_part(fetched, "unet").glob("*.safetensors")):
            fetched = Path(huggingface_hub.snapshot_download(path_or_name, allow_patterns=[*FILES, *PICKLED]))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path_or_name} is no folder with a model_index.json, nor a pipeline that could be fetched: "
            f"{_first_line(error)}"
        ) from error
    return fetched


def _part(place: Path, name: str) -> Path:
    """Return the folder of a part; the oldest pipelines have all their files in one."""
    return place / name if (place / name).is_dir() else place


def _network(folder: Path) -> Any:
    config = _read_json(folder / "config.json")
    name = config.get("_class_name", "no network")
    if name not in NETWORKS:
        raise CheckpointError(
            f"{folder} holds {name}, which is not known, or needs more than x_t, t and a label: run it "
            f"in its diffusers pipeline. Known are {', '.join(NETWORKS)}"
        )
    _diffusers()
    kind = getattr(importlib.import_module(NETWORKS[name]), name)
    safe = any(folder.glob("*.safetensors"))  # otherwise a pickle, which diffusers reads as weights only
    try:
        return kind.from_pretrained(folder, use_safetensors=safe).eval()
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder} does not load: {_first_line(error)}") from error


def _check_beta(place: Path, config: Mapping[str, Any]) -> None:
    """Refuse a scheduler whose noise is not described by β: DDPM's defaults would be taken in silence."""
    if "beta_schedule" not in config and config.get("trained_betas") is None:
        name = config.get("_class_name", "scheduler")
        raise CheckpointError(f"{place} has a {name}, which has no β: such networks are not known here")


def _pipeline(checkpoint: Checkpoint) -> Any:
    diffusers = _diffusers()
    config = {**checkpoint.schedule.to_config(), "prediction_type": checkpoint.prediction}
    if checkpoint.learns_variance:
        config["variance_type"] = "learned_range"
    scheduler = diffusers.DDPMScheduler(**config, timestep_spacing="trailing")
    return diffusers.DDPMPipeline(unet=checkpoint.network, scheduler=scheduler)


def _description(checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "alphabar": alphabar.__version__,
        "schedule": repr(checkpoint.schedule),
        "prediction": checkpoint.prediction,
        "learned_variance": checkpoint.learns_variance,
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


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _diffusers() -> Any:
    try:
        import diffusers
    except ImportError:
        raise MissingExtraError("a checkpoint", "train") from None
    return diffusers
