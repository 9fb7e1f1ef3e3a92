"""The commands that take a trained network: sample, edit, inpaint, interpolate.

Like every command of ``cli.py``, each is a dataclass: its fields are the arguments, calling it does the work.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
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
from alphabar.cli._conditions import Told, digests
from alphabar.cli._decoding import decoder
from alphabar.cli._forms import FORMS, form_of
from alphabar.cli._opening import Opening
from alphabar.cli._samples import Settings, Source, check_place, delay_of, draw, processes
from alphabar.cli.encoding import write_drawn
from alphabar.cli.fitting import digest_of, own_table, place_of
from alphabar.denoise import Denoise
from alphabar.denoise.conditions import rows_of
from alphabar.denoise.precision import PRECISIONS, precision_on
from alphabar.errors import ConfigError, look_up
from alphabar.samplers import (
    REGISTRY,
    Sampler,
    image_to_image,
    inpaint,
    interpolate,
    sample,
    sampler_names,
)
from alphabar.samplers.cores import on_each_core
from alphabar.samplers.loop import ChainOptions
from alphabar.schedule import SPACINGS
from alphabar.training import Checkpoint, read_image, to_unit

__all__ = ["Chain", "Edit", "Inpaint", "Interpolate", "Sample", "Sampled"]


@dataclass(frozen=True, kw_only=True)
class _Run(Opening):
    run: Positional[str]
    """A folder that ``alphabar train`` or diffusers wrote, or the name of a pipeline on the hub."""
    steps: int = 50
    """Evaluations of the network for each sample, 1 … T."""
    guidance: float = 1.0
    """How much the label counts: 1 as trained, more for clearer and less varied pictures."""


@dataclass(frozen=True, kw_only=True)
class _FromRun(_Run, Told):
    precision: str = one_of(PRECISIONS, "auto")
    """Of the network's arithmetic; auto is bfloat16 where the processor has it. The rest is in float32."""
    compile: bool = False
    """Compile the network, which takes minutes: then steps are faster, on a GPU by CUDA graphs."""

    def _loaded(self) -> Checkpoint:
        return self._ready(self.opened(self.run))

    def _ready(self, loaded: Checkpoint) -> Checkpoint:
        network: Any = loaded.network.to(device())
        if self.compile:
            # A graph writes its answer over the last one, which the loop has read by then.
            network = torch.compile(network, mode="reduce-overhead")
        return replace(loaded, network=network)

    def _denoiser(self, loaded: Checkpoint, labels: Tensor | None, told: Mapping[str, Tensor]) -> Denoise:
        there = None if labels is None else labels.to(device())
        return loaded.guided(there, self.guidance, conditions=told, precision=self.precision)


@dataclass(frozen=True, kw_only=True)
class Chain(_Run):
    """A run and a sampler for it."""

    sampler: Annotated[str, arg(help=f"{sampler_names()}.")] = "ddim"
    spacing: str | None = one_of(SPACINGS, None)
    """Which t it visits; by default as suits it."""

    def _sampler(self, loaded: Checkpoint) -> Sampler:
        """Return what the name stands for: of ``fitted`` first a table that was fitted to the run, if any."""
        entry = look_up(REGISTRY, self.sampler, "sampler")
        if self._has_own_table:
            return own_table(self.run, loaded, self.steps, self.guidance)
        return entry.with_evaluations(self.steps, self.spacing)

    @property
    def _has_own_table(self) -> bool:
        is_asked = self.sampler == "fitted" and self.spacing is None
        return is_asked and place_of(self.run, self.steps).is_file()


@dataclass(frozen=True, kw_only=True)
class Sampled(Chain, _FromRun):
    """What samples are drawn with."""

    seed: int = 0
    """Sample n of a seed is the same whatever the batch, to the rounding of the network."""


@readable
@dataclass(frozen=True, kw_only=True)
class Sample(Sampled):
    """Draw samples from a trained network: one picture each, and a grid of all."""

    num: int = 64
    """How many."""
    delay: int = 0
    """Rows of the sampler that each token along the first side waits for the one before: a pyramid."""
    label: tuple[str, ...] = ()
    """Classes to draw, in turn, for a class-conditional network; by default all."""
    batch_size: int = 64
    """Samples at a time: what belongs to one batch does not depend on the number of processes."""
    form: str | None = one_of(FORMS, None)
    """What they are written as: pictures, an array for evaluators, or shards for WebDataset; arrays: npy."""
    out: Path | None = None
    """The folder to write, with a grid of the first 64 beside it as OUT.png; by default RUN/samples."""
    replace: bool = False
    """Remove samples of other settings that are there."""
    vae: Path | None = None
    """Of a run on latents, the folder of the VAE that decodes them, if not where the run says."""
    vae_precision: str = one_of(PRECISIONS, "float32")
    """Of the VAE's arithmetic."""
    latents: bool = False
    """Write latents as they are drawn, as a folder that train takes; by default RUN/latents."""

    def __call__(self) -> None:
        """Draw what is missing of the samples, block by block, and write each as soon as it is there."""
        check_count(num=self.num, batch_size=self.batch_size)
        check_seed(self.seed)
        run = Path(self.run if Path(self.run).is_dir() else Path(self.run).name)
        out = self.out or run / ("latents" if self.latents else "samples")
        is_main = processes().is_main_process  # which also chooses this process's device
        found = self.opened(self.run, takes_all=True)
        _check_batch(found, min(self.num, self.batch_size))
        settings = self.settings(found)
        if is_main and not self.latents:
            copies = 2 if FORMS[settings.form].pack else 1
            each = math.prod(found.shape) * (4 if found.scaling else 1)
            check_place(out, copies * self.num * each)
        sampler = self._sampler(found)
        if is_main and self._has_own_table:
            print(f"sampling by {place_of(self.run, self.steps)}")
        source = self._source(self._ready(found), sampler)
        if self.latents:
            write_drawn(out, found, settings, source)
        else:
            shown = decoder(found.latents, device(), vae=self.vae, precision=self.vae_precision)
            shown = found.scaling.invert if found.scaling else shown
            draw(out, settings, source.shown(shown), replace=self.replace)

    def settings(self, loaded: Checkpoint) -> Settings:
        """Return all that the samples depend on."""
        return Settings(
            run=loaded.digest(),
            sampler=f"fitted {digest_of(self.run, self.steps)}" if self._has_own_table else self.sampler,
            steps=self.steps,
            spacing=self.spacing,
            guidance=self.guidance,
            classes=list(self.label or loaded.classes),
            conditions=digests(self.told(loaded)),
            delay=self.delay,
            seed=self.seed,
            precision=precision_on(device(), self.precision),
            compile=self.compile,
            vae=f"{loaded.latents['sha256']} {self.vae_precision}" if loaded.latents else "",
            num=self.num,
            batch_size=self.batch_size,
            form=form_of(self.form, is_array=loaded.scaling is not None),
        )

    def _source(self, loaded: Checkpoint, sampler: Sampler) -> Source:
        """Return how blocks are drawn, after the settings were tried on one label and on the schedule."""

        def labels(block: range) -> Tensor | None:
            return loaded.labels(len(block), self.label, first=block.start)

        told = self.told(loaded)
        self._denoiser(loaded, labels(range(1)), rows_of(told, range(1), device()))
        delay = delay_of(loaded, self.delay, sampler.plan(loaded.schedule))

        def images(block: range) -> Tensor:
            denoiser = self._denoiser(loaded, labels(block), rows_of(told, block, device()))
            shape, first = (len(block), *loaded.shape), block.start
            options: ChainOptions = {"seed": self.seed, "first": first, "delay": delay, "device": device()}
            return sample(denoiser, shape, sampler, progress=False, **options)

        drawn = images if self.compile else on_each_core(images, device())
        return Source(drawn, labels, lambda block: rows_of(told, block))


def _check_batch(loaded: Checkpoint, batch: int) -> None:
    size = "×".join(map(str, loaded.shape))
    check_memory(
        batch * 4 * math.prod(loaded.shape), f"a batch of {batch} samples of {size} (--batch-size, --num)"
    )


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
        told = rows_of(self.told(loaded), range(count), device())
        if self.label is None and loaded.classes:
            return self._denoiser(loaded, torch.full((count,), len(loaded.classes)), told)
        return self._denoiser(loaded, loaded.labels(count, () if self.label is None else (self.label,)), told)


@readable
@dataclass(frozen=True, kw_only=True)
class Edit(_Edited, Sampled):
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
        found = self.opened(self.run)
        sampler, loaded = self._sampler(found), self._ready(found)
        _check_batch(loaded, self.num)
        x_0 = self._pictures(loaded, self.image, self.num)
        t = len(loaded.schedule) // 2 if self.t is None else self.t
        made = image_to_image(self._labelled(loaded, self.num), x_0, sampler, t, seed=self.seed)
        _strip([("given", x_0[0]), *((f"t = {t}, #{i}", x) for i, x in enumerate(made))], self.out)


@readable
@dataclass(frozen=True, kw_only=True)
class Inpaint(_Edited, Sampled):
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
        found = self.opened(self.run)
        sampler, loaded = self._sampler(found), self._ready(found)
        _check_batch(loaded, self.num)
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
        *_, height, width = loaded.shape
        return to_unit(read_image(self.mask, size=(height, width), channels=1))


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
        _check_batch(loaded, self.num)
        x_a, x_b = (self._pictures(loaded, path, 1) for path in (self.image_a, self.image_b))
        weights = [i / (self.num - 1) for i in range(self.num)]
        made = interpolate(self._labelled(loaded, 1), x_a, x_b, weights, self.steps)[:, 0]
        _strip([(f"{weight:.2f}", x) for weight, x in zip(weights, made, strict=True)], self.out)


def _strip(shown: list[tuple[str, Tensor]], out: Path) -> None:
    captions, images = zip(*shown, strict=True)
    plots.strip(torch.stack(images).cpu(), captions, out)
    wrote(out)
