"""Conditions on the command line: NAME=VALUE, or a file of them with a row a sample."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from torch import Tensor
from tyro.conf import UseAppendAction

from alphabar.cli._opening import Opening
from alphabar.denoise.conditions import Condition, codes, needs
from alphabar.errors import CheckpointError, ConfigError
from alphabar.training import Checkpoint, read_image
from alphabar.training.conditions import load_conditions

__all__ = ["Told", "digests", "given"]


@dataclass(frozen=True, kw_only=True)
class Told(Opening):
    """A command that opens a run and says what its network is told."""

    condition: Annotated[tuple[str, ...], UseAppendAction] = ()
    """What the network is told, NAME=VALUE: a number, those of a vector with commas between, or a picture."""
    conditions: Path | None = None
    """A file of what it is told, .npz or .parquet, with a row a sample, in turn."""

    def told(self, loaded: Checkpoint) -> dict[str, Tensor]:
        """Return the conditions that were given, (n, …) each; errors as of :func:`given`."""
        return given(loaded.conditions, self.condition, self.conditions)


def given(conditions: Mapping[str, Condition], texts: Sequence[str], file: Path | None) -> dict[str, Tensor]:
    """Return the conditions that were given, (n, …) each, for samples to go through in turn.

    Args:
        conditions: what the network needs.
        texts: NAME=VALUE; a number, several of a vector with commas between, or the file of an image. More
            numbers than one value has are several values.
        file: .npz, .parquet, or another source of data with columns of these names.

    Raises:
        CheckpointError: conditions that are missing, or that the network does not know.
        ConfigError: what is no such value; a file that has no condition that is missing.
        DataError, ShapeError: a file that cannot be read, or values that do not fit.
    """
    named = dict(_split(text, conditions) for text in texts)
    if len(named) != len(texts):
        raise ConfigError("a condition is given twice: give several values with commas between, or a file")
    wanted = [name for name in conditions if name not in named]
    found = load_conditions(str(file), {name: conditions[name] for name in wanted}) if file else {}
    if file and not found:
        raise ConfigError(f"{file} has no column of {', '.join(wanted) or 'a condition'}: leave it out")
    told = {**found, **{name: _value(name, text, conditions[name]) for name, text in named.items()}}
    codes(conditions, told)
    return told


def digests(told: Mapping[str, Tensor]) -> dict[str, str]:
    """Return for each condition what changes with its values."""
    return {
        name: hashlib.sha256(values.double().numpy().tobytes()).hexdigest()[:16]
        for name, values in told.items()
    }


def _split(text: str, conditions: Mapping[str, Condition]) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(
            f"condition is {text!r}: give NAME=VALUE, such as {next(iter(conditions), 'size')}=1.5"
        )
    if name not in conditions:
        raise CheckpointError(f"no condition {name}: this network needs {needs(conditions)}")
    return name, value


def _value(name: str, text: str, condition: Condition) -> Tensor:
    if condition.kind == "image":
        return _image(name, text, condition)
    try:
        numbers = torch.tensor([float(number) for number in text.split(",")], dtype=torch.float64)
    except ValueError:
        raise ConfigError(f"condition {name} is {text!r:.60}: give {condition}") from None
    count = torch.Size(condition.shape).numel()
    if len(numbers) % count:
        raise ConfigError(f"condition {name} has {len(numbers)} numbers, not {count}: give {condition}")
    return numbers.reshape(-1, *condition.shape)


def _image(name: str, path: str, condition: Condition) -> Tensor:
    channels, *sides = condition.shape
    if len(sides) != 2 or channels not in (1, 3) or condition != Condition.pixels(condition.shape):
        raise ConfigError(f"condition {name} is no picture but {condition}: give it by --conditions FILE.npz")
    height, width = sides
    return read_image(path, size=(height, width), channels=channels)[None]
