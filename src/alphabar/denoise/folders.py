"""Folders that are there whole or not at all, and that know when a byte of them has changed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from alphabar.denoise.files import flush, flush_all, is_untouched, list_files, listed, read_json
from alphabar.errors import CheckpointError

__all__ = ["locked", "verified", "whole_folder"]


@contextmanager
def whole_folder(folder: str | Path, manifest: str, draft: Path | None = None) -> Iterator[Path]:
    """Yield a folder to fill; when the block ends well, it becomes ``folder``, in place of what was there.

    Args:
        folder: where.
        manifest: name of the JSON file, written in the block or not, to which the list of all files is added.
        draft: a folder beside it that holds some files already; by default a new one.
    """
    place = Path(folder)
    if draft is None:
        draft = place.with_name(f".{place.name}-new")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
    try:
        yield draft
        list_files(draft, manifest)
        flush_all(draft)
        if place.exists():
            shutil.rmtree(place)
        draft.rename(place)
        flush(place.parent)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def verified(folder: str | Path, manifest: str) -> dict[str, Any]:
    """Return the manifest of a folder whose files are all as it lists them.

    Raises:
        CheckpointError: a file that is missing or damaged, or a manifest that is no such list.
    """
    place = Path(folder)
    content = read_json(place / manifest)
    files = listed(content, place / manifest)
    if not files:
        raise CheckpointError(f"{place / manifest} lists no files")
    for name, facts in files.items():
        if not is_untouched(place / name, facts):
            raise CheckpointError(f"{place / name} is damaged: it is not the file that {manifest} lists")
    return content


@contextmanager
def locked(path: str | Path) -> Iterator[None]:
    """Hold a file of this name against other processes, as long as the block runs and the process lives.

    Folders that are made for it, and in which nothing else was put, are removed again.

    Raises:
        CheckpointError: another process holds it, or the place cannot be written.
    """
    place = Path(path)
    made = [folder for folder in place.parents if not folder.exists()]
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        file = place.open("a")
    except OSError as error:
        raise CheckpointError(f"{place.parent} cannot be written: {error.strerror or error}") from error
    try:
        _lock(file)
        yield
    finally:
        file.close()
        with suppress(OSError):
            if made and list(made[0].iterdir()) == [place]:
                place.unlink()
            for folder in made:
                folder.rmdir()


def _lock(file: TextIO) -> None:
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # which worker processes do not inherit
    except (BlockingIOError, PermissionError):
        raise CheckpointError(f"{Path(file.name).parent} is in use by another process") from None
    except OSError:  # a file system without locks
        return
