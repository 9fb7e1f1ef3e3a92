"""ε, x_0, v, flow and EDM: five readings of one answer, and every way between them."""

import math

import pytest
import torch
from cases import check_error, normals, schedules
from hypothesis import given
from hypothesis import strategies as st

from alphabar import NoiseSchedule, add_noise, velocity
from alphabar.errors import (
    ConfigError,
    DtypeError,
    NoAnswerError,
    ShapeError,
    TimestepError,
    UnknownNameError,
)
from alphabar.process import PARAMETERISATIONS, Parameterisation, coefficients_at, edm, target, to_eps, to_x_0
from alphabar.schedule import levels_at

COSINE = NoiseSchedule.cosine()
ZERO_SNR = NoiseSchedule.linear().zero_terminal_snr()
ANSWERED_AT_ZERO = sorted(set(PARAMETERISATIONS) - {"epsilon", "edm"})


def test_the_readings_have_the_peers_names():
    assert list(PARAMETERISATIONS) == ["epsilon", "sample", "v_prediction", "flow", "edm"]


@given(schedules, st.data())
def test_the_targets_are_noise_data_and_velocity(schedule, data):
    t = data.draw(st.integers(0, len(schedule) - 1), "t")
    x_0, noise = normals(2, 3, seed=1), normals(2, 3, seed=2)
    assert torch.equal(target(schedule, "epsilon", x_0, noise, t), noise)
    assert torch.equal(target(schedule, "sample", x_0, noise, t), x_0)
    v = schedule.signal_scale[t] * noise - schedule.noise_scale[t] * x_0
    torch.testing.assert_close(target(schedule, "v_prediction", x_0, noise, t), v, rtol=0, atol=1e-14)
    assert torch.equal(velocity(schedule, x_0, noise, t), target(schedule, "v_prediction", x_0, noise, t))


@pytest.mark.parametrize("prediction", PARAMETERISATIONS)
@given(schedule=schedules, data=st.data())
def test_a_perfect_answer_gives_data_and_noise_back(prediction, schedule, data):
    t = data.draw(st.integers(0, len(schedule) - 1), "t")
    x_0, noise = normals(2, 3, seed=1), normals(2, 3, seed=2)
    x_t = add_noise(schedule, x_0, noise, t)
    output = target(schedule, prediction, x_0, noise, t)
    # What divides by √ᾱ (or √(1−ᾱ)) multiplies the rounding of x_t by as much.
    lost_x_0 = 1 / schedule.signal_scale[t].item() if prediction == "epsilon" else 1
    lost_eps = 1 / schedule.noise_scale[t].item() if prediction == "sample" else 1
    found = to_x_0(schedule, prediction, x_t, output, t)
    torch.testing.assert_close(found, x_0, rtol=0, atol=1e-14 * lost_x_0)
    found = to_eps(schedule, prediction, x_t, output, t)
    torch.testing.assert_close(found, noise, rtol=0, atol=1e-14 * lost_eps)


@pytest.mark.parametrize("other", PARAMETERISATIONS)
@pytest.mark.parametrize("prediction", PARAMETERISATIONS)
@given(t=st.integers(0, 999))
def test_any_answer_reads_the_same_after_a_detour_over_another_reading(prediction, other, t):
    # The output need not be right: (x_t, output) fixes x̂_0 and ε̂, whatever they are.
    x_t, output = normals(2, 3, seed=1), normals(2, 3, seed=2)
    x_0, eps = to_x_0(COSINE, prediction, x_t, output, t), to_eps(COSINE, prediction, x_t, output, t)
    # ᾱ falls to 10⁻⁹ and x̂_0 grows to 10⁵: relative errors, with a factor for each of two divisions.
    a, s = COSINE.signal_scale[t].item(), COSINE.noise_scale[t].item()
    lost = 1e-14 / (a * s)
    torch.testing.assert_close(a * x_0 + s * eps, x_t, rtol=0, atol=lost)
    again = target(COSINE, other, x_0, eps, t)
    torch.testing.assert_close(to_x_0(COSINE, other, x_t, again, t), x_0, rtol=lost, atol=lost / a)
    torch.testing.assert_close(to_eps(COSINE, other, x_t, again, t), eps, rtol=lost, atol=lost / s)


@pytest.mark.parametrize("prediction", ANSWERED_AT_ZERO)
def test_where_nothing_is_left_of_the_signal_the_other_readings_still_answer(prediction):
    x_0, noise = normals(2, 3, seed=1), normals(2, 3, seed=2)
    x_t = add_noise(ZERO_SNR, x_0, noise, 999)
    assert torch.equal(x_t, noise)
    output = target(ZERO_SNR, prediction, x_0, noise, 999)
    # z − (z − x_0) is x_0 but for one rounding of the target.
    torch.testing.assert_close(to_x_0(ZERO_SNR, prediction, x_t, output, 999), x_0, rtol=0, atol=1e-15)
    assert torch.equal(to_eps(ZERO_SNR, prediction, x_t, output, 999), noise)


@pytest.mark.parametrize("t", [999, torch.tensor(999), torch.tensor([0, 999])], ids=str)
def test_noise_says_nothing_about_data_where_no_signal_is_left(t):
    x_t = normals(2, 3)
    check_error(
        lambda: to_x_0(ZERO_SNR, "epsilon", x_t, x_t, t), NoAnswerError, "ᾱ_t = 0", "v_prediction or sample"
    )
    assert to_x_0(ZERO_SNR, "epsilon", x_t, x_t, 998).isfinite().all()
    assert torch.equal(to_eps(ZERO_SNR, "epsilon", x_t, x_t, t), x_t)


def test_a_signal_too_small_for_float64_to_divide_by_has_no_answer_either():
    # √ᾱ = 10⁻³¹⁵: a number, but its inverse is infinite, and ∞ − ∞ would be NaN.
    deep, x_t = NoiseSchedule.from_beta([0.999] * 210), normals(1, 3)
    assert deep.signal_scale[-1] > 0
    check_error(lambda: to_x_0(deep, "epsilon", x_t, x_t, 209), NoAnswerError, "ᾱ_t = 0", "v_prediction")


@pytest.mark.parametrize("prediction", PARAMETERISATIONS)
def test_each_sample_and_each_token_may_have_its_own_t(prediction):
    x_t, output, t = (
        normals(2, 3, 4, seed=1),
        normals(2, 3, 4, seed=2),
        torch.tensor([[0, 5, 99], [7, 7, 999]]),
    )
    for read in (target, to_x_0, to_eps):
        together = read(COSINE, prediction, x_t, output, t)
        for i in range(2):
            for j in range(3):
                alone = read(COSINE, prediction, x_t[i, j], output[i, j], int(t[i, j]))
                assert torch.equal(together[i, j], alone)


@pytest.mark.parametrize("prediction", PARAMETERISATIONS)
def test_a_t_for_each_sample_is_read_at_that_samples_t(prediction):
    x_t, output, t = normals(3, 4, seed=1), normals(3, 4, seed=2), torch.tensor([0, 500, 999])
    for read in (target, to_x_0, to_eps):
        together = read(COSINE, prediction, x_t, output, t)
        for i in range(3):
            assert torch.equal(together[i], read(COSINE, prediction, x_t[i], output[i], int(t[i])))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_a_half_precision_answer_is_rounded_once_and_to_the_precision_asked_for(dtype):
    x_t, output = normals(5, 7, seed=1, dtype=dtype), normals(5, 7, seed=2, dtype=dtype)
    exact = to_x_0(COSINE, "v_prediction", x_t.double(), output.double(), 700)
    assert torch.equal(to_x_0(COSINE, "v_prediction", x_t, output, 700), exact.to(dtype))
    wide = to_x_0(COSINE, "v_prediction", x_t, output, 700, dtype=torch.float32)
    assert torch.equal(wide, exact.float())


def test_gradients_flow_to_the_output():
    x_t, output = normals(2, 3, seed=1), normals(2, 3, seed=2).requires_grad_()
    for prediction in PARAMETERISATIONS:
        for read in (to_x_0, to_eps):
            assert torch.autograd.gradcheck(lambda o, r=read, p=prediction: r(COSINE, p, x_t, o, 300), output)


# --- the rows themselves ---


@pytest.mark.parametrize("t", [0, 17, 500, 998])
def test_flow_matching_is_the_straight_line_between_data_and_noise(t):
    x_0, noise = normals(2, 3, seed=1), normals(2, 3, seed=2)
    numbers = coefficients_at(COSINE, PARAMETERISATIONS["flow"], t)
    u = numbers.time / 1000
    x_t = add_noise(COSINE, x_0, noise, t)
    torch.testing.assert_close(numbers.input * x_t, (1 - u) * x_0 + u * noise, rtol=1e-14, atol=1e-15)
    output = target(COSINE, "flow", x_0, noise, t)
    assert torch.equal(output, noise - x_0)
    # On the line x_u = (1−u) x_0 + u z both ends are x_u − u · v and x_u + (1−u) · v.
    torch.testing.assert_close(to_x_0(COSINE, "flow", x_t, output, t), numbers.input * x_t - u * output)
    torch.testing.assert_close(to_eps(COSINE, "flow", x_t, output, t), numbers.input * x_t + (1 - u) * output)


@pytest.mark.parametrize("sigma_data", [0.5, 1.0, 0.01, 30.0])
@pytest.mark.parametrize("t", [0, 17, 500, 998])
def test_edm_is_table_1_of_karras_et_al(sigma_data, t):
    kind = edm(sigma_data)
    x_0, noise = normals(2, 3, seed=1), normals(2, 3, seed=2)
    a, s = COSINE.signal_scale[t].item(), COSINE.noise_scale[t].item()
    sigma = s / a
    c_skip = sigma_data**2 / (sigma**2 + sigma_data**2)
    c_out = sigma * sigma_data / (sigma**2 + sigma_data**2) ** 0.5
    c_in = 1 / (sigma**2 + sigma_data**2) ** 0.5
    x_t = add_noise(COSINE, x_0, noise, t)
    x_ve, output = x_t / a, normals(2, 3, seed=3)
    numbers = coefficients_at(COSINE, kind, t)
    assert numbers.time == pytest.approx(math.log(sigma) / 4, rel=1e-14)
    torch.testing.assert_close(numbers.input * x_t, c_in * x_ve, rtol=1e-13, atol=0)
    denoised = c_skip * x_ve + c_out * output
    torch.testing.assert_close(to_x_0(COSINE, kind, x_t, output, t), denoised, rtol=1e-12, atol=1e-12)
    trained_on = (x_0 - c_skip * x_ve) / c_out
    lost = 1e-13 * max(1, 1 / c_out)  # here the peer's form subtracts what is nearly equal
    torch.testing.assert_close(target(COSINE, kind, x_0, noise, t), trained_on, rtol=lost, atol=lost)


@pytest.mark.parametrize("t", [0, 17, 500, 998])
def test_edm_with_data_of_unit_power_predicts_minus_v(t):
    x_0, noise = normals(2, 3, seed=1), normals(2, 3, seed=2)
    v = target(COSINE, "v_prediction", x_0, noise, t)
    torch.testing.assert_close(target(COSINE, edm(1.0), x_0, noise, t), -v, rtol=0, atol=1e-14)
    assert coefficients_at(COSINE, edm(1.0), t).input == pytest.approx(1, rel=1e-15)


@pytest.mark.parametrize("kind", PARAMETERISATIONS.values(), ids=PARAMETERISATIONS)
@given(t=st.integers(0, 999))
def test_what_the_network_is_given_is_its_input_scale_times_x_t(kind, t):
    numbers = coefficients_at(COSINE, kind, t)
    scales = COSINE.signal_scale[t].item(), COSINE.noise_scale[t].item()
    assert numbers.noised == pytest.approx([numbers.input * scale for scale in scales], rel=1e-15)


@pytest.mark.parametrize("kind", PARAMETERISATIONS.values(), ids=PARAMETERISATIONS)
@pytest.mark.parametrize("t", [0.5, 123.25])
def test_between_the_integers_the_numbers_are_those_of_the_level_there(kind, t):
    numbers = coefficients_at(COSINE, kind, t)
    (level,) = levels_at(COSINE, [t])
    a, s = level.signal, level.sigma
    for which in ("target", "x_0", "eps"):
        assert getattr(numbers, which) == pytest.approx(getattr(kind, which)(a, s), rel=1e-13)


def test_whether_a_kind_answers_at_no_signal_follows_from_its_numbers():
    twice = Parameterisation(
        "2ε", lambda a, s: (0, 2), lambda a, s: (1 / a, -s / a / 2), lambda a, s: (0, 0.5)
    )
    x = normals(2, 3)
    check_error(lambda: to_x_0(ZERO_SNR, twice, x, x, 999), NoAnswerError, "'2ε'", "ᾱ_t = 0")
    answers = {name: coefficients_at(ZERO_SNR, kind, 999).answers for name, kind in PARAMETERISATIONS.items()}
    # EDM's network is told log σ, which is infinite there, though x̂_0 is not.
    assert answers == {"epsilon": False, "sample": True, "v_prediction": True, "flow": True, "edm": False}
    assert all(coefficients_at(ZERO_SNR, kind, 998).answers for kind in (*PARAMETERISATIONS.values(), twice))


@pytest.mark.parametrize("sigma_data", [0, -1.0, math.inf, math.nan])
def test_a_standard_deviation_of_the_data_that_cannot_be_is_refused(sigma_data):
    check_error(lambda: edm(sigma_data), ConfigError, "sigma_data", repr(sigma_data), "positive")


X = torch.zeros(2, 3)
BAD = {
    "unknown": (
        (X, X, 5),
        "eps",
        UnknownNameError,
        "prediction 'eps'",
        "'edm', 'epsilon', 'flow', 'sample', 'v_prediction'",
    ),
    "no name": (
        (X, X, 5),
        None,
        UnknownNameError,
        "prediction None",
        "'epsilon', 'flow', 'sample', 'v_prediction'",
    ),
    "t of T": ((X, X, 1000), "sample", TimestepError, "t = 1000", "0 … 999"),
    "t negative": ((X, X, -1), "epsilon", TimestepError, "t = -1", "0 … 999"),
    "t of another batch": ((X, X, torch.tensor([1, 2, 3])), "v_prediction", ShapeError, "(3,)", "(2, 3)"),
    "another shape": ((X, X[:1], 5), "sample", ShapeError, "(1, 3)", "(2, 3)", "make them equal"),
    "another dtype": ((X, X.half(), 5), "sample", DtypeError, "torch.float16", "convert"),
    "integers": ((X.int(), X.int(), 5), "sample", DtypeError, "torch.int32", "[-1, 1]"),
}


@pytest.mark.parametrize("read", [target, to_x_0, to_eps])
@pytest.mark.parametrize("case", BAD.values(), ids=BAD.keys())
def test_bad_input_is_named_with_its_value_and_the_remedy(read, case):
    (x, y, t), prediction, *expected = case
    check_error(lambda: read(COSINE, prediction, x, y, t), *expected)
