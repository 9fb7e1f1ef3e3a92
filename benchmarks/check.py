"""Floors: ratios that were reached once and are not to be lost."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from alphabar.denoise.files import whole_file
from benchmarks.report import load
from benchmarks.subjects import NEEDS_DATA, SUBJECTS

__all__ = ["below", "read_floors", "record_floors"]

SHARE = 0.9  # of what was measured: one machine's mornings differ by as much
Record = Mapping[str, Any]


def ratios(cases: Sequence[Record]) -> Iterator[tuple[str, Mapping[str, float]]]:
    """Yield the ratios that have an aim, by name."""
    for case in cases:
        for other in case["aims"]:
            if other in case["ratios"]:
                yield f"{case['name']} | {other}", case["ratios"][other]


def below(name: str, cases: Sequence[Record], floors: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Return what lies below its floor by more than the spread of its own measurement."""
    failures = []
    for what, ratio in ratios(cases):
        floor = floors.get(name, {}).get(what)
        if floor is not None and ratio["median"] + (ratio["high"] - ratio["low"]) < floor:
            quartiles = f"{ratio['low']:.2f} … {ratio['high']:.2f}"
            failures.append(f"{name}: {what}: {ratio['median']:.2f} ({quartiles}), floor {floor:.2f}")
    return failures


def read_floors(out: Path) -> dict[str, dict[str, float]]:
    """Return the floors by subject, then by case and peer."""
    path = out / "floors.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def record_floors(out: Path) -> Path:
    """Take what is on record as the floors: each a little below its median."""
    floors = {}
    for name in SUBJECTS:
        found = dict(ratios(load(out, name).get("cases", ())))
        if found and name not in NEEDS_DATA:
            floors[name] = {what: round(SHARE * ratio["median"], 3) for what, ratio in found.items()}
    with whole_file(out / "floors.json") as draft:
        draft.write_text(json.dumps(floors, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return out / "floors.json"
