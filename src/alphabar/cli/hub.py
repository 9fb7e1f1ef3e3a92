"""``alphabar push``: a run as a repository of the Hugging Face hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from alphabar.cli._arguments import readable
from alphabar.denoise.hub import push_to_hub

__all__ = ["Push"]


@readable
@dataclass(frozen=True)
class Push:
    """Upload a run to the Hugging Face hub, with its model card; needs a token of the hub."""

    run: Positional[Path]
    """The folder."""
    name: Positional[str]
    """The repository, owner/name; made where it is not there."""
    private: bool = False
    """Make a new repository one that its owner alone sees."""

    def __call__(self) -> None:
        """Upload, and print where the files are now."""
        print(f"uploaded {push_to_hub(self.run, self.name, private=self.private)}")
