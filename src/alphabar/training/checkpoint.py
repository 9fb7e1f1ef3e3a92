"""Checkpoints: a pipeline folder as a trained network with its classes and the record of its training.

    RUN/model_index.json, unet/, scheduler/     what ``DDPMPipeline.from_pretrained`` reads, or
    RUN/network.safetensors                     another network of this library, or one's own
    RUN/alphabar.json                           value range, classes, how it was trained, its files

:mod:`alphabar.denoise.pretrained` writes and reads the folder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from alphabar.denoise import ClassifierFree, Clipped, Denoise, Denoiser, pretrained
from alphabar.denoise.conditions import Condition, codes
from alphabar.denoise.factories import Factory, digest_of
from alphabar.denoise.pretrained import Pretrained, check_labels, check_place
from alphabar.denoise.scaling import Scaling
from alphabar.errors import CheckpointError, ConfigError, look_up
from alphabar.process import Parameterisation, named
from alphabar.schedule import NoiseSchedule

__all__ = ["Checkpoint", "check_place", "load", "of", "save"]


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A trained network and everything that sampling from it must know."""

    network: nn.Module
    """Called as ``network(x_t, t)``, with ``class_labels`` where it has classes."""
    schedule: NoiseSchedule
    prediction: str | Parameterisation
    shape: tuple[int, ...]
    """(C, H, W) of its images, whose values lie in [−1, 1], or (C, …) of other data."""
    classes: tuple[str, ...] = ()
    """The names of its labels; empty where it takes none. Label ``len(classes)`` stands for "no label" in a
    network that was trained here."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """How it was trained, as JSON values."""
    factory: Factory | None = None
    """What builds the network, where it is no diffusers model."""
    latents: Mapping[str, Any] = field(default_factory=dict)
    """What decodes its samples, where they are latents: ``vae``, ``sha256``, ``shift``, ``scale``."""
    conditions: Mapping[str, Condition] = field(default_factory=dict)
    """What the network is told beside the label, by name."""
    scaling: Scaling | None = None
    """How its data were scaled, and samples are scaled back, where they are arrays and no images."""

    @property
    def makes_images(self) -> bool:
        """Whether its samples are images in [−1, 1], to which they may be clipped."""
        return not self.latents and self.scaling is None

    @property
    def can_be_saved(self) -> bool:
        """Whether a folder could describe the network: as a diffusers model, or by its factory."""
        return self.factory is not None or hasattr(self.network, "save_pretrained")

    @property
    def learns_variance(self) -> bool:
        """Whether the network returns twice the channels of the image."""
        if self.factory:
            return self.factory.learns_variance
        config = getattr(self.network, "config", None)
        return getattr(config, "out_channels", self.shape[0]) == 2 * self.shape[0]

    def denoiser(
        self,
        labels: Tensor | None = None,
        *,
        conditions: Mapping[str, Tensor] | None = None,
        precision: str = "float32",
    ) -> Denoiser:
        """Return the network as a denoiser.

        Args:
            labels: (B,) where it has classes.
            conditions: (B, …) each that it was trained on, by name, in the units of its training data.
            precision: of the network's arithmetic.

        Raises:
            CheckpointError: labels or conditions that the network does not know, or none where it needs them.
            ShapeError, DataError, DtypeError: conditions of another shape, or no finite numbers.
            UnknownNameError: a precision that :class:`~alphabar.Denoiser` does not know.
        """
        check_labels(self.classes, labels)
        told = codes(self.conditions, conditions)
        return Denoiser(self.network, self.schedule, self.prediction, labels, precision, told)

    @property
    def can_be_guided(self) -> bool:
        """Whether the network has classes or conditions, and has learned to do without them as well."""
        return bool(self.classes or self.conditions) and not self._unlearned

    @property
    def _unlearned(self) -> list[str]:
        """The settings by which it never was without its label or conditions."""
        shares = {"label_dropout": self.classes, "condition_dropout": self.conditions}
        return [name for name, has in shares.items() if has and self.training.get(name) == 0]

    def guided(
        self,
        labels: Tensor | None = None,
        guidance: float = 1.0,
        *,
        conditions: Mapping[str, Tensor] | None = None,
        precision: str = "float32",
    ) -> Denoise:
        """Return the network as a denoiser that is led towards its labels; images are clipped to [−1, 1].

        Args:
            labels: (B,) where it has classes.
            guidance: how much labels and conditions count: 1 as trained, more for clearer and less varied
                pictures.
            conditions: as of :meth:`denoiser`.
            precision: of the network's arithmetic.

        Raises:
            ConfigError: guidance of a network that knows nothing without a label or conditions, or has none.
            CheckpointError, ShapeError, DataError, DtypeError, UnknownNameError: as :meth:`denoiser`.
        """
        denoiser = self.denoiser(labels, conditions=conditions, precision=precision)
        if guidance == 1:
            return Clipped(denoiser) if self.makes_images else denoiser
        if not self.can_be_guided:
            never = f"was trained with {' and '.join(self._unlearned)} 0 and knows nothing without a label"
            why = never if self._unlearned else "has no classes and no conditions"
            raise ConfigError(f"guidance is {guidance}, but this network {why}: leave guidance at 1")
        guided = ClassifierFree(denoiser, guidance, null_label=len(self.classes))
        return Clipped(guided) if self.makes_images else guided

    def digest(self) -> str:
        """Return a SHA-256, in hexadecimal digits, of all that samples depend on.

        That is the weights and the configuration of the network, the schedule, and what is predicted. Of the
        code of a factory it is the name.
        """
        settings = asdict(self.factory) if self.factory else getattr(self.network, "config", {})
        config = {k: v for k, v in settings.items() if not k.startswith("_") and k != "conditions"}
        described = (config, self.schedule.to_config(), named(self.prediction).name, self.shape, self.classes)
        told = [*sorted(self.conditions.items()), *([self.scaling] if self.scaling else [])]
        return digest_of(self.network, (*described, told) if told else described)

    def labels(self, count: int, names: Sequence[str] = (), *, first: int = 0) -> Tensor | None:
        """Return (count,) labels that go through the named classes in turn, by default all.

        None where the network has no classes. The label of a sample follows from its number, of which
        ``first`` is the lowest.

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
        return chosen[torch.arange(first, first + count) % len(chosen)]


def save(folder: str | Path, checkpoint: Checkpoint, *, also: Callable[[Path], object] | None = None) -> Path:
    """Write a checkpoint; of one that is there already exactly the files of the last time are replaced.

    Args:
        folder: where.
        checkpoint: with a diffusers model as its network, as ``UNet2DModel`` is, or with a factory.
        also: called with the folder that is being filled, to put more files there.

    Raises:
        CheckpointError: another kind of network, which no folder could describe; or a place that is a file,
            holds something else, or cannot be written.
        MissingExtraError: diffusers is not installed.
    """
    described: dict[str, Any] = {
        "classes": checkpoint.classes,
        "conditions": {name: each.record() for name, each in checkpoint.conditions.items()},
        "shape": checkpoint.shape,
        "training": dict(checkpoint.training),
        "latents": dict(checkpoint.latents),
        **({} if checkpoint.scaling is None else {"scaling": checkpoint.scaling.record()}),
    }
    if checkpoint.factory:
        described |= checkpoint.factory.description
    contents = Pretrained(checkpoint.network, checkpoint.schedule, checkpoint.prediction, described)
    return pretrained.write(folder, contents, also=also)


def load(
    path_or_name: str | Path,
    *,
    prediction: str | Parameterisation | None = None,
    network: str | None = None,
) -> Checkpoint:
    """Read a checkpoint, or any diffusers pipeline with a ``UNet2DModel`` and a scheduler.

    Of a network of one's own, ``network="package.module:factory"`` allows to run the code that builds it.
    Arguments and errors as in :func:`alphabar.denoise.pretrained.read`.
    """
    return _checkpoint(pretrained.read(path_or_name, prediction=prediction, network=network))


def of(denoiser: Denoiser) -> Checkpoint:
    """Return the checkpoint of a denoiser, with the description of the folder it was loaded from.

    Raises:
        CheckpointError: a network without a diffusers configuration.
    """
    described = getattr(denoiser.network, "alphabar", {})
    return _checkpoint(Pretrained(denoiser.network, denoiser.schedule, denoiser.prediction, described))


def _checkpoint(found: Pretrained) -> Checkpoint:
    training = found.description.get("training", {})
    return Checkpoint(
        *(found.network, found.schedule, found.prediction, found.shape, found.classes, training),
        factory=found.factory,
        latents=found.description.get("latents", {}),
        conditions=found.conditions,
        scaling=found.scaling,
    )
