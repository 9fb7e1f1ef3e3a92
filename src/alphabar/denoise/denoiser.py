"""A denoiser: network + schedule + parameterisation → x̂_0, the network's estimate of the clean sample.

    x̂_0 = p · x_t + q · network(c_in · x_t, time)      p, q, c_in, time of the parameterisation at t

A sampler never calls a network; it asks a denoiser. Whatever changes the answer (guidance, clipping) is a
wrapper of a denoiser and a denoiser itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from alphabar.checks import check_float, require
from alphabar.denoise.conditions import check_finite, codes
from alphabar.denoise.precision import PRECISIONS, autocast
from alphabar.errors import DtypeError, ShapeError, look_up
from alphabar.kernels import lincomb
from alphabar.process import Parameterisation, coefficients_at, named, no_answer
from alphabar.process.conversions import rows_at
from alphabar.schedule import CLEAN, NoiseSchedule

__all__ = ["Denoise", "Denoiser", "Estimate"]


class Estimate(NamedTuple):
    """What a denoiser says at (x_t, t)."""

    x_0: Tensor
    """(B, C, …): x̂_0, in float32 or wider."""
    variance: Tensor | None = None
    """(B, C, …): the second half of the channels of a network that learns its variance, as it came."""


class Denoise(Protocol):
    """What samplers ask for: a callable that knows its schedule."""

    @property
    def schedule(self) -> NoiseSchedule:
        """The schedule that t refers to."""

    def __call__(self, x_t: Tensor, t: float | Tensor) -> Estimate:
        """Estimate x_0 from x_t, (B, C, …), at level t; a tensor is asked for where tokens have their own."""


@dataclass(frozen=True)
class Denoiser:
    """Any ``network(x_t, t)`` as a denoiser.

    >>> schedule = NoiseSchedule.linear()
    >>> denoiser = Denoiser(lambda x_t, t: torch.zeros_like(x_t), schedule, "epsilon")
    >>> denoiser(torch.full((1, 1, 2, 2), 0.5), 0).x_0[0, 0, 0]
    tensor([0.5000, 0.5000])

    Args:
        network: called as ``network(x, time)`` with x (B, C, …) and time (B,), or (B, 1, …) where it is asked
            with a t for each token: for most kinds x_t itself and t, int64, or float32 between the integers;
            for ``"flow"`` and ``"edm"`` x_t times their c_in, and their own time in float32. Returns a
            tensor, or an object whose ``sample`` is one (a diffusers model), of C channels or, with a
            learned variance, 2C.
        schedule: the noise schedule it was trained with.
        prediction: how it is asked and read: ``"epsilon"``, ``"sample"``, ``"v_prediction"``, ``"flow"``,
            ``"edm"``, or a :class:`~alphabar.process.Parameterisation` such as ``edm(sigma_data=1.0)``.
        labels: (B,) class labels, handed on as ``network(x_t, t, class_labels=labels)``.
        precision: of the network's arithmetic: ``"float32"`` runs it as it is, ``"bfloat16"`` under
            ``torch.autocast``, and ``"auto"`` does so where the processor multiplies in bfloat16.
        conditions: (B, …) each, handed on as ``network(x_t, t, name=values)``: of a network that was trained
            here the codes, which :meth:`from_pretrained` and :meth:`alphabar.training.Checkpoint.denoiser`
            make of values in the units of the training data.

    Raises:
        UnknownNameError: another prediction or precision.
        DataError, DtypeError: conditions that are no finite numbers.
    """

    network: Callable[..., Any]
    schedule: NoiseSchedule
    prediction: str | Parameterisation = "epsilon"
    labels: Tensor | None = None
    precision: str = "float32"
    conditions: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    kind: Parameterisation = field(init=False, repr=False, compare=False)
    """How the network is asked and read: the parameterisation that ``prediction`` names."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", named(self.prediction))
        look_up(PRECISIONS, self.precision, "precision")
        if not callable(self.network):
            raise DtypeError(f"network is a {type(self.network).__name__}: pass a callable network(x_t, t)")
        for name, values in self.conditions.items():
            check_finite(name, values)

    @classmethod
    def from_pretrained(
        cls,
        path_or_name: str | Path,
        labels: Tensor | None = None,
        device: str | torch.device | None = None,
        *,
        prediction: str | Parameterisation | None = None,
        network: str | None = None,
        precision: str = "float32",
        conditions: Mapping[str, Tensor] | None = None,
    ) -> Denoiser:
        """Open a run, or a diffusers pipeline of an unconditional or class-conditional network.

        Args:
            path_or_name: a folder with ``unet/`` and ``scheduler/``, or the name of a pipeline on the Hugging
                Face hub such as ``"google/ddpm-cifar10-32"``.
            labels: (B,) class labels, where the network has classes.
            device: where its weights go.
            prediction: in place of the one the folder names, which may be in no table.
            network: consent to run the code of the factory, ``package.module:factory``, that a run asks for.
            precision: of its arithmetic.
            conditions: (B, …) each that the run was trained on, by name, in the units of its training data.

        Raises:
            CheckpointError: no such pipeline, one of another kind, labels or conditions that it does not
                take, or none where it needs them; no consent to the code that it asks for.
            ShapeError, DataError: conditions of another shape, or NaN.
            ConfigError: the factory cannot be imported, or does not build a network.
            UnknownNameError: a prediction, a noise schedule or a precision that is not known.
            MissingExtraError: diffusers is not installed.
        """
        from alphabar.denoise import pretrained  # what reads files is loaded by those who do

        loaded = pretrained.read(path_or_name, prediction=prediction, network=network)
        pretrained.check_labels(loaded.classes, labels)
        there = None if labels is None else labels.to(device)
        told = {name: code.to(device) for name, code in codes(loaded.conditions, conditions).items()}
        return cls(loaded.network.to(device), loaded.schedule, loaded.prediction, there, precision, told)

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write network, schedule and prediction as a folder; of a diffusers model as its pipeline.

        Args:
            folder: where; the files of a checkpoint that is already there are replaced.

        Raises:
            CheckpointError: a network without a diffusers configuration, and of no run; or a place that is
                something else.
            MissingExtraError: diffusers is not installed.
        """
        from alphabar.denoise import pretrained

        described = getattr(self.network, "alphabar", {})
        contents = pretrained.Pretrained(self.network, self.schedule, self.prediction, described)
        return pretrained.write(folder, contents)

    def __call__(self, x_t: Tensor, t: float | Tensor) -> Estimate:
        """Estimate x_0 at level t.

        Args:
            x_t: (B, C, …) noisy data, in the precision of the network.
            t: 0 … T−1, whole (an int) or fractional, one for the whole batch; or a tensor that broadcasts
                against the leading dimensions of x_t, as (B, 1, L) over (B, C, L), which the network takes
                with its first dimension at B. There −1 is allowed: x̂_0 of what is clean is x_t, and the
                network is told t = 0.

        Raises:
            NoAnswerError: ᾱ_t = 0, where ε-prediction and EDM have no answer.
            ShapeError: the network returned another shape, or labels or conditions of another batch.
            TimestepError, DtypeError: t or x_t that do not fit.
        """
        check_float(x_t=x_t)
        self._check_labels(x_t)
        given, time, of_x_0 = (self._asked_each if isinstance(t, Tensor) else self._asked)(x_t, t)
        with autocast(x_t.device, self.precision):
            answer = network_output(self.network, given, time, self.labels, self.conditions)
        output, variance = _halves(answer, x_t, t)
        wide = torch.promote_types(x_t.dtype, torch.float32)
        return Estimate(lincomb(of_x_0, (x_t, output.to(x_t.dtype)), dtype=wide), variance)

    def _asked(self, x_t: Tensor, t: Any) -> tuple[Tensor, Tensor, Sequence[float] | Tensor]:
        """Return what the network takes, its input and its time, and the coefficients of (x_t, output)."""
        numbers = coefficients_at(self.schedule, self.kind, t)
        if not numbers.answers:
            raise no_answer(self.kind, f"t = {t}")
        given = x_t if numbers.input == 1 else lincomb((numbers.input,), (x_t,))
        return given, batch_time(t if math.isnan(numbers.time) else numbers.time, x_t), numbers.x_0

    def _asked_each(self, x_t: Tensor, t: Any) -> tuple[Tensor, Tensor, Sequence[float] | Tensor]:
        """Return the same for a tensor of t."""
        t = t.to(x_t.device)
        where = torch.where(t == CLEAN.t, 0, t)
        of_x_0, scale, time = (
            rows_at(self.schedule, self.kind, which, where, x_t) for which in ("x_0", "input", "time")
        )
        answers = of_x_0.isfinite().all(-1) & scale.isfinite() & ~time.isinf()
        require(answers, "t has an entry without an answer", lambda _: no_answer(self.kind, "an entry of t"))
        of_x_0 = torch.where((t == CLEAN.t)[..., None], of_x_0.new_tensor((1, 0)), of_x_0)
        told = where if self.kind.time is None else time
        told = told.float() if told.is_floating_point() else told.long()
        return lincomb(scale[..., None], (x_t,)), told.expand(len(x_t), *t.shape[1:]), of_x_0

    def _check_labels(self, x_t: Tensor) -> None:
        labels = {} if self.labels is None else {"labels": self.labels}
        for name, values in {**labels, **self.conditions}.items():
            if values.shape[:1] != x_t.shape[:1]:
                raise ShapeError(
                    f"{name} have shape {tuple(values.shape)}, x_t {tuple(x_t.shape)}: give one a sample"
                )


def batch_time(t: float, x_t: Tensor) -> Tensor:
    """Return a time as networks take it: (B,), one a sample, int64 or float32 as it is an int or a float."""
    return torch.full(x_t.shape[:1], t, device=x_t.device)


def network_output(
    network: Callable[..., Any],
    x_t: Tensor,
    t: Tensor,
    labels: Tensor | None,
    conditions: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """Return the output of the network: a tensor, or the ``sample`` of what a diffusers model returns."""
    labelled = {} if labels is None else {"class_labels": labels}
    returned = network(x_t, t, **labelled, **(conditions or {}))
    output: Tensor = returned if isinstance(returned, Tensor) else getattr(returned, "sample", returned)
    check_float(**{"the network's answer": output})
    return output


def _halves(output: Tensor, x_t: Tensor, t: float | Tensor) -> tuple[Tensor, Tensor | None]:
    if output.shape == x_t.shape:
        return output, None
    if x_t.ndim > 1 and output.shape == (x_t.shape[0], 2 * x_t.shape[1], *x_t.shape[2:]):
        mean, variance = output.chunk(2, dim=1)
        return mean, variance
    raise ShapeError(
        f"the network returned {tuple(output.shape)} for x_t of shape {tuple(x_t.shape)} at t = {t}: it must "
        "return the same shape, or twice the channels when it learns its variance"
    )
