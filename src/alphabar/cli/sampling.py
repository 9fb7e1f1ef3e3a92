"""The commands that take a trained network: sample, edit, inpaint, interpolate.

Like every command of ``cli.py``, each is a dataclass: its fields are the arguments, calling it does the work.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor
from tyro.conf import Positional, arg

from alphabar.checks import check_count
from alphabar.cli import plots
from alphabar.cli._arguments import (
    check_memory,
    check_picture,
    check_seed,
    device,
    one_of,
    readable,
    wrote,
)
from alphabar.denoise import Denoise
from alphabar.denoise.files import check_free, check_writable, replaced_files
from alphabar.denoise.pretrained import is_pipeline
from alphabar.errors import ConfigError, look_up
from alphabar.samplers import (
    REGISTRY,
    Sampler,
    image_to_image,
    inpaint,
    interpolate,
    sample,
    sampler_names,
    track,
)
from alphabar.schedule import SPACINGS
from alphabar.training import Checkpoint, checkpoint, read_image, to_unit

SAMPLES = "samples.json"  # lists the pictures of a folder of samples

__all__ = ["Edit", "Inpaint", "Interpolate", "Sample"]


@dataclass(frozen=True, kw_only=True)
class _FromRun:
    run: Positional[str]
    """A folder that ``alphabar train`` or diffusers wrote, or the name of a pipeline on the hub."""
    steps: int = 50
    """Evaluations of the network for each sample, 1 … T."""
    guidance: float = 1.0
    """How much the label counts: 1 as trained, more for clearer and less varied pictures."""
    compile: bool = False
    """Compile the network, which takes minutes: then steps are faster, on a GPU by CUDA graphs."""

    def _loaded(self) -> Checkpoint:
        loaded = checkpoint.load(self.run)
        network: Any = loaded.network.to(device())
        if self.compile:
            # A graph writes its answer over the last one, which the loop has read by then.
            network = torch.compile(network, mode="reduce-overhead")
        return replace(loaded, network=network)

    def _denoiser(self, loaded: Checkpoint, labels: Tensor | None) -> Denoise:
        return loaded.guided(None if labels is None else labels.to(device()), self.guidance)


@dataclass(frozen=True, kw_only=True)
class _Sampled(_FromRun):
    sampler: Annotated[str, arg(help=f"{sampler_names()}.")] = "ddim"
    spacing: str | None = one_of(SPACINGS, None)
    """Which t it visits; by default as suits it."""
    seed: int = 0
    """Sample n of a seed is the same whatever the batch."""

    def _sampler(self) -> Sampler:
        return look_up(REGISTRY, self.sampler, "sampler").with_evaluations(self.steps, self.spacing)


@readable
@dataclass(frozen=True, kw_only=True)
class Sample(_Sampled):
    """Draw samples from a trained network: one picture each, and a grid of all."""

    num: int = 64
    """How many."""
    label: tuple[str, ...] = ()
    """Classes to draw, in turn, for a class-conditional network; by default all."""
    batch_size: int = 64
    """Samples at a time."""
    out: Path | None = None
    """The folder to write, with the grid beside it as OUT.png; by default RUN/samples."""

    def __call__(self) -> None:
        """Sample in batches and write the pictures."""
        check_count(num=self.num, batch_size=self.batch_size)
        check_seed(self.seed)
        out = self.out or Path(self.run if Path(self.run).is_dir() else Path(self.run).name, "samples")
        loaded, sampler = self._loaded(), self._sampler()
        _check_batch(loaded, min(self.num, self.batch_size), self.num)
        grid = _check_place(out, self.num)
        labels = loaded.labels(self.num, self.label)
        batches = []
        for first in track(range(0, self.num, self.batch_size), -(-self.num // self.batch_size), "sampling"):
            part = slice(first, min(first + self.batch_size, self.num))
            denoiser = self._denoiser(loaded, None if labels is None else labels[part])
            shape = (part.stop - first, *loaded.shape)
            batches.append(
                sample(denoiser, shape, sampler, seed=self.seed, first=first, device=device(), progress=False)
            )
        images = torch.cat(batches).cpu()
        with replaced_files(out, SAMPLES) as draft:
            for i, x in enumerate(images):
                plots.image(x, draft / f"{i:05}.png")
        plots.grid(images, grid)
        wrote(grid)
        wrote(out, f"{len(images)} pictures")


def _check_place(out: Path, num: int) -> Path:
    """Return where the grid goes; refuse places that hold something else, or cannot be written.

    Raises:
        ConfigError: a run, or a picture that is not from here where the grid goes.
        CheckpointError: pictures that are not from here, or a folder that cannot be written to.
    """
    grid = out.with_name(f"{out.name}.png")
    if is_pipeline(out):
        raise ConfigError(f"out is {out}, which is a run: choose a folder of its own")
    if grid.exists() and not plots.is_grid(grid):
        raise ConfigError(f"{grid} is there, and is no grid of samples: move it, or choose another out")
    there = (path for path in out.glob("*.png") if re.fullmatch(r"\d{5,}", path.stem))
    check_free(out, [path.name for path in there if int(path.stem) < num], SAMPLES)
    check_writable(out)
    return grid


def _check_batch(loaded: Checkpoint, batch: int, count: int) -> None:
    channels, height, width = loaded.shape
    each = channels * height * width
    check_memory(count * each, f"{count} images of {height}×{width} (--num)")
    check_memory(4 * batch * each, f"a batch of {batch} images of {height}×{width} (--batch-size)")


@dataclass(frozen=True, kw_only=True)
class _Edited(_FromRun):
    label: str | None = None
    """The class to make of it, for a class-conditional network; by default none."""

    def _pictures(self, loaded: Checkpoint, path: Path, count: int) -> Tensor:
        channels, height, width = loaded.shape
        x_0 = to_unit(read_image(path, size=(height, width), channels=channels))
        return x_0.expand(count, *x_0.shape).to(device())

    def _labelled(self, loaded: Checkpoint, count: int) -> Denoise:
        if self.label is None and self.guidance != 1 and loaded.classes:
            raise ConfigError(f"guidance is {self.guidance}, but towards which class? Add --label")
        if self.label is None and loaded.classes:
            return self._denoiser(loaded, torch.full((count,), len(loaded.classes)))
        return self._denoiser(loaded, loaded.labels(count, () if self.label is None else (self.label,)))


@readable
@dataclass(frozen=True, kw_only=True)
class Edit(_Edited, _Sampled):
    """Make a picture anew from a noisy version of it: image to image (SDEdit)."""

    image: Positional[Path]
    """The picture to start from."""
    t: int | None = None
    """How far it is noised, 0 … T−1: the further, the freer; by default half of T."""
    num: int = 7
    """How many to make."""
    out: Path = Path("edit.png")
    """Where to write; the picture itself comes first."""

    def __call__(self) -> None:
        """Write the picture and what was made of it, side by side."""
        check_count(num=self.num)
        check_seed(self.seed)
        check_picture(self.out, self.image)
        loaded, sampler = self._loaded(), self._sampler()
        _check_batch(loaded, self.num, self.num)
        x_0 = self._pictures(loaded, self.image, self.num)
        t = len(loaded.schedule) // 2 if self.t is None else self.t
        made = image_to_image(self._labelled(loaded, self.num), x_0, sampler, t, seed=self.seed)
        _strip([("given", x_0[0]), *((f"t = {t}, #{i}", x) for i, x in enumerate(made))], self.out)


@readable
@dataclass(frozen=True, kw_only=True)
class Inpaint(_Edited, _Sampled):
    """Make anew what a mask leaves open, and keep the rest of a picture to the pixel (RePaint)."""

    image: Positional[Path]
    """The picture."""
    mask: Positional[Path]
    """A picture of the same form: white stays, black is made anew."""
    sampler: Annotated[
        str,
        arg(help=f"{sampler_names(remembering=False)}: one that remembers no earlier estimate."),
    ] = "ddpm"
    resamples: int = 5
    """How often each stretch is gone through, to harmonise the known and the generated part."""
    jump: int = 1
    """Steps in a stretch."""
    num: int = 6
    """How many to make."""
    out: Path = Path("inpaint.png")
    """Where to write; the picture and what was kept of it come first."""

    def __call__(self) -> None:
        """Write the picture, what is known of it, and what was made, side by side."""
        check_count(num=self.num)
        check_seed(self.seed)
        check_picture(self.out, self.image, self.mask)
        loaded, sampler = self._loaded(), self._sampler()
        _check_batch(loaded, self.num, self.num)
        x_0 = self._pictures(loaded, self.image, self.num)
        keep = self._mask(loaded).to(x_0) > 0
        made = inpaint(
            self._labelled(loaded, self.num),
            x_0,
            keep,
            sampler,
            resamples=self.resamples,
            jump=self.jump,
            seed=self.seed,
        )
        known = torch.where(keep, x_0[0], 0.0)
        _strip([("given", x_0[0]), ("kept", known), *((f"#{i}", x) for i, x in enumerate(made))], self.out)

    def _mask(self, loaded: Checkpoint) -> Tensor:
        (*_, height, width), (*_, rows, columns) = read_image(self.image).shape, read_image(self.mask).shape
        if height * columns != width * rows:
            raise ConfigError(
                f"the mask has {rows}×{columns} pixels, the picture {height}×{width}: give one of its form"
            )
        return to_unit(read_image(self.mask, size=loaded.shape[1:], channels=1))


@readable
@dataclass(frozen=True, kw_only=True)
class Interpolate(_Edited):
    """Walk from one picture to another through the noise they come from (DDIM inversion)."""

    image_a: Positional[Path]
    """Where to start."""
    image_b: Positional[Path]
    """Where to end."""
    num: int = 7
    """How many pictures, the ends included, at least 2."""
    out: Path = Path("interpolate.png")
    """Where to write."""

    def __call__(self) -> None:
        """Write the pictures along the way, side by side."""
        if self.num < 2:
            raise ConfigError(f"num is {self.num}: it must be at least 2, the two ends")
        check_picture(self.out, self.image_a, self.image_b)
        loaded = self._loaded()
        _check_batch(loaded, self.num, self.num)
        x_a, x_b = (self._pictures(loaded, path, 1) for path in (self.image_a, self.image_b))
        weights = [i / (self.num - 1) for i in range(self.num)]
        made = interpolate(self._labelled(loaded, 1), x_a, x_b, weights, self.steps)[:, 0]
        _strip([(f"{weight:.2f}", x) for weight, x in zip(weights, made, strict=True)], self.out)


def _strip(shown: list[tuple[str, Tensor]], out: Path) -> None:
    captions, images = zip(*shown, strict=True)
    plots.strip(torch.stack(images).cpu(), captions, out)
    wrote(out)
