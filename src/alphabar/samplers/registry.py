"""Samplers by name: what the command line offers, what a ranking tries, what the tests go through.

Adding one is a class in a file of its own and a line here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from alphabar.checks import check_count
from alphabar.errors import ConfigError
from alphabar.samplers.adams import DEIS, LMS, PNDM
from alphabar.samplers.ddim import DDIM
from alphabar.samplers.ddpm import DDPM
from alphabar.samplers.dpm import DPMSolver
from alphabar.samplers.dpm2 import DPM2
from alphabar.samplers.euler import Euler, EulerAncestral, Heun
from alphabar.samplers.fitted import Fitted
from alphabar.samplers.plan import Sampler
from alphabar.samplers.unipc import UniPC
from alphabar.schedule import Spacing

__all__ = ["REGISTRY", "SOLVERS", "Entry", "sampler_names"]


@dataclass(frozen=True)
class Entry:
    """A sampler, and how to make one by its number of evaluations.

    Args:
        kind: its class.
        variants: settings that :func:`~alphabar.samplers.ranking` tries, by label; none where it adds noise.
        steps: how many steps take at most so many evaluations.
        remembers: whether its rows need earlier estimates, which inpainting cannot give.
        spaced: whether it takes a spacing.
        note: what a help text adds to its name.
    """

    kind: type[Any]
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    steps: Callable[[int], int] = lambda evaluations: evaluations
    remembers: bool = True
    spaced: bool = True
    note: str = ""

    def with_evaluations(self, evaluations: int, spacing: Spacing | None = None, **settings: Any) -> Sampler:
        """Return the sampler that asks the network at most so many times.

        Args:
            evaluations: at least 1.
            spacing: by default the sampler's own.
            settings: of its class.

        Raises:
            ConfigError, UnknownNameError, TimestepError: settings that the sampler refuses.
        """
        check_count(evaluations=evaluations)
        if spacing is not None and not self.spaced:
            raise ConfigError(
                f"spacing is {spacing!r}, but {self.kind.__name__} has its own: leave spacing out"
            )
        given = settings if spacing is None else {**settings, "spacing": spacing}
        made: Sampler = self.kind(self.steps(evaluations), **given)
        return made


TO_THE_END = {"lower_order_final": False}

REGISTRY: dict[str, Entry] = {
    "ddpm": Entry(DDPM, remembers=False),
    "ddim": Entry(DDIM, remembers=False),
    "euler": Entry(Euler, {"Euler = DDIM": {}}, remembers=False),
    "euler_ancestral": Entry(EulerAncestral, remembers=False),
    "heun": Entry(Heun, {"Heun": {}}, steps=lambda evaluations: (evaluations + 1) // 2),
    "dpm2": Entry(DPM2, {"DPM-Solver-2": {}}, steps=lambda evaluations: (evaluations + 1) // 2),
    "dpm": Entry(
        DPMSolver,
        {
            "DPM-Solver++ 2M": {},
            "DPM-Solver++ 3M": {"order": 3, **TO_THE_END},
            "DPM-Solver++ 3M exact": {"order": 3, "rule": "exact"},
            "DPM-Solver++ 2S": {"multistep": False},
            "DPM-Solver++ 3S": {"order": 3, "multistep": False},
        },
    ),
    "unipc": Entry(
        UniPC, {"UniPC 2": {}, "UniPC 3": {"order": 3}, "UniPC 3 to the end": {"order": 3, **TO_THE_END}}
    ),
    "deis": Entry(
        DEIS, {"DEIS 3": {}, "DEIS 4": {"order": 4}, "DEIS 4 to the end": {"order": 4, **TO_THE_END}}
    ),
    "lms": Entry(LMS, {"LMS 3": {"order": 3}, "LMS 4": {}}),
    "pndm": Entry(PNDM, {"PNDM": {}}, steps=lambda evaluations: max(evaluations - 1, 1)),
    "fitted": Entry(Fitted, spaced=False, note="5 … 50 steps, or those of alphabar fit, which end nearer"),
}
"""Every sampler by the name that the command line gives it."""

SOLVERS: dict[str, Callable[[int, Spacing], Sampler]] = {
    label: partial(entry.with_evaluations, **settings)
    for entry in REGISTRY.values()
    for label, settings in entry.variants.items()
}
"""What is ranked, by label: functions of the evaluations, at most so many, and of a spacing."""


def sampler_names(*, remembering: bool = True) -> str:
    """Return the names as a help text lists them; ``remembering=False`` leaves out samplers that remember."""
    listed = {name: entry.note for name, entry in REGISTRY.items() if remembering or not entry.remembers}
    return ", ".join(f"{name} ({note})" if note else name for name, note in listed.items())
