"""A network of your own: anything that is called as network(x, t) and returns the shape of x.

The library's training and sampling take it as it is. One sees the loss of a plain multilayer perceptron on
digits, and the Fréchet distance of its digits beside that of noise and of real ones.
"""

import torch
from torch import Tensor, nn

from alphabar import DPMSolver, sample
from alphabar.evaluation import frechet_distance
from alphabar.training import TrainConfig, load_data, to_unit, train


class Perceptron(nn.Module):
    """network(x, t) for x of (B, 1, 8, 8) and t of (B,): t enters as sines and cosines."""

    def __init__(self, width: int = 256) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.logspace(0, -4, 32))
        self.layers = nn.Sequential(
            nn.Linear(64 + 64, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 64)
        )

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        angles = t[:, None] * self.frequencies
        return self.layers(torch.cat([x.flatten(1), angles.sin(), angles.cos()], dim=1)).view_as(x)


def main(steps: int = 2000, count: int = 256) -> None:
    """Train for so many steps, then sample so many digits."""
    torch.manual_seed(0)
    for step in train(TrainConfig(data="digits", steps=steps, learning_rate=1e-3), network=Perceptron()):
        if step.step % 500 == 0:
            print(f"step {step.step}  loss {step.loss:.4f}")
    denoiser = step.snapshot().denoiser()
    digits = sample(denoiser, (count, 1, 8, 8), DPMSolver(steps=20), seed=0, progress=False)
    data = load_data("digits")
    data = data.subset(torch.randperm(len(data)).tolist())  # their order is not random
    real = to_unit(data[range(len(data))].images)
    some, others = real[:count], real[count:]
    for name, images in (("sampled", digits), ("noise", torch.randn_like(digits)), ("real", some)):
        print(f"Fréchet distance, {name:8} {frechet_distance(images, others):8.2f}")


if __name__ == "__main__":
    main()
