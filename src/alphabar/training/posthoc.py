"""Averages after the training: from snapshots of a few running averages, any other one.

A snapshot is a sum Σ_k w_k θ_k of the parameters after each update so far, k = 0 its start, with weights that
its profile and the number of updates fix. Any other average is nearly a sum of snapshots:

    θ̄ ≈ Σ_i x_i · snapshot_i      where x minimises ‖ w − Σ_i x_i w_i ‖ under Σ_i x_i = 1

Karras et al. 2023, arXiv 2312.02696, section 3.2 and appendix C. There the w are continuous functions with
inner products in closed form; here they are the weights that the updates did apply, so that averages with a
warm-up are fitted too, and one that was stored is found again exactly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed
from torch.nn.functional import pad

from alphabar.checks import check_count
from alphabar.denoise.files import whole_file
from alphabar.errors import CheckpointError, ConfigError, MissingExtraError
from alphabar.kernels import all_finite, lincomb
from alphabar.training.averages import Profile, parse_profile
from alphabar.training.engine import whole

__all__ = ["SNAPSHOTS", "Snapshot", "list_snapshots", "post_hoc_weights", "reconstruct", "write_snapshot"]

SNAPSHOTS = "averages"
"""The folder of a run that holds its snapshots."""


def post_hoc_weights(
    stored: Sequence[tuple[Profile, int]], wanted: Profile, updates: int
) -> tuple[Tensor, float]:
    """Return the x of least squares, which add up to 1, and the error ‖ w − Σ_i x_i w_i ‖ / ‖ w ‖.

    The error falls with the square of the distance between snapshots, where two profiles are stored, and is
    large for an average shorter than that distance. Takes a second for a million updates.

    Args:
        stored: of each snapshot, its profile and the number of updates it had taken. The x of those with
            more than ``updates`` are 0.
        wanted: the profile of the average.
        updates: the number of updates it should have taken; one of those stored.

    Returns:
        x, as many float64 numbers as snapshots; and the error.

    Raises:
        ConfigError: a number of updates below 1; nothing stored at the one that is wanted.
    """
    for count in (updates, *(step for _, step in stored)):
        check_count(updates=count)
    steps = {step for _, step in stored}
    if updates not in steps:
        there = min(steps, key=lambda step: abs(step - updates), default="none")
        raise ConfigError(f"no average was stored at update {updates}: choose the nearest, {there}")
    used = [(profile, step) for profile, step in stored if step <= updates]
    profiles = list(dict.fromkeys([*(profile for profile, _ in used), wanted]))
    found = _coordinates(profiles, sorted({step for _, step in used}))
    columns = torch.stack([found[step][:, profiles.index(profile)] for profile, step in used], dim=1)
    target = found[updates][:, profiles.index(wanted)]
    # y adds up to 1: multiples of the distances to the nearest snapshot, which takes what is left.
    nearest = int((columns - target[:, None]).norm(dim=0).argmin())
    distances, rest = columns - columns[:, [nearest]], target - columns[:, nearest]
    y = torch.linalg.lstsq(distances, rest[:, None], driver="gelsd").solution[:, 0]
    y[nearest] += 1 - y.sum()
    x = torch.zeros(len(stored), dtype=torch.float64)
    x[[step <= updates for _, step in stored]] = y
    return x, float((columns @ y - target).norm() / target.norm())


def _coordinates(profiles: Sequence[Profile], steps: Sequence[int]) -> dict[int, Tensor]:
    """Return after each of the steps the weights w of all profiles, (coordinates, profiles).

    In the plain coordinates a row is an update. From one step to the next, the P profiles span no more than
    P dimensions of these, and keep doing so when later updates shrink them: the R of a QR factorisation has
    the same inner products in P rows.
    """
    held, found = torch.ones(1, len(profiles), dtype=torch.float64), {}  # at first, the start alone
    for before, step in pairwise([0, *steps]):
        n = torch.arange(before + 1, step + 1, dtype=torch.float64)
        rates = torch.stack([profile.rate(n) for profile in profiles], dim=1)
        kept = pad((1 - rates).flip(0).cumprod(0).flip(0), (0, 0, 0, 1), value=1.0)  # from each n to the end
        held = torch.cat([held * kept[0], torch.linalg.qr(rates * kept[1:], mode="r").R])
        found[step] = held
    return {step: pad(rows, (0, 0, 0, len(held) - len(rows))) for step, rows in found.items()}


@dataclass(frozen=True)
class Snapshot:
    """One average in a file."""

    path: Path
    profile: Profile
    updates: int
    """How many it had taken."""


def write_snapshot(folder: str | Path, state: Mapping[str, Mapping[str, Tensor]], updates: int) -> None:
    """Write each average as ``FOLDER/step-00012000/PROFILE.safetensors``, whole or not at all.

    Called by every process: DTensors are gathered one at a time, and the first process writes.

    Args:
        folder: where.
        state: as :meth:`alphabar.training.Averages.state` returns it.
        updates: how many they have taken.

    Raises:
        CheckpointError: a file cannot be written.
        MissingExtraError: safetensors is not installed.
    """
    check_count(updates=updates)
    library = _safetensors()
    rank = distributed.get_rank() if distributed.is_available() and distributed.is_initialized() else 0
    for name, mean in state.items():
        tensors: dict[str, Tensor] = {}
        for key, value in mean.items():
            gathered = whole(value)
            if rank == 0:
                tensors[key] = gathered.detach().cpu().contiguous()
        if rank == 0:
            path = Path(folder, f"step-{updates:08}", f"{name}.safetensors")
            try:
                with whole_file(path) as draft:
                    library.torch.save_file(tensors, draft, {"profile": name, "updates": str(updates)})
            except (OSError, library.SafetensorError) as error:
                raise CheckpointError(f"{path} cannot be written: {error}") from error


def list_snapshots(folder: str | Path) -> tuple[Snapshot, ...]:
    """Return the snapshots that :func:`write_snapshot` wrote to a folder, by their numbers of updates.

    Raises:
        CheckpointError: there are none, or a file that is no snapshot.
        MissingExtraError: safetensors is not installed.
    """
    found = [_snapshot(path) for path in Path(folder).glob("step-*/*.safetensors")]
    if not found:
        raise CheckpointError(f"{folder} holds no snapshots of averages, step-…/….safetensors")
    return tuple(sorted(found, key=lambda snapshot: (snapshot.updates, snapshot.profile.name)))


def _snapshot(path: Path) -> Snapshot:
    with ExitStack() as files:
        header = _opened(path, files).metadata() or {}
    try:
        return Snapshot(path, parse_profile(header["profile"]), int(header["updates"]))
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{path} is no snapshot of an average: {error!r} in its header") from None


def reconstruct(
    snapshots: Sequence[Snapshot], wanted: Profile, updates: int | None = None
) -> tuple[dict[str, Tensor], float]:
    """Return the average with a profile by the names of the parameters, and the error of its weights.

    Holds one tensor of one snapshot at a time, beside the result; sums are of float64.

    Args:
        snapshots: of one training; those after ``updates`` are left out.
        wanted: the profile.
        updates: how many it should have taken, one of those of the snapshots; by default all.

    Returns:
        tensors of the snapshots' shapes and precision; the error as in :func:`post_hoc_weights`.

    Raises:
        ConfigError: no snapshot with so many updates.
        CheckpointError: snapshots of different networks, damaged ones, or NaN or infinity in one.
    """
    last = max((snapshot.updates for snapshot in snapshots), default=1) if updates is None else updates
    stored = [(snapshot.profile, snapshot.updates) for snapshot in snapshots]
    x, error = post_hoc_weights(stored, wanted, last)
    with ExitStack() as files:
        terms = [
            (weight, _opened(snapshot.path, files))
            for weight, snapshot in zip(x.tolist(), snapshots, strict=True)
            if weight
        ]
        shapes = [_shapes(file) for _, file in terms]
        if any(other != shapes[0] for other in shapes):
            raise CheckpointError("the snapshots are of different networks: give those of one training")
        return {key: _total(key, terms) for key in shapes[0]}, error


def _total(key: str, terms: Sequence[tuple[float, Any]]) -> Tensor:
    """Return the sum of one parameter over the snapshots."""
    first: Tensor = terms[0][1].get_tensor(key)
    total = torch.zeros_like(first, dtype=torch.float64)
    for weight, file in terms:
        lincomb((1, weight), (total, file.get_tensor(key)), out=total)
    if not all_finite(total):
        raise CheckpointError(f"{key} is NaN or infinite in one of the snapshots: the training had failed")
    return total.to(first.dtype)


def _shapes(file: Any) -> dict[str, Any]:
    return {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118  # no mapping


def _opened(path: Path, files: ExitStack) -> Any:
    library = _safetensors()
    try:
        return files.enter_context(library.safe_open(path, "pt"))
    except (OSError, library.SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ImportError:
        raise MissingExtraError("a snapshot of averages", "train") from None
    return safetensors
