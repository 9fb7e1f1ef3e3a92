"""``alphabar convert``: weights of other codes as a folder that diffusers opens."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from tyro.conf import Positional

from alphabar.cli._arguments import readable
from alphabar.convert import ConvertOptions, read
from alphabar.training import checkpoint

__all__ = ["Convert"]


@readable
@dataclass(frozen=True, kw_only=True)
class Convert(ConvertOptions):
    """Write weights of guided-diffusion, improved-diffusion or denoising-diffusion-pytorch for diffusers."""

    source: Positional[Path]
    """The .pt file."""
    out: Positional[Path]
    """The folder to write."""
    flags: str = ""
    """In place of the other options: the flags of the training with guided-diffusion, in quotes."""

    def __call__(self) -> None:
        """Convert, and say what the folder holds."""
        options = ConvertOptions(**{each.name: getattr(self, each.name) for each in fields(ConvertOptions)})
        loaded = read(self.source, options, flags=self.flags)
        checkpoint.save(self.out, loaded)
        print(f"{type(loaded.network).__name__}, {loaded.schedule!r}, predicts {loaded.prediction}")
        print(f"wrote {self.out}")
