"""Files that change whole or not at all, beside files of others that are left alone.

    draft      PLACE/.alphabar-draft-…/   the new files are written and flushed here
    commit     renamed to PLACE/.alphabar-new/: from here on the new files count
    finish     each is moved over the old one; old ones without a successor go; the manifest moves last

The manifest is a JSON file whose entry "files" lists every file with its size and SHA-256. A process that is
killed before the commit leaves the old files, one that is killed after it leaves new ones that whoever comes
next moves into place (:func:`finish`). What no manifest lists is never replaced and never removed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any

from alphabar.errors import CheckpointError

__all__ = [
    "check_free",
    "check_writable",
    "digest",
    "finish",
    "flush",
    "flush_all",
    "held",
    "is_untouched",
    "list_files",
    "listed",
    "may_write",
    "read_json",
    "remove_drafts",
    "replaced_files",
    "whole_file",
]

DRAFT = ".alphabar-draft-"
FILE_DRAFT = ".alphabar-file-"
COMMITTED = ".alphabar-new"
FILES = "files"
FIRST_VERSION = (
    *("model_index.json", "alphabar.json", "loss.png", "scheduler/scheduler_config.json"),
    *("unet/config.json", "unet/diffusion_pytorch_model.safetensors"),
)
"""What alphabar 0.1 wrote, whose manifests do not list it."""

Manifest = Mapping[str, Mapping[str, Any]]


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Yield a place to write to; when the block ends well, what is there becomes ``path``."""
    place = Path(path)
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=FILE_DRAFT) as folder:
        draft = Path(folder, place.name)  # the suffix tells writers the format
        yield draft
        flush(draft)
        draft.replace(place)


def remove_drafts(folder: str | Path) -> None:
    """Remove what killed processes left of :func:`whole_file` in a folder; to be called by who holds it."""
    for abandoned in Path(folder).glob(f"{FILE_DRAFT}*"):
        shutil.rmtree(abandoned)


@contextmanager
def replaced_files(folder: str | Path, manifest: str) -> Iterator[Path]:
    """Yield a folder to fill; when the block ends well, its files replace those that the manifest lists.

    Args:
        folder: where; created when it is not there.
        manifest: name of the JSON file that lists them; written here unless the block writes one, to which
            the list is added.

    Raises:
        CheckpointError: a new file would replace one that the manifest does not list, or another process is
            writing here.
    """
    place = Path(folder)
    is_new = not place.exists()
    place.mkdir(parents=True, exist_ok=True)
    try:
        with held(place):
            finish(place, manifest)
            for abandoned in place.glob(f"{DRAFT}*"):
                shutil.rmtree(abandoned)
            draft = Path(tempfile.mkdtemp(dir=place, prefix=DRAFT))
            try:
                yield draft
                names = list_files(draft, manifest)
                check_free(place, names, manifest)
                flush_all(draft)
                draft.rename(place / COMMITTED)
            finally:
                shutil.rmtree(draft, ignore_errors=True)
            flush(place)
            finish(place, manifest)
    finally:
        if is_new:
            with suppress(OSError):  # it is not empty where all went well
                place.rmdir()


@contextmanager
def held(place: Path) -> Iterator[None]:
    """Hold a folder against other processes while the block runs, where the system has such locks.

    Raises:
        CheckpointError: another process holds it.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    descriptor = os.open(place, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise CheckpointError(f"{place} is being written by another process") from None
        yield
    finally:
        os.close(descriptor)


def finish(folder: str | Path, manifest: str) -> None:
    """Move committed files into place, where a process was killed while it did so; else do nothing.

    Several processes may do this at once: a file that another one has moved already is passed over.
    """
    place, new = Path(folder), Path(folder, COMMITTED)
    if not new.is_dir():
        return
    if (new / manifest).is_file():
        kept = _owned(new, manifest)
        for path in sorted(path for path in new.rglob("*") if path.is_file()):
            if (name := path.relative_to(new).as_posix()) != manifest:
                _move(path, place / name)
        for name, facts in _owned(place, manifest).items():
            is_link = (place / name).is_symlink()
            if name not in kept and not is_link and is_untouched(place / name, facts):
                _remove(place, name)
        _move(new / manifest, place / manifest)
        flush(place)
    for path in sorted(new.rglob("*"), reverse=True):
        with suppress(OSError):
            path.rmdir()
    with suppress(OSError):
        new.rmdir()


def check_free(folder: str | Path, names: list[str], manifest: str) -> None:
    """Refuse to write files over others that the manifest of the place does not list.

    Raises:
        CheckpointError: with the first file that is in the way.
    """
    place = Path(folder)
    owned = _owned(place, manifest)
    for name in names:
        path = place
        for part in PurePosixPath(name).parts:
            path = path / part
            if path.is_symlink():
                raise CheckpointError(f"{path} is a link: move it away, or choose another place")
        if name not in owned and name != manifest and (place / name).exists():
            raise CheckpointError(
                f"{place / name} was not written here before: move it, or choose another place"
            )


def may_write(folder: str | Path, name: str, manifest: str) -> bool:
    """Return whether a file is not there yet, or is the one that the manifest lists, unchanged.

    For a file that people are asked to edit, which is then theirs.
    """
    path = Path(folder, name)
    if not path.exists() and not path.is_symlink():
        return True
    return not path.is_symlink() and is_untouched(path, _owned(Path(folder), manifest).get(name, {}))


def check_writable(folder: str | Path, size: int = 0) -> None:
    """Try to write a file of ``size`` bytes, and remove it again, with the folder if that was not there.

    Raises:
        CheckpointError: the reason why it cannot be written.
    """
    place = Path(folder)
    made = [path for path in (place, *place.parents) if not path.exists()]
    try:
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=place) as probe:
            probe.write(b"0" * 4096)
            probe.flush()
            os.fsync(probe.fileno())
        free = shutil.disk_usage(place).free
    except OSError as error:
        raise CheckpointError(f"{place} cannot be written: {error.strerror or error}") from error
    finally:
        for path in made:
            with suppress(OSError):
                path.rmdir()
    if free < size:
        raise CheckpointError(
            f"{place} has {free / 2**20:,.0f} MiB free, and {size / 2**20:,.0f} MiB are to be written: make "
            "room, or choose another place"
        )


def is_untouched(path: Path, facts: Mapping[str, Any]) -> bool:
    """Return whether a file is the one that a manifest lists with this size and digest."""
    return path.is_file() and path.stat().st_size == facts.get("size") and digest(path) == facts.get("sha256")


def digest(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            found.update(block)
    return found.hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        CheckpointError: no such file, no JSON, or JSON of another kind than an object.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
    except RecursionError:
        raise CheckpointError(f"{path} cannot be read: its brackets are nested too deeply") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} cannot be read: it holds a {type(content).__name__}, not an object")
    return content


def listed(content: Mapping[str, Any], where: object) -> Manifest | None:
    """Return the files that a manifest lists; None where it has no such entry.

    Raises:
        CheckpointError: an entry of another form, or a name that leads out of the folder.
    """
    if FILES not in content:
        return None
    files: dict[str, dict[str, Any]] = content[FILES]
    is_table = isinstance(files, dict) and all(isinstance(facts, dict) for facts in files.values())
    if not is_table or any(_leads_out(name) for name in files):
        raise CheckpointError(f"{where} lists files that cannot be its own: {str(files)[:80]}")
    return files


def _leads_out(name: str) -> bool:
    path = PurePosixPath(name)
    return path.is_absolute() or ".." in path.parts or "\\" in name or not path.parts


def _owned(place: Path, manifest: str) -> Manifest:
    if not (place / manifest).is_file():
        return {}
    found = listed(read_json(place / manifest), place / manifest)
    return {name: {} for name in FIRST_VERSION} if found is None else found


def list_files(draft: Path, manifest: str) -> list[str]:
    """Write the list of all files into the manifest; return their names."""
    paths = {path.relative_to(draft).as_posix(): path for path in sorted(draft.rglob("*")) if path.is_file()}
    paths.pop(manifest, None)
    content = read_json(draft / manifest) if (draft / manifest).exists() else {}
    content[FILES] = {
        name: {"size": path.stat().st_size, "sha256": digest(path)} for name, path in paths.items()
    }
    (draft / manifest).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return [*paths, manifest]


def _move(path: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileNotFoundError):
        path.replace(target)
    flush(target.parent)


def _remove(place: Path, name: str) -> None:
    (place / name).unlink(missing_ok=True)
    for parent in (place / name).parents:
        if parent == place:
            return
        with suppress(OSError):  # others keep files there
            parent.rmdir()


def flush_all(folder: Path) -> None:
    """Have the disk hold a folder with everything in it."""
    for path in folder.rglob("*"):
        flush(path)
    flush(folder)


def flush(path: Path) -> None:
    """Have the disk hold a file, or the names in a folder, before anything that comes later."""
    if os.name == "nt" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
