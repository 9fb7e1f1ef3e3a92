"""Runs: all that ``set_timesteps`` decides, built once and kept by (scheduler, settings, timesteps).

A pipeline sets the same timesteps for every request, and many schedulers may share a run: nothing in it
belongs to one of them, and the steps that it gathers are functions of its key.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import numpy as np
from torch import Tensor

from alphabar.diffusers.grids import Grid
from alphabar.diffusers.steps import Step
from alphabar.schedule import Level

__all__ = ["Indexed", "Run", "frozen", "kept_run"]

RUNS = 32  # kept; one of 1000 steps takes about a megabyte
MOST_STEPS = 8192  # kept in one run: options of ``step`` such as churn may take any value


@dataclass(frozen=True, eq=False)
class Run:
    """Timesteps and levels, and the steps made so far."""

    grid: Grid
    timesteps: Tensor
    """(n,) on the CPU."""
    index_of: dict[float, int] = field(init=False)
    """The index of each t in ``timesteps``; of a repeated one the second, as in diffusers."""
    steps: dict[Hashable, Step] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "index_of", indices(self.timesteps.tolist()))

    @property
    def evaluations(self) -> tuple[Level, ...]:
        """(n + 1,) where the network is evaluated, and where the last step lands."""
        return self.grid.evaluations or self.grid.levels

    def keep(self, steps: dict[Hashable, Step]) -> dict[Hashable, Step]:
        """Remember steps by what they are looked up by, and return them: another thread may forget them."""
        if len(self.steps) + len(steps) > MOST_STEPS:
            self.steps.clear()
        self.steps.update(steps)
        return steps


def indices(timesteps: Sequence[float]) -> dict[float, int]:
    """Return the index of each t; of a repeated one the second."""
    found: dict[float, list[int]] = {}
    for index, t in enumerate(timesteps):
        found.setdefault(t, []).append(index)
    return {t: places[:2][-1] for t, places in found.items()}


_runs: OrderedDict[Hashable, Run] = OrderedDict()
_lock = Lock()


def kept_run(key: Hashable, make: Callable[[], Run]) -> Run:
    """Return the run of this key, made if it is not among those used last."""
    with _lock:
        if key in _runs:
            _runs.move_to_end(key)
            return _runs[key]
    run = make()
    with _lock:
        _runs[key] = run
        if len(_runs) > RUNS:
            _runs.popitem(last=False)
    return run


kept_run.cache_clear = _runs.clear  # type: ignore[attr-defined]  # as functools' own caches have it


def frozen(value: Any) -> Hashable:
    """Return a setting or an argument as the part of a key: what is listed becomes a tuple."""
    if isinstance(value, Tensor | np.ndarray):
        value = value.tolist()
    if isinstance(value, dict):
        return tuple((name, frozen(held)) for name, held in value.items())
    return tuple(map(frozen, value)) if isinstance(value, list | tuple) else value


class Indexed:
    """Where a scheduler stands in its ``timesteps``, as pipelines ask it and say it."""

    _step_index: int | None
    _begin_index: int | None

    @property
    def step_index(self) -> int | None:
        """The index of the next step in ``timesteps``; None before the first."""
        return self._step_index

    @property
    def begin_index(self) -> int | None:
        """Where the run begins in ``timesteps``; None where its first t says it."""
        return self._begin_index

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Begin at this index of ``timesteps``, as pipelines that start from an image do."""
        self._begin_index = begin_index
