"""What commands share: how their arguments read in ``--help``, and checks before any work is done."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

import torch
from tyro.conf import arg

from alphabar.checks import check_count, check_levels
from alphabar.cli import plots
from alphabar.denoise.files import check_writable
from alphabar.errors import ConfigError, look_up
from alphabar.schedule import FAMILIES, NoiseSchedule

__all__ = [
    "check_apart",
    "check_json",
    "check_memory",
    "check_picture",
    "check_seed",
    "counts",
    "device",
    "made_schedule",
    "note",
    "one_of",
    "readable",
    "tell_notes",
    "wrote",
]

SHORT = {bool: "{True,False}", int: "INT", float: "FLOAT", str: "STR", Path: "PATH"}
Command = TypeVar("Command", bound=type)
notes: list[str] = []  # kept back until the work begins or ends, so that an error is one line alone


def one_of(choices: Mapping[str, Any], default: Any) -> Any:
    """Return a field whose value is a name in a table, or several; :func:`readable` lists the names."""
    return dataclasses.field(default=default, metadata={"choices": choices})


def readable(command: Command) -> Command:
    """Return a command whose ``--help`` lists the names of tables, and no defaults that say nothing."""
    hints, bare = get_type_hints(command, include_extras=True), get_type_hints(command)
    for each in dataclasses.fields(command):
        kinds = [SHORT[kind] for kind in get_args(bare[each.name]) if kind in SHORT]
        empty = any(each.default is nothing for nothing in (None, (), False))
        names = ", ".join(each.metadata.get("choices", ()))
        default = "" if empty else f"; default: {_shown(each.default)}"
        if names or empty:
            form = "{}" if hints[each.name] == bare[each.name] else "[{}]"  # positional, and may be left out
            help_text = arg(
                metavar=form.format(kinds[0]) if kinds and each.default is None else None,
                help_behavior_hint=f"(one of {names}{default})" if names else "",
            )
            command.__annotations__[each.name] = Annotated[hints[each.name], help_text]
    return command


def _shown(default: Any) -> str:
    return ", ".join(default) if isinstance(default, tuple) else str(default)


def made_schedule(name: str, steps: int) -> NoiseSchedule:
    """Return the schedule of a family.

    Raises:
        UnknownNameError, ConfigError: another name; T outside 1 … 1,000,000.
    """
    family = look_up(FAMILIES, name, "schedule")
    check_levels(steps)
    return family(steps)


def check_seed(seed: int) -> None:
    """Require a seed in 0 … 2⁶⁴−1.

    Raises:
        ConfigError: another number.
    """
    if not 0 <= seed < 2**64:
        raise ConfigError(f"seed is {seed}: it must be in 0 … 2^64 - 1")


def check_picture(path: Path, *inputs: Path) -> None:
    """Refuse a file that cannot be written as a picture.

    Args:
        path: the file.
        inputs: files that are read, and must not be written over.

    Raises:
        ConfigError: a folder, something else that is no regular file, an input, or a suffix of no format.
        CheckpointError: a folder that cannot be written to.
    """
    if path.is_dir():
        raise ConfigError(f"out is {str(path)!r}, a folder: give the name of a file, such as picture.png")
    if path.exists() and not path.is_file():
        raise ConfigError(f"out is {str(path)!r}, which is no regular file: choose another name")
    if any(path.exists() and given.exists() and path.samefile(given) for given in inputs):
        raise ConfigError(f"out is {str(path)!r}, which is read: choose another name")
    known = plots.formats()
    if path.suffix.lower() not in known:
        raise ConfigError(f"out is {str(path)!r}: its suffix must be one of {', '.join(known)}")
    check_writable(path.parent)


def check_json(path: Path, made_by: str, *, pictured: bool = False) -> None:
    """Refuse a place for results where something else is, or that cannot be written.

    Args:
        path: of the file.
        made_by: the command, which the file names.
        pictured: whether a picture of that name, ending in .png, is written beside it.

    Raises:
        ConfigError: no name of a .json file, or one that was not written by the command.
        CheckpointError: a folder that cannot be written to.
    """
    if path.suffix.lower() != ".json":
        raise ConfigError(f"json is {str(path)!r}: give the name of a file that ends in .json")
    if path.exists() and (not path.is_file() or made_by not in path.read_text("utf-8", errors="replace")):
        raise ConfigError(f"json is {str(path)!r}, which was not written here: choose another name")
    if pictured and path.with_suffix(".png").exists() and not path.exists():
        raise ConfigError(f"{path.with_suffix('.png')} is there already: choose another name than {path}")
    check_writable(path.parent)


def check_apart(data: str, out: Path) -> None:
    """Refuse a place to write to inside the data, or the data inside it.

    Raises:
        ConfigError: with both places.
    """
    images, run = Path(data).resolve(), out.resolve()
    if Path(data).exists() and (images in (run, *run.parents) or run in images.parents):
        raise ConfigError(f"out is {out}, the data are in {data}: one lies in the other, choose another out")


def check_memory(numbers: int, what: str) -> None:
    """Refuse work that needs more memory than there is, before it is begun.

    Args:
        numbers: how many float32 numbers are held at once, at the least.
        what: what needs them, and the arguments that make it less.

    Raises:
        ConfigError: with both sizes.
    """
    where = device()
    if where.type == "cuda":
        there = torch.cuda.get_device_properties(where).total_memory
    else:
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if 4 * numbers > there:
        raise ConfigError(
            f"{what} would take {4 * numbers / 2**30:,.0f} GiB of memory, and there are {there / 2**30:,.0f}"
        )


def counts(text: str) -> list[int]:
    """Return numbers of evaluations, in order, that are written with commas between.

    Raises:
        ConfigError: anything else.
    """
    try:
        counts = sorted(map(int, text.split(",")))
    except ValueError:
        raise ConfigError(
            f"evals is {text!r}: give whole numbers with commas between, as in 5,10,20"
        ) from None
    check_count(evals=counts[0])
    return counts


def device() -> torch.device:
    """Return where networks run."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def wrote(path: Path, what: str = "") -> None:
    """Print where a command wrote its result."""
    print(f"wrote {path}{f' ({what})' if what else ''}")


def note(message: Warning | str, category: type[Warning], *where: object) -> None:
    """Keep a warning for :func:`tell_notes`; those that are meant for developers are dropped."""
    if issubclass(category, UserWarning):
        notes.append(str(message))


def tell_notes() -> None:
    """Print on stderr what was kept."""
    while notes:
        print(f"alphabar: note: {notes.pop(0)}".replace("\n", " "), file=sys.stderr)
