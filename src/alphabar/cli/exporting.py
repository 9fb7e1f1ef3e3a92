"""``alphabar export``: a run and a sampler as one file, which runs where this library is not installed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from alphabar.cli._arguments import readable, wrote
from alphabar.cli.sampling import Chain
from alphabar.errors import ConfigError
from alphabar.samplers import Exported, export_chain

__all__ = ["Export"]


@readable
@dataclass(frozen=True, kw_only=True)
class Export(Chain):
    """Write a network and the whole chain of a sampler as one file, to run without alphabar.

    Its inputs are the noise, and for a class-conditional network the labels; it computes in float32.
    """

    out: Positional[Path]
    """The file: .onnx for ONNX Runtime, .pt2 for torch.export.load."""
    batch: int | None = None
    """Samples at a time; by default as many as are given."""

    def __call__(self) -> None:
        """Write the file, and print what it takes."""
        loaded = self.opened(self.run, takes_all=True, takes_conditions=False)
        if loaded.scaling:
            raise ConfigError(
                f"{self.run} makes arrays, which no file scales back: draw them by alphabar sample"
            )
        denoiser = loaded.guided(loaded.labels(1), self.guidance)
        found = export_chain(denoiser, loaded.shape, self._sampler(loaded), self.out, batch=self.batch)
        wrote(self.out, _described(found))


def _described(found: Exported) -> str:
    shapes = [f"{name} ({', '.join(map(str, shape))})" for name, shape in found.inputs.items()]
    any_batch = "batch" in found.inputs["x_t"] and math.isfinite(found.largest)
    limit = f"; traced for a batch of at most {found.largest:.0f}" if any_batch else ""
    return f"{found.path.stat().st_size / 2**20:.1f} MiB, takes {' and '.join(shapes)}{limit}"
