"""The measured order of convergence of every solver is its stated order.

The problem is one whose answer is known though it is not linear: in one dimension the deterministic flow
moves each x_t so that the share of the data's distribution below it stays as it is, so the exact x_s is a
quantile of a mixture. Runs stay between two noise levels, where log-SNR is finite. The steps begin small, so
that the lower order with which a multistep method has to begin costs nothing: h_1 ~ h³.
"""

import math

import pytest
import torch

from alphabar import GaussianMixture, NoiseSchedule, Plan
from alphabar.samplers.adams import DEIS, LMS, PNDM
from alphabar.samplers.dpm import DPMSolver
from alphabar.samplers.dpm2 import DPM2
from alphabar.samplers.euler import Euler, Heun
from alphabar.samplers.loop import sample
from alphabar.samplers.unipc import UniPC
from alphabar.schedule.levels import levels_at, t_of_log_snr

LINEAR = NoiseSchedule.linear()
MIXTURE = GaussianMixture(
    torch.tensor([[-0.5], [0.7]], dtype=torch.float64), torch.tensor([0.5, 0.4], dtype=torch.float64)
)
FROM, TO = -3.0, 3.0  # log-SNR


def below(x, level):
    """The share of x_t's distribution below x."""
    alpha_bar = math.exp(level.log_alpha_bar)
    scale = (alpha_bar * MIXTURE.widths**2 + 1 - alpha_bar).sqrt()
    normal = torch.special.ndtr((x.reshape(-1, 1) - math.sqrt(alpha_bar) * MIXTURE.means[:, 0]) / scale)
    return normal.mean(1)


def quantile(share, level):
    low, high = torch.full_like(share, -20), torch.full_like(share, 20)
    for _ in range(70):
        middle = (low + high) / 2
        is_below = below(middle, level) < share
        low, high = torch.where(is_below, middle, low), torch.where(is_below, high, middle)
    return (low + high) / 2


def slow_start(steps):
    """Fractional t whose distance in log-SNR grows evenly from 0."""
    place = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    return t_of_log_snr(LINEAR, FROM + (TO - FROM) * place**2).tolist()


START = torch.linspace(-1.8, 1.8, 7, dtype=torch.float64)[:, None]


def error(make, steps):
    timesteps = slow_start(steps)
    first, last = levels_at(LINEAR, [timesteps[0], timesteps[-1]])
    true = quantile(below(START, first), last)
    between = Plan(make(timesteps).plan(LINEAR).rows[:-1])  # all but the step to clean data
    denoiser = MIXTURE.denoiser(LINEAR)
    found = sample(denoiser, START.shape, between, x_t=START, dtype=torch.float64, progress=False)
    return float((found[:, 0] - true).abs().max())


FULL = {"lower_order_final": False}
ORDERS = {
    "Euler": (1, lambda ts: Euler(spacing=ts)),
    "Heun": (2, lambda ts: Heun(spacing=ts)),
    "DPM-Solver-2": (2, lambda ts: DPM2(spacing=ts)),
    "DPM-Solver++ 1": (1, lambda ts: DPMSolver(order=1, spacing=ts)),
    "DPM-Solver++ 2M": (2, lambda ts: DPMSolver(spacing=ts, **FULL)),
    "DPM-Solver++ 2M, exact": (2, lambda ts: DPMSolver(rule="exact", spacing=ts, **FULL)),
    "DPM-Solver++ 3M, as published": (2, lambda ts: DPMSolver(order=3, spacing=ts, **FULL)),
    "DPM-Solver++ 3M, exact": (3, lambda ts: DPMSolver(order=3, rule="exact", spacing=ts, **FULL)),
    "DPM-Solver++ 2S": (2, lambda ts: DPMSolver(multistep=False, spacing=ts)),
    "DPM-Solver++ 2S, exact": (2, lambda ts: DPMSolver(multistep=False, rule="exact", spacing=ts)),
    "DPM-Solver++ 3S": (3, lambda ts: DPMSolver(order=3, multistep=False, spacing=ts)),
    "DPM-Solver++ 3S, exact": (3, lambda ts: DPMSolver(order=3, multistep=False, rule="exact", spacing=ts)),
    "UniPC 1, bh1": (2, lambda ts: UniPC(order=1, scale="bh1", spacing=ts, **FULL)),
    "UniPC 1, bh2": (2, lambda ts: UniPC(order=1, spacing=ts, **FULL)),
    "UniPC 2, bh1": (3, lambda ts: UniPC(order=2, scale="bh1", spacing=ts, **FULL)),
    "UniPC 2, bh2": (3, lambda ts: UniPC(order=2, spacing=ts, **FULL)),
    "UniPC 3": (4, lambda ts: UniPC(order=3, spacing=ts, **FULL)),
    "DEIS 1": (1, lambda ts: DEIS(order=1, spacing=ts, **FULL)),
    "DEIS 2": (2, lambda ts: DEIS(order=2, spacing=ts, **FULL)),
    "DEIS 3": (3, lambda ts: DEIS(order=3, spacing=ts, **FULL)),
    "DEIS 4": (4, lambda ts: DEIS(order=4, spacing=ts, **FULL)),
    "LMS 1": (1, lambda ts: LMS(order=1, spacing=ts)),
    "LMS 2": (2, lambda ts: LMS(order=2, spacing=ts)),
    "LMS 3": (3, lambda ts: LMS(order=3, spacing=ts)),
    "LMS 4": (4, lambda ts: LMS(order=4, spacing=ts)),
    "PNDM": (2, lambda ts: PNDM(spacing=ts)),
    "PNDM with Runge–Kutta": (2, lambda ts: PNDM(runge_kutta=True, spacing=ts)),
}


@pytest.mark.parametrize("solver", ORDERS)
def test_the_order_of_convergence_is_the_stated_one(solver):
    order, make = ORDERS[solver]
    steps = 96 if order > 2 else 48
    slope = math.log2(error(make, steps) / error(make, 2 * steps))
    assert slope == pytest.approx(order, abs=0.25)


def test_the_exact_flow_keeps_the_share_below():
    # The reference itself: at equal levels it is the identity, and a narrow step of Heun's follows it.
    first, last = levels_at(LINEAR, [500, 499])
    share = below(START, first)
    torch.testing.assert_close(quantile(share, first), START[:, 0], rtol=0, atol=1e-12)
    log_alpha_bar = torch.tensor(first.log_alpha_bar, dtype=torch.float64)
    x_0 = MIXTURE.mean_given(START, log_alpha_bar)
    euler = last.sigma / first.sigma * START + (last.signal - first.signal * last.sigma / first.sigma) * x_0
    torch.testing.assert_close(quantile(share, last), euler[:, 0], rtol=0, atol=1e-4)
