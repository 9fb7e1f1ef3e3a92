"""Samples of a network as a data set in memory, drawn by one process or shared among many."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from alphabar.checks import check_count
from alphabar.denoise import Denoise
from alphabar.denoise.conditions import rows_of
from alphabar.evaluation.evaluating import batches
from alphabar.samplers import Sampler, sample, track
from alphabar.samplers.cores import on_each_core
from alphabar.training import Checkpoint, ImageData, to_uint8
from alphabar.training.engine import share_out, summed

__all__ = ["draw"]


def draw(
    trained: Checkpoint,
    sampler: Sampler,
    num: int,
    *,
    guidance: float = 1.0,
    precision: str = "float32",
    seed: int = 0,
    conditions: Mapping[str, Tensor] | None = None,
    what: str = "sampling",
) -> ImageData:
    """Return samples 0 … num−1 of a seed, with their labels where the network has classes.

    Processes that draw together share the work by the numbers of the samples, 64 at a time, so that the
    samples do not depend on how many they are.

    Args:
        trained: the network, on the device that it computes on.
        sampler: draws them.
        num: how many.
        guidance: how much the label counts; 1 as trained.
        precision: of the network's arithmetic, as of a :class:`~alphabar.Denoiser`.
        seed: of their noise.
        conditions: (n, …) each that the network needs, which the samples go through in turn.
        what: the word before the progress bar.

    Raises:
        ConfigError: num is not positive, or guidance that the network cannot have.
        UnknownNameError: another precision.
    """
    check_count(num=num)
    device = next(trained.network.parameters()).device
    images = torch.zeros(num, *trained.shape, dtype=torch.uint8)

    def drawn(rows: range) -> Tensor:
        labels = trained.labels(len(rows), first=rows.start)
        given = None if labels is None else labels.to(device)
        told = rows_of(conditions or {}, rows, device)
        denoiser: Denoise = trained.guided(given, guidance, conditions=told, precision=precision)
        shape = (len(rows), *trained.shape)
        x = sample(denoiser, shape, sampler, seed=seed, first=rows.start, device=device, progress=False)
        return to_uint8(x).cpu()

    share, main = share_out(batches(num))
    some = on_each_core(drawn, device)
    for rows in track(share, len(share), what, shown=None if main else False, every=60.0):
        images[rows.start : rows.stop] = some(rows)
    return ImageData(summed(images), trained.labels(num), trained.classes or None)
