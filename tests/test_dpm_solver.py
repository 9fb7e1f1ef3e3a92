"""DPM-Solver and DPM-Solver++ against their authors' updates, written anew from dpm_solver_pytorch.py.

Each update is a function of the levels alone, as the authors write it: r_1, r_2 are the places of estimates
in a step of h in λ, φ_1 = e^{∓h} − 1 and so on. Levels are random, the network is any nonlinear function.
"""

import math
from itertools import pairwise

import pytest
import torch
from cases import normals
from hypothesis import given
from hypothesis import strategies as st

from alphabar import NoiseSchedule
from alphabar.diffusers.solvers import noisy_in_eps
from alphabar.samplers import RULES, DPMSolver, Row, in_eps, mirrored
from alphabar.samplers.adams import DEIS
from alphabar.samplers.steps import multistep, x_0_of
from alphabar.schedule import Level, levels_at

SCHEDULES = {name: getattr(NoiseSchedule, name)() for name in ("linear", "scaled_linear", "cosine")}
LINEAR = SCHEDULES["linear"]
TYPES = {"midpoint": "dpmsolver", "taylor": "taylor"}
few_t = st.sets(st.integers(0, 999), min_size=4, max_size=9).map(lambda found: sorted(found, reverse=True))
START = normals(2, 3, seed=5)


class Authors:
    """x from level to level, for x̂_0 ("++") or for ε̂, by the authors' formulas."""

    def __init__(self, network, in_x_0, solver_type):
        self.network, self.in_x_0, self.type = network, in_x_0, solver_type

    def ask(self, x, level):
        x_0 = self.network(x, level.t)
        return x_0 if self.in_x_0 else (x - level.signal * x_0) / level.sigma

    def phi(self, h):
        """φ_1, φ_2, φ_3 as the authors define them, with the scale and the signs that multiply them."""
        if self.in_x_0:
            phi_1 = math.expm1(-h)
            phi_2 = phi_1 / h + 1
            return -phi_1, phi_2, -(phi_2 / h - 0.5)
        phi_1 = math.expm1(h)
        phi_2 = phi_1 / h - 1
        return -phi_1, -phi_2, -(phi_2 / h - 0.5)

    def decayed(self, x, s, t):
        return (t.sigma / s.sigma if self.in_x_0 else t.signal / s.signal) * x

    def scale(self, t):
        return t.signal if self.in_x_0 else t.sigma

    def first(self, x, s, t, model_s):
        phi_1, *_ = self.phi(t.half_log_snr - s.half_log_snr)
        return self.decayed(x, s, t) + self.scale(t) * phi_1 * model_s

    def second(self, x, s, t, slope, model_s):
        """``slope``: the change of the estimate over the step."""
        phi_1, phi_2, _ = self.phi(t.half_log_snr - s.half_log_snr)
        of_slope = phi_1 / 2 if self.type == "dpmsolver" else phi_2
        return self.first(x, s, t, model_s) + self.scale(t) * of_slope * slope

    def single_step(self, x, s, inner, t):
        """Return x at t, after the estimates at s and at the inner levels."""
        h = t.half_log_snr - s.half_log_snr
        places = [(level.half_log_snr - s.half_log_snr) / h for level in inner]
        model_s = self.ask(x, s)
        if not inner:
            return self.first(x, s, t, model_s)
        model_s1 = self.ask(self.first(x, s, inner[0], model_s), inner[0])
        if len(inner) == 1:
            return self.second(x, s, t, (model_s1 - model_s) / places[0], model_s)
        r1, r2 = places
        _, phi_22, _ = self.phi(r2 * h)
        x_s2 = self.first(x, s, inner[1], model_s)
        x_s2 = x_s2 + r2 / r1 * self.scale(inner[1]) * phi_22 * (model_s1 - model_s)
        model_s2 = self.ask(x_s2, inner[1])
        _, phi_2, phi_3 = self.phi(h)
        x_t, scale = self.first(x, s, t, model_s), self.scale(t)
        if self.type == "dpmsolver":
            return x_t + scale * phi_2 * (model_s2 - model_s) / r2
        d1_0, d1_1 = (model_s1 - model_s) / r1, (model_s2 - model_s) / r2
        d1, d2 = (r2 * d1_0 - r1 * d1_1) / (r2 - r1), 2 * (d1_1 - d1_0) / (r2 - r1)
        return x_t + scale * phi_2 * d1 + scale * phi_3 * d2

    def multistep(self, x, levels, order):
        """Return x at the last of the levels."""
        models = []
        for i, (s, t) in enumerate(pairwise(levels)):
            models.append(self.ask(x, s))
            h = t.half_log_snr - s.half_log_snr
            r = [(b.half_log_snr - a.half_log_snr) / h for a, b in pairwise(levels[: i + 1])][::-1]
            if i == 0 or order == 1:
                x = self.first(x, s, t, models[-1])
            elif i == 1 or order == 2:
                x = self.second(x, s, t, (models[-1] - models[-2]) / r[0], models[-1])
            else:
                d1_0, d1_1 = (models[-1] - models[-2]) / r[0], (models[-2] - models[-3]) / r[1]
                d1 = d1_0 + r[0] / (r[0] + r[1]) * (d1_0 - d1_1)
                d2 = (d1_0 - d1_1) / (r[0] + r[1])
                _, phi_2, phi_3 = self.phi(h)
                x = self.first(x, s, t, models[-1]) + self.scale(t) * (phi_2 * d1 + phi_3 * d2)
        return x


def network(x, t):
    return 0.8 * torch.tanh(x + 0.5 * torch.sin(3 * x.roll(1, -1)) + t / 700)


def ours(rows, x):
    """Return x after the rows."""
    kept = []
    for row in rows:
        x_0 = network(x, row.t)
        x, kept = row.advance(x, (x_0, *kept)), [row.kept(x, x_0), *kept]
    return x


def close(found, expected, rtol=1e-9):
    torch.testing.assert_close(found, expected, rtol=rtol, atol=rtol * float(expected.abs().max()))


@pytest.mark.parametrize("rule", TYPES)
@pytest.mark.parametrize("order", [1, 2, 3])
@given(schedule=st.sampled_from(list(SCHEDULES)), timesteps=few_t)
def test_single_steps_are_the_authors(order, rule, schedule, timesteps):
    schedule = SCHEDULES[schedule]
    plan = DPMSolver(order=order, multistep=False, rule=rule, spacing=timesteps).plan(schedule)
    levels, authors, expected = levels_at(schedule, timesteps), Authors(network, True, TYPES[rule]), START
    for i in range(0, len(levels) - 1, order):
        s, *inner, t = levels[i : i + order + 1]
        expected = authors.single_step(expected, s, inner, t)
    close(ours(plan.rows[:-1], START), expected)  # ours goes on to clean data


def test_the_middle_of_three_evaluations_takes_the_exact_slope():
    plan = DPMSolver(order=3, multistep=False, spacing=[999, 700, 400, 100]).plan(LINEAR)
    assert plan.rows[1].history[0] == pytest.approx(0.574508, abs=1e-6)  # .367 with ½μ_0


@pytest.mark.parametrize("rule", TYPES)
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("in_x_0", [True, False], ids=["DPM-Solver++", "DPM-Solver"])
@given(schedule=st.sampled_from(list(SCHEDULES)), timesteps=few_t)
def test_multistep_is_the_authors(in_x_0, order, rule, schedule, timesteps):
    schedule = SCHEDULES[schedule]
    kind = DPMSolver if in_x_0 else DEIS
    plan = kind(order=order, rule=rule, lower_order_final=False, spacing=timesteps).plan(schedule)
    authors = Authors(network, in_x_0, TYPES[rule])
    close(ours(plan.rows[:-1], START), authors.multistep(START, levels_at(schedule, timesteps), order))


# --- solvers in ε̂ are solvers in x̂_0 on mirrored levels ---


@given(st.sampled_from(list(SCHEDULES)), st.integers(0, 999))
def test_mirrored_levels_exchange_signal_and_noise_to_the_last_digits(schedule, t):
    (level,) = levels_at(SCHEDULES[schedule], [t])
    other = mirrored(level)
    assert other.signal == pytest.approx(level.sigma, rel=1e-15)
    assert other.sigma == pytest.approx(level.signal, rel=1e-15)
    assert other.half_log_snr == pytest.approx(-level.half_log_snr, rel=1e-13, abs=1e-15)
    assert mirrored(other).log_alpha_bar == pytest.approx(level.log_alpha_bar, rel=1e-13)


def test_the_ends_are_each_others_mirror_image():
    zero_snr = levels_at(LINEAR.zero_terminal_snr(), [999])[0]
    assert (mirrored(zero_snr).signal, mirrored(zero_snr).sigma) == (1, 0)
    assert (mirrored(mirrored(zero_snr)).signal, mirrored(mirrored(zero_snr)).sigma) == (0, 1)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("order", [1, 2, 3, 4])
@given(schedule=st.sampled_from(list(SCHEDULES)), timesteps=few_t)
def test_deis_is_the_multistep_dpm_solver_on_mirrored_levels(order, rule, schedule, timesteps):
    levels = levels_at(SCHEDULES[schedule], timesteps)

    def integrals(t, s, count):
        return [s.signal * mu for mu in RULES[rule](t.half_log_snr - s.half_log_snr, count)]

    there = [mirrored(level) for level in levels]
    mirror_rows = multistep(there, order, lambda level: level.half_log_snr, integrals, x_0_of)
    rows = list(DEIS(order=order, rule=rule, lower_order_final=False).rows(levels))
    for row, mirror_row, t in zip(rows, mirror_rows, levels, strict=False):
        same: Row = in_eps(mirror_row, t)
        found, expected = (row.x, *row.history), (same.x, *same.history)
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-9 * max(map(abs, found)))
        assert row.keeps == same.keeps


# --- the stochastic equation in ε̂, which diffusers calls sde-dpmsolver ---


@given(schedule=st.sampled_from(list(SCHEDULES)), timesteps=few_t)
def test_the_stochastic_step_in_eps_is_the_authors(schedule, timesteps):
    levels, (x, eps, z) = levels_at(SCHEDULES[schedule], timesteps), (normals(3, seed=i) for i in (1, 2, 3))
    rows = DEIS(order=1).rows(levels)
    for row, t, s in zip(map(noisy_in_eps, rows, levels, levels[1:]), levels[:-1], levels[1:], strict=True):
        h = s.half_log_snr - t.half_log_snr
        x_0 = (x - t.sigma * eps) / t.signal
        expected = s.signal / t.signal * x - 2 * s.sigma * math.expm1(h) * eps
        close(row.advance(x, [x_0], z), expected + s.sigma * math.sqrt(math.expm1(2 * h)) * z)


def test_its_noise_would_stay_on_clean_data_so_no_sampler_offers_it():
    (t,) = levels_at(LINEAR, [100])
    nearly_clean = Level(-1, -1e-14)
    (row,) = DEIS(order=1).rows((t, nearly_clean))
    assert noisy_in_eps(row, t, nearly_clean).z == pytest.approx(t.sigma_ve, rel=1e-6)
    assert "sde" not in vars(DEIS())
