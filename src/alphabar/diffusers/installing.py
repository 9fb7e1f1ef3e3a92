"""Replace diffusers' own schedulers by these, for code that one cannot edit."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import ModuleType, TracebackType

import diffusers

from alphabar.diffusers.adapter import SCHEDULERS

__all__ = ["Installed", "install"]


def install() -> Installed:
    """Make ``diffusers.DDPMScheduler`` and the others resolve to these, wherever diffusers names them.

    >>> import diffusers
    >>> with install():
    ...     diffusers.DDPMScheduler is SCHEDULERS["DDPMScheduler"]
    True
    >>> diffusers.DDPMScheduler is SCHEDULERS["DDPMScheduler"]
    False

    Returns:
        A context manager that undoes it on leaving; without ``with``, its ``undo()`` does.
    """
    return Installed()


class Installed:
    """Diffusers, with these schedulers in it, until :meth:`undo`."""

    def __init__(self) -> None:
        for name in SCHEDULERS:
            getattr(diffusers, name)  # loads what diffusers loads when it is asked for
        _replace({kind.peer: kind for kind in SCHEDULERS.values()})

    def undo(self) -> None:
        """Give diffusers its own schedulers back, also where it was loaded in the meantime."""
        _replace({kind: kind.peer for kind in SCHEDULERS.values()})

    def __enter__(self) -> Installed:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.undo()


def _replace(others: Mapping[type, type]) -> None:
    for module in _modules():
        for name, value in list(vars(module).items()):
            if isinstance(value, type) and value in others:
                setattr(module, name, others[value])


def _modules() -> list[ModuleType]:
    return [
        module for name, module in list(sys.modules.items()) if name.split(".")[0] == "diffusers" and module
    ]
