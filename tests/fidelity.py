"""torch-fidelity beside a torchvision that is not there, which it imports and does not need here."""

import sys
from types import ModuleType

import pytest


class _Absent(ModuleType):
    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def import_fidelity():
    """Return the package, or skip the test."""
    if "torchvision" not in sys.modules:
        names = ["torchvision", *(f"torchvision.{name}" for name in ("transforms", "datasets"))]
        names.append("torchvision.transforms.functional")
        made = {name: _Absent(name) for name in names}
        for name in names[1:]:
            above, _, last = name.rpartition(".")
            setattr(made[above], last, made[name])
        sys.modules.update(made)
    return pytest.importorskip("torch_fidelity")
