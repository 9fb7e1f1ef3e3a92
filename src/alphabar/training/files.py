"""Files and folders are written whole or not at all: beside their place first, then moved there."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["whole_file", "whole_folder"]


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Yield a place to write to; when the block ends well, what is there becomes ``path``."""
    with _beside(Path(path)) as (place, draft):
        yield draft
        draft.replace(place)


@contextmanager
def whole_folder(path: str | Path) -> Iterator[Path]:
    """Yield a folder to fill; when the block ends well, it takes the place of ``path``."""
    with _beside(Path(path)) as (place, draft):
        draft.mkdir()
        yield draft
        if place.exists():
            place.rename(draft.parent / ".old")
        draft.rename(place)


@contextmanager
def _beside(place: Path) -> Iterator[tuple[Path, Path]]:
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=f".{place.name}-") as folder:
        yield place, Path(folder, place.name)  # the suffix tells writers the format
