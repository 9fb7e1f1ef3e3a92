"""Compares the drop-in schedulers with diffusers' own on many random configurations, and records it.

python -m research.differential --configurations 2000 --out docs/differential.json       (one thread, an hour)
python -m research.differential --configurations 200 --schedulers DDIM EulerDiscrete --first 2000

The tests compare the first 30 (tests/test_diffusers_random.py); tests/differential.py says how. A record that
exists keeps the schedulers which are not compared again. Exits with 1 where ours is wrong or differs in a way
that is not listed.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch

import alphabar
from alphabar.diffusers.adapter import SCHEDULERS

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from chains import Case, draw_case
from configurations import OPTIONS
from deviations import DEVIATIONS, deviations_of
from differential import DTYPES, REFUSED, Comparison, compare, threads_give_the_same_bits

THREADED = 20
"""On one of so many configurations eight threads are compared with one."""


@dataclass(frozen=True)
class Finding:
    """What came out of one configuration."""

    case: Case
    dtype: torch.dtype
    comparison: Comparison
    listed: tuple[str, ...]
    same_in_threads: bool | None

    @property
    def verdict(self) -> str:
        """The column of the record where it counts."""
        if self.comparison is REFUSED:
            return "refused by both"
        if self.comparison.agrees:
            return "agree"
        return "listed deviation" if self.listed else "unlisted"

    @property
    def is_fault(self) -> bool:
        """Whether ours is wrong by itself, or differs in a way that is not listed."""
        return self.verdict == "unlisted" or bool(self.comparison.faults) or self.same_in_threads is False


def find(name: str, seed: int) -> Finding:
    """Compare one configuration."""
    case, dtype = draw_case(name, OPTIONS[name], seed), DTYPES[seed % len(DTYPES)]
    comparison = compare(case, dtype)
    is_answered = comparison is not REFUSED and comparison.agrees
    listed = () if comparison is REFUSED else tuple(deviations_of(case))
    threads = threads_give_the_same_bits(case) if is_answered and seed % THREADED == 0 else None
    return Finding(case, dtype, comparison, listed, threads)


def summary(findings: Sequence[Finding]) -> dict[str, Any]:
    """Return the counts and the largest differences of one scheduler."""
    agreed = [each for each in findings if each.verdict == "agree"]
    largest = max((each.comparison.difference for each in agreed), default=0.0)
    return {
        **Counter(each.verdict for each in findings),
        "deviations": {deviation.what: of_deviation(deviation.what, findings) for deviation in DEVIATIONS},
        "largest difference where they agree, float64": largest,
        "compared in threads": sum(each.same_in_threads is not None for each in findings),
        "of rounding": {str(dtype).removeprefix("torch."): rounding(agreed, dtype) for dtype in DTYPES},
        "faults": [
            f"{each.case}: {each.comparison.words} {each.comparison.draws} {each.comparison.faults}"
            for each in findings
            if each.is_fault
        ],
    }


def of_deviation(what: str, findings: Sequence[Finding]) -> dict[str, Any]:
    """Return on how many configurations a deviation is expected, and on how many of them they differ."""
    met = [each for each in findings if what in each.listed]
    differing = [each.comparison.difference for each in met if not each.comparison.agrees]
    finite = [size for size in differing if math.isfinite(size)]
    return {"met": len(met), "differ": len(differing), "largest finite": max(finite, default=None)}


def rounding(agreed: Sequence[Finding], dtype: torch.dtype) -> dict[str, Any]:
    """Return the largest errors against float64: of ours over its bound, and both over the state's scale."""
    errors = [each.comparison.rounding for each in agreed if each.dtype == dtype]
    shares = [error["ours"] / error["bound"] for error in errors if error["bound"]]
    return {
        "compared": len(errors),
        "ours over its bound": max(shares, default=None),
        "ours": largest_of(errors, "ours"),
        "theirs": largest_of(errors, "theirs"),
        "times theirs is larger": sum(
            error["theirs"] > error["ours"] for error in errors if error["theirs"] is not None
        ),
    }


def largest_of(errors: Sequence[Any], whose: str) -> float | None:
    """Return the largest finite error."""
    known = [error[whose] for error in errors if error[whose] is not None and math.isfinite(error[whose])]
    return max(known, default=None)


def rounded(value: Any) -> Any:
    """Return the same with three digits of each number, and null for what is not finite."""
    if isinstance(value, dict):
        return {
            key: rounded(each)
            for key, each in value.items()
            if each != {"met": 0, "differ": 0, "largest finite": None}
        }
    if isinstance(value, float):
        return float(f"{value:.3g}") if math.isfinite(value) else None
    return value


def main() -> int:
    """Compare, and write the record after each scheduler."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--configurations", type=int, default=2000, help="for each scheduler")
    parser.add_argument("--first", type=int, default=0, help="seed of the first configuration")
    parser.add_argument(
        "--schedulers", nargs="+", default=[name.removesuffix("Scheduler") for name in SCHEDULERS]
    )
    parser.add_argument("--out", type=Path, help="JSON to write")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    record: dict[str, Any] = {"schedulers": {}}
    if chosen.out and chosen.out.exists():
        record = json.loads(chosen.out.read_text("utf-8"))
    record["versions"] = {module.__name__: module.__version__ for module in (alphabar, diffusers, torch)}
    seeds, bad = range(chosen.first, chosen.first + chosen.configurations), 0
    for name in chosen.schedulers:
        began = time.monotonic()
        findings = [find(name, seed) for seed in seeds]
        bad += sum(each.is_fault for each in findings)
        record["schedulers"][name] = {"seeds": [seeds.start, seeds.stop - 1], **rounded(summary(findings))}
        counts = dict(Counter(each.verdict for each in findings))
        print(f"{name}: {counts}, {time.monotonic() - began:.0f} s", flush=True)
        if chosen.out:
            chosen.out.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", "utf-8")
    return int(bad > 0)


if __name__ == "__main__":
    raise SystemExit(main())
