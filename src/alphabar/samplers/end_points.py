"""Where a fine chain takes given noises: what tables for a network are fitted to, and compared by.

    distance = ‖f(end of the table's chain) − f(end of the teacher's chain)‖,     from the same noise

f is the identity, or what images are compared by. Noises come in batches of one size, each always asked as
one batch, so that a denoiser may hold labels.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from alphabar.checks import check_count, check_float
from alphabar.denoise import Denoise
from alphabar.errors import ConfigError, DtypeError, NoAnswerError, ShapeError, TimestepError
from alphabar.process import normal
from alphabar.samplers.exact import Distance
from alphabar.samplers.fitted import Fitted
from alphabar.samplers.loop import iter_sample
from alphabar.samplers.plan import Plan, Sampler
from alphabar.samplers.registry import SOLVERS
from alphabar.samplers.unipc import UniPC
from alphabar.schedule import NoiseSchedule

__all__ = ["TEACHER", "EndPoints", "Features", "end_points", "hand_made", "ranked"]

Features = Callable[[Tensor], Tensor]

TEACHER = UniPC(100, order=3, spacing="log_snr")
"""Nearer to the limit than Heun's method with as many evaluations, a hundred times on mixtures."""
STREAM = 3 << 29  # of the noises: training draws between 2³⁰ and this, inpainting from 2³¹, samples from 0
SPACINGS = ("trailing", "karras", "log_snr")
LOST = Distance(math.inf, math.inf)


@dataclass(frozen=True, eq=False)
class EndPoints:
    """Noises in batches, and where the teacher takes each."""

    denoiser: Denoise
    noises: tuple[Tensor, ...]
    """Each (B, C, …), float32 or wider."""
    targets: tuple[Tensor, ...]
    """Each (B, …): the features of the teacher's ends."""
    dtype: torch.dtype
    """What the denoiser is given."""
    seed: int
    teacher: Sampler
    features: Features | None = None

    def __len__(self) -> int:
        return len(self.noises)

    def __getitem__(self, which: slice) -> EndPoints:
        return replace(self, noises=self.noises[which], targets=self.targets[which])

    def away(self, end: Tensor, number: int) -> Tensor:
        """Return the distances, (B,) float64, of ends, (B, C, …), to those of the teacher in a batch."""
        found = end if self.features is None else self.features(end)
        away: Tensor = (found - self.targets[number]).double().reshape(len(end), -1).norm(dim=1)
        return away

    def distances(self, sampler: Sampler) -> Tensor:
        """Return how far a sampler ends from the teacher, (noises,) float64.

        Raises:
            NoAnswerError: the denoiser returned NaN or infinity, as at states far off.
        """
        ends = (_end(self.denoiser, sampler, x_t, self.dtype) for x_t in self.noises)
        with torch.no_grad():
            return torch.cat([self.away(end, number) for number, end in enumerate(ends)])

    def error(self, sampler: Sampler) -> Distance:
        """Return what the distances come to: infinite where the chain leads to NaN or infinity."""
        try:
            away = self.distances(sampler)
        except NoAnswerError:
            return LOST
        return Distance.of(away) if away.isfinite().all() else LOST


def end_points(
    denoiser: Denoise,
    shape: Sequence[int],
    batches: int,
    *,
    seed: int = 0,
    teacher: Sampler = TEACHER,
    features: Features | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> EndPoints:
    """Return addressed noises, which no sample of any seed starts from, and where the teacher takes them.

    Args:
        denoiser: what estimates x_0, and the schedule.
        shape: (B, C, …) of a batch.
        batches: how many.
        seed: of the noises.
        teacher: a sampler that adds no noise, of many evaluations.
        features: (B, C, …) → (B, …), what ends are compared by, differentiable; by default themselves.
        dtype: the precision that the denoiser is given.
        device: where the chains run; by default torch's default device.

    Raises:
        DtypeError: something else than a denoiser, or features that are no tensor of real numbers.
        ConfigError: batches < 1, or a teacher that adds noise.
        NoAnswerError: the network returned NaN or infinity.
        ShapeError: features that are not one row a sample.
    """
    check_count(batches=batches)
    if not callable(denoiser) or not isinstance(getattr(denoiser, "schedule", None), NoiseSchedule):
        raise DtypeError(f"denoiser is a {type(denoiser).__name__}: pass a Denoiser(network, schedule)")
    plan = teacher.plan(denoiser.schedule)
    if any(row.is_random for row in plan.rows):
        raise ConfigError(
            f"teacher is {teacher!r}, which adds noise: take one that does not, such as {TEACHER!r}"
        )
    where = device if device is not None else torch.get_default_device()
    wide = torch.promote_types(dtype, torch.float32)
    noises = tuple(
        normal(shape, seed=seed, stream=STREAM, first=number * shape[0], device=where, dtype=wide)
        for number in range(batches)
    )
    ends = [_end(denoiser, plan, x_t, dtype) for x_t in noises]
    targets = ends if features is None else [_featured(features, end) for end in ends]
    return EndPoints(denoiser, noises, tuple(targets), dtype, seed, teacher, features)


def hand_made(schedule: NoiseSchedule, evaluations: int) -> dict[str, Plan]:
    """Return the deterministic tables of at most so many evaluations, each once, by solver and spacing.

    :class:`Fitted` is among them where it has a table.
    """
    found: dict[Plan, str] = {}
    for label, with_evaluations in SOLVERS.items():
        for spacing in SPACINGS:
            with suppress(ConfigError, NoAnswerError, TimestepError):
                found.setdefault(with_evaluations(evaluations, spacing).plan(schedule), f"{label}, {spacing}")
    with suppress(ConfigError, NoAnswerError):
        found[Fitted(evaluations).plan(schedule)] = "Fitted"
    return {label: plan for plan, label in found.items() if len(plan) <= evaluations}


def ranked(
    points: EndPoints, samplers: Mapping[str, Sampler], finalists: int = 4
) -> list[tuple[str, Distance]]:
    """Return the samplers of the least median times root mean square distance, the best first.

    All are tried on the first batch, and the best of them on every batch.
    """
    first = {label: points[:1].error(each).product for label, each in samplers.items()}
    chosen = sorted(first, key=first.__getitem__)[:finalists]
    found = [(label, points.error(samplers[label])) for label in chosen]
    return sorted(found, key=lambda each: each[1].product)


def _end(denoiser: Denoise, sampler: Sampler, x_t: Tensor, dtype: torch.dtype) -> Tensor:
    """Return where a chain ends, in the chain's own precision."""
    with torch.no_grad():
        states = iter_sample(denoiser, x_t.shape, sampler, x_t=x_t, dtype=dtype, device=x_t.device)
        (last,) = deque(states, maxlen=1)
    return last.x_t


def _featured(features: Features, end: Tensor) -> Tensor:
    with torch.no_grad():
        found = features(end)
    check_float(**{"the features": found})
    if not found.ndim or len(found) != len(end):
        raise ShapeError(
            f"features returned {tuple(found.shape)} for {len(end)} samples: give one row a sample"
        )
    if not found.isfinite().all():
        raise NoAnswerError("features returned NaN or infinity for the teacher's ends")
    return found
