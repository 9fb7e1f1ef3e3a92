"""The variational bound is the authors', moves the variance alone, and moves it to where it should be."""

import math

import pytest
import torch
from cases import COSINE, normals
from improved_diffusion import vb_terms_bpd
from torch import nn

from alphabar import DDPM, NoiseSchedule, sample
from alphabar.process import add_noise, target, to_x_0
from alphabar.training.bound import chain_steps, term_bits
from alphabar.training.config import TrainConfig
from alphabar.training.data import ImageData
from alphabar.training.loop import train
from alphabar.training.objective import Objective

T = torch.tensor([0, 0, 1, 500, 999])


def pixels(*shape: int, seed: int) -> torch.Tensor:
    """8-bit images in [−1, 1], black and white among them, float64."""
    return (normals(*shape, seed=seed) * 160 + 128).round().clamp(0, 255) / 127.5 - 1


@pytest.mark.parametrize("schedule", [NoiseSchedule.linear(), COSINE], ids=["linear", "cosine"])
@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction", "flow", "edm"])
def test_the_hybrid_loss_is_the_authors_code(schedule, prediction):
    x_0, noise = pixels(5, 3, 4, 4, seed=1), normals(5, 3, 4, 4, seed=2)
    # Near the target, so that the decoder at t = 0 has probabilities above its floor too.
    answer = target(schedule, prediction, x_0, noise, T) + 0.03 * normals(5, 3, 4, 4, seed=3)
    variance = normals(5, 3, 4, 4, seed=4)
    x_t = add_noise(schedule, x_0, noise, T)
    x_start = to_x_0(schedule, prediction, x_t, answer, T)
    vb = vb_terms_bpd(schedule.beta.numpy(), x_0, x_t, T, x_start, "learned_range", variance)
    simple = (answer - target(schedule, prediction, x_0, noise, T)).square().mean()
    expected = simple + 1e-3 * 1000 * vb.mean()  # RESCALED_MSE: vb · T/1000
    found = Objective.of(schedule, prediction, variance="learned_range").loss(
        torch.cat([answer, variance], 1), x_0, noise, T
    )
    # Their x_t has to cancel from two means, and x̂_0 is up to 1e5 in size where ᾱ is 1e-9.
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=0)


def test_the_decoders_bins_are_a_distribution():
    levels, values = chain_steps(COSINE), torch.arange(256).double() / 127.5 - 1
    for mean, answer in ((0.1, 0.0), (-0.98, 1.0), (1.3, -1.0)):
        bits = term_bits(
            levels,
            torch.zeros(256, dtype=torch.long),
            values[:, None],
            mean - values[:, None],
            torch.full((256, 1), answer).double(),
        )
        assert float((2**-bits).sum()) == pytest.approx(1, abs=256e-12)  # each bin has at least 1e-12


def test_the_range_is_that_of_the_samplers_rows_at_every_t():
    levels, rows = chain_steps(COSINE), DDPM(variance="learned_range").plan(COSINE).rows[::-1]
    for row in rows[1:]:
        assert (levels.low[row.t], levels.high[row.t]) == row.log_variance
    assert float(levels.low[0]) == pytest.approx(float(levels.low[1]), rel=1e-15)
    assert levels.high[0] == pytest.approx(math.log(COSINE.beta[0]), rel=1e-15)
    assert all(column.isfinite().all() for column in chain_steps(NoiseSchedule.from_beta([0.5])))


def test_the_bound_moves_the_variance_and_not_the_mean():
    x_0, noise = pixels(5, 3, 4, 4, seed=1), normals(5, 3, 4, 4, seed=2)
    output = normals(5, 6, 4, 4, seed=3).requires_grad_()
    hybrid = Objective.of(COSINE, "v_prediction", variance="learned_range")
    hybrid.loss(output, x_0, noise, T).backward()
    mean = output.detach()[:, :3].clone().requires_grad_()
    Objective.of(COSINE, "v_prediction").loss(mean, x_0, noise, T).backward()
    assert torch.equal(output.grad[:, :3], mean.grad)
    assert (output.grad[2:, 3:] != 0).all()


def test_the_gradient_of_the_variance_is_that_of_finite_differences():
    levels, x_0, error = chain_steps(COSINE), pixels(5, 2, 2, seed=1), 0.01 * normals(5, 2, 2, seed=2)
    variance = normals(5, 2, 2, seed=3).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: term_bits(levels, T, x_0, error, v), variance)


STEPS, POWER = 20, 0.3**2  # of the chain; of the data, which are normal


class Exact(nn.Module):
    """Knows the mean of normal data, and learns one variance for each t."""

    def __init__(self) -> None:
        super().__init__()
        self.variance = nn.Parameter(torch.zeros(STEPS))

    def forward(self, x, t):
        alpha_bar = NoiseSchedule.cosine(STEPS).alpha_bar[t].float().reshape(-1, 1, 1, 1)
        mean = alpha_bar.sqrt() * POWER / (alpha_bar * POWER + 1 - alpha_bar) * x
        return torch.cat([mean, self.variance[t].reshape(-1, 1, 1, 1).expand_as(x)], 1)


def test_the_learned_variance_is_the_one_that_makes_samples_of_the_data():
    data = (0.3 * normals(4096, 1, 4, 4) * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8)
    config = TrainConfig(
        **{"prediction": "sample", "variance": "learned_range", "diffusion_steps": STEPS},
        **{"steps": 300, "batch_size": 128, "learning_rate": 0.05, "warmup": 5, "precision": "float32"},
        timesteps="stratified",
    )
    *_, last = train(config, data=ImageData(data), network=Exact())
    trained = last.snapshot()
    # q(x_{t−1} | x_t) = ∫ q(x_{t−1} | x_t, x_0) q(x_0 | x_t) dx_0: its variance is β̃ + b² Var(x_0 | x_t).
    levels, alpha_bar = chain_steps(trained.schedule), trained.schedule.alpha_bar
    left = POWER * (1 - alpha_bar) / (alpha_bar * POWER + 1 - alpha_bar)
    best = (levels.low.exp() + levels.x_0**2 * left).log()
    share = (trained.network.variance.detach().double() + 1) / 2
    found = levels.low + (levels.high - levels.low) * share
    off = (found - best).abs()[1:]
    assert (off < (levels.low - best).abs()[1:]).all()
    assert (off < (levels.high - best).abs()[1:]).all()
    assert off.max() < 0.1
    # Each step is then q itself, up to the last one, which returns x̂_0 without noise.
    power = float(alpha_bar[0] * POWER**2 / (alpha_bar[0] * POWER + 1 - alpha_bar[0]))
    for variance, low, high in (
        ("learned_range", 0.97, 1.03),
        ("fixed_small", 0, 0.9),
        ("fixed_large", 1.1, 9),
    ):
        x = sample(trained.denoiser(), (2048, 1, 4, 4), DDPM(variance=variance), seed=1)
        assert low < float(x.double().var()) / power < high, variance
