"""What a run must keep to go on: its step number, weights, optimizer and averages, and nothing else.

    RUN/checkpoints/step-00012000/
        checkpoint.json     step, seconds, settings, data; every file with its size and SHA-256
        *.safetensors       network/…, optimizer/…, averages/…: one file, or one a process where sharded

Every random choice of training is a function of the seed and the number of the image, so that the order of
the data, the noise and the timesteps follow from the step number. Nothing that is read here is unpickled.
"""

from __future__ import annotations

import json
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from alphabar.denoise.files import read_json
from alphabar.denoise.folders import verified, whole_folder
from alphabar.errors import AlphabarError, CheckpointError, ConfigError
from alphabar.training.averages import Averages
from alphabar.training.config import TrainConfig
from alphabar.training.optimizers import begin

__all__ = [
    "CHECKPOINTS",
    "CheckpointWarning",
    "TrainState",
    "check_same",
    "clean",
    "complete",
    "live_tensors",
    "newest",
    "read_into",
    "remove",
    "settings_of",
    "step_of",
]

CHECKPOINTS = "checkpoints"
MANIFEST = "checkpoint.json"
NAME = re.compile(r"step-(\d{8,})")


class CheckpointWarning(UserWarning):
    """A checkpoint that could not be written, or is damaged and was passed over."""


@dataclass(frozen=True, eq=False)
class TrainState:
    """Where a run stands after an update."""

    step: int
    """Updates so far."""
    seconds: float
    """How long it has trained, over all its parts."""
    config: TrainConfig
    data: Mapping[str, Any]
    """What identifies the data, as JSON values: images, shape, classes."""
    tensors: Mapping[str, Tensor]
    """network/…, optimizer/…, averages/…, as :func:`live_tensors` names them."""

    @property
    def is_sharded(self) -> bool:
        """Whether each process holds its own part of the tensors."""
        return any(hasattr(tensor, "full_tensor") for tensor in self.tensors.values())

    @property
    def averages(self) -> dict[str, dict[str, Tensor]]:
        """The averages by the names of profile and parameter."""
        found: dict[str, dict[str, Tensor]] = {}
        for key, tensor in self.tensors.items():
            kind, profile, *name = key.split("/", 2)
            if kind == "averages":
                found.setdefault(profile, {})[name[0]] = tensor
        return found

    def copied(self) -> TrainState:
        """Return the state with tensors of its own, on the processor."""
        tensors = {name: tensor.to("cpu", copy=True).contiguous() for name, tensor in self.tensors.items()}
        return TrainState(self.step, self.seconds, self.config, self.data, tensors)

    def write(self, run: str | Path) -> Path:
        """Write ``run/checkpoints/step-…``, whole or not at all; where it is sharded, all processes together.

        Raises:
            CheckpointError: the place cannot be written, or its disk is full.
        """
        place = Path(run, CHECKPOINTS, f"step-{self.step:08}")
        about = {
            "step": self.step,
            "seconds": self.seconds,
            "config": asdict(self.config),
            "data": dict(self.data),
        }
        with _translated(f"{place} could not be written"):
            if self.is_sharded:
                _write_shards(place, self.tensors, about)
            else:
                with whole_folder(place, MANIFEST) as draft:
                    from safetensors.torch import save_file

                    save_file(dict(self.tensors), draft / "state.safetensors")
                    _describe(draft, about)
        return place

    @classmethod
    def described(cls, place: Path) -> TrainState:
        """Return what a checkpoint says of itself, without its tensors.

        Raises:
            CheckpointError: no such checkpoint, or one that is damaged.
        """
        about = read_json(place / MANIFEST)
        try:
            return cls(
                int(about["step"]),
                float(about["seconds"]),
                TrainConfig.from_record(about["config"]),
                dict(about["data"]),
                {},
            )
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{place / MANIFEST} does not describe a run: {error}") from error


def live_tensors(network: nn.Module, optimizer: Any, averages: Averages) -> dict[str, Tensor]:
    """Return the tensors of a run by name, as they are: to be copied from, or to be read into.

    The moments of the optimizer, which it makes at its first update, are made here.
    """
    found = {f"network/{name}": tensor.detach() for name, tensor in _named_tensors(network)}
    optimizer = getattr(optimizer, "optimizer", optimizer)  # as accelerate wraps it
    begin(optimizer)
    for name, parameter in network.named_parameters():
        moments = {key: value for key, value in optimizer.state[parameter].items() if key != "step"}
        found |= {f"optimizer/{name}/{moment}": tensor for moment, tensor in moments.items()}
    for profile, tensors in averages.state().items():
        found |= {f"averages/{profile}/{name}": tensor for name, tensor in tensors.items()}
    return found


def _named_tensors(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from network.named_parameters()
    yield from network.named_buffers()


def read_into(place: Path, tensors: Mapping[str, Tensor]) -> None:
    """Read the tensors of a checkpoint into those of a run, whole or sharded.

    Raises:
        CheckpointError: other names or shapes, or files that cannot be read.
    """
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    with _translated(f"{place} does not load"):
        reader = HuggingFaceStorageReader(str(place))
        stored: Any = reader.read_metadata().state_dict_metadata
        there = {name: tuple(data.size) for name, data in stored.items()}
        here = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        if there != here:
            name = min(name for name in there.keys() | here.keys() if there.get(name) != here.get(name))
            was, is_now = there.get(name, "nothing"), here.get(name, "nothing")
            raise CheckpointError(
                f"{place} belongs to another network: {name} is {was} there, {is_now} in this run"
            )
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
            load(dict(tensors), storage_reader=reader, no_dist=not _is_distributed())


def newest(run: str | Path) -> tuple[Path, TrainState] | None:
    """Return the newest checkpoint of a run that is whole, with its description; None where there is none.

    Warns:
        CheckpointWarning: damaged ones that were passed over.
    """
    for place in reversed(complete(run)):
        try:
            verified(place, MANIFEST)
            return place, TrainState.described(place)
        except CheckpointError as error:
            warnings.warn(f"{error}: the checkpoint before is taken", CheckpointWarning, stacklevel=2)
    return None


def complete(run: str | Path) -> list[Path]:
    """Return the folders of the checkpoints of a run, the oldest first."""
    found = [path for path in Path(run, CHECKPOINTS).glob("step-*/") if NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))


def step_of(run: str | Path) -> int | None:
    """Return the step of the newest checkpoint of a run, damaged or not; None where there is none."""
    found = complete(run)
    return int(found[-1].name.removeprefix("step-")) if found else None


def settings_of(run: str | Path) -> TrainConfig:
    """Return the settings of a run.

    Raises:
        CheckpointError: it has no checkpoint that says them.
    """
    for place in reversed(complete(run)):
        with suppress(CheckpointError):
            return TrainState.described(place).config
    raise CheckpointError(f"{run} has no checkpoint that says how it was begun")


def remove(run: str | Path, keep: int) -> None:
    """Remove all but the newest checkpoints of a run."""
    for place in complete(run)[:-keep]:
        place.rename(place.with_name(f".{place.name}-old"))  # a folder that is half removed is none
    clean(run)


def clean(run: str | Path) -> None:
    """Remove what killed processes left of checkpoints; to be called by who holds the run."""
    for left in Path(run, CHECKPOINTS).glob(".step-*"):
        shutil.rmtree(left, ignore_errors=True)


def check_same(begun: TrainState, config: TrainConfig, data: Mapping[str, Any]) -> None:
    """Require the settings and the data that a run was begun with, but for what may change.

    Raises:
        ConfigError: with the first that differs.
    """
    for each in fields(TrainConfig):
        was, now = getattr(begun.config, each.name), getattr(config, each.name)
        if was != now and not each.metadata.get("may_change"):
            raise ConfigError(
                f"{each.name} is {now!r}, and the run was begun with {was!r}: leave it out, or begin another"
            )
    for name, was in begun.data.items():
        if data.get(name) != was:
            raise ConfigError(f"the data have {name} {data.get(name)!r}, and the run was begun with {was!r}")


def _write_shards(place: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    from torch.distributed import barrier, get_rank
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    draft = place.with_name(f".{place.name}-new")
    if get_rank() == 0:
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
    barrier()
    save(dict(tensors), storage_writer=HuggingFaceStorageWriter(str(draft), save_distributed=True))
    if get_rank() == 0:
        with whole_folder(place, MANIFEST, draft):
            _describe(draft, about)
    barrier()


def _describe(draft: Path, about: Mapping[str, Any]) -> None:
    (draft / MANIFEST).write_text(json.dumps(about), encoding="utf-8")


def _is_distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


@contextmanager
def _translated(trouble: str) -> Iterator[None]:
    """Turn whatever a file system or a reader of files raises into an error of this library."""
    try:
        yield
    except AlphabarError:
        raise
    except OSError as error:
        raise CheckpointError(f"{trouble}: {error.strerror or error}") from error
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # torch.distributed.checkpoint's own is no Exception
        raise CheckpointError(f"{trouble}: {str(error).strip().splitlines()[-1]}") from error
