"""Pipeline folders: a network, its schedule and its parameterisation, as diffusers opens them too.

    RUN/model_index.json, unet/, scheduler/     what ``DDPMPipeline.from_pretrained`` reads
    RUN/alphabar.json                           what that cannot say, and every file with its SHA-256
    RUN/README.md                               the model card, for people to complete

A network of :mod:`alphabar.denoise.nets` or of one's own (:mod:`alphabar.denoise.factories`) is no diffusers
model, and its folder no pipeline: in place of the first line there is ``RUN/network.safetensors``, and
``alphabar.json`` says the rest.

The scheduler says how the network is asked and read where diffusers has a word for it: a
``FlowMatchEulerDiscreteScheduler`` stands for flow matching, an ``EDMEulerScheduler`` for EDM, and a
``DDPMScheduler`` for all others, whose ``prediction_type`` is the name of the parameterisation. Weights are
safetensors, or are read as weights alone: opening a folder runs no code of its own, and that of a factory by
consent.
"""

from __future__ import annotations

import importlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from alphabar.denoise._card import CARD, card
from alphabar.denoise._configs import check_network, check_steps_of
from alphabar.denoise._description import check_weights, read_description
from alphabar.denoise._places import (
    DESCRIPTION,
    WEIGHTS,
    check_place,
    is_checkpoint,
    loading,
    local,
    open_diffusers,
    part,
    to_share,
)
from alphabar.denoise._schedulers import check_beta, kind_of, scheduler_for
from alphabar.denoise.conditions import Condition, described
from alphabar.denoise.factories import Factory, check_allowed, save_weights
from alphabar.denoise.files import finish, may_write, read_json, replaced_files
from alphabar.denoise.scaling import Scaling
from alphabar.errors import CheckpointError
from alphabar.process import Parameterisation, named
from alphabar.schedule import OWN_KEYS, NoiseSchedule

__all__ = ["DESCRIPTION", "Pretrained", "check_labels", "check_place", "is_checkpoint", "read", "write"]

NETWORKS = {
    "UNet2DModel": "diffusers",
    "ConditionedUNet": "alphabar.denoise.networks",
    "GuidedUNet": "alphabar.denoise.networks",
    "LucidUNet": "alphabar.denoise.networks",
}
"""Networks that a folder may hold, called with x_t, t, perhaps labels and conditions; and their modules."""

ATTEMPTS = 5  # of reading a folder that another process is replacing


@dataclass(frozen=True, eq=False)
class Pretrained:
    """What a pipeline folder holds."""

    network: Any
    """Called as ``network(x_t, t)``, with ``class_labels`` where it has classes."""
    schedule: NoiseSchedule
    prediction: str | Parameterisation
    description: Mapping[str, Any] = field(default_factory=dict)
    """What ``alphabar.json`` says: ``classes``, ``training`` and others, JSON values."""

    @property
    def factory(self) -> Factory | None:
        """What builds the network, where it is no diffusers model."""
        return Factory.described(self.description)

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W) of its images, or (C, …) of other data.

        Raises:
            CheckpointError: neither the network nor the description says it.
        """
        if self.factory:
            return self.factory.shape
        config = getattr(self.network, "config", None)
        size = getattr(config, "sample_size", None) or self.description.get("shape", ())[1:]
        if (
            config is None
            or not size
            or (not isinstance(size, int) and len(size) != 2)
            or not isinstance(self.network, nn.Module)
        ):
            raise CheckpointError(
                f"a {type(self.network).__name__} does not say the size of its images: build a "
                "Checkpoint yourself, or give a UNet2DModel its sample_size"
            )
        height, width = (size, size) if isinstance(size, int) else size
        return config.in_channels, height, width

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of its labels; empty where it takes none."""
        count = getattr(getattr(self.network, "config", None), "num_class_embeds", None) or 0
        return tuple(self.description.get("classes", map(str, range(count))))

    @property
    def conditions(self) -> dict[str, Condition]:
        """What it is told beside the label, by name."""
        return described(self.description)

    @property
    def scaling(self) -> Scaling | None:
        """How its data were scaled, where they are arrays and no images."""
        found = self.description.get("scaling")
        return None if found is None else Scaling.described(dict(found), self.shape[0])

    @property
    def learns_variance(self) -> bool:
        """Whether the network returns twice the channels of the image."""
        if self.factory:
            return self.factory.learns_variance
        config = getattr(self.network, "config", None)
        channels = getattr(config, "in_channels", None)
        return channels is not None and getattr(config, "out_channels", channels) == 2 * channels


def check_labels(classes: Sequence[str], labels: Tensor | None) -> None:
    """Require labels for a network with classes, and none for one without.

    Raises:
        CheckpointError: it is the other way round.
    """
    if (labels is None) == bool(classes):
        has = f"knows the classes {', '.join(classes)}" if classes else "knows no classes"
        raise CheckpointError(f"this network {has}: {'give' if classes else 'leave out'} labels")


def write(folder: str | Path, contents: Pretrained, *, also: Callable[[Path], object] | None = None) -> Path:
    """Write a pipeline folder; of one that is there already exactly the files of the last time are replaced.

    A model card that somebody has changed stays as it is.

    Args:
        folder: where.
        contents: what, with a diffusers model as its network, or one of its factory.
        also: called with the folder that is being filled, to put more files there.

    Raises:
        CheckpointError: another kind of network, which no folder could describe; or a place that is a file,
            holds something else, or cannot be written.
        MissingExtraError: diffusers is not installed.
    """
    place = Path(folder)
    if not contents.factory and not hasattr(contents.network, "save_pretrained"):
        raise CheckpointError(
            f"a {type(contents.network).__name__} is no diffusers model: train it by the name of what builds "
            "it, TrainConfig(network='package.module:factory'), or save its state_dict() yourself, beside "
            "schedule.to_config() and the prediction"
        )
    check_place(place)
    with replaced_files(place, DESCRIPTION) as draft:
        about = (_write_own if contents.factory else _write_pipeline)(draft, contents)
        Path(draft, DESCRIPTION).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        if may_write(place, CARD, DESCRIPTION):
            Path(draft, CARD).write_text(card(about, contents.network), encoding="utf-8")
        if also is not None:
            also(draft)
    return place


def _write_pipeline(draft: Path, contents: Pretrained) -> dict[str, Any]:
    scheduler = scheduler_for(contents.schedule, contents.prediction, contents.learns_variance)
    open_diffusers().DDPMPipeline(unet=contents.network, scheduler=scheduler).save_pretrained(draft)
    return _description(contents, type(scheduler).__name__)


def _write_own(draft: Path, contents: Pretrained) -> dict[str, Any]:
    save_weights(contents.network, draft / WEIGHTS)
    factory: Any = contents.factory
    code = ", with the code of the factory" if factory.consent else ""
    opened_by = f"alphabar{code}; it is no diffusers pipeline"
    return {"opened_by": opened_by, **_description(contents, scheduler=None), **factory.description}


def read(
    path_or_name: str | Path,
    *,
    prediction: str | Parameterisation | None = None,
    network: str | None = None,
) -> Pretrained:
    """Read a folder with a network of ``NETWORKS`` and a scheduler, or with a network of one's own.

    Args:
        path_or_name: a folder, or the name of a pipeline on the Hugging Face hub such as
            ``"google/ddpm-cifar10-32"``, of which the weights and the description are fetched.
        prediction: in place of the one the folder names, which may be in no table.
        network: consent to import and run the code that builds the network, ``package.module:factory``, where
            the folder asks for it by this name.

    Raises:
        CheckpointError: no such folder or pipeline; one that misses or garbles a part, or is damaged; a
            network that needs more than x_t, t and a label; a scheduler whose noise is not known; no consent
            to the code that the folder asks for.
        UnknownNameError: a prediction or a noise schedule that is not known.
        ConfigError: the factory cannot be imported, or does not build a network.
        MissingExtraError: diffusers is not installed.
    """
    place = local(path_or_name)
    for _ in range(ATTEMPTS):
        before = _written(place)
        try:
            found = _read(place, prediction, network)
        except CheckpointError:
            if _written(place) == before:
                raise
        else:
            if _written(place) == before:
                return found
    raise CheckpointError(f"{place} changes while it is read: try again")


def _written(place: Path) -> bytes:
    """Return what tells one state of a folder from the next."""
    try:
        finish(place, DESCRIPTION)
        return (place / DESCRIPTION).read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise CheckpointError(f"{place} cannot be read: {error}") from error


def _read(place: Path, prediction: str | Parameterisation | None, allowed: str | None) -> Pretrained:
    about = read_description(place)
    factory = Factory.described(about)
    check_allowed(factory.consent if factory else None, allowed, place)
    if factory:
        config = {"prediction_type": about.get("prediction")}
    else:
        config = read_json(part(place, "scheduler") / "scheduler_config.json")
    kind = kind_of(config) if prediction is None else prediction
    named(kind)
    config = about.get("noise_schedule", config)
    check_beta(place, config)
    check_steps_of(config, place)
    check_weights(place, about)
    network: Any = factory.load(place / WEIGHTS) if factory else _network(part(place, "unet"))
    network.alphabar = about  # travels with the network, so that saving it again loses nothing
    return Pretrained(network, NoiseSchedule.from_config(config), kind, about)


def _network(folder: Path) -> Any:
    config = read_json(folder / "config.json")
    name = config.get("_class_name", "no network")
    if not isinstance(name, str) or name not in NETWORKS:
        raise CheckpointError(
            f"{folder} holds {name}, which is not known, or needs more than x_t, t and a label: run it "
            f"in its diffusers pipeline. Known are {', '.join(NETWORKS)}"
        )
    check_network(config, folder / "config.json")
    open_diffusers()
    kind = getattr(importlib.import_module(NETWORKS[name]), name)
    safe = any(folder.glob("*.safetensors"))  # otherwise a pickle, which diffusers reads as weights only
    with loading(folder), _quiet():
        network, info = kind.from_pretrained(folder, use_safetensors=safe, output_loading_info=True)
    if missing := sorted(info["missing_keys"]):
        raise CheckpointError(
            f"{folder} does not load: {len(missing)} weights are missing, such as {missing[0]}"
        )
    return network.eval()


@contextmanager
def _quiet() -> Iterator[None]:
    """Have diffusers say nothing of what becomes an error here."""
    logger = logging.getLogger("diffusers")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _description(contents: Pretrained, scheduler: str | None) -> dict[str, Any]:
    config = contents.schedule.to_config()
    apart = scheduler != config.get("_class_name", "DDPMScheduler") or config.keys() & set(OWN_KEYS)
    return {
        "alphabar": _version(),
        "schedule": repr(contents.schedule),
        **({"noise_schedule": config} if apart else {}),
        "prediction": named(contents.prediction).name,
        "learned_variance": contents.learns_variance,
        **_values(contents.description),
        "shape": contents.shape,
        "classes": contents.classes,
        "conditions": {name: condition.record() for name, condition in contents.conditions.items()},
        "training": to_share(contents.description.get("training", {})),
    }


def _values(description: Mapping[str, Any]) -> dict[str, Any]:
    """Return what samples stand for: latents, scaled arrays, or images."""
    known = {name: description[name] for name in ("latents", "scaling") if description.get(name)}
    return known or {"value_range": [-1, 1]}


def _version() -> str:
    from importlib import metadata

    try:
        return metadata.version("alphabar")
    except metadata.PackageNotFoundError:  # its sources, not installed
        return "unknown"
