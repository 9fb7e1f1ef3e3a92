"""Flow matching: a straight path from data to noise, on points of two dimensions.

    x_u = (1 − u) · x_0 + u · z,    the network says z − x_0,    time is 1000 u

It is the same noising times a scale, so such a network is one kind of prediction, and every sampler runs with
it. One sees how far sampled points are from the two moons of scikit-learn, beside other points of the moons.
"""

import torch
from sklearn.datasets import make_moons
from torch import Tensor, nn

from alphabar import DDIM, Denoiser, NoiseSchedule, sample


class Perceptron(nn.Module):
    """network(x, time) for points x of (B, 2) and time of (B,)."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.logspace(-3, -1, 8))
        layers = [nn.Linear(2 + 16, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(width, 2))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        angles = time[:, None] * self.frequencies
        return self.layers(torch.cat([x, angles.sin(), angles.cos()], dim=1))


def moons(count: int, seed: int) -> Tensor:
    """Return points of about variance 1, (count, 2)."""
    points, _ = make_moons(count, noise=0.05, random_state=seed)
    return (torch.from_numpy(points).float() - torch.tensor([0.5, 0.25])) / 0.7


def main(steps: int = 3000, count: int = 1000) -> None:
    """Train for so many steps, then sample so many points."""
    torch.manual_seed(0)
    network, data = Perceptron(), moons(4000, seed=0)
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    for _ in range(steps):
        x_0, u = data[torch.randint(len(data), (256,))], torch.rand(256)
        z = torch.randn_like(x_0)
        x_u = (1 - u[:, None]) * x_0 + u[:, None] * z
        loss = (network(x_u, 1000 * u) - (z - x_0)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    denoiser = Denoiser(network, NoiseSchedule.rectified_flow(), "flow")
    found = {"other moons": moons(count, seed=1), "noise": torch.randn(count, 2)}
    for evaluations in (2, 8, 32):  # of DDIM, which is Euler's method on the straight path
        points = sample(denoiser, (count, 2), DDIM(evaluations), seed=0, progress=False)
        found[f"{evaluations} evaluations"] = points
    for name, points in found.items():
        print(f"{name:20} median distance to the data {torch.cdist(points, data).min(1).values.median():.4f}")


if __name__ == "__main__":
    main()
