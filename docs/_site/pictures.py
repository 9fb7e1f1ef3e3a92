"""Pictures and numbers of the site, made by the library while the site is built."""

from __future__ import annotations

from pathlib import Path

__all__ = ["write_all"]


def write_all(folder: Path, language: str) -> None:
    """Write every picture into a folder."""
    folder.mkdir(exist_ok=True)
