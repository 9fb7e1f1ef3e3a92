"""The forward process given what does not fit: each is named with its value and the remedy."""

import pytest
import torch
from cases import check_error

from alphabar import (
    NoiseSchedule,
    add_noise,
    add_noise_between,
    add_noise_step,
    posterior,
    trajectory,
    velocity,
)
from alphabar.errors import DtypeError, ShapeError, TimestepError

COSINE = NoiseSchedule.cosine()

X = torch.zeros(2, 3)
PAIRS = {
    "add_noise": add_noise,
    "add_noise_step": add_noise_step,
    "velocity": velocity,
    "posterior": posterior,
    "add_noise_between": lambda schedule, x, y, t: add_noise_between(schedule, x, y, -1, t),
}
BAD = {
    "t negative": ((X, X, -1), TimestepError, "t = -1", "0 … 999"),
    "t of T": ((X, X, 1000), TimestepError, "t = 1000", "0 … 999"),
    "t beyond 64 bits": ((X, X, 2**70), TimestepError, "t = 1180591620717411303424", "0 … 999"),
    "one t of T": ((X, X, torch.tensor([0, 1000])), TimestepError, "t = 1000", "T = 1000"),
    "one t negative": ((X, X, torch.tensor([0, -7])), TimestepError, "t = -7", "0 … 999"),
    "t of 2.5": ((X, X, 2.5), TimestepError, "t is 2.5", "integer"),
    "t of True": ((X, X, True), TimestepError, "t is True", "integer"),
    "t of floats": ((X, X, torch.tensor([1.0, 2.0])), TimestepError, "torch.float32", "t.long()"),
    "t of booleans": ((X, X, torch.tensor([True, False])), TimestepError, "torch.bool", "t.long()"),
    "t a list": ((X, X, [1, 2]), TimestepError, "[1, 2]", "tensor of integers"),
    "t of another batch": ((X, X, torch.tensor([1, 2, 3])), ShapeError, "(3,)", "(2, 3)", "(B,)"),
    "t of too many dimensions": (
        (X, X, torch.zeros(2, 3, 1, dtype=torch.long)),
        ShapeError,
        "(2, 3, 1)",
        "leading",
    ),
    "noise of another shape": ((X, torch.zeros(2, 4), 1), ShapeError, "(2, 4)", "(2, 3)", "make them equal"),
    "noise of batch 1": ((X, torch.zeros(1, 3), 1), ShapeError, "(1, 3)", "(2, 3)", "make them equal"),
    "noise of another dtype": ((X, X.double(), 1), DtypeError, "torch.float64", "torch.float32", "convert"),
    "noise of another device": ((X, X.to("meta"), 1), DtypeError, "meta", "cpu", "move"),
    "integer images": ((X.byte(), X.byte(), 1), DtypeError, "torch.uint8", "[-1, 1]", "127.5"),
    "complex data": ((X.cfloat(), X.cfloat(), 1), DtypeError, "torch.complex64", "real"),
    "no tensor": (([[0.0]], X, 1), DtypeError, "list", "torch.Tensor"),
}


@pytest.mark.parametrize("jump", PAIRS.values(), ids=PAIRS.keys())
@pytest.mark.parametrize("case", BAD.values(), ids=BAD.keys())
def test_bad_input_is_named_with_its_value_and_the_remedy(jump, case):
    arguments, *expected = case
    check_error(lambda: jump(COSINE, *arguments), *expected)


MORE_BAD = {
    "s = t": (lambda: add_noise_between(COSINE, X, X, 5, 5), TimestepError, "s = 5", "t = 5", "smaller"),
    "s > t": (lambda: posterior(COSINE, X, X, 5, 6), TimestepError, "s = 6", "smaller"),
    "s too small": (lambda: add_noise_between(COSINE, X, X, -2, 5), TimestepError, "-2", "-1 … 999"),
    "out of another shape": (lambda: add_noise(COSINE, X, X, 1, out=X[:1]), ShapeError, "out", "(1, 3)"),
    "out of another dtype": (lambda: add_noise(COSINE, X, X, 1, out=X.half()), DtypeError, "out", "float16"),
    "no ts": (lambda: trajectory(COSINE, X, []), TimestepError, "[]", "at least one t"),
    "falling ts": (lambda: trajectory(COSINE, X, [5, 2]), TimestepError, "[5, 2]", "increasing"),
    "ts twice": (lambda: trajectory(COSINE, X, [5, 5]), TimestepError, "[5, 5]", "increasing"),
    "ts negative": (lambda: trajectory(COSINE, X, [-1, 5]), TimestepError, "t = -1", "0 … 999"),
    "ts of T": (lambda: trajectory(COSINE, X, [5, 1000]), TimestepError, "t = 1000", "0 … 999"),
    "ts of floats": (lambda: trajectory(COSINE, X, [0.5]), TimestepError, "torch.float32", "integers"),
    "integer trajectory": (lambda: trajectory(COSINE, X.int(), [5]), DtypeError, "torch.int32", "[-1, 1]"),
}


@pytest.mark.parametrize("case", MORE_BAD.values(), ids=MORE_BAD.keys())
def test_bad_levels_and_outputs_are_named_with_their_value_and_the_remedy(case):
    check_error(*case)
