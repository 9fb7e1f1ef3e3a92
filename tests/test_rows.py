"""Rows against the mathematics they stand for, and plans that cannot be."""

import math
from itertools import pairwise

import pytest
import torch
from cases import check_error, normals, ordinary_schedules
from hypothesis import given
from hypothesis import strategies as st

from alphabar import DDIM, DDPM, NoiseSchedule, Plan, Row, add_noise, posterior
from alphabar.errors import ConfigError, NoAnswerError

COSINE = NoiseSchedule.cosine()
ZERO_SNR = NoiseSchedule.linear().zero_terminal_snr()
VARIANCES = ("fixed_small", "fixed_large", "learned_range", "learned")
SAMPLERS = {
    **{variance: DDPM(6, variance) for variance in VARIANCES},
    **{f"DDIM {eta}": DDIM(6, eta) for eta in (0.0, 0.5, 1.0)},
}
every_sampler = pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS.keys())


@st.composite
def plans_of(draw, make):
    """A sampler's plan over some of the t of a random schedule."""
    schedule = draw(ordinary_schedules)
    schedule = schedule.zero_terminal_snr() if draw(st.booleans()) else schedule
    chosen = draw(st.sets(st.integers(0, len(schedule) - 1), min_size=1))
    return schedule, make(sorted(chosen, reverse=True)).plan(schedule)


def levels(schedule, row):
    """ᾱ_t and ᾱ_s of a row."""
    return schedule.alpha_bar[row.t].item(), 1.0 if row.s < 0 else schedule.alpha_bar[row.s].item()


KEEPING = {
    "DDPM, small": lambda ts: DDPM(spacing=ts),
    "DDIM, η = 0": lambda ts: DDIM(spacing=ts),
    "DDIM, η = .3": lambda ts: DDIM(eta=0.3, spacing=ts),
    "DDIM, η = 1": lambda ts: DDIM(eta=1.0, spacing=ts),
}


@pytest.mark.parametrize("make", KEEPING.values(), ids=KEEPING.keys())
@given(data=st.data())
def test_a_step_takes_the_marginal_at_t_to_the_marginal_at_s(make, data):
    # With the true x_0, x_t ~ N(√ᾱ_t x_0, 1 − ᾱ_t) must become x_s ~ N(√ᾱ_s x_0, 1 − ᾱ_s).
    schedule, plan = data.draw(plans_of(make))
    for row in plan.rows:
        at_t, at_s = levels(schedule, row)
        (of_x_0,) = row.history
        assert row.x * at_t**0.5 + of_x_0 == pytest.approx(at_s**0.5, rel=1e-11)
        assert row.x**2 * (1 - at_t) + row.z**2 == pytest.approx(1 - at_s, rel=1e-10, abs=1e-15)


@given(plans_of(lambda ts: DDPM(spacing=ts)))
def test_a_ddpm_row_is_the_posterior(case):
    schedule, plan = case
    x_t, x_0 = normals(3, 2, seed=1), normals(3, 2, seed=2)
    for row in plan.rows:
        mean, variance = posterior(schedule, x_t, x_0, row.t, row.s)
        torch.testing.assert_close(row.advance(x_t, [x_0], torch.zeros(3, 2)), mean, rtol=0, atol=1e-13)
        assert row.z == pytest.approx(variance.item() ** 0.5, rel=1e-13)


@given(plans_of(lambda ts: DDPM(variance="fixed_large", spacing=ts)))
def test_the_large_variance_is_that_of_a_step_forward(case):
    schedule, plan = case
    for row in plan.rows[:-1]:
        at_t, at_s = levels(schedule, row)
        assert row.z**2 == pytest.approx(1 - at_t / at_s, rel=1e-10)


@given(st.data())
def test_a_learned_range_runs_from_the_small_to_the_large_variance(data):
    schedule, plan = data.draw(plans_of(lambda ts: DDPM(variance="learned_range", spacing=ts)))
    timesteps = list(plan.timesteps)
    small, large = (DDPM(variance=name, spacing=timesteps).plan(schedule) for name in VARIANCES[:2])
    x_t, x_0, z = (normals(1, 3, seed=seed) for seed in (1, 2, 3))
    for row, low, high in list(zip(plan.rows, small.rows, large.rows, strict=True))[:-1]:
        for answer, scale in (
            (-1.0, low.z),
            (1.0, high.z),
            (0.0, (low.z * high.z) ** 0.5),  # halfway in the logarithm
        ):
            found = row.advance(x_t, [x_0], z, torch.full_like(x_t, answer))
            mean = low.advance(x_t, [x_0], torch.zeros_like(z))
            torch.testing.assert_close(found, mean + scale * z, rtol=0, atol=1e-12)


def test_a_learned_variance_is_read_as_its_logarithm():
    # Nichol & Dhariwal 2021: the output v is log σ².
    row = DDPM(5, "learned").plan(COSINE).rows[0]
    x_t, x_0, z, v = (normals(2, 3, seed=seed) for seed in (1, 2, 3, 4))
    mean = posterior(COSINE, x_t, x_0, row.t, row.s).mean
    torch.testing.assert_close(row.advance(x_t, [x_0], z, v), mean + (v / 2).exp() * z, rtol=0, atol=1e-13)


@given(plans_of(lambda ts: DDIM(spacing=ts)))
def test_ddim_without_noise_keeps_the_noise_it_sees(case):
    # x_t = √ᾱ_t x_0 + √(1−ᾱ_t) ε goes to √ᾱ_s x_0 + √(1−ᾱ_s) ε, with the same ε, down to x_0.
    schedule, plan = case
    x_0, eps = normals(2, 3, seed=1), normals(2, 3, seed=2)
    for row in plan.rows:
        assert not row.is_random
        x_s = row.advance(add_noise(schedule, x_0, eps, row.t), [x_0])
        expected = x_0 if row.s < 0 else add_noise(schedule, x_0, eps, row.s)
        torch.testing.assert_close(x_s, expected, rtol=0, atol=1e-12)


@given(plans_of(lambda ts: DDIM(eta=1.0, spacing=ts)))
def test_ddim_with_all_the_noise_is_ddpm(case):
    schedule, plan = case
    for row, other in zip(plan.rows, DDPM(spacing=list(plan.timesteps)).plan(schedule).rows, strict=True):
        found, expected = (row.x, *row.history, row.z), (other.x, *other.history, other.z)
        assert found == pytest.approx(expected, rel=1e-8, abs=1e-11)


@every_sampler
@pytest.mark.parametrize("schedule", [COSINE, ZERO_SNR], ids=["cosine", "zero SNR"])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_the_last_row_returns_the_estimate_and_adds_no_noise(sampler, schedule, spacing):
    sampler = type(sampler)(**{**vars(sampler), "spacing": spacing})
    last = sampler.plan(schedule).rows[-1]
    assert (last.s, last.x, last.history, last.z, last.log_variance) == (-1, 0.0, (1.0,), 0.0, None)


@every_sampler
def test_rows_join_into_a_plan(sampler):
    plan = sampler.plan(COSINE)
    assert len(plan) == 6
    assert all(row.s == after.t for row, after in pairwise(plan.rows))
    assert plan == sampler.plan(NoiseSchedule.cosine())


ROW = Row(5, -1, 0.5, (0.5,))
BAD_PLANS = {
    "no rows": (lambda: Plan(()), ConfigError, "at least one row"),
    "rows apart": (lambda: Plan((Row(9, 6, 0.5, (0.5,)), ROW)), ConfigError, "t = 6", "5", "join"),
    "too long a memory": (lambda: Plan((Row(5, -1, 0.5, (0.5, 0.1)),)), ConfigError, "row 0", "2 estimates"),
    "nan": (lambda: Plan((Row(5, -1, math.nan, (0.5,)),)), NoAnswerError, "t = 5", "not finite"),
    "infinite": (lambda: Plan((Row(5, -1, 0.5, (math.inf,)),)), NoAnswerError, "t = 5", "not finite"),
    "no estimate": (lambda: ROW.advance(torch.ones(1), []), ConfigError, "t = 5", "1 estimates"),
    "no noise": (
        lambda: Row(5, 3, 0.5, (0.5,), 0.1).advance(torch.ones(1), [torch.ones(1)]),
        ConfigError,
        "t = 5",
        "noise",
    ),
}


@pytest.mark.parametrize("case", BAD_PLANS.values(), ids=BAD_PLANS.keys())
def test_a_bad_plan_is_named_with_its_value_and_the_remedy(case):
    check_error(*case)
