"""Write ``docs/pictures/alphabar.gif``: a photograph dissolves into noise, digits come out of it.

.venv/bin/alphabar demo --out demo
.venv/bin/python docs/animation.py demo/run
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from alphabar import DPMSolver, NoiseSchedule, add_noise, iter_sample
from alphabar.cli import plots
from alphabar.training import load, sample_photograph

PLACE = Path(__file__).parent / "pictures" / "alphabar.gif"
FRAMES, HOLD = 24, 8  # there and as many back; how long each end stays
HEIGHT, DIGITS = 112, (4, 5)


def photograph() -> list[Tensor]:
    """Return the photograph at levels from clean to noise, (3, H, W) each, with one noise throughout."""
    whole = sample_photograph()[None] / 127.5 - 1
    x_0 = interpolate(whole, size=(HEIGHT, HEIGHT * 3 // 2), mode="area")
    noise = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(0))
    levels = torch.linspace(0, 999, FRAMES).long().tolist()
    return [add_noise(NoiseSchedule.linear(), x_0, noise, t)[0] for t in levels]


def digits(run: Path) -> list[Tensor]:
    """Return a sheet of digits at each state from noise to the sample, (3, H, W) each."""
    trained = load(run)
    rows, columns = DIGITS
    labels = torch.arange(rows * columns) % len(trained.classes)
    sampler = DPMSolver(steps=FRAMES - 1, spacing="trailing")
    states = iter_sample(trained.denoiser(labels), (len(labels), *trained.shape), sampler, seed=1)
    return [_sheet(state.x_t) for state in states]


def _sheet(images: Tensor) -> Tensor:
    rows, columns = DIGITS
    images = pad(images, (1, 1, 1, 1), value=-1)
    side = images.shape[-1]
    grid = images.view(rows, columns, side, side).transpose(1, 2).reshape(1, 1, rows * side, columns * side)
    return interpolate(grid, size=(HEIGHT, HEIGHT * columns // rows), mode="nearest")[0].expand(3, -1, -1)


def main() -> None:
    """Write the animation."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="a run trained on the digits")
    dissolving, appearing = photograph(), digits(parser.parse_args().run)
    gap = torch.ones(3, HEIGHT, HEIGHT // 10)
    frames = [
        torch.cat([left.clamp(-1, 1), gap, right.clamp(-1, 1)], 2)
        for left, right in zip(dissolving, appearing, strict=True)
    ]
    plots.animation([frames[0]] * HOLD + frames + [frames[-1]] * HOLD, PLACE)


if __name__ == "__main__":
    main()
