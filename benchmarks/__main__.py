"""The command: measure, write, draw, check."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import check, peers, report
from benchmarks.measure import Settings
from benchmarks.subjects import NEEDS_DATA, SUBJECTS, subject

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what was asked for; return the exit code."""
    given = _parser().parse_args(arguments)
    out = given.out / given.device
    if given.list:
        print("\n".join(f"{name:20}{subject(name).TITLE}" for name in SUBJECTS))
        return 0
    if given.record_floors or given.tables:
        print(check.record_floors(out) if given.record_floors else report.DOCS / "README.md")
        report.refresh(given.out)
        return 0
    if given.device == "cuda" and not torch.cuda.is_available():
        print(
            "no CUDA device is here, or this torch is built without CUDA: nothing was measured",
            file=sys.stderr,
        )
        return 1
    if unknown := sorted(set(given.subjects) - set(SUBJECTS)):
        print(f"no subject is called {', '.join(unknown)}: there are {', '.join(SUBJECTS)}", file=sys.stderr)
        return 2
    _quiet(given)
    print("\n".join(f"left out: {name} ({why})" for name, why in peers.absent().items()))
    floors = check.read_floors(out)
    names = given.subjects or (list(floors) if given.check else list(SUBJECTS))
    if given.check and not floors:
        print("no floors are on record: python -m benchmarks --record-floors", file=sys.stderr)
        return 1
    failures = [failure for name in names for failure in _one(name, given, out, floors)]
    print(*failures, sep="\n")
    return 1 if failures else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    parser.add_argument("subjects", nargs="*", metavar="NAME", help="by default all that need no data")
    parser.add_argument("--list", action="store_true", help="list the subjects")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--budget", type=float, default=4.0, help="seconds a case")
    parser.add_argument("--out", type=Path, default=report.DOCS, help="where results go, by device")
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit 1 if a ratio is below its floor"
    )
    parser.add_argument(
        "--record-floors", action="store_true", help="take the results on record as the floors"
    )
    parser.add_argument(
        "--tables", action="store_true", help="write the tables anew from the results on record"
    )
    _add_trained(parser)
    return parser


def _add_trained(parser: argparse.ArgumentParser) -> None:
    """Add the settings of the subjects that train networks."""
    add = parser.add_argument
    add("--data", default="", help='a .parquet file or folder of labelled images, or "digits"')
    add("--seconds", type=float, default=300.0, help="length of each training run")
    add("--updates", type=int, default=320, help="search: length of the longest runs")
    add("--samples", type=int, default=1000, help="how many are scored")
    add(
        "--runs",
        default="",
        help="which, with semicolons: of quality 'alphabar;diffusers', of fitting 'cosine 6;linear 10'",
    )
    add(
        "--ablate",
        action="store_true",
        help="quality: also undo each choice; fitting: also free fewer numbers",
    )
    add("--cache", default="runs/benchmarks", help="fitting: where networks and tables are kept")


def _quiet(given: argparse.Namespace) -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(given.threads)
    if given.device == "cpu":
        os.environ["ACCELERATE_USE_CPU"] = "true"  # or training would find a GPU by itself


def _one(name: str, given: argparse.Namespace, out: Path, floors: dict[str, dict[str, float]]) -> list[str]:
    """Measure a subject, write and draw it; return what is below its floor."""
    if name in NEEDS_DATA and not given.data:
        print(f"\n{name}: left out, it needs images: --data FILE.parquet")
        return []
    facts = _facts(given)
    print(f"\n{subject(name).TITLE}\n  {_heading(facts)}", flush=True)
    recorded = report.load(out, name)
    cases: list[dict[str, Any]] = recorded.get("cases", []) if hasattr(subject(name), "KEEPS") else []
    for result in subject(name).run(_settings(given, recorded)):
        # A subject that completes its own table yields it again, whole.
        cases = [case for case in cases if case["name"] != result.name] + [result.record()]
        print(f"  {report.line(cases[-1])}", flush=True)
        if not given.check:
            report.save(out, name, facts, cases)
    if given.check:
        return check.below(name, cases, floors)
    if cases:
        from benchmarks.pictures import draw

        draw(report.load(out, name), out / f"{name}.png")
        report.refresh(given.out)
    return []


def _settings(given: argparse.Namespace, recorded: dict[str, Any]) -> Settings:
    runs = tuple(filter(None, given.runs.split(";")))
    names = ("device", "threads", "budget", "data", "seconds", "samples", "updates", "ablate", "cache")
    return Settings(**{name: getattr(given, name) for name in names}, runs=runs, recorded=recorded)


def _facts(given: argparse.Namespace) -> dict[str, Any]:
    return {
        "date": time.strftime("%Y-%m-%d"),
        "machine": peers.machine(given.device, given.threads),
        "versions": peers.versions(),
        "absent": peers.absent(),
        "budget": given.budget,
    }


def _heading(facts: dict[str, Any]) -> str:
    told = [*facts["machine"].items(), *facts["versions"].items()]
    return ", ".join(f"{name} {value}" for name, value in told)


if __name__ == "__main__":
    sys.exit(main())
