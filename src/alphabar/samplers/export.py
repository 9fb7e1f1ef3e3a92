"""A whole chain as one file: network, table and loop, to run where this library is not installed.

    out.pt2     torch.export.load(path).module()(x_t=z)
    out.onnx    onnxruntime.InferenceSession(path).run(None, {"x_t": z})

The loop is unrolled: a graph of n copies of the network's operations, with one set of weights. Its inputs are

    x_t       (B, C, …) float32, standard normal: where the chain starts
    noise     (R, B, C, …) float32, standard normal: for the R steps that add noise, in their order
    labels    (B,) int64, of a denoiser with labels

the last two where they are needed, and its output is the sample, (B, C, …) float32. Coefficients are
constants, and sums are made in float64, as everywhere.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from alphabar.checks import check_count
from alphabar.denoise import ClassifierGuided, Denoise, Denoiser
from alphabar.errors import ConfigError, DtypeError, MissingExtraError, look_up
from alphabar.samplers.loop import Start, chain, planned, sample
from alphabar.samplers.plan import Plan, Sampler

__all__ = ["FORMATS", "Exported", "export_chain"]

Batches = dict[str, dict[int, str]]
"""Which dimension of each input is the batch, where any will do, as ``torch.onnx`` names them."""

HINT = 2  # samples in the batch that a graph for any batch is traced with
LARGEST = 2**31 - 1  # bytes of an ONNX file


@dataclass(frozen=True)
class Exported:
    """What was written."""

    path: Path
    inputs: dict[str, tuple[int | str, ...]]
    """The shapes of its inputs by name; ``"batch"`` stands for a batch of any size."""
    largest: float
    """The largest batch that it was traced for: what a network does from a batch of some size on, such as
    ordering its memory otherwise, is not in the graph. Infinite for any."""


def export_chain(
    denoiser: Denoise,
    shape: Sequence[int],
    sampler: Sampler,
    path: str | Path,
    *,
    batch: int | None = None,
) -> Exported:
    """Write the chain of a sampler, network included, as a file that torch or ONNX Runtime runs by itself.

    Fed with the noise that :func:`alphabar.sample` draws, it returns what that returns, to float32 rounding.

    Args:
        denoiser: a :class:`~alphabar.Denoiser` of a float32 ``torch.nn.Module``, as it is or guided without a
            classifier, or clipped. If it has labels, labels become an input.
        shape: (C, …) of one sample.
        sampler: what makes the plan.
        path: ends in ``.pt2``, for ``torch.export.load``, or in ``.onnx``; a file that is there is replaced.
        batch: B; by default any.

    Raises:
        UnknownNameError: another ending.
        ConfigError: a denoiser with conditions; a network that torch cannot trace, or not for any batch;
            guidance by a classifier; an operator that ONNX does not have, such as that of DynamicThreshold,
            or more weights than its files hold.
        CheckpointError: a place that cannot be written.
        MissingExtraError: onnxscript is not installed, or torch is older than 2.7.
        AlphabarError: as :func:`alphabar.sample`.
    """
    from alphabar.denoise.files import check_writable, whole_file  # loaded by those who write

    place = Path(path)
    form = look_up(FORMATS, place.suffix.lower(), "ending")
    if place.is_dir():
        raise ConfigError(f"out is {str(place)!r}, a folder: give the name of a file, such as chain.onnx")
    check_count(**{f"shape[{i}]": n for i, n in enumerate(shape)}, batch=HINT if batch is None else batch)
    if not hasattr(torch.compiler, "is_exporting"):
        raise MissingExtraError("exporting a chain", package="'torch>=2.7'")
    made = _Unrolled(denoiser, planned(denoiser, sampler))
    form.check(made.size)
    check_writable(place.parent, made.size)
    given = made.example(HINT if batch is None else batch, shape)
    batches = {name: {int(name == "noise"): "batch"} for name in given} if batch is None else {}
    program = _traced(made, given, batches)
    with whole_file(place) as draft:
        form.write(program, draft, batches)
    inputs = {
        name: tuple(batches.get(name, {}).get(axis, n) for axis, n in enumerate(tensor.shape))
        for name, tensor in given.items()
    }
    bounds = [float(each.upper) for each in program.range_constraints.values()]
    return Exported(place, inputs, batch or min([math.inf, *bounds]))


class _Unrolled(nn.Module):
    """A chain as a function of its noise."""

    def __init__(self, denoiser: Denoise, plan: Plan) -> None:
        super().__init__()
        inner = _inner(denoiser)
        if not isinstance(inner.network, nn.Module):
            raise DtypeError(
                f"the network is a {type(inner.network).__name__}: to be exported it must be a "
                "torch.nn.Module, whose parameters go into the file"
            )
        if inner.conditions:
            raise ConfigError(
                f"the denoiser is told {', '.join(inner.conditions)}, and an exported chain takes noise and "
                "labels only: export one without conditions"
            )
        self.network, self.has_labels = inner.network, inner.labels is not None
        self.denoiser, self.plan = _rebuilt(denoiser, precision="float32"), plan
        self.random = [step for step, row in enumerate(plan.rows, 1) if row.is_random]

    @property
    def size(self) -> int:
        """Bytes of the weights."""
        tensors = *self.network.parameters(), *self.network.buffers()
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def example(self, batch: int, shape: Sequence[int]) -> dict[str, Tensor]:
        """Return inputs of a batch, after the chain was run on them: what does not fit is an error here."""
        device = next((each.device for each in self.network.parameters()), torch.device("cpu"))
        labels = torch.zeros(batch, dtype=torch.int64, device=device)
        denoiser = _rebuilt(self.denoiser, labels=labels) if self.has_labels else self.denoiser
        sample(denoiser, (batch, *shape), self.plan, seed=0, device=device, progress=False)
        given = {"x_t": torch.zeros(batch, *shape, device=device)}
        if self.random:
            given["noise"] = torch.zeros(len(self.random), batch, *shape, device=device)
        return given | ({"labels": labels} if self.has_labels else {})

    def forward(self, x_t: Tensor, noise: Tensor | None = None, labels: Tensor | None = None) -> Tensor:
        """Return samples, (B, C, …)."""
        given = dict(zip(self.random, () if noise is None else noise.unbind(), strict=True))
        denoiser = self.denoiser if labels is None else _rebuilt(self.denoiser, labels=labels)
        *_, last = chain(denoiser, self.plan, Start(x_t, given.__getitem__))
        return last.x_t


def _inner(denoiser: Denoise) -> Denoiser:
    """Return the denoiser that holds the network, inside all guidance.

    Raises:
        ConfigError: there is none, or guidance that takes derivatives.
    """
    inside: Any = denoiser
    while not isinstance(inside, Denoiser):
        if not hasattr(inside, "denoiser") or isinstance(inside, ClassifierGuided):
            raise ConfigError(
                f"a {type(inside).__name__} cannot be exported: give a Denoiser, or one inside "
                "ClassifierFree, Clipped or DynamicThreshold"
            )
        inside = inside.denoiser
    return inside


def _rebuilt(denoiser: Any, **changes: Any) -> Denoise:
    """Return guidance as it is around another innermost denoiser."""
    if isinstance(denoiser, Denoiser):
        return replace(denoiser, **changes)
    rebuilt: Denoise = replace(denoiser, denoiser=_rebuilt(denoiser.denoiser, **changes))
    return rebuilt


def _traced(made: _Unrolled, given: dict[str, Tensor], batches: Batches) -> Any:
    """Return the graph of a chain, an ``ExportedProgram``.

    Raises:
        ConfigError: with what torch says of it.
    """
    dynamic = {name: dict.fromkeys(axes, torch.export.Dim.DYNAMIC) for name, axes in batches.items()}
    remedy = ": for a batch of one size it may be possible, give batch" if batches else ""
    with torch.no_grad(), _named("torch.export cannot trace this network", remedy):
        return torch.export.export(made, (), given, dynamic_shapes=dynamic or None, strict=False)


@contextmanager
def _named(what: str, remedy: str) -> Iterator[None]:
    """Make a ConfigError of whatever the block raises, which depends on the operators of a network."""
    try:
        yield
    except Exception as error:
        first = error
        while isinstance(first.__cause__, Exception):
            first = first.__cause__
        told = next((line for line in str(first).splitlines() if line.strip()), type(first).__name__)
        raise ConfigError(f"{what}: {told}{remedy}") from error


class Format(NamedTuple):
    """A kind of file."""

    check: Callable[[int], object]
    """Refuses what cannot be written, given the bytes of the weights."""
    write: Callable[[Any, Path, Batches], object]
    """Writes a graph."""


def _check_onnx(size: int) -> None:
    if find_spec("onnxscript") is None:  # which torch.onnx imports
        raise MissingExtraError("an .onnx file", "export")
    if size > LARGEST:
        raise ConfigError(
            f"an .onnx file holds 2 GiB, and the weights are {size / 2**30:.1f} GiB: choose the ending .pt2"
        )


def _write_onnx(program: Any, path: Path, batches: Batches) -> None:
    with _unheard(), _named("torch.onnx cannot write this chain", ": choose the ending .pt2"):
        torch.onnx.export(
            *(program, (), path),
            output_names=["x_0"],
            dynamic_shapes=batches or None,
            external_data=False,
            dynamo=True,
            verbose=False,
        )


@contextmanager
def _unheard() -> Iterator[None]:
    """Within the block, keep back what torch.onnx says of torchvision and of axes that share a name."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


FORMATS = {
    ".pt2": Format(lambda size: None, lambda program, path, batches: torch.export.save(program, path)),
    ".onnx": Format(_check_onnx, _write_onnx),
}
"""What writes a graph, by the ending of the file."""
