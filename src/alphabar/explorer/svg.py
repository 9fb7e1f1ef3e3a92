"""Plots as SVG text: lines, steps, dots and arrows in a frame with axes. Colours are the page's own.

A plot answers in about a millisecond, which a slider needs, and its text alternative is part of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby

import torch
from torch import Tensor

__all__ = ["Curve", "Frame", "arrows", "axes", "dots", "nice_ticks", "number", "plot", "svg"]

POINTS = 240  # of a curve at most: more are not seen in a plot this wide
WIDTH, HEIGHT = 420.0, 270.0
LEFT, RIGHT, TOP, BOTTOM = 58.0, 12.0, 26.0, 40.0  # margins
LEGEND_LINE = 16.0


@dataclass(frozen=True, eq=False)
class Curve:
    """One line of a plot.

    Args:
        label: what the legend says; none leaves it out of the legend.
        x: (N,) places.
        y: (N,) values; the line is broken where one is not finite.
        colour: which of the page's colours, 0 … 5.
        is_dashed: draw it broken.
        has_dots: mark each point.
    """

    label: str
    x: Sequence[float] | Tensor
    y: Sequence[float] | Tensor
    colour: int = 0
    is_dashed: bool = False
    has_dots: bool = False


@dataclass(frozen=True)
class Frame:
    """The ranges of both axes, and where they lie in the picture.

    Args:
        x: lowest and highest.
        y: lowest and highest.
        log_x: a logarithmic axis; its range is positive.
        log_y: likewise.
        width: of the picture.
        height: of the picture.
        top: the upper margin, which holds title and legend.
    """

    x: tuple[float, float]
    y: tuple[float, float]
    log_x: bool = False
    log_y: bool = False
    width: float = WIDTH
    height: float = HEIGHT
    top: float = TOP

    def across(self, x: float | Tensor) -> Tensor:
        """Return where values of x lie, in the picture's units."""
        return LEFT + _share(x, self.x, self.log_x) * (self.width - LEFT - RIGHT)

    def down(self, y: float | Tensor) -> Tensor:
        """Return where values of y lie."""
        return self.height - BOTTOM - _share(y, self.y, self.log_y) * (self.height - self.top - BOTTOM)

    def places(self, x: Tensor, y: Tensor) -> list[tuple[float, float]]:
        """Return where points lie."""
        return list(zip(self.across(x).tolist(), self.down(y).tolist(), strict=True))

    @property
    def data(self) -> str:
        """The attributes from which a script on the page finds its way back from places to values."""
        right, bottom = self.width - RIGHT, self.height - BOTTOM
        box = f"{LEFT:g} {self.top:g} {right:g} {bottom:g}"
        ends = f"{self.x[0]:.9g} {self.x[1]:.9g} {self.y[0]:.9g} {self.y[1]:.9g}"
        return f'data-box="{box}" data-ends="{ends}" data-log="{int(self.log_y)}"'


def number(value: float, digits: int = 4) -> str:
    """Return a number as the page writes it: a few significant digits, a real minus, no exponent of e.

    >>> number(0.000012345), number(-3.0), number(float("-inf"))
    ('1.234·10⁻⁵', '−3', '−∞')
    """
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    mantissa, _, exponent = f"{value:.{digits}g}".partition("e")
    raised = str(int(exponent)).translate(SUPERSCRIPTS) if exponent else ""
    if exponent and mantissa == "1":
        return f"10{raised}"
    return mantissa.replace("-", "−") + (f"·10{raised}" if exponent else "")


SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return about ``count`` round numbers in low … high, which must be in this order.

    >>> nice_ticks(0, 999), nice_ticks(-0.3, 0.4)
    ([0.0, 200.0, 400.0, 600.0, 800.0], [-0.2, 0.0, 0.2, 0.4])
    """
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def plot(
    curves: Sequence[Curve],
    *,
    title: str,
    alt: str,
    x_label: str = "t",
    x: tuple[float, float] | None = None,
    y: tuple[float, float] | None = None,
    log_x: bool = False,
    log_y: bool = False,
    x_ticks: Sequence[float] = (),
    mark: float | None = None,
) -> str:
    """Return a plot of curves.

    Args:
        curves: at least one.
        title: above it.
        alt: what it shows, in numbers, for those who do not see it.
        x_label: below the axis.
        x: range; by default that of the curves.
        y: range; by default that of the curves' finite values.
        log_x: logarithmic axis of x.
        log_y: logarithmic axis of y.
        x_ticks: where the axis of x has numbers; by default at round ones.
        mark: a vertical line at this x, and a dot on each curve there.
    """
    named = [curve for curve in curves if curve.label]
    top = TOP + (LEGEND_LINE * math.ceil(len(named) / 2) if len(named) > 1 else 0)
    frame = Frame(
        x or _range((curve.x for curve in curves), log_x, 0),
        y or _range((curve.y for curve in curves), log_y, 0.05),
        log_x,
        log_y,
        top=top,
    )
    parts = [_axes(frame, x_ticks, x_label), *(_line(frame, curve) for curve in curves)]
    if mark is not None:
        parts.append(_mark(frame, curves, mark))
    if len(named) > 1:
        parts.append(_legend(named))
    return svg(frame, parts, title=title, alt=alt)


def svg(frame: Frame, parts: Iterable[str], *, title: str, alt: str) -> str:
    """Return the picture of a frame: parts that lie inside, a title, and the text alternative."""
    heading = f'<text class="title" x="{LEFT:g}" y="16">{escape(title)}</text>'
    size = f'viewBox="0 0 {frame.width:g} {frame.height:g}"'
    return (
        f'<svg class="plot" {size} role="img" aria-label="{escape(alt)}" {frame.data}>'
        f"{heading}{''.join(parts)}</svg>"
    )


def axes(frame: Frame, x_label: str = "") -> str:
    """Return the axes of a frame with their grid and numbers."""
    return _axes(frame, (), x_label)


def dots(frame: Frame, points: Tensor, name: str, radius: float = 2.0) -> str:
    """Return (N, 2) points as dots of a class of the page's style; those outside the frame are left out."""
    low, high = torch.tensor([frame.x, frame.y], dtype=points.dtype).T
    inside = points[((points >= low) & (points <= high)).all(1)]
    places = frame.places(*inside.T)
    circles = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}"/>' for x, y in places)
    return f'<g class="{name}">{circles}</g>'


def arrows(frame: Frame, starts: Tensor, steps: Tensor) -> str:
    """Return arrows from (N, 2) starts along (N, 2) steps, in the units of the axes."""
    lines = []
    ends = frame.places(*(starts + steps).T)
    for (x, y), (to_x, to_y) in zip(frame.places(*starts.T), ends, strict=True):
        back, side = 0.35, 0.18
        along, across = (to_x - x, to_y - y), (y - to_y, to_x - x)
        wings = [
            f"{to_x - back * along[0] + sign * side * across[0]:.1f} "
            f"{to_y - back * along[1] + sign * side * across[1]:.1f}"
            for sign in (1, -1)
        ]
        lines.append(f"M{x:.1f} {y:.1f}L{to_x:.1f} {to_y:.1f}M{wings[0]}L{to_x:.1f} {to_y:.1f}L{wings[1]}")
    return f'<path class="arrows" d="{"".join(lines)}"/>'


def _share(values: float | Tensor, ends: tuple[float, float], is_log: bool) -> Tensor:
    low, high = map(math.log10, ends) if is_log else ends
    places = torch.as_tensor(values, dtype=torch.float64)
    places = places.clamp(min=1e-300).log10() if is_log else places
    return ((places - low) / (high - low)).clamp(-0.02, 1.02)


def _range(values: Iterable[Sequence[float] | Tensor], is_log: bool, margin: float) -> tuple[float, float]:
    joined = torch.cat([torch.as_tensor(each, dtype=torch.float64) for each in values])
    joined = joined[joined.isfinite() & ((joined > 0) | (not is_log))]
    low, high = map(float, joined.aminmax()) if len(joined) else (1.0, 1.0)
    if is_log:
        return (low, high) if high > low else (low / 2, high * 2)
    extra = (high - low) * margin or (0.0 if high > low else 1.0)
    return low - extra, high + extra


def _ticks(ends: tuple[float, float], is_log: bool, count: int) -> list[float]:
    if not is_log:
        return nice_ticks(*ends, count)
    powers = range(math.ceil(math.log10(ends[0]) - 1e-9), math.floor(math.log10(ends[1]) + 1e-9) + 1)
    if len(powers) < 3:
        low, high = (math.floor(math.log10(end)) for end in ends)
        fine = (factor * 10.0**power for power in range(low, high + 1) for factor in (1, 2, 5))
        return [value for value in fine if ends[0] <= value <= ends[1]]
    stride = math.ceil(len(powers) / 6) or 1
    return [10.0**power for power in powers[::stride]]


def _axes(frame: Frame, x_ticks: Sequence[float], x_label: str) -> str:
    left, right = LEFT, frame.width - RIGHT
    top, bottom = frame.top, frame.height - BOTTOM
    parts = []
    for value in _ticks(frame.y, frame.log_y, 5):
        y = frame.down(value)
        parts.append(f'<path class="grid" d="M{left:g} {y:.1f}H{right:g}"/>')
        parts.append(f'<text class="tick end" x="{left - 11:g}" y="{y + 4:.1f}">{number(value)}</text>')
    for value in x_ticks or _ticks(frame.x, frame.log_x, 6):
        x = frame.across(value)
        parts.append(f'<path class="grid" d="M{x:.1f} {top:g}V{bottom:g}"/>')
        parts.append(f'<text class="tick middle" x="{x:.1f}" y="{bottom + 15:g}">{number(value)}</text>')
    parts.append(f'<path class="axis" d="M{left:g} {top:g}V{bottom:g}H{right:g}"/>')
    middle = (left + right) / 2
    parts.append(
        f'<text class="name middle" x="{middle:g}" y="{frame.height - 7:g}">{escape(x_label)}</text>'
    )
    return "".join(parts)


def _line(frame: Frame, curve: Curve) -> str:
    xs, ys = (torch.as_tensor(part, dtype=torch.float64) for part in (curve.x, curve.y))
    kept = torch.linspace(0, len(xs) - 1, min(len(xs), POINTS)).round().long()
    pieces = groupby(
        zip(ys[kept].isfinite().tolist(), frame.places(xs[kept], ys[kept]), strict=True), lambda each: each[0]
    )
    drawn = [[place for _, place in piece] for is_finite, piece in pieces if is_finite]
    lines = ("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in piece) for piece in drawn)
    circles = "".join(
        f'<circle class="dot c{curve.colour}" cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>'
        for piece in drawn
        for x, y in piece
        if curve.has_dots
    )
    style = f"curve c{curve.colour}" + (" dashed" if curve.is_dashed else "")
    return f'<path class="{style}" d="{"".join(lines)}"/>{circles}'


def _mark(frame: Frame, curves: Sequence[Curve], mark: float) -> str:
    x = frame.across(mark)
    parts = [f'<path class="mark" d="M{x:.1f} {frame.top:g}V{frame.height - BOTTOM:g}"/>']
    for curve in curves:
        at = _at(curve, mark)
        if math.isfinite(at):
            parts.append(
                f'<circle class="dot c{curve.colour}" cx="{x:.1f}" cy="{frame.down(at):.1f}" r="4"/>'
            )
    return "".join(parts)


def _at(curve: Curve, place: float) -> float:
    """Return the value of a curve at the nearest of its points."""
    xs = torch.as_tensor(curve.x, dtype=torch.float64)
    return float(torch.as_tensor(curve.y, dtype=torch.float64)[(xs - place).abs().argmin()])


def _legend(curves: Sequence[Curve]) -> str:
    column = (WIDTH - LEFT - RIGHT) / 2
    parts = []
    for i, curve in enumerate(curves):
        x, y = LEFT + i % 2 * column, TOP + 4 + LEGEND_LINE * (i // 2)
        dashed = " dashed" if curve.is_dashed else ""
        parts.append(f'<path class="curve c{curve.colour}{dashed}" d="M{x:g} {y:g}h18"/>')
        parts.append(f'<text class="name" x="{x + 23:g}" y="{y + 4:g}">{escape(curve.label)}</text>')
    return "".join(parts)
