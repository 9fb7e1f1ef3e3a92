"""``alphabar report``: the log of a training and its grids of samples, as one page of its own."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from tyro.conf import Positional

import alphabar.explorer
from alphabar.cli import plots
from alphabar.cli._arguments import readable, wrote
from alphabar.cli.nearest import nearest_part
from alphabar.cli.watching import SAMPLES
from alphabar.denoise.files import check_writable, whole_file
from alphabar.errors import CheckpointError, ConfigError
from alphabar.explorer.svg import Curve, plot
from alphabar.training import read_log

__all__ = ["Report", "page"]

Entry = Mapping[str, Any]

SHOWN = 12  # grids at most
LATEST = 10  # lines whose loss by level is averaged
SAYS = "made by alphabar report"  # by which a page of ours is known


@readable
@dataclass(frozen=True)
class Report:
    """Write one HTML file on a training: curves, loss by noise level, samples, settings, machine."""

    run: Positional[Path]
    """The folder of the run; it may still be training."""
    out: Path | None = None
    """The file to write; by default report.html in the run."""
    data: str | None = None
    """What it was trained on, where that has moved: samples are compared with it."""

    def __call__(self) -> None:
        """Read the log, and write the page."""
        path = self.out or self.run / "report.html"
        entries = read_log(self.run)
        if not entries:
            raise CheckpointError(f"{self.run} has no log.jsonl to report on: give the folder of a training")
        if path.suffix.lower() != ".html":
            raise ConfigError(f"out is {str(path)!r}: give the name of a file that ends in .html")
        if path.is_dir() or (path.exists() and SAYS not in path.read_text("utf-8", errors="replace")):
            raise ConfigError(f"out is {str(path)!r}, which is no report: choose another name")
        check_writable(path.parent)
        grids = [grid for grid in sorted((self.run / SAMPLES).glob("step-*.png")) if plots.is_grid(grid)]
        nearest = nearest_part(self.run, _about(entries).get("settings", {}), self.data)
        with whole_file(path) as draft:
            draft.write_text(page(self.run.resolve().name, entries, grids, nearest), encoding="utf-8")
        wrote(path)


def page(name: str, entries: Sequence[Entry], grids: Sequence[Path] = (), nearest: str = "") -> str:
    """Return the page of a run.

    Args:
        name: of the run.
        entries: the lines of its log, at least one; what a line does not have is left out.
        grids: pictures of samples, named ``step-00001000.png``, the oldest first.
        nearest: the part on the nearest training images, as HTML.
    """
    style = Path(alphabar.explorer.__file__).with_name("static") / "style.css"
    parts = {
        "title": escape(f"The training {name}"),
        "style": style.read_text("utf-8"),
        "summary": escape(f"{_summary(entries)}; {SAYS}"),
        "notes": _notes(entries),
        "curves": "".join((*_scores(entries), *_curves(entries))),
        "levels": "".join(_levels(entries)) or "<p>The log does not say.</p>",
        "grids": _grids(grids),
        "nearest": nearest,
        "tables": "".join(_tables(entries)),
    }
    return Template(Path(__file__).with_name("report.html").read_text("utf-8")).substitute(parts)


def _numbers(entries: Iterable[Entry], key: str) -> list[float]:
    """Return a number of each line; NaN where it has none."""
    found = (entry.get(key) for entry in entries)
    return [float(value) if isinstance(value, (int, float)) else math.nan for value in found]


def _summary(entries: Sequence[Entry]) -> str:
    loss, images, seconds = (_numbers(entries, key)[-1] for key in ("loss", "images", "seconds"))
    return (
        f"{entries[-1]['step']:,} updates, {images:,.0f} images, loss {loss:.4g}, {seconds / 60:,.1f} minutes"
    )


def _notes(entries: Sequence[Entry]) -> str:
    found = [
        f"<li>step {entry['step']}: <b>{escape(note['name'])}</b>: {escape(note['seen'])}. "
        f"{escape(note['remedy'])}.</li>"
        for entry in entries
        for note in entry.get("notes", ())
    ]
    return f'<ul class="warnings">{"".join(found)}</ul>' if found else "<p>Nothing was found.</p>"


def _curves(entries: Sequence[Entry]) -> Iterable[str]:
    steps = [float(entry["step"]) for entry in entries]
    kinds = (("loss", "Loss", True), ("norm", "Norm of the gradient", True), ("rate", "Learning rate", False))
    for key, title, is_log in kinds:
        values = _numbers(entries, key)
        if any(map(math.isfinite, values)):
            ends = (
                f"{title}, {values[0]:.4g} at step {steps[0]:.0f}, {values[-1]:.4g} at step {steps[-1]:.0f}"
            )
            curve = Curve("", steps, values, 0)
            yield plot([curve], title=title, alt=ends, x_label="step", log_y=is_log)


def _scores(entries: Sequence[Entry]) -> Iterable[str]:
    """Plot the Fréchet distance of samples beside that of real images, where the log has it."""
    known = {float(entry["step"]): entry["scores"]["frechet"] for entry in entries if "scores" in entry}
    if known:
        steps, found = list(known), [each["value"] for each in known.values()]
        real = [each["real"] for each in known.values()]
        curves = [Curve("samples", steps, found, 0, has_dots=True), Curve("real images", steps, real, 1)]
        alt = f"Fréchet distance, {found[-1]:.4g} at step {steps[-1]:.0f}, of real images {real[-1]:.4g}"
        yield plot(curves, title="Fréchet distance", alt=alt, x_label="step", log_y=True)


def _levels(entries: Sequence[Entry]) -> Iterable[str]:
    """Plot the loss of each part of t, early and lately, and beside it the share of the images."""
    known = [entry["levels"] for entry in entries if "levels" in entry]
    if not known:
        return
    middles = [(part + 0.5) / len(known[-1]["loss"]) for part in range(len(known[-1]["loss"]))]
    quarter = len(known) // 4
    times = {"after a quarter": known[: quarter + 1][-LATEST:], "at the end": known[-LATEST:]}
    losses = [
        Curve(label, middles, _means(some, "loss"), colour, has_dots=True)
        for colour, (label, some) in enumerate(times.items())
    ]
    axis: dict[str, Any] = {"x_label": "t/T", "x": (0.0, 1.0)}
    alts = [", ".join("none" if math.isnan(y) else f"{y:.3g}" for y in curve.y) for curve in losses]
    yield plot(losses, title="Loss", alt=f"Loss by noise level, at the end {alts[-1]}", log_y=True, **axis)
    shares = _means(known, "share")
    alt = "Share of the images by noise level: " + ", ".join(f"{share:.1%}" for share in shares)
    share = Curve("", middles, shares, 2, has_dots=True)
    yield plot([share], title="Share of the images", alt=alt, y=(0.0, 1.1 * max(shares)), **axis)


def _means(levels: Sequence[Entry], key: str) -> list[float]:
    """Return the mean of each part over the lines that have it; NaN where none has."""
    columns = (
        [x for x in column if x is not None] for column in zip(*(each[key] for each in levels), strict=True)
    )
    return [sum(column) / len(column) if column else math.nan for column in columns]


def _grids(paths: Sequence[Path]) -> str:
    if not paths:
        return "<p>None were drawn: train with <code>--samples-every</code>.</p>"
    count = min(SHOWN, len(paths))
    picked = [paths[round(i * (len(paths) - 1) / max(1, count - 1))] for i in range(count)]
    figures = []
    for path in picked:
        data, step = base64.b64encode(path.read_bytes()).decode(), int(path.stem.removeprefix("step-"))
        figures.append(
            f'<figure><img src="data:image/png;base64,{data}" alt="samples after {step} updates">'
            f"<figcaption>step {step:,}</figcaption></figure>"
        )
    return f'<div class="grids">{"".join(figures)}</div>'


def _tables(entries: Sequence[Entry]) -> Iterable[str]:
    for title, facts in _about(entries).items():
        rows = "".join(
            f"<tr><th>{escape(key)}</th><td>{escape(_shown(value))}</td></tr>"
            for key, value in facts.items()
            if value not in (None, [])
        )
        yield f"<table><caption>{escape(title)}</caption><tbody>{rows}</tbody></table>"


def _about(entries: Sequence[Entry]) -> Entry:
    """Return settings, data and machine, of the newest part of the run."""
    return next((entry["run"] for entry in reversed(entries) if "run" in entry), {})


def _shown(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
