"""Sampling given what does not fit: each is named with its value and the remedy."""

import math

import pytest
import torch
from cases import check_error, denoiser

from alphabar import DDIM, DDPM, Denoiser, NoiseSchedule, iter_sample, sample
from alphabar.errors import (
    AlphabarError,
    ConfigError,
    DtypeError,
    NoAnswerError,
    ShapeError,
    TimestepError,
    UnknownNameError,
)

COSINE = NoiseSchedule.cosine()
ZERO_SNR = NoiseSchedule.linear().zero_terminal_snr()


SHAPE = (2, 3, 8, 8)
X = torch.zeros(SHAPE)


def run(sampler=None, shape=SHAPE, network=None, **more):
    return sample(network or denoiser(), shape, sampler or DDPM(5), **more)


BAD = {
    "seed and generator": (
        lambda: run(seed=1, generator=torch.Generator()),
        ConfigError,
        "both seed and generator",
        "one of them",
    ),
    "seed negative": (lambda: run(seed=-1), ConfigError, "seed is -1", "0 … 2^64 - 1"),
    "first negative": (lambda: run(seed=1, first=-1), ConfigError, "first is -1", "0 … 2^63 - 1"),
    "t_start without x_t": (lambda: run(t_start=500), ConfigError, "t_start is 500", "give the noisy data"),
    "t_start of T": (lambda: run(x_t=X, t_start=1000), TimestepError, "1000", "0 … 999"),
    "t_start negative": (lambda: run(x_t=X, t_start=-1), TimestepError, "-1", "0 … 999"),
    "x_t of another shape": (lambda: run(x_t=X[:1]), ShapeError, "(1, 3, 8, 8)", "(2, 3, 8, 8)", "equal"),
    "x_t of integers": (lambda: run(x_t=X.byte()), DtypeError, "torch.uint8", "[-1, 1]"),
    "integer precision": (lambda: run(dtype=torch.int32), DtypeError, "torch.int32", "floating-point"),
    "an empty batch": (lambda: run(shape=(0, 3, 8, 8)), ConfigError, "shape[0] is 0", "at least 1"),
    "a broken size": (lambda: run(shape=(2, 3, 8, -8)), ConfigError, "shape[3] is -8", "at least 1"),
    "more steps than T": (lambda: run(DDPM(1001)), TimestepError, "1001 steps", "T = 1000", "at most one"),
    "more steps than a short T": (
        lambda: run(DDIM(51), network=denoiser(schedule=NoiseSchedule.cosine(50))),
        TimestepError,
        "51 steps",
        "T = 50",
    ),
    "no steps": (lambda: run(DDIM(0)), ConfigError, "steps is 0", "at least 1"),
    "unknown variance": (
        lambda: DDPM(variance="fixed"),
        UnknownNameError,
        "variance 'fixed'",
        "'fixed_large'",
        "'fixed_small'",
        "'learned', 'learned_range'",
    ),
    "unknown spacing": (
        lambda: run(DDPM(5, spacing="middle")),
        UnknownNameError,
        "spacing 'middle'",
        "'leading', 'linspace'",
    ),
    "η above 1": (lambda: DDIM(eta=1.5), ConfigError, "eta is 1.5", "[0, 1]"),
    "η below 0": (lambda: DDIM(eta=-0.1), ConfigError, "eta is -0.1", "[0, 1]"),
    "η of nan": (lambda: DDIM(eta=math.nan), ConfigError, "eta is nan", "[0, 1]"),
    "learned without channels": (
        lambda: run(DDPM(5, "learned")),
        ShapeError,
        "returned none",
        "twice the channels",
        "fixed_small",
    ),
    "a range without channels": (
        lambda: run(DDPM(5, "learned_range")),
        ShapeError,
        "returned none",
        "twice the channels",
    ),
    "wrong channels": (
        lambda: run(network=Denoiser(lambda x, t: x[:, :2], COSINE)),
        ShapeError,
        "(2, 2, 8, 8)",
        "(2, 3, 8, 8)",
        "twice the channels",
    ),
    "ε where no signal is left": (
        lambda: run(network=denoiser("epsilon", ZERO_SNR)),
        NoAnswerError,
        "ᾱ_t = 0",
        "v_prediction",
    ),
}


@pytest.mark.parametrize("case", BAD.values(), ids=BAD.keys())
def test_bad_input_is_named_with_its_value_and_the_remedy(case):
    check_error(*case)


@pytest.mark.parametrize("broken", [math.nan, math.inf], ids=str)
@pytest.mark.parametrize("half", ["estimate", "variance"])
def test_a_network_that_breaks_down_is_named_with_step_and_t(broken, half):
    def network(x_t, t):
        good = torch.zeros_like(x_t)
        bad = torch.where(t < 500, broken, 0.0).to(x_t)[:, None, None, None].expand_as(x_t)
        return torch.cat([bad, good] if half == "estimate" else [good, bad], 1)

    for sampler in (DDPM(5, "learned_range"), DDPM(5, "learned")):
        check_error(
            lambda sampler=sampler: run(sampler, network=Denoiser(network, COSINE, "sample"), seed=1),
            NoAnswerError,
            "step 3, t = 399",
            "NaN or infinity",
            "weights",
        )


def test_an_error_comes_before_the_first_evaluation():
    asked = denoiser()
    wrong = ({"seed": 1, "generator": torch.Generator()}, {"t_start": 5}, {"x_t": X[:1]})
    for more in wrong:
        with pytest.raises(AlphabarError):
            iter_sample(asked, SHAPE, DDPM(5), **more)
    assert asked.network.asked == []
