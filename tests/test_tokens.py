"""Training with a t of its own for each token: what is drawn, what it costs, what it learns."""

import math

import numpy as np
import pytest
import torch
from cases import check_error, normals
from torch import nn
from torch.nn import functional

from alphabar import DDIM, NoiseSchedule, sample
from alphabar.cli import main
from alphabar.errors import ConfigError
from alphabar.process import uniform
from alphabar.training import TrainConfig, array_data, train
from alphabar.training.data import Batch
from alphabar.training.draw import Draw, grid_of, over_places
from alphabar.training.network import token_of
from alphabar.training.objective import Objective
from alphabar.training.streams import TIMESTEP
from alphabar.training.timesteps import TIMESTEPS

COSINE = NoiseSchedule.cosine()
OWN = "package.module:factory"
TOKENS = [
    *(("unet_1d", (2, 12), (1,)), ("unet_3d", (1, 5, 6, 7), (1, 6, 7)), ("dit", (1, 12), (1,))),
    *(("dit", (1, 40, 23), (2, 2)), ("dit", (1, 9, 8, 8), (2, 2, 2)), (OWN, (3, 4, 5), (1, 5))),
]
every_token = pytest.mark.parametrize(("network", "shape", "token"), TOKENS)


def drawing(token, **settings):
    return Draw(TrainConfig(timesteps_per="token", **settings), 0, COSINE.log_snr, {}, token)


def drawn(draw, shape, count=6, first=0):
    batch = Batch(normals(count, *shape, seed=5, dtype=torch.float32), None)
    return draw(batch, first, torch.empty(count, *shape))


@every_token
def test_a_token_is_the_networks_and_has_one_t_at_all_its_places(network, shape, token):
    assert token_of(TrainConfig(network=network, timesteps_per="token"), shape) == token
    assert token_of(TrainConfig(network=network), shape) == ()
    t = drawn(drawing(token), shape).t
    grid = grid_of(token, shape[1:])
    places = torch.arange(math.prod(grid)).view(1, 1, *grid)
    found = torch.zeros(1).long() + over_places(places, token, shape[1:])
    for place in places.flatten():
        assert all(len(each[found[0] == place].unique()) == 1 for each in t)
    assert t.shape == (6, *found.shape[1:])


@pytest.mark.parametrize("timesteps", TIMESTEPS)
def test_each_t_is_by_its_address_and_of_the_density_whatever_the_batch(timesteps):
    draw = drawing((1,), timesteps=timesteps, seed=3)
    t = drawn(draw, (1, 50), count=400).t
    assert torch.equal(t[7:9], drawn(draw, (1, 50), count=2, first=7).t)
    alone = TrainConfig(timesteps=timesteps, seed=3)
    images = Draw(alone, 0, COSINE.log_snr, {})
    many = drawn(images, (1, 1), count=20_000).t
    # Two samples of 20,000 from one distribution: 1.95 √(2/n) is exceeded once in a thousand.
    cuts = torch.arange(0, 1000, 10)
    shares = [(each.flatten()[:, None] <= cuts).double().mean(0) for each in (t, many)]
    assert (shares[0] - shares[1]).abs().max() < 1.95 * (2 / 20_000) ** 0.5
    pairs = torch.corrcoef(t[:, 0].T.double())
    assert (pairs - torch.eye(50)).abs().max() < 5 / 400**0.5  # five standard errors


def test_the_first_token_takes_the_number_that_the_image_took():
    t = drawn(drawing((1,), timesteps="uniform", seed=1), (1, 4)).t
    expected = (1000 * (1 - uniform(6, seed=1, stream=TIMESTEP).double())).long()
    assert torch.equal(t[:, 0, 0], expected)


def test_the_loss_of_each_token_is_weighed_by_its_own_t():
    objective = Objective.of(COSINE, "v_prediction", loss="min_snr")
    x_0, noise, output = (normals(3, 2, 4, 5, seed=seed) for seed in (1, 2, 3))
    t = torch.randint(1000, (3, 1, 4), generator=torch.Generator().manual_seed(0))
    found = objective.losses(output, x_0, noise, t)
    assert found.shape == t.shape
    given, time = objective.ask(x_0, noise, t)
    assert torch.equal(time, t)
    for token in range(4):
        parts = [each[:, :, token] for each in (output, x_0, noise)]
        alone = objective.losses(*parts, t[:, 0, token])
        torch.testing.assert_close(found[:, 0, token], alone, rtol=1e-14, atol=0)
        assert torch.equal(given[:, :, token], objective.ask(parts[1], parts[2], t[:, 0, token])[0])


def test_the_mean_of_the_losses_is_that_of_the_image_where_all_t_agree():
    objective = Objective.of(COSINE, "epsilon")
    x_0, noise, output = (normals(3, 2, 4, 5, seed=seed) for seed in (1, 2, 3))
    t = torch.tensor([5, 500, 900])
    each = objective.losses(output, x_0, noise, t[:, None, None].expand(3, 1, 4))
    assert each.mean().item() == pytest.approx(objective.loss(output, x_0, noise, t).item(), rel=1e-14)


class Pair(nn.Module):
    """A perceptron of two tokens and their t."""

    def __init__(self):
        super().__init__()
        sizes = (8, 64), (64, 64), (64, 2)
        self.layers = nn.ModuleList(nn.Linear(*size) for size in sizes)

    def forward(self, x, t):
        angle = t.expand(-1, 1, 2) * (math.pi / 2000)
        h = torch.cat([x, x * angle.sin(), angle.cos(), angle.sin()], 2)
        for layer in self.layers[:-1]:
            h = functional.silu(layer(h))
        return self.layers[-1](h)


def test_a_network_learns_from_clean_tokens_what_the_others_are():
    """Data (x, x): a network that is given the first token clean finds the second from pure noise."""
    data = array_data(normals(2048, 1, 1, seed=1).expand(-1, -1, 2).float(), scaling="none")
    settings = {"steps": 500, "batch_size": 256, "learning_rate": 1e-2, "optimizer": "adamw"}
    torch.manual_seed(0)
    *_, last = train(TrainConfig(timesteps_per="token", seed=1, **settings), data=data, network=Pair())
    assert last.t.shape == last.losses.shape == (512,)
    denoiser = last.snapshot().guided()
    known = torch.linspace(-1.5, 1.5, 64)[:, None, None]
    x_t = torch.cat([known, normals(64, 1, 1, seed=2).float()], 2)
    delay = torch.tensor([[[-10, 0]]])
    made = sample(denoiser, x_t.shape, DDIM(10), x_t=x_t, delay=delay, progress=False)
    assert torch.equal(made[..., 0], known[..., 0])
    error = (made[..., 1] - known[..., 0]).square().mean().sqrt()
    assert error < 0.25, error  # where it ignored the first token it would be about 1.3


@pytest.mark.parametrize(
    ("network", "shape", "fragments"),
    [
        ("unet", (1, 8, 8), ("unet", "dit")),
        ("unet_2d", (1, 8, 8), ("unet_2d", "choose dit")),
        ("mlp", (5,), ("mlp", "no tokens")),
        (OWN, (5,), ("no tokens",)),
    ],
)
def test_what_has_no_tokens_is_a_named_error(network, shape, fragments):
    config = TrainConfig(network=network, timesteps_per="token")
    check_error(lambda: token_of(config, shape), ConfigError, "timesteps_per is token", *fragments)


def test_settings_that_do_not_go_together_are_named():
    wrong = {"timesteps_per": "token", "variance": "learned_range"}
    check_error(lambda: TrainConfig(**wrong), ConfigError, "learned_range")


def test_the_command_line_trains_on_tokens_and_samples_a_pyramid(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.save("walks.npy", normals(32, 1, 4, seed=1).cumsum(2).float().numpy())
    settings = "--network dit --width 8 --steps 20 --batch-size 8 --learning-rate .1 --timesteps-per token"
    for command in (
        f"train walks.npy {settings} --out run",
        "train walks.npy --network dit --width 8 --steps 2 --batch-size 8 --out plain",
        "sample run --num 2 --steps 3 --out late --delay 2",
        "sample run --num 2 --steps 3 --out together",
    ):
        assert main(command.split()) == 0
    late, together = (np.load(f"{name}/samples.npy") for name in ("late", "together"))
    assert late.shape == together.shape == (2, 1, 4)
    assert (late != together).any()
    capsys.readouterr()
    for command, says in (
        ("sample plain --num 2 --steps 3 --delay 2", "--timesteps-per token"),
        ("sample run --num 2 --steps 3 --out none --delay -1", "delay is -1"),
        ("sample run --num 2 --steps 3 --out none --delay 1 --sampler dpm", "remembers 1"),
        ("train walks.npy --network mlp --timesteps-per token --out none", "mlp"),
    ):
        assert main(command.split()) != 0
        assert says in capsys.readouterr().err
