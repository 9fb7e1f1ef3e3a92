"""Every error this library raises on purpose, drawn as one tree.

    AlphabarError
    ├── ScheduleError      (ValueError)   a β or ᾱ that no schedule can have
    ├── TimestepError      (ValueError)   a t, or a spacing of t, outside 0 … T−1
    │   └── UnknownTimestepError  (IndexError)   a t that was not set
    ├── ShapeError         (ValueError)   tensors that do not fit each other
    ├── DtypeError         (TypeError)    a precision, a device or a kind of object that does not fit
    ├── UnknownNameError   (ValueError)   a name that is in no table; the message lists the table
    ├── NoAnswerError      (ValueError)   a question without an answer, such as x̂_0 from ε̂ where ᾱ = 0
    ├── ConfigError        (ValueError)   settings that contradict each other
    ├── DataError          (ValueError)   images that cannot be read
    ├── CheckpointError    (ValueError)   a folder that is not what it should be
    └── MissingExtraError  (ImportError)  an optional part whose packages are not installed

Each is also the built-in error that callers of PyTorch code expect, so ``except ValueError`` keeps
working. A message names the value that was wrong and says what would be right.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

__all__ = [
    "AlphabarError",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "DtypeError",
    "MissingExtraError",
    "NoAnswerError",
    "ScheduleError",
    "ShapeError",
    "TimestepError",
    "UnknownNameError",
    "UnknownTimestepError",
    "look_up",
]

Value = TypeVar("Value")


class AlphabarError(Exception):
    """The root: ``except AlphabarError`` catches everything this library raises on purpose."""


class ScheduleError(AlphabarError, ValueError):
    """A β or ᾱ that no schedule can have."""


class TimestepError(AlphabarError, ValueError):
    """A timestep, or a spacing of timesteps, outside 0 … T−1."""


class UnknownTimestepError(TimestepError, IndexError):
    """A timestep that is not among those that were set."""


class ShapeError(AlphabarError, ValueError):
    """Tensors whose shapes do not fit each other."""


class DtypeError(AlphabarError, TypeError):
    """A precision, a device or a kind of object that does not fit."""


class UnknownNameError(AlphabarError, ValueError):
    """A name that is in no table."""


class NoAnswerError(AlphabarError, ValueError):
    """A question that has no answer, such as x̂_0 from ε̂ where ᾱ = 0."""


class ConfigError(AlphabarError, ValueError):
    """Settings that contradict each other."""


class DataError(AlphabarError, ValueError):
    """Images that cannot be read."""


class CheckpointError(AlphabarError, ValueError):
    """A folder that is not what it should be."""


class MissingExtraError(AlphabarError, ImportError):
    """An optional part whose packages are not installed."""

    def __init__(self, part: str, extra: str = "", *, package: str = "") -> None:
        install = package or f"'alphabar[{extra}]'"
        super().__init__(f"{part} needs packages that are not installed: pip install {install}")


def look_up(table: Mapping[str, Value], name: str, what: str) -> Value:
    """Return ``table[name]``, or raise an :class:`UnknownNameError` that lists the names there are.

    >>> look_up({"linear": 1, "cosine": 2}, "cosin", "schedule")
    Traceback (most recent call last):
        ...
    alphabar.errors.UnknownNameError: unknown schedule 'cosin': choose one of 'cosine', 'linear'
    """
    try:
        return table[name]
    except (KeyError, TypeError):
        known = ", ".join(repr(known) for known in sorted(table))
        raise UnknownNameError(f"unknown {what} {name!r}: choose one of {known}") from None
