"""Threads: the same work on one core, two, and so on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace

import torch

from benchmarks.measure import Case, Result, Settings, measure, threads
from benchmarks.subjects.noising import LARGE, example, with_out

TITLE = "Threads"
ABOUT = "Noising (64, 3, 256, 256) into a given output, by the number of threads that torch may use."
CURVE = "threads"


def run(settings: Settings) -> Iterator[Result]:
    """Measure with 1, 2, 4, … threads, as many as there are cores; on a GPU there is nothing to see."""
    if settings.device != "cpu":
        return
    entrants = with_out(example(LARGE, torch.float32, "cpu"))
    for count in (1 << power for power in range((os.cpu_count() or 1).bit_length())):
        name = f"{count} thread" + "s" * (count > 1)
        with threads(count):
            yield measure(Case(name, entrants), replace(settings, threads=count), x=count)
