"""Data of one dimension: waves of 64 numbers, (B, 1, 64), with a network of one-dimensional convolutions.

Schedules, denoisers and samplers take data of any shape. The data here are sines of three periods with a
random phase. One sees the share of the power that sampled waves have at the right frequency, beside noise's.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from alphabar import Denoiser, DPMSolver, NoiseSchedule, add_noise, sample, velocity

LENGTH, PERIODS = 64, 3


class Convolutions(nn.Module):
    """network(x, t) for x of (B, 1, L); t is one more channel, and circular padding joins the ends."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv1d(2, width, 9, padding=4, padding_mode="circular")]
        for dilation in (1, 2, 4):
            padding = 4 * dilation
            middle = nn.Conv1d(width, width, 9, padding=padding, dilation=dilation, padding_mode="circular")
            layers += [nn.SiLU(), middle]
        self.layers = nn.Sequential(*layers, nn.SiLU(), nn.Conv1d(width, 1, 1))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        time = (t / 500 - 1).view(-1, 1, 1).expand_as(x)
        return self.layers(torch.cat([x, time], dim=1))


def main(steps: int = 800, count: int = 256) -> None:
    """Train for so many steps, then sample so many waves."""
    torch.manual_seed(0)
    schedule, network = NoiseSchedule.cosine(), Convolutions()
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    for _ in range(steps):
        phase = 2 * math.pi * torch.rand(64, 1, 1)
        x_0 = torch.sin(2 * math.pi * PERIODS * torch.arange(LENGTH) / LENGTH + phase)
        t, noise = torch.randint(len(schedule), (64,)), torch.randn_like(x_0)
        output = network(add_noise(schedule, x_0, noise, t), t)
        loss = mse_loss(output, velocity(schedule, x_0, noise, t))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    denoiser = Denoiser(network, schedule, "v_prediction")
    waves = sample(denoiser, (count, 1, LENGTH), DPMSolver(steps=20), seed=0, progress=False)
    for name, each in (("sampled", waves), ("noise", torch.randn_like(waves)), ("data", x_0)):
        power = torch.fft.rfft(each).abs().square().mean((0, 1))
        print(f"{name:8} share of the power at the right frequency: {power[PERIODS] / power.sum():.1%}")


if __name__ == "__main__":
    main()
