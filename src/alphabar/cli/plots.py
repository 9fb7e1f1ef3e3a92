"""Pictures: grids of samples, strips of a chain with captions, curves of schedules and of training."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from alphabar.denoise.files import whole_file
from alphabar.errors import MissingExtraError, ShapeError
from alphabar.evaluation import Interval
from alphabar.schedule import NoiseSchedule
from alphabar.training import to_uint8

__all__ = [
    "animation",
    "error_curves",
    "grid",
    "image",
    "loss_curve",
    "quality_curves",
    "schedule_curves",
    "strip",
]

SIGNED = "Software"  # the entry of a PNG that says what wrote it
SMALL = 64  # pixels below which images are enlarged, so that a person can see them
STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "lines.linewidth": 1.8,
    "figure.dpi": 110,
}


def formats() -> tuple[str, ...]:
    """Return the suffixes of files that curves and strips can be written to."""
    try:
        from matplotlib.backend_bases import FigureCanvasBase
    except ImportError:
        raise MissingExtraError("a plot", "train") from None
    return tuple(f".{suffix}" for suffix in sorted(FigureCanvasBase.get_supported_filetypes()))


def image(x: Tensor, path: str | Path) -> None:
    """Write one image, (C, H, W) in [−1, 1] with C = 1 or 3, in the format of the path's suffix.

    Raises:
        ShapeError: another shape.
    """
    with whole_file(path) as draft:
        _picture(x).save(draft)


def grid(images: Tensor, path: str | Path, *, columns: int | None = None) -> None:
    """Write images, (N, C, H, W) in [−1, 1], as one picture; small ones are enlarged by a whole factor.

    Args:
        images: what is shown, row by row.
        path: where.
        columns: how many in a row; by default about as many as there are rows.

    Raises:
        ShapeError: another shape.
    """
    if images.ndim != 4 or not len(images):
        raise ShapeError(
            f"images have shape {tuple(images.shape)}: give (N, C, H, W) with at least one image"
        )
    wide = columns or math.ceil(math.sqrt(len(images)))
    factor = max(1, SMALL // images.shape[-1])
    height, width = (n * factor for n in images.shape[-2:])
    gap = max(2, width // 16)
    rows = math.ceil(len(images) / wide)
    sheet = _pillow().new("RGB", (wide * (width + gap) + gap, rows * (height + gap) + gap), "white")
    for i, x in enumerate(images):
        picture = _picture(x).resize((width, height), _pillow().Resampling.NEAREST)
        sheet.paste(picture, (gap + i % wide * (width + gap), gap + i // wide * (height + gap)))
    with whole_file(path) as draft:
        sheet.save(draft, **_signed(draft))


def is_grid(path: str | Path) -> bool:
    """Return whether a file is a picture that :func:`grid` wrote."""
    try:
        with _pillow().open(path) as picture:
            return bool(picture.info.get(SIGNED) == "alphabar")
    except (OSError, ValueError):
        return False


def _signed(path: Path) -> dict[str, Any]:
    """Return what has a PNG say that it is from here."""
    if path.suffix.lower() != ".png":
        return {}
    from PIL.PngImagePlugin import PngInfo

    signed = PngInfo()
    signed.add_text(SIGNED, "alphabar")
    return {"pnginfo": signed}


def strip(images: Tensor, captions: Sequence[str], path: str | Path, *, title: str = "") -> None:
    """Write images, (N, C, H, W) in [−1, 1], side by side, each above its caption."""
    height = 2.1 * images.shape[-2] / images.shape[-1] + 0.25 * (
        2 + max(text.count("\n") for text in captions)
    )
    with _figure(path, (2.1 * len(images), height), columns=len(images)) as axes:
        for axis, x, caption in zip(axes, images, captions, strict=True):
            picture = _picture(x)
            axis.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
            axis.spines[:].set_visible(False)
            axis.set_xlabel(caption, linespacing=1.5)
        if title:
            axes[0].figure.suptitle(title)


def animation(images: Iterable[Tensor], path: str | Path, *, milliseconds: int = 80) -> None:
    """Write images, each (C, H, W) in [−1, 1], as a GIF that lingers on the last one and starts again."""
    frames = [_picture(x) for x in images]
    factor = max(1, 4 * SMALL // frames[0].width)
    frames = [frame.resize((frame.width * factor, frame.height * factor), 0) for frame in frames]
    with whole_file(path) as draft:
        times = [milliseconds] * (len(frames) - 1) + [20 * milliseconds]
        frames[0].save(draft, save_all=True, append_images=frames[1:], duration=times, loop=0)


def schedule_curves(schedules: Mapping[str, NoiseSchedule], path: str | Path) -> None:
    """Write β, ᾱ and the log-SNR of schedules against t/T, side by side."""
    panels: tuple[tuple[str, str, Callable[[NoiseSchedule], Tensor]], ...] = (
        (r"$\beta_t$", "log", lambda schedule: schedule.beta),
        (r"$\bar\alpha_t$", "linear", lambda schedule: schedule.alpha_bar),
        ("log-SNR", "linear", lambda schedule: schedule.log_snr),
    )
    with _figure(path, (12, 3.6), columns=3) as axes:
        for axis, (title, scale, curve) in zip(axes, panels, strict=True):
            for name, schedule in schedules.items():
                share = [t / max(1, len(schedule) - 1) for t in range(len(schedule))]
                axis.plot(share, curve(schedule).tolist(), label=name)
            axis.set(title=title, xlabel="t / (T − 1)", yscale=scale)
        axes[1].legend(frameon=False)


def error_curves(curves: Mapping[str, Sequence[tuple[int, float]]], path: str | Path) -> None:
    """Write each solver's (evaluations, error) as a curve, both axes logarithmic."""
    markers = "osD^v<>ph*"
    with _figure(path, (8, 5), columns=1) as axes:
        for i, (name, points) in enumerate(curves.items()):
            marker = markers[i // 10 % len(markers)]  # colours repeat after ten
            axes[0].plot(*zip(*points, strict=True), label=name, marker=marker, markersize=4, linewidth=1.2)
        axes[0].set(xlabel="evaluations of the network", ylabel="error", xscale="log", yscale="log")
        longest = max(map(len, curves.values()))
        whole = (points for points in curves.values() if len(points) == longest)
        counts = [max(n for n, _ in column) for column in zip(*whole, strict=True)]
        axes[0].set_xticks(counts, labels=map(str, counts))
        axes[0].set_xticks([], minor=True)
        axes[0].legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))


def quality_curves(
    curves: Mapping[str, Sequence[tuple[int, float, Interval]]], real: tuple[float, float], path: str | Path
) -> None:
    """Write Fréchet distances with intervals against evaluations, and against time.

    Args:
        curves: (evaluations, seconds, distance) of each sampler by name.
        real: the interval of real images.
        path: where.
    """
    with _figure(path, (11, 4.2), columns=2) as axes:
        for name, points in curves.items():
            distances = [distance for _, _, distance in points]
            values = [distance.value for distance in distances]
            errors = [distance.half_width for distance in distances]
            costs_of = zip(*((count, 1000 * seconds) for count, seconds, _ in points), strict=True)
            for axis, costs in zip(axes, costs_of, strict=True):
                axis.errorbar(costs, values, errors, label=name, marker="o", markersize=4, capsize=2)
        for axis, cost in zip(axes, ("evaluations of the network", "milliseconds a sample"), strict=True):
            axis.axhspan(max(real[0], 0), real[1], alpha=0.15, color="black", label="real images")
            axis.set(xlabel=cost, ylabel="Fréchet distance", xscale="log", yscale="log")
            axis.xaxis.set_minor_formatter("{x:g}")
            axis.xaxis.set_major_formatter("{x:g}")
        counts = sorted({count for points in curves.values() for count, _, _ in points})
        axes[0].set_xticks(counts, labels=map(str, counts))
        axes[0].set_xticks([], minor=True)
        axes[1].legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))


def loss_curve(losses: Mapping[int, float], path: str | Path) -> None:
    """Write the training loss against the step: as it is faintly, and its moving average."""
    with _figure(path, (6, 3.2), columns=1) as axes:
        steps, values, smooth = list(losses), list(losses.values()), []
        mean, weight = values[0], max(0.05, min(1, 20 / len(values)))
        for loss in values:
            mean += weight * (loss - mean)
            smooth.append(mean)
        axes[0].plot(steps, values, alpha=0.25, linewidth=0.8)
        axes[0].plot(steps, smooth, color="C0")
        axes[0].set(xlabel="step", ylabel="loss", yscale="log")


def _picture(x: Tensor) -> Any:
    if x.ndim != 3 or x.shape[0] not in (1, 3):
        raise ShapeError(f"an image has shape {tuple(x.shape)}: give (C, H, W) with C = 1 or 3")
    pixels = to_uint8(x.detach().float().cpu()).permute(1, 2, 0).numpy()
    return _pillow().fromarray(pixels if x.shape[0] == 3 else pixels[..., 0])


@contextmanager
def _figure(path: str | Path, size: tuple[float, float], columns: int) -> Iterator[Any]:
    # Figures of our own, not pyplot's: no global state, and no window system is asked for.
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("a plot", "train") from None
    with rc_context(STYLE), whole_file(path) as draft:
        figure = Figure(figsize=size, layout="constrained")
        yield figure.subplots(1, columns, squeeze=False)[0]
        figure.savefig(draft, bbox_inches="tight")  # captions of several lines outgrow the layout


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError:
        raise MissingExtraError("a picture", "train") from None
    return Image
