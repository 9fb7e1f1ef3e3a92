"""``alphabar.json``: what a diffusers pipeline cannot say of a network, and every file with its SHA-256."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alphabar.denoise._places import DESCRIPTION
from alphabar.denoise.conditions import described as conditions_of
from alphabar.denoise.factories import check_name
from alphabar.denoise.files import is_untouched, listed, read_json
from alphabar.denoise.nets import NETS, check_width
from alphabar.denoise.scaling import Scaling
from alphabar.errors import CheckpointError, ConfigError

__all__ = ["check_weights", "read_description"]

MOST = 4  # dimensions of the data: channels, and one to three more
LONGEST = 2**16


def read_description(place: Path) -> dict[str, Any]:
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
    shape = described.get("shape", [1])
    is_shape = isinstance(shape, list) and 1 <= len(shape) <= MOST
    if not (is_shape and all(type(n) is int and 0 < n <= LONGEST for n in shape)):
        raise CheckpointError(
            f"{path}: shape is {str(shape)[:60]}: expected channels and at most {MOST - 1} sizes, each "
            f"1 … {LONGEST}"
        )
    for name, value in (("training", training), ("noise_schedule", described.get("noise_schedule", {}))):
        if not isinstance(value, dict):
            raise CheckpointError(f"{path}: {name} is {str(value)[:60]}: expected an object")
    latents = described.get("latents", {"vae": ""})
    if not isinstance(latents, dict) or not isinstance(latents.get("vae"), str):
        raise CheckpointError(f"{path}: latents is {str(latents)[:60]}: expected an object that names a vae")
    conditions_of(described)
    if "scaling" in described:
        try:
            Scaling.described(described["scaling"], shape[0])
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from None
    if "factory" in described:
        _check_factory(described, path)
    return described


def _check_factory(described: Mapping[str, Any], path: Path) -> None:
    """Refuse what names a factory without saying how it is called, or not by a name."""
    factory, learned = described["factory"], described.get("learned_variance")
    if not isinstance(factory, str) or "shape" not in described or "classes" not in described:
        raise CheckpointError(f"{path}: factory is {str(factory)[:60]}: expected a name, a shape and classes")
    if not isinstance(learned, bool):
        raise CheckpointError(f"{path}: learned_variance is {str(learned)[:60]}: expected true or false")
    try:
        if factory not in NETS:
            check_name(factory)
        elif "width" in described:
            check_width(described["width"])
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from None


def check_weights(place: Path, described: Mapping[str, Any]) -> None:
    for name, facts in (listed(described, place / DESCRIPTION) or {}).items():
        if name.endswith((".safetensors", ".bin")) and not is_untouched(place / name, facts):
            raise CheckpointError(
                f"{place / name} is damaged: it is not the file that {DESCRIPTION} lists. If you have "
                'changed it yourself, remove "files" there'
            )
