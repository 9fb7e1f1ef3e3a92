"""What was measured, as JSON, as tables made from that JSON, and as pictures.

The tables stand in docs/benchmarks/README.md between markers, and only this module writes there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from alphabar.denoise.files import whole_file
from benchmarks.measure import OURS
from benchmarks.subjects import SUBJECTS, subject

__all__ = ["DOCS", "aims_table", "line", "load", "refresh", "save", "table"]

DOCS = Path(__file__).parents[1] / "docs" / "benchmarks"
FLOOR = "floor"
SCALES = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (0.0, "ns"))
Record = Mapping[str, Any]


def save(out: Path, name: str, facts: Record, cases: Sequence[Record]) -> Path:
    """Write the record of a subject; called after each case, so that an interruption loses nothing."""
    record = {"subject": name, **facts, "cases": list(cases)}
    with whole_file(out / f"{name}.json") as draft:
        draft.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return out / f"{name}.json"


def load(out: Path, name: str) -> dict[str, Any]:
    """Return what is on record of a subject, or nothing."""
    path = out / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def quantity(number: float, unit: str) -> str:
    """Write a number as people read it.

    >>> quantity(0.0000123, "s"), quantity(3.0, "tensors")
    ('12.3 µs', '3.00')
    """
    if unit != "s":
        return (
            f"{number:.3g}" if number >= 1000 or number < 0.01 else f"{number:.{2 if number < 100 else 0}f}"
        )
    scale, name = next((scale, name) for scale, name in SCALES if number >= scale)
    return f"{number / (scale or 1e-9):.3g} {name}"


def _times(ratio: Mapping[str, float]) -> str:
    return f"{ratio['median']:.2f} ({ratio['low']:.2f} … {ratio['high']:.2f})"


def line(case: Record) -> str:
    """Return a case in one line, for whoever waits at a terminal."""
    values = ", ".join(
        f"{name} {quantity(value['median'], case['unit'])}" for name, value in case["values"].items()
    )
    ratios = ", ".join(
        f"{name} {ratio['median']:.2f}×"
        + (f" (aim {case['aims'][name]:.2f})" if name in case["aims"] else "")
        for name, ratio in case["ratios"].items()
    )
    return f"{case['name']}: {values}" + (f"   |   {ratios}" if ratios else "")


def table(record: Record) -> str:
    """Return the cases of a subject as a table in Markdown, and what is to be noted below it."""
    names = list(dict.fromkeys(name for case in record["cases"] for name in case["values"]))
    others = [name for name in names if any(name in case["ratios"] for case in record["cases"])]
    unit = {case["unit"] for case in record["cases"]} - {"s"}
    head = [f"in {', '.join(sorted(unit))}" if unit else "", *names, *(f"{name} / ours" for name in others)]
    rows = [[_label(case), *_cells(case, names, others)] for case in record["cases"]]
    notes = [f"* {case['name']}: {_told(case['notes'])}" for case in record["cases"] if case["notes"]]
    return "\n".join([_markdown([head, *rows]), *([""] if notes else []), *notes])


def _label(case: Record) -> str:
    if not case["work"] or OURS not in case["values"]:
        return case["name"]
    amount, what = case["work"]
    rate = amount / case["values"][OURS]["median"]
    return f"{case['name']} ({_rate(rate)} {what}/s)"


def _rate(rate: float) -> str:
    return f"{rate / 1e6:,.0f} M" if rate >= 1e6 else f"{rate:,.0f}"


def _cells(case: Record, names: Sequence[str], others: Sequence[str]) -> list[str]:
    values, ratios = case["values"], case["ratios"]
    shown = [quantity(values[name]["median"], case["unit"]) if name in values else "" for name in names]
    return shown + [_times(ratios[name]) if name in ratios else "" for name in others]


def _told(notes: Record) -> str:
    return "; ".join(f"{name}: {value}" for name, value in notes.items())


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    head, *body = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([head, "|" + "---|" * len(rows[0]), *body])


def aims_table(records: Iterable[Record]) -> str:
    """Return every ratio that has an aim, with what was measured and whether it is reached."""
    rows = [["what", "others / ours", "measured", "aim", ""]]
    for record in records:
        for case in record["cases"]:
            for other, aim in case["aims"].items():
                ratio = case["ratios"][other]
                verdict = "reached" if ratio["median"] >= aim else "**missed**"
                title = subject(record["subject"]).TITLE
                rows.append([f"{title}: {case['name']}", other, _times(ratio), f"≥ {aim:.2f}", verdict])
    return _markdown(rows)


def refresh(docs: Path = DOCS) -> None:
    """Write the tables of all records into README.md, between the markers of each device."""
    page = docs / "README.md"
    if not page.is_file():  # results that are written elsewhere need no page
        return
    text = page.read_text(encoding="utf-8")
    for device in re.findall(r"<!-- results: (\w+) -->", text):
        records = [record for name in SUBJECTS if (record := load(docs / device, name))]
        if records:
            text = between(text, f"results: {device}", _section(records, device, docs))
    with whole_file(page) as draft:
        draft.write_text(text, encoding="utf-8")


def between(text: str, marker: str, new: str) -> str:
    """Return a text with what stands between two markers replaced."""
    pattern = rf"(<!-- {marker} -->\n).*?(<!-- /{marker} -->)"
    return re.sub(pattern, lambda found: f"{found[1]}{new}\n{found[2]}", text, flags=re.DOTALL)


def _section(records: Sequence[Record], device: str, docs: Path) -> str:
    parts = ["\n### What is to hold\n", aims_table(records)]
    for record in records:
        what = subject(record["subject"])
        picture = docs / device / f"{record['subject']}.png"
        parts += [f"\n### {what.TITLE}\n", what.ABOUT + "\n", table(record)]
        if picture.is_file():
            parts.append(f"\n![{what.TITLE}]({device}/{picture.name})")
        parts.append(f"\n{_settings(record)}\n")
    return "\n".join(parts)


def _settings(record: Record) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    machine = ", ".join(f"{name} {value}" for name, value in record["machine"].items())
    absent = "".join(f" Left out: {name} ({why})." for name, why in record["absent"].items())
    return f"*{machine}. {versions}. Measured {record['date']}.{absent}*"
