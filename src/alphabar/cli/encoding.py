"""``alphabar encode``: the latents of images, or the embeddings of texts, as data that ``train`` takes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from tyro.conf import Positional

from alphabar.checks import check_count
from alphabar.cli._arguments import check_apart, check_seed, device, one_of, readable, wrote
from alphabar.cli._samples import Settings, Source, processes
from alphabar.cli._signals import signals
from alphabar.denoise.files import check_writable
from alphabar.errors import ConfigError, look_up
from alphabar.samplers import track
from alphabar.training import Checkpoint, load_data, to_unit
from alphabar.training.autoencoder import digest, encode, factor, open_vae, scaling
from alphabar.training.latents import PRECISIONS, Description, write
from alphabar.training.text import embed, open_text_encoder, write_embedded

__all__ = ["Encode", "write_drawn"]

PER_FILE = 256  # images, or a whole batch of more
POSTERIORS = {"mean": False, "sample": True}
"""What is written of the distribution that the VAE returns for an image, and whether it is drawn."""


@readable
@dataclass(frozen=True, kw_only=True)
class Encode:
    """Write the latents of images by a VAE, or the embeddings of texts by a text encoder, to train on."""

    data: Positional[str]
    """Images, given as for train; of texts, .parquet files."""
    out: Positional[Path]
    """The folder to write; of texts, a .parquet file. A folder that was not finished is gone on with."""
    vae: Path | None = None
    """The folder of an AutoencoderKL that diffusers wrote, or of a pipeline with one in vae/."""
    text: Path | None = None
    """The folder of a text encoder of transformers and its tokenizer, or of a pipeline with text_encoder/."""
    text_column: str = "caption"
    """The column of the texts, which becomes one of their embeddings."""
    size: int | None = None
    """Height and width of the images; by default as they come."""
    posterior: str = one_of(POSTERIORS, "mean")
    """What is written for an image: the mean of its distribution, or one sample of it."""
    seed: int = 0
    """Of the samples."""
    precision: str = one_of(PRECISIONS, "float32")
    """Of the arithmetic, and of the latents that are written."""
    batch_size: int = 16
    """Images or texts at a time."""
    skip_broken: bool = False
    """Leave out images that cannot be read."""
    image_column: str | None = None
    """Of a table, the column of the images."""
    label_column: str | None = None
    """Of a table, the column of the labels."""

    def __call__(self) -> None:
        """Encode the images or the texts."""
        check_count(batch_size=self.batch_size)
        check_seed(self.seed)
        look_up(PRECISIONS, self.precision, "precision")
        if (self.vae is None) == (self.text is None):
            raise ConfigError("give --vae FOLDER to encode images, or --text FOLDER to encode texts")
        if self.vae is not None:
            self._encode_images(self.vae)
        elif self.text is not None and processes().is_main_process:
            self._encode_texts(self.text)

    def _encode_texts(self, place: Path) -> None:
        """Write a table with the embeddings in place of the texts; errors as of :func:`write_embedded`."""
        if self.out.suffix.lower() != ".parquet" or self.out.exists():
            raise ConfigError(f"out is {str(self.out)!r}: give the name of a new .parquet file")
        check_writable(self.out.parent)
        encoder = open_text_encoder(place, device())

        def made(texts: Sequence[str]) -> Tensor:
            return embed(encoder, texts, self.precision)

        rows, width = write_embedded(self.data, self.out, self.text_column, made, self.batch_size, _bar)
        wrote(self.out, f"{rows} rows, {self.text_column} a vector {width}")

    def _encode_images(self, place: Path) -> None:
        """Encode what is missing, file by file."""
        seed = self.seed if look_up(POSTERIORS, self.posterior, "posterior") else None
        check_apart(self.data, self.out)
        check_writable(self.out)
        processes()  # before whatever else asks for them, since the first call decides how long one waits
        vae = open_vae(place).to(device())
        data = load_data(
            self.data,
            size=self.size,
            channels=vae.config.in_channels,
            skip_broken=self.skip_broken,
            image_column=self.image_column,
            label_column=self.label_column,
        )
        side, step = data.shape[1], factor(vae)
        if side % step:
            raise ConfigError(f"size is {side}: this VAE takes multiples of {step}")

        def make(numbers: range) -> Tensor:
            images = to_unit(data[numbers].images).to(device())
            return encode(vae, images, seed=seed, first=numbers.start, precision=self.precision)

        def labels(numbers: range) -> Tensor | None:
            return None if data.labels is None else data.labels[numbers.start : numbers.stop]

        shift, scale = (each.flatten().tolist() for each in scaling(vae))
        about = Description(
            *(str(place), digest(vae), shift, scale, self.data),
            images=len(data),
            shape=[len(shift), side // step, side // step],
            classes=list(data.classes or ()),
            posterior=self.posterior,
            seed=self.seed,
            precision=self.precision,
            batch_size=self.batch_size,
            per_file=_per_file(self.batch_size),
        )
        _write(self.out, about, make, labels, "encoding")


def _bar(files: Sequence[Any]) -> Iterable[Any]:
    return track(files, len(files), "encoding", every=60.0)


def write_drawn(place: Path, loaded: Checkpoint, settings: Settings, source: Source) -> None:
    """Write the samples of a run on latents as they are drawn.

    Raises:
        ConfigError: a run on images; or the folder holds latents of other settings.
        CheckpointError: it holds something else, or another process writes to it.
    """
    if not loaded.latents:
        raise ConfigError("latents, but this run makes images: leave it out")
    about = Description(
        **loaded.latents,
        of=json.dumps(asdict(settings)),
        images=settings.num,
        shape=list(loaded.shape),
        classes=list(loaded.classes),
        posterior="sample",
        seed=settings.seed,
        precision="float32",
        batch_size=settings.batch_size,
        per_file=_per_file(settings.batch_size),
    )
    _write(place, about, source.images, source.labels, "sampling")


def _per_file(batch_size: int) -> int:
    """Return how many images a file takes, whole batches."""
    return -(-PER_FILE // batch_size) * batch_size


def _write(
    place: Path,
    about: Description,
    make: Callable[[range], Tensor],
    labels: Callable[[range], Tensor | None],
    what: str,
) -> None:
    """Write a folder of latents with a bar; say what was written, or how to go on.

    Arguments and errors as of :func:`alphabar.training.latents.write`; ``what`` is the word before the bar.
    """
    is_main = bool(processes().is_main_process)
    shown = None if is_main else False

    def progress(files: Sequence[Any]) -> Iterable[Any]:
        return track(files, len(files), what, shown=shown, every=60.0)

    with signals("this file") as stopped:
        there = write(place, about, make, labels, progress=progress, stop=stopped)
    if is_main and there < about.images:
        print(f"stopped: {there} of {about.images} are in {place}; the same command goes on")
    elif is_main:
        wrote(place, f"{there} latents of {'×'.join(map(str, about.shape))}, {about.precision}")
