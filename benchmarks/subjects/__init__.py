"""The subjects: each module has TITLE, ABOUT and ``run(settings)``, which yields results as they come.

A module with PICTURED draws only cases of this name; one with KEEPS leaves what is on record of other cases.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

__all__ = ["NEEDS_DATA", "SUBJECTS", "subject"]

SUBJECTS = (
    "correctness",
    "noising",
    "noise",
    "noise_and_noising",
    "chains",
    "schedulers",
    "sampling",
    "serving",
    "training",
    "checkpoints",
    "import_time",
    "memory",
    "growth",
    "threads",
    "quality",
    "labels",
    "search",
    "kinds",
    "fitting",
)
NEEDS_DATA = frozenset({"quality", "labels", "search", "fitting"})


def subject(name: str) -> ModuleType:
    """Return the module of a subject."""
    return import_module(f"benchmarks.subjects.{name}")
