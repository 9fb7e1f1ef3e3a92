"""A training loop of your own: digits in thirty lines of plain PyTorch.

One sees the loss fall, then digits that came out of noise. alphabar.training.train is this loop with mixed
precision, many devices, and the same random choices on any number of them; take it when you need these.
"""

import torch
from torch.nn.functional import mse_loss

from alphabar import Denoiser, DPMSolver, NoiseSchedule, add_noise, sample, velocity
from alphabar.training import Averages, exponential, load_data, to_unit, unet


def main(steps: int = 800, batch: int = 128, count: int = 6) -> None:
    """Train for so many steps, then print so many digits."""
    torch.manual_seed(0)
    schedule = NoiseSchedule.cosine()
    data = load_data("digits")
    images = to_unit(data[range(len(data))].images)
    network = unet((1, 8, 8))
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    averages = Averages(network, [exponential(0.99)])
    for step in range(1, steps + 1):
        x_0 = images[torch.randint(len(images), (batch,))]
        t = torch.randint(len(schedule), (batch,))
        noise = torch.randn_like(x_0)
        output = network(add_noise(schedule, x_0, noise, t), t).sample
        loss = mse_loss(output, velocity(schedule, x_0, noise, t))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        averages.update()
        if step % 100 == 0:
            print(f"step {step}  loss {loss:.4f}")
    with averages.averaged():
        denoiser = Denoiser(network.eval(), schedule, "v_prediction")
        digits = sample(denoiser, (count, 1, 8, 8), DPMSolver(steps=20), seed=0, progress=False)
    for row in torch.cat(list(digits[:, 0]), dim=1):
        print("".join(" .:*#"[level] for level in ((row + 1) * 2.5).long().clamp(0, 4)))


if __name__ == "__main__":
    main()
