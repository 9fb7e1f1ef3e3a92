"""A loss weighs the same mistake alike whatever the network returns, and training asks as sampling reads."""

import pytest
import torch
from cases import COSINE, check_error, normals

from alphabar import Denoiser, NoiseSchedule, add_noise
from alphabar.errors import ConfigError, NoAnswerError, ShapeError, UnknownNameError
from alphabar.process import PARAMETERISATIONS, Parameterisation, coefficients_table, edm, target
from alphabar.training.loss import LOSSES, weights
from alphabar.training.objective import Objective

KINDS = {**PARAMETERISATIONS, "edm(1)": edm(1.0)}
ZERO_SNR = NoiseSchedule.linear().zero_terminal_snr()
T = torch.tensor([10, 300, 700, 950])
every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
WEIGHTED = sorted(set(LOSSES) - {"simple"})


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    return normals(4, 2, 3, 3, seed=1), normals(4, 2, 3, 3, seed=2)


# --- the weights ---


@every_kind
@pytest.mark.parametrize("loss", WEIGHTED)
def test_the_same_mistake_costs_the_same_whatever_the_network_returns(kind, loss):
    (x_0, noise), mistake = batch(), normals(4, 2, 3, 3, seed=3)

    def cost(of: Parameterisation) -> torch.Tensor:
        per_output = coefficients_table(COSINE, of).x_0[T, 1].reshape(4, 1, 1, 1)
        output = target(COSINE, of, x_0, noise, T) + mistake / per_output  # x̂_0 is off by the mistake
        return Objective.of(COSINE, of, loss=loss).loss(output, x_0, noise, T)

    # Of an output of size 1 the mistake may be 1e-3: its rounding errs by 1e-13 of it.
    torch.testing.assert_close(cost(kind), cost(PARAMETERISATIONS["sample"]), rtol=1e-11, atol=0)


def test_min_snr_has_the_three_forms_of_the_paper():
    snr = COSINE.snr
    least = snr.clamp(max=5)
    forms = {"sample": least, "epsilon": least / snr, "v_prediction": least / (snr + 1)}
    for prediction, expected in forms.items():
        torch.testing.assert_close(weights(COSINE, prediction, "min_snr"), expected, rtol=1e-12, atol=0)


def test_p2_of_epsilon_is_the_power_of_the_noise():
    expected = 1 - COSINE.alpha_bar  # 1/(1 + SNR)
    torch.testing.assert_close(weights(COSINE, "epsilon", "p2"), expected, rtol=1e-12, atol=1e-15)


def test_edms_weight_makes_every_level_of_edms_network_count_the_same():
    assert torch.allclose(weights(COSINE, "edm", "edm"), torch.ones(1000).double(), rtol=1e-14, atol=0)
    # λ(½) = (¼ + ¼)/(½ · ½)² on x̂_0, and σ² = (1−ᾱ)/ᾱ = ¼ where ᾱ = .8.
    ones = weights(COSINE, edm(1.5), "edm", sigma_data=1.5)
    assert torch.allclose(ones, torch.ones(1000).double(), rtol=1e-14, atol=0)
    assert weights(NoiseSchedule.from_alpha_bar([0.8]), "sample", "edm")[0] == pytest.approx(8, rel=1e-14)


def test_the_sigmoid_is_a_half_at_its_bias_and_goes_to_1_in_noise_and_to_0_in_data():
    at_bias = NoiseSchedule.from_alpha_bar([1 / (1 + torch.tensor(1.0).double().exp())])
    assert weights(at_bias, "epsilon", "sigmoid")[0] == pytest.approx(0.5, rel=1e-14)
    found = weights(NoiseSchedule.from_alpha_bar([1 - 1e-12, 1e-12]), "epsilon", "sigmoid")
    # 1/(1 + SNR/eᵇ)
    assert found.tolist() == pytest.approx([1e-12 / torch.e, 1 - 1e-12 * torch.e], rel=1e-3)


def test_simple_is_ho_et_als():
    x_0, noise = batch()
    output = normals(4, 2, 3, 3, seed=3)
    for prediction in PARAMETERISATIONS:
        wrong = output - target(COSINE, prediction, x_0, noise, T)
        cost = Objective.of(COSINE, prediction).loss(output, x_0, noise, T)
        torch.testing.assert_close(cost, wrong.square().mean(), rtol=1e-13, atol=0)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("prediction", ["sample", "v_prediction", "flow"])
def test_where_nothing_is_left_of_the_signal_a_weight_is_its_limit(prediction, loss):
    near, there = (NoiseSchedule.from_alpha_bar([0.5, end]) for end in (1e-14, 0))
    # √ᾱ = 1e-7 is what a coefficient may still differ by.
    torch.testing.assert_close(
        weights(there, prediction, loss), weights(near, prediction, loss), rtol=1e-6, atol=1e-6
    )
    assert Objective.of(ZERO_SNR, prediction, loss=loss).weight.isfinite().all()


def test_min_snr_of_epsilon_is_1_where_nothing_is_left_of_the_signal():
    assert weights(ZERO_SNR, "epsilon", "min_snr")[-1] == 1


def test_a_weight_that_is_not_finite_is_refused():
    check_error(
        lambda: weights(ZERO_SNR, "epsilon", "edm"), ConfigError, "'edm'", "'epsilon'", "inf at t = 999"
    )
    check_error(lambda: weights(COSINE, "epsilon", "huber"), UnknownNameError, "'huber'", "'min_snr'")


def test_a_loss_is_one_more_function(monkeypatch):
    monkeypatch.setitem(LOSSES, "snr", lambda scales: scales.snr * scales.x_0)
    torch.testing.assert_close(
        weights(COSINE, "epsilon", "snr"), torch.ones(1000).double(), rtol=1e-12, atol=0
    )


# --- asking and reading ---


@every_kind
@pytest.mark.parametrize("t", [0, 17, 500, 998])
def test_training_asks_the_network_what_sampling_asks_it(kind, t):
    (x_0, noise), asked = batch(), []

    def network(x, time):
        asked.append((x, time))
        return target(COSINE, kind, x_0, noise, t)

    given, time = Objective.of(COSINE, kind).ask(x_0, noise, torch.full((4,), t))
    estimate = Denoiser(network, COSINE, kind)(add_noise(COSINE, x_0, noise, t), t)
    torch.testing.assert_close(given, asked[0][0], rtol=1e-14, atol=1e-14)
    assert torch.equal(time, asked[0][1])
    assert time.dtype == asked[0][1].dtype
    torch.testing.assert_close(estimate.x_0, x_0, rtol=0, atol=1e-10)


@every_kind
def test_a_perfect_answer_costs_nothing(kind):
    x_0, noise = batch()
    for loss in LOSSES:
        output = target(COSINE, kind, x_0, noise, T)
        assert Objective.of(COSINE, kind, loss=loss).loss(output, x_0, noise, T) == 0


def test_the_input_is_written_where_it_is_asked_for_bit_for_bit():
    x_0, noise = (x.float() for x in batch())
    out = torch.empty_like(x_0)
    given, time = Objective.of(COSINE, "v_prediction").ask(x_0, noise, T, out=out)
    assert given is out
    assert time is T
    assert torch.equal(out, add_noise(COSINE, x_0, noise, T))


def test_an_answer_in_half_precision_is_widened_before_it_is_compared():
    x_0, noise = (x.float() for x in batch())
    output = normals(4, 2, 3, 3, seed=3, dtype=torch.bfloat16)
    objective = Objective.of(COSINE, "v_prediction")
    assert torch.equal(objective.loss(output, x_0, noise, T), objective.loss(output.float(), x_0, noise, T))


def test_a_kind_without_an_answer_at_a_t_is_refused_by_its_coefficients():
    twice = Parameterisation(
        "2ε", lambda a, s: (0, 2), lambda a, s: (1 / a, -s / a / 2), lambda a, s: (0, 0.5)
    )
    for kind in ("epsilon", "edm", twice):
        check_error(lambda kind=kind: Objective.of(ZERO_SNR, kind), NoAnswerError, "t = 999", "ᾱ_t = 0")
        Objective.of(COSINE, kind)


@pytest.mark.parametrize(
    ("variance", "shape", "says"),
    [
        ("fixed", (4, 1, 3, 3), "expected (4, 2, 3, 3)"),  # would broadcast
        ("fixed", (4, 4, 3, 3), "expected (4, 2, 3, 3)"),
        ("learned_range", (4, 2, 3, 3), "expected (4, 4, 3, 3), the mean and the variance"),
    ],
)
def test_answers_of_another_shape_are_refused(variance, shape, says):
    x_0, noise = batch()
    objective = Objective.of(COSINE, "v_prediction", variance=variance)
    check_error(lambda: objective.loss(normals(*shape), x_0, noise, T), ShapeError, str(shape), says)
