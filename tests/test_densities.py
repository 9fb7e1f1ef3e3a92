"""Each density of t is the one it is named after, and stays on the schedule."""

import math

import pytest
import torch
from cases import COSINE, normals
from scipy import stats

from alphabar import NoiseSchedule
from alphabar.training.timesteps import TIMESTEPS, shares

LOG_SNR = COSINE.log_snr
COUNT = 20_000


def drawn(name: str, log_snr: torch.Tensor = LOG_SNR) -> torch.Tensor:
    """Many t, from independent numbers in the place of stratified ones too."""
    u = 1 - torch.rand(COUNT, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return TIMESTEPS[name](shares(u, torch.zeros(COUNT), 1), log_snr)


def logit_normal(t: torch.Tensor, centre: float = 0.2) -> torch.Tensor:
    share = (t.double() + 0.5) / 1000
    return torch.special.ndtr((torch.logit(share) - centre) / 1.2)


def log_normal(t: torch.Tensor) -> torch.Tensor:
    return torch.special.ndtr((-LOG_SNR[t] / 2 + 1.2) / 1.2)


@pytest.mark.parametrize(
    ("name", "cumulative"),
    [
        ("uniform", lambda t: (t.double() + 0.5) / 1000),
        ("stratified", lambda t: (t.double() + 0.5) / 1000),
        ("logit_normal", logit_normal),
        ("logit_normal_low", lambda t: logit_normal(t, -0.4)),
        ("edm", log_normal),
    ],
)
def test_t_has_the_density_of_its_name(name, cumulative):
    # A grid of 1000 t moves the distribution by half a step, 5e-4 of its scale; the largest distance of so
    # many draws exceeds 1.63/√n once in a hundred times.
    distance = stats.kstest(cumulative(drawn(name)).numpy(), "uniform").statistic
    assert distance < 1.63 / COUNT**0.5 + 2e-3


def test_edms_t_is_the_nearest_in_log_snr_and_ends_at_the_schedules_ends():
    u = 1 - torch.rand(100, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    log_snr = -2 * (1.2 * torch.special.ndtri(1 - u) - 1.2)
    nearest = (LOG_SNR - log_snr[:, None]).abs().argmin(1)
    assert torch.equal(TIMESTEPS["edm"](shares(u, torch.zeros(100), 1), LOG_SNR), nearest)
    short = NoiseSchedule.from_alpha_bar([0.5, 0.4]).log_snr  # less than the density covers
    found = drawn("edm", short).bincount(minlength=2) / COUNT
    # ln σ below that of the middle, in units of 1.2 from −1.2.
    below = torch.special.ndtr((-short.mean() / 2 + 1.2) / 1.2)
    assert float(found[0]) == pytest.approx(float(below), abs=4 * math.sqrt(0.25 / COUNT))


def test_edm_draws_no_t_without_signal():
    assert drawn("edm", NoiseSchedule.linear().zero_terminal_snr().log_snr).max() < 999


def test_stratified_timesteps_put_one_t_in_each_part_and_uniform_ones_do_not():
    batch, u = 50, 1 - torch.rand(50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    numbers, log_snr = shares(u, torch.arange(batch), batch), torch.zeros(batch)
    assert TIMESTEPS["stratified"](numbers, log_snr).tolist() == list(range(batch))
    assert len(TIMESTEPS["uniform"](numbers, log_snr).unique()) < batch


@pytest.mark.parametrize("name", TIMESTEPS)
@pytest.mark.parametrize("u", [2**-33, 1.0])  # the ends of what an address can draw
def test_no_uniform_number_leads_outside_the_schedule(name, u):
    for batch in (1, 100, 127, 10**6):
        for steps in (1, 7, 1000):
            numbers = shares(torch.tensor([u]), torch.tensor([batch - 1]), batch)
            t = TIMESTEPS[name](numbers, normals(steps).sort(descending=True).values)
            assert t.dtype == torch.int64
            assert 0 <= t < steps
