"""Pipeline folders: a network, its schedule and its parameterisation, as diffusers opens them too.

    RUN/model_index.json, unet/, scheduler/     what ``DDPMPipeline.from_pretrained`` reads
    RUN/alphabar.json                           what that cannot say, and every file with its SHA-256
    RUN/README.md                               the model card, for people to complete

The scheduler says how the network is asked and read where diffusers has a word for it: a
``FlowMatchEulerDiscreteScheduler`` stands for flow matching, an ``EDMEulerScheduler`` for EDM, and a
``DDPMScheduler`` for all others, whose ``prediction_type`` is the name of the parameterisation. Weights are
safetensors, or are read as weights alone: opening a folder runs no code of its own.
"""

from __future__ import annotations

import importlib
import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from alphabar.denoise._card import CARD, card
from alphabar.denoise._configs import check_network, check_steps_of
from alphabar.denoise._places import (
    DESCRIPTION,
    check_place,
    first_line,
    is_pipeline,
    local,
    open_diffusers,
    part,
    to_share,
)
from alphabar.denoise.files import finish, is_untouched, listed, may_write, read_json, replaced_files
from alphabar.errors import CheckpointError, look_up
from alphabar.process import PARAMETERISATIONS, Parameterisation, edm, named
from alphabar.schedule import OWN_KEYS, NoiseSchedule

__all__ = ["DESCRIPTION", "Pretrained", "check_labels", "check_place", "is_pipeline", "read", "write"]

NETWORKS = {
    "UNet2DModel": "diffusers",
    "GuidedUNet": "alphabar.denoise.networks",
    "LucidUNet": "alphabar.denoise.networks",
}
"""Networks that a folder may hold, all called with x_t, t and perhaps labels, and where they are defined."""

SCHEDULERS = {"flow": "FlowMatchEulerDiscreteScheduler", "edm": "EDMEulerScheduler"}
"""The scheduler that stands for a kind of network, where its own schedule is that scheduler's too."""

ATTEMPTS = 5  # of reading a folder that another process is replacing


@dataclass(frozen=True, eq=False)
class Pretrained:
    """What a pipeline folder holds."""

    network: Any
    """A diffusers model, called as ``network(x_t, t)``, with ``class_labels`` where it has classes."""
    schedule: NoiseSchedule
    prediction: str | Parameterisation
    description: Mapping[str, Any] = field(default_factory=dict)
    """What ``alphabar.json`` says: ``classes``, ``training`` and others, JSON values."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of its images.

        Raises:
            CheckpointError: neither the network nor the description says it.
        """
        config = getattr(self.network, "config", None)
        size = getattr(config, "sample_size", None) or self.description.get("shape", (None,))[1:]
        if config is None or not size or not isinstance(self.network, nn.Module):
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
    def learns_variance(self) -> bool:
        """Whether the network returns twice the channels of the image."""
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
        contents: what, with a diffusers model as its network.
        also: called with the folder that is being filled, to put more files there.

    Raises:
        CheckpointError: another kind of network, which no folder could describe; or a place that is a file,
            holds something else, or cannot be written.
        MissingExtraError: diffusers is not installed.
    """
    place = Path(folder)
    if not hasattr(contents.network, "save_pretrained"):
        raise CheckpointError(
            f"a {type(contents.network).__name__} cannot be written as a diffusers pipeline: save its "
            "state_dict() yourself, beside schedule.to_config() and the prediction"
        )
    check_place(place)
    scheduler = _scheduler(contents)
    with replaced_files(place, DESCRIPTION) as draft:
        open_diffusers().DDPMPipeline(unet=contents.network, scheduler=scheduler).save_pretrained(draft)
        described = _description(contents, type(scheduler).__name__)
        Path(draft, DESCRIPTION).write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
        if may_write(place, CARD, DESCRIPTION):
            Path(draft, CARD).write_text(card(described, contents.network), encoding="utf-8")
        if also is not None:
            also(draft)
    return place


def read(path_or_name: str | Path, *, prediction: str | Parameterisation | None = None) -> Pretrained:
    """Read a pipeline folder with a network of ``NETWORKS`` and a scheduler.

    Args:
        path_or_name: a folder, or the name of a pipeline on the Hugging Face hub such as
            ``"google/ddpm-cifar10-32"``, of which the weights and the description are fetched.
        prediction: in place of the one the folder names, which may be in no table.

    Raises:
        CheckpointError: no such folder or pipeline; one that misses or garbles a part, or is damaged; a
            network that needs more than x_t, t and a label; a scheduler whose noise is not known.
        UnknownNameError: a prediction or a noise schedule that is not known.
        MissingExtraError: diffusers is not installed.
    """
    place = local(path_or_name)
    for _ in range(ATTEMPTS):
        before = _written(place)
        try:
            found = _read(place, prediction)
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


def _read(place: Path, prediction: str | Parameterisation | None) -> Pretrained:
    config = read_json(part(place, "scheduler") / "scheduler_config.json")
    described = _described(place)
    kind = _kind(config) if prediction is None else prediction
    named(kind)
    config = described.get("noise_schedule", config)
    _check_beta(place, config)
    check_steps_of(config, place)
    network = _network(place, part(place, "unet"), described)
    network.alphabar = described  # travels with the network, so that saving it again loses nothing
    return Pretrained(network, NoiseSchedule.from_config(config), kind, described)


def _described(place: Path) -> dict[str, Any]:
    """Return what ``alphabar.json`` says, checked; {} where there is none.

    Raises:
        CheckpointError: an entry of another form than it was written in.
    """
    path = place / DESCRIPTION
    if not path.exists():
        return {}
    described = read_json(path)
    classes, training = described.get("classes", []), described.get("training", {})
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise CheckpointError(f"{path}: classes is {str(classes)[:60]}: expected a list of names")
    shape = described.get("shape", [1, 1, 1])
    if not (isinstance(shape, list) and len(shape) == 3 and all(type(n) is int and n > 0 for n in shape)):
        raise CheckpointError(f"{path}: shape is {str(shape)[:60]}: expected channels, height and width")
    for name, value in (("training", training), ("noise_schedule", described.get("noise_schedule", {}))):
        if not isinstance(value, dict):
            raise CheckpointError(f"{path}: {name} is {str(value)[:60]}: expected an object")
    return described


def _network(place: Path, folder: Path, described: Mapping[str, Any]) -> Any:
    config = read_json(folder / "config.json")
    name = config.get("_class_name", "no network")
    if not isinstance(name, str) or name not in NETWORKS:
        raise CheckpointError(
            f"{folder} holds {name}, which is not known, or needs more than x_t, t and a label: run it "
            f"in its diffusers pipeline. Known are {', '.join(NETWORKS)}"
        )
    check_network(config, folder / "config.json")
    _check_weights(place, described)
    open_diffusers()
    kind = getattr(importlib.import_module(NETWORKS[name]), name)
    safe = any(folder.glob("*.safetensors"))  # otherwise a pickle, which diffusers reads as weights only
    try:
        with _quiet():
            network, info = kind.from_pretrained(folder, use_safetensors=safe, output_loading_info=True)
    except Exception as error:  # arbitrary numbers and bytes make a network raise whatever it likes
        raise CheckpointError(f"{folder} does not load: {first_line(error)}") from error
    if missing := sorted(info["missing_keys"]):
        raise CheckpointError(
            f"{folder} does not load: {len(missing)} weights are missing, such as {missing[0]}"
        )
    return network.eval()


def _check_weights(place: Path, described: Mapping[str, Any]) -> None:
    for name, facts in (listed(described, place / DESCRIPTION) or {}).items():
        if name.endswith((".safetensors", ".bin")) and not is_untouched(place / name, facts):
            raise CheckpointError(
                f"{place / name} is damaged: it is not the file that {DESCRIPTION} lists. If you have "
                'changed it yourself, remove "files" there'
            )


def _version() -> str:
    from importlib import metadata

    try:
        return metadata.version("alphabar")
    except metadata.PackageNotFoundError:  # its sources, not installed
        return "unknown"


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


def _check_beta(place: Path, config: Mapping[str, Any]) -> None:
    """Refuse a scheduler whose noise is not known: DDPM's defaults would be taken in silence."""
    name = config.get("_class_name", "scheduler")
    if not isinstance(name, str):
        raise CheckpointError(f"{place} has the scheduler {str(name)[:60]}: expected the name of a class")
    if name not in KINDS and "beta_schedule" not in config and config.get("trained_betas") is None:
        raise CheckpointError(f"{place} has a {name}, which has no β: such networks are not known here")


def _kind(config: Mapping[str, Any]) -> str | Parameterisation:
    """Return the kind of network that a scheduler's configuration means: a name, or EDM of some σ_data."""
    own = KINDS.get(str(config.get("_class_name")))
    if own is not None:
        return own(config)
    name = config.get("prediction_type", "epsilon")
    if isinstance(name, str) and (found := re.fullmatch(r"edm\(sigma_data=([-+.e\d]+)\)", name)):
        return edm(float(found[1]))
    look_up(PARAMETERISATIONS, name, "prediction")
    return str(name)


def _edm_kind(config: Mapping[str, Any]) -> str | Parameterisation:
    name, sigma_data = config.get("prediction_type", "epsilon"), config.get("sigma_data", 0.5)
    if name != "epsilon":
        raise CheckpointError(
            f"an EDM scheduler with prediction_type {name!r}: only the paper's networks, 'epsilon', are known"
        )
    try:
        return "edm" if sigma_data == 0.5 else edm(float(sigma_data))
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"an EDM scheduler with sigma_data {sigma_data!r}: {error}") from None


KINDS: dict[str, Callable[[Mapping[str, Any]], str | Parameterisation]] = {
    "FlowMatchEulerDiscreteScheduler": lambda config: "flow",
    "FlowMatchHeunDiscreteScheduler": lambda config: "flow",
    "FlowMatchLCMScheduler": lambda config: "flow",
    "EDMEulerScheduler": _edm_kind,
    "EDMDPMSolverMultistepScheduler": _edm_kind,
}
"""What the schedulers that are not described by β say about their network."""


def _scheduler(contents: Pretrained) -> Any:
    """Return the diffusers scheduler that describes schedule and kind as well as one can."""
    diffusers, schedule, kind = open_diffusers(), contents.schedule, named(contents.prediction)
    config = schedule.to_config()
    own = config.pop("_class_name", "DDPMScheduler")
    base, _, settings = kind.name.partition("(sigma_data=")
    if own == SCHEDULERS.get(base):
        sigma_data = {"sigma_data": float(settings.rstrip(")") or 0.5)} if base == "edm" else {}
        return getattr(diffusers, own)(**config, **sigma_data)
    if own != "DDPMScheduler":  # its path by β, as the scheduler of its own means another kind of network
        config = {"num_train_timesteps": len(schedule), "trained_betas": schedule.beta.tolist()}
    config = {key: value for key, value in config.items() if key not in OWN_KEYS}
    if contents.learns_variance:
        config["variance_type"] = "learned_range"
    return diffusers.DDPMScheduler(**config, prediction_type=kind.name, timestep_spacing="trailing")


def _description(contents: Pretrained, scheduler: str) -> dict[str, Any]:
    config = contents.schedule.to_config()
    apart = scheduler != config.get("_class_name", "DDPMScheduler") or config.keys() & set(OWN_KEYS)
    return {
        "alphabar": _version(),
        "schedule": repr(contents.schedule),
        **({"noise_schedule": config} if apart else {}),
        "prediction": named(contents.prediction).name,
        "learned_variance": contents.learns_variance,
        "value_range": [-1, 1],
        "shape": contents.shape,
        "classes": contents.classes,
        "training": to_share(contents.description.get("training", {})),
    }
