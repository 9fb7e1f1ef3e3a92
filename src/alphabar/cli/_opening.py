"""What commands that open a run share: consent to the code of a network of one's own."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from alphabar.denoise.conditions import needs
from alphabar.errors import ConfigError
from alphabar.training import Checkpoint, checkpoint

__all__ = ["Opening", "import_from_here"]


@dataclass(frozen=True, kw_only=True)
class Opening:
    """A command that opens a run."""

    network: str | None = None
    """Of a run with a network of your own, the code that builds it and may be run, package.module:factory; it
    is looked for in the current folder first."""

    def opened(
        self, run: str | Path, *, takes_all: bool = False, takes_conditions: bool = True
    ) -> Checkpoint:
        """Return what a run holds; arguments and errors as of :func:`alphabar.training.load`.

        Raises:
            ConfigError: a run on latents or arrays, for a command that works on images; one with conditions,
                for a command that cannot give them.
        """
        if self.network is not None:
            import_from_here()
        loaded = checkpoint.load(run, network=self.network)
        if loaded.latents and not takes_all:
            raise ConfigError(f"{run} makes latents, not images: draw pictures from it by alphabar sample")
        if loaded.scaling and not takes_all:
            raise ConfigError(
                f"{run} makes arrays of shape {loaded.shape}, not images: draw them by alphabar sample"
            )
        if loaded.conditions and not takes_conditions:
            raise ConfigError(
                f"{run} is told conditions, {needs(loaded.conditions)}, and this command gives none: draw "
                "from it by alphabar sample"
            )
        return loaded


def import_from_here() -> None:
    """Have modules in the current folder imported, as ``python -m`` does."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
