"""The best settings of the peer's loop: twelve of a grid for half of the updates, two in full."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from itertools import islice
from typing import Any

from benchmarks.measure import Result, Settings
from benchmarks.subjects.quality import TUNED, Scored, peer_images, peer_steps, scored_data
from benchmarks.training_loops import PlainConfig

TITLE = "The peer's settings, searched"
ABOUT = (
    "diffusers' unconditional example, told the labels, on the network and the data of *Time to quality*: "
    "the settings of that table and eleven drawn from a grid are trained for half of the updates, the best "
    "two in full. The score is that of the table, of fewer samples. Updates are counted, not seconds, so "
    "that the machine may do other work."
)
GRID: Mapping[str, tuple[Any, ...]] = {
    "learning_rate": (5e-4, 1e-3, 2e-3, 4e-3),
    "warmup": (10, 30, 100),
    "ema_decay": (0.98, 0.99, 0.995, 0.999),
    "schedule": ("linear", "squaredcos_cap_v2"),
    "prediction": ("epsilon", "v_prediction"),
}
TRIALS, FINALISTS = 12, 2


def run(settings: Settings) -> Iterator[Result]:
    """Train and score, trial by trial; each yields the table as far as it is known, earlier ones included."""
    training, scored = scored_data(settings)
    told = {"updates": settings.updates, "samples": settings.samples}
    known = _known(settings.recorded, told)
    some = trials()
    for updates in (settings.updates // 2, settings.updates):
        for config in some:
            name = f"{updates} updates: {_said(config)}"
            if name not in known:
                known[name] = _distance(config, updates, training, scored, settings)
            yield Result("Fréchet distance", {k: [v] for k, v in known.items()}, unit="distance", notes=told)
        some = sorted(some, key=lambda config: known[f"{updates} updates: {_said(config)}"])[:FINALISTS]


def trials() -> list[PlainConfig]:
    """Return the settings to try, the same ones each time."""
    draw = random.Random(0)
    found = {_said(config): config for config in [replace(TUNED, seconds=None)]}
    while len(found) < TRIALS:
        config = PlainConfig(**{name: draw.choice(values) for name, values in GRID.items()})
        found.setdefault(_said(config), config)
    return list(found.values())


def _said(config: PlainConfig) -> str:
    return ", ".join(f"{name} {asdict(config)[name]}" for name in GRID)


def _distance(config: PlainConfig, updates: int, training: Any, scored: Scored, settings: Settings) -> float:
    config = replace(config, updates=updates)
    (last,) = deque(islice(peer_steps(training, config, told=True), updates), maxlen=1)
    return scored(peer_images(last, config, training, settings.device)(settings.samples))


def _known(recorded: Mapping[str, Any], told: Mapping[str, float]) -> dict[str, float]:
    for record in recorded.get("cases", ()):
        if record["notes"] == told:
            return {name: value["median"] for name, value in record["values"].items()}
    return {}
