"""Measuring: the entrants of a case take turns in one process, so that whatever else happens falls on all.

    ratio of a round = time of the other / time of ours      (above 1: ours is faster)

A ratio is taken within each round, where both met the same machine; its median and quartiles are reported.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

__all__ = ["Case", "Result", "Settings", "Spread", "measure", "spread", "threads"]

OURS = "alphabar"
SHORTEST = 1e-3  # seconds that one reading takes at least, so that the clock's own cost does not count
FEWEST, MOST = 7, 400  # rounds

Entrant = Callable[[], Any]


class Spread(NamedTuple):
    """A median between its quartiles."""

    median: float
    low: float
    high: float


def spread(numbers: Sequence[float]) -> Spread:
    """Return median and quartiles."""
    if len(numbers) == 1:
        return Spread(numbers[0], numbers[0], numbers[0])
    low, middle, high = statistics.quantiles(numbers, n=4, method="inclusive")
    return Spread(middle, low, high)


@dataclass(frozen=True)
class Settings:
    """What a run was asked for."""

    device: str = "cpu"
    threads: int = 2
    budget: float = 4.0
    """Seconds a case may take, once it has its fewest rounds."""
    data: str = ""
    """Images for ``quality`` and ``fitting``: a folder, a .parquet file, or "digits"."""
    seconds: float = 300.0
    """Length of each of their training runs."""
    samples: int = 1000
    updates: int = 320
    """Of the network, in the longest runs of ``search``."""
    runs: tuple[str, ...] = ()
    """Which runs of ``quality``, by default the three that are compared; which cells of ``fitting``."""
    ablate: bool = False
    cache: str = "runs/benchmarks"
    """The folder where ``fitting`` keeps networks and tables, to go on from after an interruption."""
    recorded: Mapping[str, Any] = field(default_factory=dict)
    """What an earlier run of the same subject wrote: results to be completed, not replaced."""


@dataclass(frozen=True)
class Case:
    """Calls to be compared; ours is named ``alphabar``."""

    name: str
    entrants: Mapping[str, Entrant]
    aims: Mapping[str, float] = field(default_factory=dict)
    """By the other's name, the ratio to reach."""
    work: tuple[float, str] | None = None
    """What one call gets done, to report a rate: how many of what."""
    grad: bool = False
    """Whether the calls differentiate; else they run under ``torch.no_grad``."""


@dataclass(frozen=True)
class Result:
    """What was measured: one number a round for each entrant, less is better."""

    name: str
    samples: Mapping[str, Sequence[float]]
    aims: Mapping[str, float] = field(default_factory=dict)
    unit: str = "s"
    work: tuple[float, str] | None = None
    notes: Mapping[str, float | str] = field(default_factory=dict)
    x: float | None = None
    """Where the case stands on the axis of a curve."""

    def ratio(self, other: str) -> Spread:
        """Return how many times as much the other needs."""
        pairs = zip(self.samples[other], self.samples[OURS], strict=True)
        return spread([theirs / mine for theirs, mine in pairs])

    def record(self) -> dict[str, Any]:
        """Return it as JSON holds it."""
        others = [name for name in self.samples if name != OURS and OURS in self.samples]
        return {
            "name": self.name,
            "unit": self.unit,
            "rounds": max(map(len, self.samples.values())),
            "values": {name: spread(numbers)._asdict() for name, numbers in self.samples.items()},
            "ratios": {name: self.ratio(name)._asdict() for name in others},
            "aims": dict(self.aims),
            "work": self.work,
            "notes": dict(self.notes),
            "x": self.x,
        }


def measure(case: Case, settings: Settings, *, x: float | None = None) -> Result:
    """Time the entrants in turn, until the budget is spent."""
    finish = torch.cuda.synchronize if settings.device == "cuda" else lambda: None
    _settle_allocator()
    with _uncollected(), torch.set_grad_enabled(case.grad):
        counts = {name: _calls(call, finish) for name, call in case.entrants.items()}
        samples: dict[str, list[float]] = {name: [] for name in case.entrants}
        end = time.perf_counter() + settings.budget
        for number in range(MOST):
            # There and back again: nobody always comes after the same neighbour.
            for name in list(samples)[:: -1 if number % 2 else 1]:
                samples[name].append(_seconds(case.entrants[name], counts[name], finish))
            if number + 1 >= FEWEST and time.perf_counter() > end:
                break
    return Result(case.name, samples, case.aims, work=case.work, x=x)


def _calls(call: Entrant, finish: Callable[[], None]) -> int:
    """Warm up, and return how many calls make a reading long enough."""
    count = 1
    _seconds(call, 1, finish)
    while (took := _seconds(call, count, finish) * count) < SHORTEST:
        count = max(2 * count, int(count * SHORTEST / max(took, 1e-9)))
    return count


def _seconds(call: Entrant, count: int, finish: Callable[[], None]) -> float:
    """Return the time of one call, the mean of so many."""
    finish()
    began = time.perf_counter()
    for _ in range(count):
        call()
    finish()
    return (time.perf_counter() - began) / count


def _settle_allocator() -> None:
    # Once a block of this size was freed, glibc serves smaller ones from memory that it holds. Else a fresh
    # output costs page faults or not, ten times as much or as little, by what happened to run before.
    torch.empty(31 << 20, dtype=torch.uint8)


@contextmanager
def _uncollected() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Within the block torch, and so the kernels, use so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
