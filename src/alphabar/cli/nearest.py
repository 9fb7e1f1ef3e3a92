"""The part of a report that says how near the samples of a run are to the images it was trained on."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

import torch

from alphabar.cli import plots
from alphabar.cli._forms import picture_name
from alphabar.cli.watching import SAMPLES
from alphabar.errors import AlphabarError
from alphabar.evaluation import Nearest, nearest_images
from alphabar.explorer.svg import Curve, plot
from alphabar.training import ImageData, TrainConfig, read_image, to_unit, training_data

__all__ = ["nearest_part", "samples_of"]

MOST = 1000  # samples that are compared
SHOWN = 8  # pairs


def nearest_part(run: Path, settings: Mapping[str, Any], data: str | None = None) -> str:
    """Return it as HTML; where the samples or the data are not there, why.

    Args:
        run: the folder of a run, with what ``alphabar sample`` drew.
        settings: of the run, as the log holds them.
        data: what it was trained on, where that is not what the settings say.
    """
    paths = samples_of(run)
    if not paths:
        return "<p>No pictures to compare: draw some by <code>alphabar sample</code>, and report again.</p>"
    try:
        config = TrainConfig.from_record(settings)
        training = training_data(replace(config, data=data or config.data))
        channels, *size = training.shape
        read = [read_image(path, size=(size[0], size[1]), channels=channels) for path in paths]
        samples = ImageData(torch.stack(read))
        return _shown(nearest_images(samples, training), samples, training)
    except (AlphabarError, OSError) as error:
        return f"<p>They cannot be compared: {escape(str(error))}</p>"


def samples_of(run: Path) -> list[Path]:
    """Return the pictures that ``alphabar sample`` wrote into a run, at most 1000."""
    names = (run / SAMPLES / picture_name(number) for number in range(MOST))
    return [path for path in names if path.is_file()]


def _shown(found: Nearest, samples: ImageData, training: ImageData) -> str:
    count, median, real = len(samples), float(found.samples.median()), float(found.real.median())
    said = (
        f"Of {len(found.real):,} training images the nearest is {median:.3g} from a sample (the median of "
        f"{count}; root mean square of pixels in −1 … 1) and {real:.3g} from a real image that was not "
        f"trained on. Nearer than {found.threshold:.3g} is 1 % of the real images, and of the samples "
        f"{found.copies}, {found.copies / count:.1%}: where that is many more, they are copies."
    )
    curves = [_distribution("samples", found.samples, 0), _distribution("real images", found.real, 1)]
    title, x_label = "Share of the images as near as this", "distance to the nearest training image"
    nearest = found.samples.argsort()[:SHOWN].tolist()
    pairs = torch.cat([samples[nearest].images, training[found.numbers[nearest].tolist()].images])
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder, "nearest.png")
        plots.grid(to_unit(pairs), picture, columns=len(nearest))
        encoded = base64.b64encode(picture.read_bytes()).decode()
    alt = "the samples nearest to a training image, each above it"
    drawn = plot(curves, title=title, alt=said, x_label=x_label)
    return (
        f'<p class="intro">{said}</p><div class="plots">{drawn}</div><figure class="pairs"><img '
        f'src="data:image/png;base64,{encoded}" alt="{alt}"><figcaption>{alt}</figcaption></figure>'
    )


def _distribution(label: str, distances: torch.Tensor, colour: int) -> Curve:
    ordered = distances.sort().values
    return Curve(label, ordered, (torch.arange(len(ordered)) + 1) / len(ordered), colour)
