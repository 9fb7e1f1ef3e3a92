"""A network of your own: what is called with the shape of the images, and returns a module.

A run records its name alone: it is kept while it trains, goes on where it stopped, and is opened again, in
this folder also by ``alphabar sample run --network own_network:Perceptron``. One sees the loss of a plain
multilayer perceptron on digits, and the Fréchet distance of its digits beside that of noise and of real ones.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from alphabar import DPMSolver, sample
from alphabar.evaluation import frechet_distance
from alphabar.training import TrainConfig, kept, load, load_data, to_unit, train

NAME = "own_network:Perceptron"


class Perceptron(nn.Module):
    """network(x, t) for x of (B, C, H, W) and t of (B,): t enters as sines and cosines."""

    def __init__(self, shape: tuple[int, int, int], *, classes: int, out_channels: int) -> None:
        super().__init__()
        channels, height, width = shape
        self.register_buffer("frequencies", torch.logspace(0, -4, 32))
        first, last = (
            nn.Linear(channels * height * width + 64, 256),
            nn.Linear(256, out_channels * height * width),
        )
        self.layers = nn.Sequential(first, nn.SiLU(), nn.Linear(256, 256), nn.SiLU(), last)
        self.out = (out_channels, height, width)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        angles = t[:, None] * self.frequencies
        return self.layers(torch.cat([x.flatten(1), angles.sin(), angles.cos()], dim=1)).unflatten(
            1, self.out
        )


def main(steps: int = 2000, count: int = 256, run: str = "run") -> None:
    """Train for so many steps, then sample so many digits; go on where a run was stopped."""
    config = TrainConfig(data="digits", network=NAME, steps=steps, learning_rate=1e-3)
    for step in kept(train(config, resume=run if Path(run).exists() else None), run, every=500):
        if step.step % 500 == 0:
            print(f"step {step.step}  loss {step.loss:.4f}")
    denoiser = load(run, network=NAME).denoiser()  # the name says that this code may be run
    digits = sample(denoiser, (count, 1, 8, 8), DPMSolver(steps=20), seed=0, progress=False)
    data = load_data("digits")
    data = data.subset(torch.randperm(len(data)).tolist())  # their order is not random
    real = to_unit(data[range(len(data))].images)
    some, others = real[:count], real[count:]
    for name, images in (("sampled", digits), ("noise", torch.randn_like(digits)), ("real", some)):
        print(f"Fréchet distance, {name:8} {frechet_distance(images, others):8.2f}")


if __name__ == "__main__":
    main()
