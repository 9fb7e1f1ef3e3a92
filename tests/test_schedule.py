"""One sequence of numbers: the families against their formulas, inverses, limits, and immutability."""

import copy
import json
import math
import pickle
from fractions import Fraction

import pytest
import torch
from cases import all_schedules, betas, family, ordinary_schedules, schedules
from hypothesis import given
from hypothesis import strategies as st

from alphabar import NoiseSchedule, ScheduleWarning

EPS = torch.finfo(torch.float64).eps
TABLES = ("beta", "alpha", "alpha_bar", "signal_scale", "noise_scale", "snr", "log_snr")
SCHEDULES = all_schedules() | {"rectified_flow": NoiseSchedule.rectified_flow(), "edm": NoiseSchedule.edm()}


def every(name):
    return pytest.mark.parametrize(name, SCHEDULES.values(), ids=SCHEDULES.keys())


# --- the families given by β are their formulas; for the others see test_schedule_formulas.py ---


def between(start, end, steps, shape=lambda u: u):
    return [start + (end - start) * shape(t / (steps - 1)) for t in range(steps)]


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def laplace_alpha_bar(u):
    side = 1 if u <= 0.5 else -1
    return sigmoid(-0.5 * side * math.log(1 - 2 * abs(0.5 - u) + 1e-6))


FORMULAS = {
    "linear": lambda T: between(1e-4, 0.02, T),
    "scaled_linear": lambda T: [b**2 for b in between(0.00085**0.5, 0.012**0.5, T)],
    "sigmoid": lambda T: between(1e-4, 0.02, T, lambda u: sigmoid(12 * u - 6)),
}


@pytest.mark.parametrize("steps", [1000, 4000])
@pytest.mark.parametrize("name", FORMULAS)
def test_a_family_given_by_beta_is_its_formula(name, steps):
    expected = torch.tensor(FORMULAS[name](steps), dtype=torch.float64)
    torch.testing.assert_close(family(name, steps).beta, expected, rtol=8 * EPS, atol=EPS)


def test_the_ends_of_a_range_are_arguments():
    beta = NoiseSchedule.linear(300, 0.001, 0.1).beta
    assert len(beta) == 300
    assert beta[[0, -1]].tolist() == pytest.approx([0.001, 0.1], rel=1e-15)
    assert NoiseSchedule.scaled_linear(300, 0.001, 0.1).beta[-1].item() == pytest.approx(0.1, rel=1e-15)
    assert NoiseSchedule.sigmoid(300, 0.001, 0.1).beta[0] == pytest.approx(0.001 + 0.099 * sigmoid(-6))


def test_laplace_has_the_log_snr_of_the_paper():
    # Hang et al. 2024, table 1, μ = 0, b = ½. ᾱ(0) = .999 instead of 1 keeps the ends finite, and is
    # divided out: that, and the 10⁻⁶ in the logarithm, is what the tolerance allows.
    u = torch.arange(50, 951, dtype=torch.float64) / 1000
    paper = -0.5 * torch.sign(0.5 - u) * torch.log(1 - 2 * (u - 0.5).abs())
    alpha_bar = NoiseSchedule.laplace().alpha_bar[49:950] * laplace_alpha_bar(0)
    torch.testing.assert_close(torch.logit(alpha_bar), paper, rtol=0, atol=2e-5)


def test_the_users_own_family_is_one_more_function():
    def quadratic(steps: int) -> NoiseSchedule:
        return NoiseSchedule.from_beta([0.02 * ((t + 1) / steps) ** 2 for t in range(steps)])

    assert quadratic(500).beta[249].item() == 0.02 * 0.5**2


# --- the tables follow from β ---


def exact_alpha_bar(beta):
    product, values = Fraction(1), []
    for b in beta:
        product *= 1 - Fraction(b)
        values.append(product)
    return values


@given(betas)
def test_the_tables_are_exact(beta):
    # Each log1p and each addition errs by at most ε of log ᾱ: T ε |log ᾱ| in all, and as much in ᾱ.
    schedule, exact = NoiseSchedule.from_beta(beta), exact_alpha_bar(beta)
    error = 4 * len(beta) * EPS * (1 + schedule.alpha_bar.log().abs().max().item())
    for t, alpha_bar in enumerate(exact):
        assert schedule.alpha_bar[t].item() == pytest.approx(float(alpha_bar), rel=error)
        assert schedule.noise_scale[t].item() ** 2 == pytest.approx(float(1 - alpha_bar), rel=error)
        assert schedule.snr[t].item() == pytest.approx(float(alpha_bar / (1 - alpha_bar)), rel=2 * error)
    assert schedule.beta.tolist() == beta


def test_noise_of_a_trillionth_is_right_to_rounding():
    # 1 − ᾱ from a rounded ᾱ would be off by 10⁻⁴ here.
    beta = [1e-12, 2e-12, 3e-12]
    power = NoiseSchedule.from_beta(beta).noise_scale.square()
    for t, alpha_bar in enumerate(exact_alpha_bar(beta)):
        assert power[t].item() == pytest.approx(float(1 - alpha_bar), rel=8 * EPS)


@given(schedules)
def test_the_names_mean_what_they_say(schedule):
    one = torch.ones(len(schedule), dtype=torch.float64)
    torch.testing.assert_close(schedule.alpha + schedule.beta, one, rtol=EPS, atol=0)
    power = schedule.signal_scale**2 + schedule.noise_scale**2
    torch.testing.assert_close(power, one, rtol=4 * EPS, atol=0)
    torch.testing.assert_close(schedule.log_snr.exp(), schedule.snr, rtol=1e-12, atol=0)


@every("schedule")
def test_the_signal_to_noise_ratio_falls_at_every_step(schedule):
    assert (schedule.snr.diff() < 0).all()
    assert (schedule.log_snr.diff() < 0).all()


@given(schedules)
def test_the_signal_to_noise_ratio_of_any_schedule_falls(schedule):
    assert (schedule.log_snr.diff() < 0).all()


@every("schedule")
def test_log_alpha_bar_is_zero_at_clean_data_and_keeps_the_shape_of_t(schedule):
    assert schedule.log_alpha_bar_at(-1, lowest=-1).item() == 0
    t = torch.tensor([[0, 3], [999, 500]])
    torch.testing.assert_close(schedule.log_alpha_bar_at(t).exp(), schedule.alpha_bar[t], rtol=0, atol=0)


# --- inverses ---


@given(schedules)
def test_beta_and_alpha_bar_are_inverses(schedule):
    back = NoiseSchedule.from_beta(schedule.beta)
    assert back == schedule
    # ᾱ carries β to an absolute rounding of ᾱ_{t−1}, that is to ε, from differences of two roundings.
    again = NoiseSchedule.from_alpha_bar(schedule.alpha_bar)
    torch.testing.assert_close(again.beta, schedule.beta, rtol=0, atol=1e-12)
    torch.testing.assert_close(again.alpha_bar, schedule.alpha_bar, rtol=1e-11, atol=0)


def test_numbers_in_a_list_keep_all_their_digits():
    assert NoiseSchedule.from_beta([0.1, 1 / 3]).beta.tolist() == [0.1, 1 / 3]
    assert NoiseSchedule.from_alpha_bar([2 / 3, 0.1]).alpha_bar.tolist() == pytest.approx(
        [2 / 3, 0.1], rel=4 * EPS
    )


@every("schedule")
@pytest.mark.parametrize(
    "change",
    [
        lambda schedule: schedule,
        lambda schedule: schedule.respaced(range(9, 1000, 10)),
        lambda schedule: schedule.respaced(range(0, 990, 10)).zero_terminal_snr(),
    ],
    ids=["itself", "respaced", "respaced-zero-snr"],
)
def test_a_config_reads_back_as_the_same_schedule(schedule, change):
    schedule = change(schedule)
    text = json.dumps(schedule.to_config(), allow_nan=False)
    again = NoiseSchedule.from_config(json.loads(text))
    assert again == schedule
    assert torch.equal(again.beta, schedule.beta)


@pytest.mark.parametrize("name", ["linear", "scaled_linear", "sigmoid", "cosine"])
def test_a_known_family_is_written_by_name(name):
    config = family(name).to_config()
    assert config["trained_betas"] is None
    assert config["beta_schedule"] == {"cosine": "squaredcos_cap_v2"}.get(name, name)


def test_missing_keys_take_the_defaults_and_unknown_keys_are_ignored():
    assert NoiseSchedule.from_config({}) == NoiseSchedule.linear()
    config = {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 50, "clip_sample": True}
    assert NoiseSchedule.from_config(config) == NoiseSchedule.cosine(50)
    assert NoiseSchedule.from_config({"trained_betas": [0.1, 0.2]}) == NoiseSchedule.from_beta([0.1, 0.2])
    rescaled = NoiseSchedule.from_config({"rescale_betas_zero_snr": True})
    assert rescaled == NoiseSchedule.linear().zero_terminal_snr()


# --- schedules made of schedules ---


@given(ordinary_schedules)
def test_zero_terminal_snr_keeps_the_start_and_ends_at_nothing(schedule):
    moved = schedule.zero_terminal_snr()
    assert moved.beta[0] == schedule.beta[0]
    assert moved.alpha_bar[0] == schedule.alpha_bar[0]
    assert moved.alpha_bar[-1] == moved.snr[-1] == moved.signal_scale[-1] == 0
    assert moved.log_snr[-1] == -math.inf
    # √ᾱ is moved by an affine map: three points on a line.
    first, last = schedule.signal_scale[0], schedule.signal_scale[-1]
    line = first * (schedule.signal_scale - last) / (first - last)
    # The line here divides rounded √ᾱ by first − last, which may be as small as 10⁻⁴/2.
    torch.testing.assert_close(moved.signal_scale, line, rtol=0, atol=8 * EPS / (first - last).item())


def test_zero_terminal_snr_of_zero_terminal_snr_changes_nothing():
    once = NoiseSchedule.linear().zero_terminal_snr()
    assert once.zero_terminal_snr() is once


@every("schedule")
@given(kept=st.sets(st.integers(0, 999), min_size=1, max_size=100))
def test_a_respaced_schedule_has_the_same_alpha_bar_where_it_is_kept(schedule, kept):
    kept = list(kept)
    respaced = schedule.respaced(kept)
    assert torch.equal(respaced.log_snr, schedule.log_snr[sorted(kept)])
    previous = torch.cat([torch.ones(1), respaced.alpha_bar[:-1]])
    torch.testing.assert_close(respaced.beta, 1 - respaced.alpha_bar / previous, rtol=1e-9, atol=4 * EPS)
    torch.testing.assert_close(respaced.alpha, respaced.alpha_bar / previous, rtol=1e-11, atol=0)


def test_neighbours_keep_their_beta():
    linear = NoiseSchedule.linear()
    kept = [100, 101, 102, 500, 501]
    assert torch.equal(linear.respaced(kept).beta[[1, 2, 4]], linear.beta[[101, 102, 501]])


def test_a_small_alpha_bar_survives_though_its_beta_rounds_to_one():
    linear = NoiseSchedule.linear(4000)
    assert linear.respaced([100, 3999]).alpha_bar.tolist() == linear.alpha_bar[[100, 3999]].tolist()
    assert linear.respaced([100, 3999]).alpha_bar[-1].item() == pytest.approx(2.6532e-18, rel=1e-4)
    assert linear.respaced([3998, 3999]).alpha_bar.tolist() == linear.alpha_bar[[3998, 3999]].tolist()
    assert linear.respaced([100, 3999]).alpha[-1].item() == pytest.approx(2.6532e-18 / 0.96538, rel=1e-4)
    tiny = NoiseSchedule.from_alpha_bar([0.5, 1e-18, 1e-300])
    assert tiny.alpha_bar.tolist() == pytest.approx([0.5, 1e-18, 1e-300], rel=1e-13)
    assert tiny.zero_terminal_snr().alpha_bar.tolist() == pytest.approx([0.5, 1e-18, 0], rel=1e-13)
    assert tiny.respaced([0, 1]).alpha_bar.tolist() == pytest.approx([0.5, 1e-18], rel=1e-13)


# --- schedules of a length they were not made for ---


@pytest.mark.parametrize("name", ["linear", "scaled_linear", "sigmoid"])
def test_a_short_schedule_that_leaves_the_image_is_warned_of_and_can_be_rescaled(name):
    with pytest.warns(ScheduleWarning, match="rescale_to_steps=True") as caught:
        short = family(name, 100)
    assert caught[0].filename.endswith("cases.py")  # the line that asked for it
    assert short.alpha_bar[-1] > 0.3
    rescaled = getattr(NoiseSchedule, name)(100, rescale_to_steps=True)
    assert rescaled.alpha_bar[-1] < 0.01
    torch.testing.assert_close(rescaled.beta, 10 * short.beta, rtol=1e-12, atol=0)
    assert NoiseSchedule.from_config(rescaled.to_config()) == rescaled


def test_the_warning_names_what_is_left():
    with pytest.warns(ScheduleWarning, match=r"ᾱ = 0\.36"):
        NoiseSchedule.linear(100)


# --- a value that nobody can change ---


@pytest.mark.parametrize("table", TABLES)
def test_what_a_caller_does_to_a_table_changes_nothing(table):
    schedule, same = NoiseSchedule.cosine(50), NoiseSchedule.cosine(50)
    getattr(schedule, table).fill_(0.5)
    assert torch.equal(getattr(schedule, table), getattr(same, table))


def test_what_a_caller_does_to_what_it_gave_or_got_changes_nothing():
    beta = torch.tensor([0.1, 0.2], dtype=torch.float64)
    schedule = NoiseSchedule.from_beta(beta)
    beta.zero_()
    schedule.log_alpha_bar_at(1).zero_()
    schedule.log_alpha_bar_at(torch.tensor([0, 1])).zero_()
    assert schedule.beta.tolist() == [0.1, 0.2]
    assert schedule.log_alpha_bar_at(1).item() == pytest.approx(math.log(0.9 * 0.8))
    moved = schedule.zero_terminal_snr()
    moved.to_config()["trained_betas"][0] = 0.9
    assert moved.to_config()["trained_betas"][0] == 0.1


@pytest.mark.parametrize("name", [*TABLES, "_beta", "anything"])
def test_nothing_can_be_set(name):
    schedule = NoiseSchedule.cosine(10)
    with pytest.raises(AttributeError, match="immutable"):
        setattr(schedule, name, torch.ones(10))


def test_schedules_are_equal_and_hash_alike_when_their_log_alpha_bar_are():
    linear = NoiseSchedule.linear()
    same = NoiseSchedule.from_beta(linear.beta)
    assert linear == same
    assert hash(linear) == hash(same)
    assert linear != NoiseSchedule.cosine()
    assert linear != NoiseSchedule.linear(1001)
    assert linear != "linear"
    assert len({linear, same, NoiseSchedule.cosine()}) == 2


@every("schedule")
def test_copies_and_pickles_are_equal(schedule):
    for again in (copy.deepcopy(schedule), pickle.loads(pickle.dumps(schedule))):
        assert again == schedule
        assert again.to_config() == schedule.to_config()


@pytest.mark.parametrize(
    ("schedule", "text"),
    [
        (NoiseSchedule.cosine(50), "NoiseSchedule.cosine(steps=50)"),
        (NoiseSchedule.linear(), "NoiseSchedule.linear(steps=1000, beta_start=0.0001, beta_end=0.02)"),
        (
            NoiseSchedule.laplace().zero_terminal_snr(),
            "NoiseSchedule.laplace(steps=1000).zero_terminal_snr()",
        ),
        (NoiseSchedule.cosine(50).respaced([1, 2]), "NoiseSchedule.cosine(steps=50).respaced(<2 of 50 t>)"),
        (NoiseSchedule.from_beta([0.1, 0.5]), "NoiseSchedule.from_beta(<2 steps, β 0.1 … 0.5, ᾱ_T 0.45>)"),
    ],
)
def test_the_repr_tells_what_it_is(schedule, text):
    assert repr(schedule) == text
