"""Families with a formula, right to rounding at whole and fractional t: against 60 digits of mpmath."""

import math
from functools import partial

import pytest
import torch
from cases import check_error
from hypothesis import given
from hypothesis import strategies as st
from mpmath import mp, mpf

from alphabar import NoiseSchedule
from alphabar.errors import ConfigError, ScheduleError
from alphabar.schedule import FAMILIES, log_alpha_bar_between, t_of_log_snr

mp.dps = 60
FEW = 8  # units in the last place: each formula has about a dozen roundings
MAX_BETA = mpf(0.999)


def cosine(p, steps):
    return mp.cos((p / steps + mpf("0.008")) / mpf("1.008") * mp.pi / 2) ** 2


def exponential(p, steps):
    return mp.exp(-12 * p / steps)


def laplace(p, steps):
    u = p / steps
    root = mp.sqrt(1 - 2 * abs(mpf(1) / 2 - u) + mpf("1e-6"))
    return 1 / (1 + root) if 2 * u <= 1 else root / (1 + root)


def rectified_flow(p, steps, shift=1):
    u = shift * (p / steps) / (1 + (shift - 1) * (p / steps))
    return (1 - u) ** 2 / ((1 - u) ** 2 + u**2)


CUT = {"cosine": cosine, "exponential": exponential, "laplace": laplace}
FORMULAS = {name: (getattr(NoiseSchedule, name), formula) for name, formula in CUT.items()} | {
    "laplace of diffusers": (
        lambda steps: NoiseSchedule.from_config({"beta_schedule": "laplace", "num_train_timesteps": steps}),
        lambda p, steps: mp.sqrt(laplace(p, steps)),
    ),
    "rectified_flow": (NoiseSchedule.rectified_flow, rectified_flow),
    "rectified_flow, shift 3": (
        partial(NoiseSchedule.rectified_flow, shift=3.0),
        partial(rectified_flow, shift=mpf(3)),
    ),
}


def units(value: float, exact: mpf) -> float:
    return float(abs(mpf(value) - exact) / mpf(math.ulp(float(exact))))


# --- on the integers ---


@pytest.mark.parametrize("steps", [2, 7, 1000, 1001, 4000])
@pytest.mark.parametrize("name", FORMULAS)
def test_beta_and_log_alpha_bar_are_right_to_rounding(name, steps):
    family, formula = FORMULAS[name]
    schedule, alpha_bar, previous = family(steps), mpf(1), formula(mpf(0), steps)
    logs = schedule.log_alpha_bar_at(torch.arange(steps)).tolist()
    for t, (beta, log) in enumerate(zip(schedule.beta.tolist(), logs, strict=True)):
        following = formula(mpf(t + 1), steps)
        exact = 1 - following / previous
        if "flow" not in name:
            exact = min(exact, MAX_BETA)
        alpha_bar, previous = alpha_bar * (1 - exact), following
        assert units(beta, exact) < FEW
        assert log == -math.inf if alpha_bar == 0 else units(log, mp.log(alpha_bar)) < FEW


@pytest.mark.parametrize("steps", [2, 7, 1000])
@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.filterwarnings("ignore::alphabar.ScheduleWarning")
def test_zero_terminal_snr_is_right_to_rounding(name, steps):
    schedule = FAMILIES[name](steps)
    moved = schedule.zero_terminal_snr()
    if name == "rectified_flow":
        assert moved is schedule
        return
    signal, alpha_bar = [], mpf(1)
    logs = [0.0, *schedule.log_alpha_bar_at(torch.arange(steps)).tolist()]
    for t, beta in enumerate(schedule.beta.tolist()):  # where β is nearly 1 the digits are in log ᾱ
        alpha_bar *= 1 - mpf(beta) if beta <= 0.5 else mp.exp(mpf(logs[t + 1]) - mpf(logs[t]))
        signal.append(mp.sqrt(alpha_bar))
    first, last = signal[0], signal[-1]
    exact = [((s - last) * first / (first - last)) ** 2 for s in signal]
    for t, previous in enumerate([mpf(1), *exact[:-1]]):
        assert units(moved.beta[t].item(), 1 - exact[t] / previous) < FEW
        if exact[t]:
            assert units(moved.log_alpha_bar_at(t).item(), mp.log(exact[t])) < FEW
    assert moved.log_alpha_bar_at(steps - 1) == -math.inf


@pytest.mark.parametrize("rho", [1.0, 5.0, 7.0, 1e6, math.inf])
@pytest.mark.parametrize("steps", [2, 1000])
def test_edm_has_the_levels_of_the_paper(rho, steps):
    schedule, low, high = NoiseSchedule.edm(steps, 0.01, 50.0, rho), mpf(0.01), mpf(50.0)
    for t in range(0, steps, max(steps // 100, 1)):
        place = mpf(t) / (steps - 1)
        if math.isinf(rho):
            sigma = low * (high / low) ** place
        else:
            power = 1 / mpf(rho)
            sigma = (low**power + place * (high**power - low**power)) ** mpf(rho)
        # σ² is exp of a number up to 2 log(σ_max/σ_min) = 17, which is right to rounding: 17 ulp of σ².
        r = sigma**2
        assert units(schedule.log_alpha_bar_at(t).item(), -mp.log(1 + r)) < 64
        assert schedule.log_snr[t].item() == pytest.approx(float(-mp.log(r)), rel=1e-14, abs=1e-13)
    assert schedule.snr[[0, -1]].rsqrt().tolist() == pytest.approx([0.01, 50.0], rel=1e-13)
    ratio = schedule.alpha_bar[1:] / schedule.alpha_bar[:-1]
    torch.testing.assert_close(schedule.beta[1:], 1 - ratio, rtol=1e-9, atol=1e-14)


def test_a_schedule_of_one_step_is_the_noisiest_level():
    assert NoiseSchedule.edm(1).snr.rsqrt().item() == pytest.approx(80.0, rel=1e-14)
    assert NoiseSchedule.rectified_flow(1).alpha_bar.tolist() == [0]
    assert NoiseSchedule.rectified_flow(1).zero_terminal_snr() == NoiseSchedule.rectified_flow(1)


@given(st.integers(1, 300), st.floats(0.01, 100))
def test_the_log_snr_of_a_rectified_flow_is_that_of_its_time(steps, shift):
    v = torch.arange(1, steps + 1, dtype=torch.float64) / steps
    u = shift * v / (1 + (shift - 1) * v)
    schedule = NoiseSchedule.rectified_flow(steps, shift)
    # 1 − u has lost to rounding what it lies nearer to 0 than 1.
    expected, lost = 2 * ((1 - u) / u).log()[:-1], 8 * torch.finfo(torch.float64).eps / (1 - u[:-1])
    assert ((schedule.log_snr[:-1] - expected).abs() <= lost + 1e-13).all()
    assert schedule.log_snr[-1] == -math.inf


# --- between the integers ---


@pytest.mark.parametrize("steps", [7, 1000, 1001])
@pytest.mark.parametrize("name", FORMULAS)
def test_between_the_integers_a_family_is_its_formula(name, steps):
    family, formula = FORMULAS[name]
    schedule, rest = family(steps), formula(mpf(0), steps)
    gaps = schedule._tables.formula.gaps
    t = torch.linspace(0, steps - 1, 4 * steps + 3, dtype=torch.float64)
    for place, log in zip(t.tolist(), log_alpha_bar_between(schedule, t).tolist(), strict=True):
        if place.is_integer() or any(low < place < high for low, high in gaps):
            continue
        assert units(log, mp.log(formula(mpf(place) + 1, steps) / rest)) < FEW


@pytest.mark.parametrize("rho", [7.0, math.inf])
def test_between_the_integers_edm_is_its_formula(rho):
    coarse, fine = NoiseSchedule.edm(101, rho=rho), NoiseSchedule.edm(1001, rho=rho)
    t = torch.arange(1001, dtype=torch.float64) / 10
    torch.testing.assert_close(
        log_alpha_bar_between(coarse, t), fine.log_alpha_bar_at(torch.arange(1001)), rtol=1e-13, atol=0
    )


@pytest.mark.parametrize("name", FORMULAS)
def test_only_a_clipped_end_and_a_jump_are_interpolated(name):
    schedule = FORMULAS[name][0](1000)
    gaps = {"cosine": ((998, 999),), "laplace": ((499, 500),), "laplace of diffusers": ((499, 500),)}
    assert schedule._tables.formula.gaps == gaps.get(name, ())


@pytest.mark.parametrize("name", [*FORMULAS, "edm"])
def test_log_snr_falls_between_the_integers_too(name):
    schedule = NoiseSchedule.edm(50) if name == "edm" else FORMULAS[name][0](50)
    t = torch.linspace(0, 49, 49 * 64 + 1, dtype=torch.float64)
    log = log_alpha_bar_between(schedule, t)
    assert ((log - log.expm1().neg().log()).diff() < 0).all()


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.filterwarnings("ignore::alphabar.ScheduleWarning")
def test_one_number_gives_the_same_bits_as_many_and_whole_t_those_of_the_table(name):
    schedule = FAMILIES[name](60)
    t = torch.cat([torch.arange(60.0), torch.linspace(0, 58.9, 301)]).double()
    many = log_alpha_bar_between(schedule, t)
    assert torch.equal(many, torch.stack([log_alpha_bar_between(schedule, place) for place in t.tolist()]))
    assert torch.equal(many[:60], schedule.log_alpha_bar_at(torch.arange(60)))


@pytest.mark.parametrize("name", FAMILIES)
def test_t_of_log_snr_is_the_inverse_of_every_family(name):
    schedule = FAMILIES[name](1000)
    last = 999 if name == "rectified_flow" else 998  # also between T−2 and T−1, though log-SNR ends at −∞
    t = torch.linspace(0, last - 0.01, 777, dtype=torch.float64)
    log = log_alpha_bar_between(schedule, t)
    torch.testing.assert_close(t_of_log_snr(schedule, log - log.expm1().neg().log()), t, rtol=0, atol=1e-8)


def test_schedules_with_the_same_numbers_and_other_levels_between_them_differ():
    cosine = NoiseSchedule.cosine(50)
    numbers = cosine.respaced(range(50))
    assert torch.equal(numbers.log_snr, cosine.log_snr)
    assert torch.equal(numbers.beta, cosine.beta)
    assert numbers != cosine
    assert log_alpha_bar_between(numbers, 20.5) != log_alpha_bar_between(cosine, 20.5)


# --- settings that cannot be ---

BAD = {
    "shift of 0": (lambda: NoiseSchedule.rectified_flow(10, 0.0), ScheduleError, "shift is 0.0", "positive"),
    "shift of −1": (lambda: NoiseSchedule.rectified_flow(10, -1), ScheduleError, "shift is -1", "positive"),
    "nan shift": (lambda: NoiseSchedule.rectified_flow(10, math.nan), ScheduleError, "shift is nan"),
    "word for shift": (
        lambda: NoiseSchedule.rectified_flow(10, "3"),
        ScheduleError,
        "shift is '3'",
        "number",
    ),
    "true for shift": (lambda: NoiseSchedule.rectified_flow(10, True), ScheduleError, "shift is True"),
    "no steps": (lambda: NoiseSchedule.rectified_flow(0), ConfigError, "steps is 0", "at least 1"),
    "σ_min of 0": (lambda: NoiseSchedule.edm(10, 0.0), ScheduleError, "sigma_min is 0.0", "positive"),
    "σ_min of σ_max": (lambda: NoiseSchedule.edm(10, 3.0, 3.0), ScheduleError, "sigma_min is 3.0", "smaller"),
    "infinite σ_max": (lambda: NoiseSchedule.edm(10, 1.0, math.inf), ScheduleError, "sigma_max is inf"),
    "rho of 0": (lambda: NoiseSchedule.edm(10, rho=0), ScheduleError, "rho is 0", "positive number"),
    "rho of −7": (lambda: NoiseSchedule.edm(10, rho=-7.0), ScheduleError, "rho is -7.0", "positive number"),
    "nan rho": (lambda: NoiseSchedule.edm(10, rho=math.nan), ScheduleError, "rho is nan"),
    "half a step": (lambda: NoiseSchedule.edm(0.5), ConfigError, "steps is 0.5", "whole number"),
}


@pytest.mark.parametrize("case", BAD.values(), ids=BAD.keys())
def test_bad_settings_are_named_with_their_value_and_the_remedy(case):
    check_error(*case)
