"""Noise levels between the integers, the spacings made by level, and the integrals under the solvers."""

import math
from itertools import pairwise

import pytest
import torch
from cases import check_error
from hypothesis import given
from hypothesis import strategies as st

import alphabar
from alphabar import Denoiser, NoiseSchedule
from alphabar.errors import TimestepError
from alphabar.samplers.euler import Euler
from alphabar.samplers.quadrature import moments, phi, weights
from alphabar.schedule.levels import Level, levels_at, log_alpha_bar_between, t_of_log_snr
from alphabar.schedule.spacing import karras, stops, visited

SCHEDULES = {name: getattr(NoiseSchedule, name)() for name in ("linear", "scaled_linear", "cosine")}
ZERO_SNR = {f"{name}, zero SNR": schedule.zero_terminal_snr() for name, schedule in SCHEDULES.items()}
LINEAR = SCHEDULES["linear"]

# --- levels between the integers ------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", [*SCHEDULES, *ZERO_SNR])
def test_at_whole_t_the_level_is_that_of_the_schedule_bit_for_bit(schedule):
    schedule = (SCHEDULES | ZERO_SNR)[schedule]
    t = torch.arange(len(schedule))
    assert torch.equal(log_alpha_bar_between(schedule, t.double()), schedule.log_alpha_bar_at(t))
    assert torch.equal(log_alpha_bar_between(schedule, t), schedule.log_alpha_bar_at(t))


@pytest.mark.parametrize("schedule", [*SCHEDULES, *ZERO_SNR])
def test_between_the_integers_log_snr_falls_and_has_no_corner(schedule):
    schedule = (SCHEDULES | ZERO_SNR)[schedule]
    last = 998 if schedule.alpha_bar[-1] == 0 else 999
    t = torch.linspace(0, last, last * 20 + 1, dtype=torch.float64)
    log = log_alpha_bar_between(schedule, t)
    log_snr = log - log.expm1().neg().log()
    assert (log_snr.diff() < 0).all()
    inner = log_snr[20 * 20 : -20 * 20]  # the ends of some schedules bend within a single t
    slope = inner.diff()
    assert (slope.diff().abs() < 0.05 * slope[1:].abs()).all()


def test_the_interpolation_is_of_third_order():
    # sigmoid(−t/…): a schedule whose log-SNR is smooth, kept at every 1st and every 2nd t.
    def schedule(total):
        log_snr = 8 * torch.cos(torch.linspace(0.1, 3.0, total, dtype=torch.float64))
        return NoiseSchedule.from_alpha_bar(log_snr.sigmoid())

    place = torch.linspace(0.21, 0.79, 500, dtype=torch.float64)
    true = (8 * torch.cos(0.1 + 2.9 * place)).sigmoid().log()
    errors = [
        float((log_alpha_bar_between(schedule(total), place * (total - 1)) - true).abs().max())
        for total in (101, 201)
    ]
    assert math.log2(errors[0] / errors[1]) > 2.7
    assert errors[1] < 1e-5


@pytest.mark.parametrize("schedule", [*SCHEDULES, *ZERO_SNR])
def test_t_of_log_snr_is_the_inverse(schedule):
    schedule = (SCHEDULES | ZERO_SNR)[schedule]
    t = torch.linspace(0, 998, 777, dtype=torch.float64)
    log = log_alpha_bar_between(schedule, t)
    torch.testing.assert_close(t_of_log_snr(schedule, log - log.expm1().neg().log()), t, rtol=0, atol=1e-8)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_karras_and_log_snr_are_even_in_their_own_measure(schedule):
    schedule = SCHEDULES[schedule]
    for rho, spacing in ((7, "karras"), (5, karras(rho=5)), (1, karras(1))):
        ratios = [level.sigma_ve ** (1 / rho) for level in stops(schedule, 12, spacing)[:-1]]
        assert torch.tensor(ratios).diff() == pytest.approx([(ratios[-1] - ratios[0]) / 11] * 11, rel=1e-4)
    log_snr = [2 * level.half_log_snr for level in stops(schedule, 12, "log_snr")[:-1]]
    assert torch.tensor(log_snr).diff() == pytest.approx([(log_snr[-1] - log_snr[0]) / 11] * 11, rel=1e-4)


@pytest.mark.parametrize("spacing", ["karras", "log_snr"])
@pytest.mark.parametrize("schedule", [*SCHEDULES, *ZERO_SNR])
@pytest.mark.parametrize("steps", [1, 2, 3, 50])
def test_spacings_by_level_begin_and_end_at_the_ends(schedule, spacing, steps):
    schedule = (SCHEDULES | ZERO_SNR)[schedule]
    ts = visited(schedule, steps, spacing)
    zero = schedule.alpha_bar[-1] == 0
    assert len(ts) == steps
    assert ts[:2] == (999, 998)[:steps] if zero else ts[0] == 999
    assert ts[-1] == 0 or steps < 2 + zero
    assert all(t > s for t, s in pairwise(ts))


def test_the_network_is_asked_with_integers_or_with_float32():
    asked = []

    def network(x_t, t):
        asked.append(t)
        return torch.zeros_like(x_t)

    denoiser = Denoiser(network, LINEAR)
    alphabar.sample(denoiser, (3, 1, 1, 1), Euler(spacing=[900.0, 500.5, 0]), seed=0, progress=False)
    assert [t.dtype for t in asked] == [torch.int64, torch.float32, torch.int64]
    assert [t.tolist() for t in asked] == [[900] * 3, [500.5] * 3, [0] * 3]


def test_a_level_has_the_numbers_of_its_schedule():
    (level,) = levels_at(LINEAR, [700])
    assert (level.signal, level.sigma) == pytest.approx(
        (float(LINEAR.signal_scale[700]), float(LINEAR.noise_scale[700])), rel=1e-14
    )
    assert 2 * level.half_log_snr == pytest.approx(float(LINEAR.log_snr[700]), rel=1e-12)
    assert (Level(0, -math.inf).half_log_snr, Level(0, -math.inf).sigma_ve) == (-math.inf, math.inf)


# --- while traced or transformed, from the first call on ---

MADE = {
    "linear": NoiseSchedule.linear,
    "cosine": NoiseSchedule.cosine,
    "rectified flow": NoiseSchedule.rectified_flow,
    "zero SNR": lambda: NoiseSchedule.linear().respaced(range(0, 1000, 7)).zero_terminal_snr(),
}
LOOKED_UP = {
    "on the integers": (lambda schedule, t: schedule.log_alpha_bar_at(t), torch.tensor([0, 7, 100])),
    "whole": (log_alpha_bar_between, torch.tensor([0, 7, 100])),
    "between": (log_alpha_bar_between, torch.tensor([0.5, 7.0, 100.25])),
    "inverse": (t_of_log_snr, torch.tensor([1.0, 0.0, -2.0], dtype=torch.float64)),
}


@pytest.mark.parametrize("question", LOOKED_UP)
@pytest.mark.parametrize("schedule", MADE)
def test_levels_can_be_traced_and_mapped_before_anything_has_been_looked_up(schedule, question):
    ask, values = LOOKED_UP[question]
    expected = ask(MADE[schedule](), values)
    torch._dynamo.reset()
    traced = torch.compile(ask, fullgraph=True, backend="eager")
    assert torch.equal(traced(MADE[schedule](), values), expected)
    mapped = torch.func.vmap(lambda t: ask(fresh, t))
    fresh = MADE[schedule]()
    assert torch.equal(mapped(values), expected)


BAD_T = {
    "below": (-0.5, "t = -0.5"),
    "beyond": (999.5, "t = 999.5"),
    "whole beyond": (1000.0, "t = 1000"),
    "nan": (math.nan, "t = nan"),
    "infinite": (math.inf, "t = inf"),
}


@pytest.mark.parametrize("case", BAD_T)
def test_a_t_without_a_level_is_named(case):
    t, fragment = BAD_T[case]
    check_error(lambda: log_alpha_bar_between(LINEAR, t), TimestepError, fragment)
    check_error(lambda: levels_at(LINEAR, [t]), TimestepError, fragment)
    many = torch.tensor([3.5] * 20 + [t], dtype=torch.float64)
    check_error(lambda: log_alpha_bar_between(LINEAR, many), TimestepError, "0 … 999")
    check_error(lambda: levels_at(LINEAR, many.tolist()), TimestepError, "0 … 999")


def test_there_is_no_level_on_the_way_to_nothing_without_a_formula():
    zero = LINEAR.zero_terminal_snr()
    check_error(lambda: log_alpha_bar_between(zero, 998.5), TimestepError, "t = 998.5", "0 … 998")
    check_error(lambda: levels_at(zero, [998.5] * 20), TimestepError, "t = 998.5", "0 … 998")
    assert log_alpha_bar_between(zero, 999.0) == -math.inf
    assert log_alpha_bar_between(NoiseSchedule.rectified_flow(), 998.5).isfinite()


def test_a_schedule_of_nothing_but_noise_has_its_one_level():
    nothing = NoiseSchedule.from_beta([1.0])
    for t in (0, 0.0, torch.zeros(20), torch.zeros(20).long()):
        assert (log_alpha_bar_between(nothing, t) == -math.inf).all()


# --- quadrature -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("z", [-40.0, -3.0, -1.0, -0.999, -1e-3, 0.0, 1e-9, 0.5, 1.0, 4.0])
@pytest.mark.parametrize("k", [1, 2, 3, 4, 5])
def test_phi_is_its_integral(k, z):
    u = torch.linspace(0, 1, 4001, dtype=torch.float64)
    f = ((1 - u) * z).exp() * u ** (k - 1) / math.factorial(k - 1)
    simpson = (f[0] + f[-1] + 4 * f[1::2].sum() + 2 * f[2:-1:2].sum()) / 3 / 4000
    assert phi(k, z) == pytest.approx(float(simpson), rel=1e-8)


@given(
    st.lists(st.floats(-3, -0.2) | st.floats(0.3, 2), min_size=1, max_size=3, unique=True), st.floats(-3, 3)
)
def test_weights_integrate_every_polynomial_through_the_nodes(nodes, z):
    if any(abs(a - b) < 0.05 for i, a in enumerate(nodes) for b in nodes[:i]):
        return
    integrals = moments(z, len(nodes))
    w = weights(nodes, integrals)
    for j, integral in enumerate(integrals, 1):
        assert sum(weight * u**j for weight, u in zip(w, nodes, strict=True)) == pytest.approx(
            integral, abs=1e-9
        )
