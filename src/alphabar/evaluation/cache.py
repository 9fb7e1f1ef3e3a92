"""What takes long and depends on nothing but its inputs, kept in files that are named by their hash.

    ~/.cache/alphabar/HASH.safetensors       or below XDG_CACHE_HOME

Each file can be removed at any time; one that is damaged is made again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from torch import Tensor

from alphabar.denoise.files import whole_file
from alphabar.training.engine import any_process, is_main

__all__ = ["cached", "hash_of"]


def hash_of(*parts: str | bytes | Tensor) -> str:
    """Return the SHA-256 of texts, bytes and tensors, in this order."""
    found = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            found.update(f"{part.dtype}{tuple(part.shape)}".encode())
            found.update(part.contiguous().cpu().numpy().tobytes())
        else:
            found.update(part if isinstance(part, bytes) else part.encode())
        found.update(b"\0")
    return found.hexdigest()


def cached(key: Sequence[str], make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return tensors that were made before from the same key, or make and keep them.

    Of several processes, which must ask together, all make them where one of them lacks them.

    Args:
        key: all that they depend on.
        make: makes them.
    """
    from safetensors.torch import save_file

    path = _folder() / f"{hash_of(*key)}.safetensors"
    found = _read(path)
    if not any_process(found is None) and found is not None:
        return found
    made = make()
    if is_main():
        with suppress(OSError):  # a home that cannot be written, or is full: the next call makes them again
            path.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(path) as draft:
                save_file({name: tensor.contiguous() for name, tensor in made.items()}, draft)
    return made


def _read(path: Path) -> dict[str, Tensor] | None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path)) if path.is_file() else None
    except (SafetensorError, OSError):
        return None


def _folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "alphabar")
