"""What holds for every solver: the line it must not leave, its ends, what is the same, what is refused."""

import math

import pytest
import torch
from cases import check_error, normals
from hypothesis import given, settings
from hypothesis import strategies as st

import alphabar
from alphabar import DDIM, DDPM, Denoiser, GaussianMixture, NoiseSchedule
from alphabar.denoise.denoiser import Estimate
from alphabar.errors import ConfigError, NoAnswerError, TimestepError, UnknownNameError
from alphabar.samplers.adams import DEIS, LMS, PNDM
from alphabar.samplers.dpm import DPMSolver
from alphabar.samplers.dpm2 import DPM2
from alphabar.samplers.euler import Euler, EulerAncestral, Heun
from alphabar.samplers.exact import ExactDenoiser, gaussian_error
from alphabar.samplers.registry import REGISTRY, SOLVERS
from alphabar.samplers.unipc import UniPC
from alphabar.schedule.levels import levels_at, log_alpha_bar_between
from alphabar.schedule.spacing import SPACINGS, karras

SCHEDULES = {name: getattr(NoiseSchedule, name)() for name in ("linear", "scaled_linear", "cosine")}
ZERO_SNR = {f"{name}, zero SNR": schedule.zero_terminal_snr() for name, schedule in SCHEDULES.items()}
LINEAR = SCHEDULES["linear"]

DETERMINISTIC = {
    **SOLVERS,
    "DDIM": lambda n, spacing: DDIM(n, spacing=spacing),
    "Heun": Heun,
    "DPM2": lambda n, spacing: DPM2(n, spacing=spacing),
    "DPM-Solver++ 3S exact": lambda n, spacing: DPMSolver(n, 3, False, rule="exact", spacing=spacing),
    "UniPC 1": lambda n, spacing: UniPC(n, 1, spacing=spacing),
    "UniPC 2 bh1": lambda n, spacing: UniPC(n, 2, "bh1", spacing=spacing),
    "PNDM": lambda n, spacing: PNDM(n, spacing=spacing),
    "PNDM Runge–Kutta": lambda n, spacing: PNDM(n, runge_kutta=True, spacing=spacing),
}
"""All that is ranked, and more: functions of the steps and the spacing."""

few = settings(max_examples=8)
every_solver = pytest.mark.parametrize("solver", DETERMINISTIC)
steps_of = st.integers(4, 40)  # Runge–Kutta begins with three steps
spacings = st.sampled_from(list(SPACINGS))


class Constant:
    """A denoiser that has made up its mind."""

    def __init__(self, schedule, x_0):
        self.schedule, self.x_0 = schedule, x_0

    def __call__(self, x_t, t):
        return Estimate(self.x_0)


@every_solver
@few
@given(st.sampled_from(list(SCHEDULES)), steps_of, spacings)
def test_while_the_estimate_stays_the_state_moves_on_the_line_through_it(solver, schedule, steps, spacing):
    schedule = SCHEDULES[schedule]
    x_0, eps = normals(2, 3, seed=1), normals(2, 3, seed=2)
    sampler = DETERMINISTIC[solver](steps, spacing)
    (first, *_) = levels_at(schedule, sampler.plan(schedule).timesteps[:1])
    start = first.signal * x_0 + first.sigma * eps
    states = alphabar.iter_sample(
        Constant(schedule, x_0), start.shape, sampler, x_t=start, dtype=torch.float64
    )
    for state in states:
        log_alpha_bar = torch.zeros(()) if state.t == -1 else log_alpha_bar_between(schedule, state.t)
        line = (log_alpha_bar / 2).exp() * x_0 + log_alpha_bar.expm1().abs().sqrt() * eps
        torch.testing.assert_close(state.x_t, line, rtol=0, atol=1e-7)  # cosine starts at √ᾱ = 5e-5


@every_solver
@few
@given(st.sampled_from(list(SCHEDULES)), steps_of, spacings)
def test_the_step_to_clean_data_leaves_none_of_the_noise(solver, schedule, steps, spacing):
    last = DETERMINISTIC[solver](steps, spacing).plan(SCHEDULES[schedule]).rows[-1]
    assert last.s == -1
    assert last.z == 0
    if last.keeps == (0.0, 1.0):
        assert (last.x, last.history[0], *map(abs, last.history[1:])) == (
            pytest.approx(0, abs=1e-12),
            pytest.approx(1),
            *[pytest.approx(0, abs=1e-12)] * (len(last.history) - 1),
        )


@pytest.mark.parametrize("solver", [name for name in DETERMINISTIC if "Runge" not in name])
@pytest.mark.parametrize("schedule", ZERO_SNR)
@pytest.mark.parametrize("spacing", ["trailing", "linspace", "karras", "log_snr"])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_zero_terminal_snr_is_left_in_finite_numbers(solver, schedule, spacing, steps):
    sampler = DETERMINISTIC[solver](steps, spacing)
    plan = sampler.plan(ZERO_SNR[schedule])  # a plan refuses coefficients that are not finite
    assert plan.timesteps[0] == 999
    denoiser = Denoiser(lambda x_t, t: -torch.tanh(x_t), ZERO_SNR[schedule], "v_prediction")
    images = alphabar.sample(denoiser, (2, 1, 2, 2), sampler, seed=0, progress=False)
    # One step of DPM-Solver-2 over five decades of ρ gives x̂_0 a weight of 168, and x̂_0' of −168.
    wide = solver in ("DPM2", "DPM-Solver-2") and spacing == "karras"
    assert images.abs().max() < (500 if wide else 50)


def rows_close(one, other):
    for row, same in zip(one.rows, other.rows, strict=True):
        width = max(len(row.history), len(same.history))
        for numbers in zip(
            (row.t, row.s, row.x, row.z, *row.history, *[0.0] * (width - len(row.history))),
            (same.t, same.s, same.x, same.z, *same.history, *[0.0] * (width - len(same.history))),
            strict=True,
        ):
            assert numbers[0] == pytest.approx(numbers[1], rel=1e-9, abs=1e-12)


@few
@given(st.sampled_from([*SCHEDULES, *ZERO_SNR]), steps_of, spacings)
def test_solvers_of_first_order_are_one_and_the_same(schedule, steps, spacing):
    schedule = (SCHEDULES | ZERO_SNR)[schedule]
    ddim = DDIM(steps, spacing=spacing).plan(schedule)
    for same in (
        Euler(steps, spacing),
        DPMSolver(steps, 1, spacing=spacing),
        DPMSolver(steps, 1, multistep=False, spacing=spacing),
        DEIS(steps, 1, spacing=spacing),
        LMS(steps, 1, spacing=spacing),
    ):
        rows_close(same.plan(schedule), ddim)
    ddpm = DDPM(steps, spacing=spacing).plan(schedule)
    for same in (
        EulerAncestral(steps, spacing),
        DPMSolver(steps, 1, sde=True, spacing=spacing),
        DDPM(steps, "fixed_small_log", spacing),
    ):
        rows_close(same.plan(schedule), ddpm)
    rows_close(
        DDPM(steps, "fixed_large", spacing).plan(schedule),
        DDPM(steps, "fixed_large_log", spacing).plan(schedule),
    )


def test_heun_is_the_trapezoid_rule_in_the_noise_ratio():
    t, s = levels_at(LINEAR, [700, 400])
    first, second = Heun(spacing=[700, 400]).plan(LINEAR).rows[:2]
    x_t, x_0, later = normals(3, seed=1), normals(3, seed=2), normals(3, seed=3)
    eps = (x_t - t.signal * x_0) / t.sigma
    euler = s.signal * (x_t / t.signal + (s.sigma_ve - t.sigma_ve) * eps)
    torch.testing.assert_close(first.advance(x_t, (x_0,)), euler, rtol=1e-12, atol=1e-12)
    eps_later = (euler - s.signal * later) / s.sigma
    heun = s.signal * (x_t / t.signal + (s.sigma_ve - t.sigma_ve) * (eps + eps_later) / 2)
    torch.testing.assert_close(second.advance(euler, (later, x_0)), heun, rtol=1e-12, atol=1e-12)


def check_dpm2(plan, t, s, down):
    """The two rows from t to s are the midpoint rule in ρ, down to ρ_d, and noise from there."""
    first, second = plan.rows[:2]
    (m,) = levels_at(LINEAR, [first.s])
    assert m.sigma_ve == pytest.approx(math.sqrt(t.sigma_ve * down), rel=1e-12)
    x_t, x_0, later, z = (normals(3, seed=seed) for seed in range(1, 5))
    eps = (x_t - t.signal * x_0) / t.sigma
    x_m = m.signal * (x_t / t.signal + (m.sigma_ve - t.sigma_ve) * eps)
    torch.testing.assert_close(first.advance(x_t, (x_0,)), x_m, rtol=1e-12, atol=1e-12)
    eps = (x_m - m.signal * later) / m.sigma
    added = math.sqrt(max(s.sigma_ve**2 - down**2, 0.0))
    x_s = s.signal * (x_t / t.signal + (down - t.sigma_ve) * eps + added * z)
    torch.testing.assert_close(second.advance(x_m, (later, x_0), z), x_s, rtol=1e-11, atol=1e-11)


def test_dpm_solver_2_is_the_midpoint_rule_in_the_noise_ratio():
    t, s = levels_at(LINEAR, [700, 400])
    check_dpm2(DPM2(spacing=[700, 400]).plan(LINEAR), t, s, s.sigma_ve)
    check_dpm2(DPM2(spacing=[700, 400], eta=1.0).plan(LINEAR), t, s, s.sigma_ve**2 / t.sigma_ve)
    up = 0.3 * s.sigma_ve * math.sqrt(1 - (s.sigma_ve / t.sigma_ve) ** 2)
    half = DPM2(spacing=[700, 400], eta=0.3).plan(LINEAR)
    check_dpm2(half, t, s, math.sqrt(s.sigma_ve**2 - up**2))
    assert [row.is_random for row in half.rows] == [False, True, False]


def test_dpm_solver_2_from_pure_noise_takes_one_evaluation_for_its_first_step():
    for schedule in (LINEAR.zero_terminal_snr(), NoiseSchedule.rectified_flow()):
        for steps, evaluations in ((1, 1), (2, 2), (5, 8)):
            plan = DPM2(steps, spacing="trailing").plan(schedule)
            assert len(plan) == evaluations
            assert plan.rows[0] == DDIM(steps).plan(schedule).rows[0]
    levels = levels_at(LINEAR, [900, 500, 100])
    check_error(lambda: list(DPM2().rows(levels)), ConfigError, "3 levels", "middle")
    for eta in (-0.1, 1.1, "all"):
        check_error(lambda eta=eta: DPM2(eta=eta), ConfigError, "eta")


@pytest.mark.parametrize("eta", [0.4, 1.0])
def test_the_ancestral_dpm_solver_2_reaches_a_gaussian_with_its_width(eta):
    errors = [gaussian_error(DPM2(steps, eta), LINEAR) for steps in (10, 100, 400)]
    assert errors[0] > 10 * errors[1]  # at least of first order
    assert errors[2] < 1e-3  # what the last step, onto clean data, leaves of any solver's


@pytest.mark.parametrize(("solver", "steps", "evaluations"), [
    ("Heun", 10, 19), ("Heun", 1, 1), ("DPM2", 10, 19), ("DPM2", 1, 1),
    ("PNDM", 10, 11), ("PNDM", 1, 1), ("PNDM Runge–Kutta", 10, 19),
    ("DPM-Solver++ 3S", 10, 10), ("UniPC 3", 10, 10), ("LMS 4", 10, 10),
])  # fmt: skip
def test_a_plan_has_one_row_for_each_evaluation_of_the_network(solver, steps, evaluations):
    asked = []

    def network(x_t, t):
        asked.append(t)
        return torch.zeros_like(x_t)

    sampler = DETERMINISTIC[solver](steps, "trailing")
    alphabar.sample(Denoiser(network, LINEAR), (1, 1, 1, 1), sampler, seed=0, progress=False)
    assert len(asked) == len(sampler.plan(LINEAR)) == evaluations


# --- inversion ----------------------------------------------------------------------------------------

MIXTURE = GaussianMixture(normals(5, 2, seed=8), torch.full((5,), 0.3, dtype=torch.float64))


def reconstruction_error(steps):
    denoiser, x_0 = (
        ExactDenoiser(MIXTURE, LINEAR),
        MIXTURE.draw(64, generator=torch.Generator().manual_seed(1)),
    )
    options = {"dtype": torch.float64, "progress": False}
    noise = alphabar.sample(denoiser, x_0.shape, DDIM(steps, inverse=True), x_t=x_0, **options)
    again = alphabar.sample(denoiser, x_0.shape, DDIM(steps), x_t=noise, **options)
    return noise, float((again - x_0).abs().max())


def test_what_the_inversion_encodes_ddim_decodes():
    noise, error = reconstruction_error(500)
    assert error < 0.02
    assert error < 0.4 * reconstruction_error(125)[1]
    assert noise.std() == pytest.approx(1, abs=0.15)


def test_an_inverted_row_undoes_the_row_for_the_same_estimate_of_noise():
    eps, x_s = normals(3, seed=1), normals(3, seed=2)
    down, up = DDIM(10).plan(LINEAR), DDIM(10, inverse=True).plan(LINEAR)
    for fall, climb in zip(down.rows, reversed(up.rows), strict=True):
        (t,) = levels_at(LINEAR, [fall.t])
        assert fall.t == climb.t == climb.s
        x_t = climb.advance(x_s, ((x_s - t.sigma * eps) / t.signal,))
        back = fall.advance(x_t, ((x_t - t.sigma * eps) / t.signal,))
        torch.testing.assert_close(back, x_s, rtol=1e-12, atol=1e-12)


def test_an_inversion_shows_its_states_at_their_own_levels_and_stops_where_told():
    states = alphabar.iter_sample(
        Constant(LINEAR, normals(1, 2)), (1, 2), DDIM(4, inverse=True), x_t=normals(1, 2), t_start=600
    )
    assert [state.t for state in states] == [-1, 249, 499, 600]


# --- bad input ------------------------------------------------------------------------------------------

ZERO = ZERO_SNR["linear, zero SNR"]
REFUSED = {
    "order of DPM-Solver": (lambda: DPMSolver(10, 4), ConfigError, "order is 4", "1 … 3"),
    "order 0": (lambda: UniPC(10, 0), ConfigError, "order is 0", "1 … 3"),
    "order of DEIS": (lambda: DEIS(10, 2.5), ConfigError, "order is 2.5", "1 … 4"),
    "order True": (lambda: LMS(10, True), ConfigError, "order is True"),
    "order 2.0": (lambda: DPMSolver(10, 2.0), ConfigError, "order is 2.0", "whole number"),
    "order by name": (lambda: UniPC(10, "2"), ConfigError, "order is '2'", "1 … 3"),
    "η by name": (lambda: DDIM(10, "trailing"), ConfigError, "eta is 'trailing'", "[0, 1]"),
    "rule": (lambda: DPMSolver(rule="heun"), UnknownNameError, "'heun'", "'exact', 'midpoint'"),
    "scale": (lambda: UniPC(scale="bh3"), UnknownNameError, "'bh3'", "'bh1', 'bh2'"),
    "sde in single steps": (lambda: DPMSolver(sde=True, multistep=False), ConfigError, "multistep=True"),
    "inverse with noise": (lambda: DDIM(eta=0.5, inverse=True), ConfigError, "eta is 0.5", "eta=0"),
    "few steps": (lambda: PNDM(3, runge_kutta=True), ConfigError, "3 steps", "at least 4"),
    "few below t_start": (lambda: PNDM(9, True).plan(LINEAR, 200), ConfigError, "2 steps", "at least 4"),
    "Runge–Kutta": (lambda: PNDM(9, runge_kutta=True).plan(ZERO), NoAnswerError, "ᾱ = 0", "leave runge"),
    "too many steps": (lambda: UniPC(1001).plan(LINEAR), TimestepError, "1001 steps", "T = 1000"),
    "uncorrected number": (lambda: UniPC(uncorrected=5), ConfigError, "uncorrected is 5", "as in (0, 1)"),
    "uncorrected below 0": (lambda: UniPC(uncorrected=[-1]), ConfigError, "uncorrected is [-1]"),
    "uncorrected": (lambda: UniPC(uncorrected=["0"]), ConfigError, "uncorrected is ['0']", "as in (0, 1)"),
    "beyond T": (lambda: Euler(spacing=[999.5]).plan(LINEAR), TimestepError, "999.5", "0 … 999"),
    "own spacing": (lambda: Euler(3, lambda schedule, n: [9]).plan(LINEAR), ConfigError, "steps is 3", "1 t"),
    "rho": (lambda: karras(rho=0), ConfigError, "rho is 0"),
    "below all log-SNR": (lambda: Euler(spacing=[998.5]).plan(ZERO), TimestepError, "998.5", "0 … 998"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_named_with_its_value_and_the_remedy(name):
    call, error, *fragments = REFUSED[name]
    check_error(call, error, *fragments)


WHEN_MADE = {
    "no steps": ({"steps": 0}, ConfigError, "steps is 0", "at least 1"),
    "negative steps": ({"steps": -5}, ConfigError, "steps is -5", "at least 1"),
    "half a step": ({"steps": 2.5}, ConfigError, "steps is 2.5", "whole number"),
    "steps of True": ({"steps": True}, ConfigError, "steps is True", "whole number"),
    "spacing": ({"spacing": "karas"}, UnknownNameError, "'karas'", "'karras', 'leading'"),
    "no list": ({"spacing": 5}, TimestepError, "spacing is 5", "a list of t"),
    "an empty list": ({"spacing": []}, TimestepError, "at least one"),
    "rising list": ({"spacing": [1, 2]}, TimestepError, "descending"),
    "repeated": ({"spacing": [5.5, 5.5]}, TimestepError, "each once"),
    "not a number": ({"spacing": [math.nan]}, TimestepError, "nan", "at least 0"),
    "below 0": ({"spacing": [5, -1]}, TimestepError, "(5, -1)", "at least 0"),
    "a word": ({"spacing": [5, "0"]}, TimestepError, "'0'", "at least 0"),
    "unequal": ({"steps": 3, "spacing": [5, 4]}, ConfigError, "steps is 3", "2 t"),
}


@pytest.mark.parametrize("kind", [entry.kind for entry in REGISTRY.values() if entry.spaced])
@pytest.mark.parametrize("name", WHEN_MADE)
def test_settings_are_refused_when_the_sampler_is_made(kind, name):
    settings, error, *fragments = WHEN_MADE[name]
    check_error(lambda: kind(**settings), error, *fragments)
