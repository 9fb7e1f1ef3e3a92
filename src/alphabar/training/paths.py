"""The files that the name of a source stands for."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from glob import glob, has_magic
from pathlib import Path

__all__ = ["are_files", "files_below", "files_of"]

NUMBERS = re.compile(r"\{(\d+)\.\.(\d+)\}")


def files_of(source: str) -> list[str]:
    """Return the files that a name stands for: {000..099} are numbers, * and ? anything."""
    if numbers := NUMBERS.search(source):
        first, last = numbers.groups()
        every = (str(number).zfill(len(first)) for number in range(int(first), int(last) + 1))
        return [name for each in every for name in files_of(NUMBERS.sub(each, source, count=1))]
    return [source] if Path(source).is_file() or not has_magic(source) else sorted(glob(source))  # noqa: PTH207


def are_files(source: str, suffixes: Collection[str]) -> bool:
    """Return whether a name with one of some suffixes stands for files that are there."""
    files = files_of(source) if Path(source).suffix.lower() in suffixes else []
    return bool(files) and all(Path(path).is_file() for path in files)


def files_below(
    root: str, suffixes: Collection[str], inside: str = "", above: tuple[str, ...] = ()
) -> Iterator[str]:
    """Yield the paths, within a folder, of all files below it with some suffixes, in order.

    Links are followed; what is hidden is left out.
    """
    here = os.path.realpath(Path(root, inside))
    if here in above:  # a link that leads back
        return
    with os.scandir(here) as entries:
        found = sorted((entry.name, entry.is_dir()) for entry in entries if not entry.name.startswith("."))
    for name, is_folder in found:
        if is_folder:
            yield from files_below(root, suffixes, f"{inside}{name}/", (*above, here))
        elif Path(name).suffix.lower() in suffixes:
            yield inside + name
