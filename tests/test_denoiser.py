"""Denoisers: any network as an estimate of x_0, and wrappers that are denoisers again."""

import math
from dataclasses import FrozenInstanceError, dataclass
from types import SimpleNamespace

import pytest
import torch
from cases import check_error, normals

from alphabar import Clipped, Denoiser, Estimate, NoiseSchedule, add_noise
from alphabar.errors import (
    ConfigError,
    DtypeError,
    NoAnswerError,
    ShapeError,
    TimestepError,
    UnknownNameError,
)
from alphabar.process import PARAMETERISATIONS, target, to_x_0
from alphabar.schedule import levels_at

COSINE = NoiseSchedule.cosine()
ZERO_SNR = NoiseSchedule.linear().zero_terminal_snr()


def denoiser(network, prediction="sample", schedule=COSINE, **more):
    return Denoiser(network, schedule, prediction, **more)


@pytest.mark.parametrize("prediction", PARAMETERISATIONS)
@pytest.mark.parametrize("t", [0, 300, 990])
def test_a_perfect_network_gives_the_clean_data(prediction, t):
    x_0, noise = normals(3, 2, 4, seed=1), normals(3, 2, 4, seed=2)
    x_t = add_noise(COSINE, x_0, noise, t)
    found = denoiser(lambda x, time: target(COSINE, prediction, x_0, noise, t), prediction)(x_t, t)
    # ε-prediction divides by √ᾱ > 10⁻².
    torch.testing.assert_close(found.x_0, x_0, rtol=0, atol=1e-13)
    assert found.variance is None


def test_the_network_is_asked_with_one_whole_t_a_sample():
    asked = []

    def network(x_t, t):
        asked.append((x_t, t))
        return x_t

    x_t = normals(3, 2, 4)
    denoiser(network)(x_t, 17)
    assert asked[0][0] is x_t
    assert asked[0][1].tolist() == [17, 17, 17]
    assert asked[0][1].dtype == torch.int64


@pytest.mark.parametrize("prediction", ["flow", "edm"])
@pytest.mark.parametrize("t", [17, 17.5])
def test_the_network_of_another_path_is_given_that_paths_x_and_time(prediction, t):
    asked = []
    x_t = normals(3, 2, 4)
    denoiser(lambda x, time: asked.append((x, time)) or x, prediction)(x_t, t)
    (level,) = levels_at(COSINE, [t])
    u = level.sigma / (level.signal + level.sigma)
    given, time = {
        "flow": (x_t / (level.signal + level.sigma), 1000 * u),
        "edm": (x_t / level.signal / math.hypot(level.sigma_ve, 0.5), math.log(level.sigma_ve) / 4),
    }[prediction]
    torch.testing.assert_close(asked[0][0], given, rtol=1e-14, atol=0)
    assert torch.equal(asked[0][1], torch.full((3,), time))  # float32


def test_labels_are_handed_on_by_the_peers_name():
    labels = torch.tensor([3, 1, 2])

    def network(x_t, t, class_labels=None):
        return class_labels[:, None].to(x_t).expand_as(x_t)

    found = denoiser(network, labels=labels)(normals(3, 2), 5)
    assert torch.equal(found.x_0[:, 0], labels.double())


def test_a_diffusers_model_answers_with_its_sample():
    found = denoiser(lambda x_t, t: SimpleNamespace(sample=2 * x_t))(torch.ones(1, 2), 5)
    assert found.x_0.tolist() == [[2.0, 2.0]]


@pytest.mark.parametrize("prediction", PARAMETERISATIONS)
def test_of_twice_the_channels_the_second_half_is_the_variance(prediction):
    x_t, output = normals(3, 2, 4, 4, seed=1), normals(3, 4, 4, 4, seed=2)
    found = denoiser(lambda x, t: output, prediction)(x_t, 300)
    torch.testing.assert_close(found.x_0, to_x_0(COSINE, prediction, x_t, output[:, :2], 300))
    assert torch.equal(found.variance, output[:, 2:])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_the_estimate_of_a_half_precision_network_is_wide(dtype):
    # At √ᾱ = .025 a float16 x̂_0 would be rounded to forty times what x_t is rounded to.
    x_t, output = normals(3, 2, seed=1, dtype=dtype), normals(3, 2, seed=2, dtype=dtype)
    found = denoiser(lambda x, t: output, "epsilon")(x_t, 983).x_0
    exact = to_x_0(COSINE, "epsilon", x_t.double(), output.double(), 983)
    assert torch.equal(found, exact.float())


def test_a_network_may_answer_in_another_precision_than_it_was_asked():
    x_t = normals(3, 2, dtype=torch.float32)
    found = denoiser(lambda x, t: (x / 2).bfloat16())(x_t, 5).x_0
    assert torch.equal(found, (x_t / 2).bfloat16().float())


def test_gradients_reach_the_network():
    weight = torch.tensor(0.5, requires_grad=True)
    denoiser(lambda x, t: weight * x)(torch.ones(2, 3), 5).x_0.sum().backward()
    assert weight.grad == 6


@pytest.mark.parametrize("limit", [1.0, 0.25])
def test_clipping_clips_the_estimate_and_nothing_else(limit):
    x_0, variance = 3 * normals(5, 2, seed=1), 3 * normals(5, 2, seed=2)

    @dataclass
    class Known:
        schedule: NoiseSchedule

        def __call__(self, x_t, t):
            return Estimate(x_0, variance)

    clipped = Clipped(Clipped(Known(COSINE), 2.0), limit)
    found = clipped(x_0, 5)
    assert torch.equal(found.x_0, x_0.clip(-limit, limit))
    assert found.variance is variance
    assert clipped.schedule is COSINE


def test_denoisers_are_values_that_nobody_can_change():
    plain = denoiser(lambda x, t: x)
    for frozen, name in ((plain, "schedule"), (Clipped(plain), "limit")):
        with pytest.raises(FrozenInstanceError):
            setattr(frozen, name, None)


X = torch.zeros(2, 3, 4, 4)


def same(x_t, t):
    return x_t


BAD = {
    "unknown prediction": (
        lambda: denoiser(same, "noise"),
        UnknownNameError,
        "prediction 'noise'",
        "'edm', 'epsilon', 'flow', 'sample', 'v_prediction'",
    ),
    "no network": (lambda: denoiser(None), DtypeError, "NoneType", "callable network(x_t, t)"),
    "no answer": (lambda: denoiser(lambda x, t: None)(X, 5), DtypeError, "NoneType", "torch.Tensor"),
    "an answer of integers": (
        lambda: denoiser(lambda x, t: x.int())(X, 5),
        DtypeError,
        "torch.int32",
        "answer",
    ),
    "three times the channels": (
        lambda: denoiser(lambda x, t: x.repeat(1, 3, 1, 1))(X, 5),
        ShapeError,
        "(2, 9, 4, 4)",
        "(2, 3, 4, 4)",
        "twice the channels",
    ),
    "another size": (
        lambda: denoiser(lambda x, t: x[..., :2])(X, 5),
        ShapeError,
        "(2, 3, 4, 2)",
        "same shape",
    ),
    "half the batch": (lambda: denoiser(lambda x, t: x[:1])(X, 5), ShapeError, "(1, 3, 4, 4)", "same shape"),
    "twice a row": (lambda: denoiser(lambda x, t: x.repeat(2))(X[:, 0, 0, 0], 5), ShapeError, "(4,)", "(2,)"),
    "integers": (lambda: denoiser(same)(X.byte(), 5), DtypeError, "torch.uint8", "[-1, 1]"),
    "t of T": (lambda: denoiser(same)(X, 1000), TimestepError, "1000", "0 … 999"),
    "t negative": (lambda: denoiser(same)(X, -1), TimestepError, "-1", "0 … 999"),
    "ε where no signal is left": (
        lambda: denoiser(same, "epsilon", ZERO_SNR)(X, 999),
        NoAnswerError,
        "ᾱ_t = 0",
        "v_prediction",
    ),
    "a limit of 0": (lambda: Clipped(denoiser(same), 0), ConfigError, "limit is 0", "positive"),
    "a limit of −1": (lambda: Clipped(denoiser(same), -1.0), ConfigError, "limit is -1.0", "positive"),
    "a limit of nan": (
        lambda: Clipped(denoiser(same), float("nan")),
        ConfigError,
        "limit is nan",
        "positive",
    ),
}


@pytest.mark.parametrize("case", BAD.values(), ids=BAD.keys())
def test_bad_input_is_named_with_its_value_and_the_remedy(case):
    check_error(*case)
