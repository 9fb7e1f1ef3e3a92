"""ε, x_0 and v: three readings of one answer, and every way between them."""

import pytest
import torch
from cases import check_error, normals, schedules
from hypothesis import given
from hypothesis import strategies as st

from alphabar import NoiseSchedule, add_noise, velocity
from alphabar.errors import DtypeError, NoAnswerError, ShapeError, TimestepError, UnknownNameError
from alphabar.prediction import PREDICTIONS, target, to_eps, to_x_0

COSINE = NoiseSchedule.cosine()
ZERO_SNR = NoiseSchedule.linear().zero_terminal_snr()
ANSWERED_AT_ZERO = sorted(set(PREDICTIONS) - {"epsilon"})


def test_the_readings_have_the_peers_names():
    assert sorted(PREDICTIONS) == ["epsilon", "sample", "v_prediction"]


@given(schedules, st.data())
def test_the_targets_are_noise_data_and_velocity(schedule, data):
    t = data.draw(st.integers(0, len(schedule) - 1), "t")
    x_0, noise = normals(2, 3, seed=1), normals(2, 3, seed=2)
    assert torch.equal(target(schedule, "epsilon", x_0, noise, t), noise)
    assert torch.equal(target(schedule, "sample", x_0, noise, t), x_0)
    v = schedule.signal_scale[t] * noise - schedule.noise_scale[t] * x_0
    torch.testing.assert_close(target(schedule, "v_prediction", x_0, noise, t), v, rtol=0, atol=1e-14)
    assert torch.equal(velocity(schedule, x_0, noise, t), target(schedule, "v_prediction", x_0, noise, t))


@pytest.mark.parametrize("prediction", PREDICTIONS)
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


@pytest.mark.parametrize("other", PREDICTIONS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
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
    assert torch.equal(to_x_0(ZERO_SNR, prediction, x_t, output, 999), x_0)
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


@pytest.mark.parametrize("prediction", PREDICTIONS)
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


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_a_half_precision_answer_is_rounded_once_and_to_the_precision_asked_for(dtype):
    x_t, output = normals(5, 7, seed=1, dtype=dtype), normals(5, 7, seed=2, dtype=dtype)
    exact = to_x_0(COSINE, "v_prediction", x_t.double(), output.double(), 700)
    assert torch.equal(to_x_0(COSINE, "v_prediction", x_t, output, 700), exact.to(dtype))
    wide = to_x_0(COSINE, "v_prediction", x_t, output, 700, dtype=torch.float32)
    assert torch.equal(wide, exact.float())


def test_gradients_flow_to_the_output():
    x_t, output = normals(2, 3, seed=1), normals(2, 3, seed=2).requires_grad_()
    for prediction in PREDICTIONS:
        for read in (to_x_0, to_eps):
            assert torch.autograd.gradcheck(lambda o, r=read, p=prediction: r(COSINE, p, x_t, o, 300), output)


X = torch.zeros(2, 3)
BAD = {
    "unknown": (
        (X, X, 5),
        "eps",
        UnknownNameError,
        "prediction 'eps'",
        "'epsilon', 'sample', 'v_prediction'",
    ),
    "no name": ((X, X, 5), None, UnknownNameError, "prediction None", "'epsilon', 'sample', 'v_prediction'"),
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
