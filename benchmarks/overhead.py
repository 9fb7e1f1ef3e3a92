"""What one call costs beyond the arithmetic: ours and diffusers' side by side, on (1, 3, 32, 32).

    python benchmarks/overhead.py

The two take turns, so that whatever else the machine does falls on both; medians of many rounds are compared.
"""

from __future__ import annotations

import platform
import time
import warnings
from collections.abc import Callable
from statistics import median
from typing import Any

import diffusers
import torch

import alphabar
import alphabar.diffusers as ours

ROUNDS, CALLS = 200, 20
AIMS = {"DDPM step": 5, "DDIM step": 8, "DPM-Solver++ step": 4, "add_noise": 3}

SAMPLE, OUTPUT, NOISE = torch.randn(3, 1, 3, 32, 32).unbind()
T = torch.tensor([400])


def made(library: Any, name: str) -> Any:
    """A scheduler with its defaults and 50 steps."""
    scheduler = getattr(library, name)()
    scheduler.set_timesteps(50)
    return scheduler


def one_step(library: Any, name: str) -> Callable[[], Any]:
    """Step from the same t each time."""
    scheduler = made(library, name)
    t = scheduler.timesteps[10]
    return lambda: scheduler.step(OUTPUT, t, SAMPLE)


def running_step(library: Any, name: str) -> Callable[[], Any]:
    """Step through the run, again and again: a multistep solver knows no other way."""
    scheduler = made(library, name)
    ts = list(scheduler.timesteps)
    place = 0

    def step() -> None:
        nonlocal place
        if place == len(ts):
            scheduler.set_timesteps(50)
            place = 0
        scheduler.step(OUTPUT, ts[place], SAMPLE)
        place += 1

    return step


def noising(library: Any, name: str) -> Callable[[], Any]:
    """Add noise at one t."""
    scheduler = made(library, name)
    return lambda: scheduler.add_noise(SAMPLE, NOISE, T)


MEASURED: dict[str, tuple[Callable[[Any, str], Callable[[], Any]], str]] = {
    "DDPM step": (one_step, "DDPMScheduler"),
    "DDIM step": (one_step, "DDIMScheduler"),
    "DPM-Solver++ step": (running_step, "DPMSolverMultistepScheduler"),
    "UniPC step": (running_step, "UniPCMultistepScheduler"),
    "add_noise": (noising, "DDPMScheduler"),
}


def microseconds(call: Callable[[], Any]) -> float:
    """The time of one call, the mean of a few."""
    start = time.perf_counter()
    for _ in range(CALLS):
        call()
    return (time.perf_counter() - start) / CALLS * 1e6


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    versions = (
        f"alphabar {alphabar.__version__}, diffusers {diffusers.__version__}, torch {torch.__version__}"
    )
    print(f"{versions}, Python {platform.python_version()}, {platform.processor() or platform.machine()}")
    print(f"{'':20}{'diffusers':>12}{'alphabar':>12}{'times':>8}{'aim':>6}")
    for what, (make, name) in MEASURED.items():
        theirs, mine = make(diffusers, name), make(ours, name)
        pairs = [(microseconds(theirs), microseconds(mine)) for _ in range(ROUNDS)][ROUNDS // 10 :]
        slow, fast = (median(column) for column in zip(*pairs, strict=True))
        print(f"{what:20}{slow:9.1f} µs{fast:9.1f} µs{slow / fast:8.1f}{AIMS.get(what, ''):>6}")


if __name__ == "__main__":
    main()
