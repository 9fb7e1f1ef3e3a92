"""Pictures of results: bars of each entrant's cost relative to ours, or curves where size or threads grow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from alphabar.cli.plots import STYLE
from alphabar.denoise.files import whole_file
from benchmarks.measure import OURS
from benchmarks.report import FLOOR
from benchmarks.subjects import subject

__all__ = ["draw"]

COLOURS = {OURS: "C0", "diffusers": "C1", "azula": "C2", "by hand": "C4", FLOOR: "0.7"}
SPARE = ("C3", "C5", "C6", "C8", "C9", "navy", "darkgreen", "gold", "salmon")
BAR = 0.17  # inches

Record = Mapping[str, Any]


def draw(record: Record, path: Path) -> None:
    """Draw what a subject wants PICTURED of cases with ours: as curves where something grows, else bars."""
    what = subject(record["subject"])
    curve, shown = getattr(what, "CURVE", None), getattr(what, "PICTURED", "")
    known = [case for case in record["cases"] if OURS in case["values"] and len(case["values"]) > 1]
    cases = [case for case in known if shown in case["name"]]
    if not cases:
        return
    names = list(dict.fromkeys(name for case in cases for name in case["values"]))
    spare = iter(SPARE * 9)
    colours = {name: COLOURS.get(name) or next(spare) for name in names}
    title = f"{what.TITLE}   ({_where(record)})"
    with rc_context(STYLE), whole_file(path) as draft:
        figure = _curves(cases, colours, curve) if curve else _bars(cases, colours)
        figure.axes[0].set_title(title, fontsize=9, loc="left")
        figure.savefig(draft)


def _where(record: Record) -> str:
    machine = record["machine"]
    return str(machine.get("GPU") or f"{machine['CPU']}, threads: {machine['threads']}")


def _bars(cases: Sequence[Record], colours: Mapping[str, str]) -> Figure:
    """One group of bars a case: how many times as much as ours each entrant needs."""
    height = sum(BAR * (len(case["values"]) + 1) for case in cases)
    figure = Figure(figsize=(8, max(2.0, 1.0 + height)), layout="constrained")
    axis, place, ticks = figure.subplots(), 0.0, []
    for case in cases:
        top = place
        for name in case["values"]:
            ratio = case["ratios"].get(name, {"median": 1, "low": 1, "high": 1})
            middle = ratio["median"]
            error = [[max(0, middle - ratio["low"])], [max(0, ratio["high"] - middle)]]
            axis.barh(
                place, middle, color=colours[name], xerr=error, error_kw={"elinewidth": 0.8}, height=0.85
            )
            axis.text(max(middle, ratio["high"]) * 1.03, place, f"{middle:.3g}", va="center", fontsize=7)
            place += 1
        ticks.append(((top + place - 1) / 2, case["name"]))
        place += 1
    found = [ratio["median"] for case in cases for ratio in case["ratios"].values()]
    is_narrow = max(found, default=1) < 2 * min(found, default=1)  # of which a logarithmic axis shows nothing
    axis.set(xscale="linear" if is_narrow else "log", xlabel="times as much as alphabar")
    axis.set_yticks([at for at, _ in ticks], [name for _, name in ticks], fontsize=8)
    axis.invert_yaxis()
    axis.grid(axis="y", visible=False)
    axis.axvline(1, color="0.3", linewidth=0.8)
    axis.margins(x=0.12, y=0.01)
    handles = [axis.barh(0, 0, color=colour, label=name) for name, colour in colours.items()]
    figure.legend(
        handles=handles, frameon=False, ncols=min(5, len(colours)), loc="outside lower center", fontsize=8
    )
    return figure


def _curves(cases: Sequence[Record], colours: Mapping[str, str], across: str) -> Figure:
    """Each entrant's time against what grows, both axes logarithmic."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axis = figure.subplots()
    for name, colour in colours.items():
        points = [(case["x"], case["values"][name]) for case in cases if name in case["values"]]
        xs, values = zip(*points, strict=True)
        axis.plot(
            xs, [value["median"] for value in values], color=colour, marker="o", markersize=3.5, label=name
        )
        axis.fill_between(
            xs,
            [value["low"] for value in values],
            [value["high"] for value in values],
            color=colour,
            alpha=0.15,
        )
    axis.set(xscale="log", yscale="log", xlabel=across, ylabel="seconds")
    axis.legend(frameon=False, fontsize=8)
    return figure
