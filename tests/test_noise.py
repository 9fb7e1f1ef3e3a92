"""Addressed noise: what is drawn depends on its address alone, and is standard normal in every direction."""

import math

import pytest
import torch
from cases import check_error, seeds
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from alphabar import NoiseSchedule, add_noise
from alphabar.errors import ConfigError, TimestepError
from alphabar.process.addressed import address, normal, uniform

# Thresholds: 5 standard errors (once in two million by chance), p > 10⁻⁴ for Kolmogorov-Smirnov. The draws
# are fixed, so a test that passes once passes always.
COUNT = 1_000_000


def correlation(a, b):
    a, b = (x.double().flatten() - x.double().mean() for x in (a, b))
    return (a @ b / (a.norm() * b.norm())).item()


@pytest.fixture(scope="module")
def draw():
    return normal((1000, 1000), seed=7, stream=3)


def test_the_moments_are_those_of_a_standard_normal(draw):
    z = draw.double().flatten()
    # The n-th moment of n standard normals has variance (E z²ⁿ − (E zⁿ)²)/count.
    for power, moment, variance in [(1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96), (6, 15, 10170)]:
        assert abs((z**power).mean() - moment) < 5 * (variance / COUNT) ** 0.5


def test_the_distribution_is_the_standard_normal(draw):
    assert stats.kstest(draw.flatten().numpy(), "norm").pvalue > 1e-4
    for column in (0, 1, 2, 3, 999):
        assert stats.kstest(draw[:, column].numpy(), "norm").pvalue > 1e-4


def test_the_tails_are_there_and_end_where_32_bits_end(draw):
    for bound in (2.0, 3.0, 4.0):
        expected = COUNT * math.erfc(bound / math.sqrt(2))
        assert abs(int((draw.abs() > bound).sum()) - expected) < 5 * expected**0.5
    assert draw.abs().max() < 6.77


@pytest.mark.parametrize("shift", [1, 2, 3, 4, 8, 500])
def test_the_elements_of_a_sample_are_independent(draw, shift):
    a, b = draw[:, :-shift], draw[:, shift:]
    for left, right in ((a, b), (a**2, b**2), (a.abs(), b)):
        assert abs(correlation(left, right)) < 5 / left.numel() ** 0.5


@pytest.mark.parametrize("shift", [1, 2, 500])
def test_samples_are_independent(draw, shift):
    a, b = draw[:-shift], draw[shift:]
    for left, right in ((a, b), (a**2, b**2)):
        assert abs(correlation(left, right)) < 5 / left.numel() ** 0.5


OTHERS = [
    {"seed": 8},
    {"seed": 7 + 2**32},
    {"seed": 7 + 2**63},
    {"stream": 4},
    {"stream": 3 + 2**31},
    {"first": 1000},
    {"first": 2**32},
    {"first": 2**62},
]


@pytest.mark.parametrize("other", OTHERS, ids=str)
def test_every_bit_of_the_address_counts(draw, other):
    address = {"seed": 7, "stream": 3} | other
    moved = normal((1000, 1000), **address)
    assert not (moved == draw).all(1).any()
    assert abs(correlation(moved, draw)) < 5 / COUNT**0.5
    assert abs(correlation(moved**2, draw**2)) < 5 / COUNT**0.5


def test_words_of_the_address_do_not_trade_places():
    # Key and counter words of small numbers in other orders: all different.
    addresses = [{"seed": a, "stream": b, "first": c} for a in (1, 2) for b in (1, 2) for c in (1, 2)]
    draws = [tuple(normal((1, 8), **address)[0].tolist()) for address in addresses]
    assert len(set(draws)) == len(draws)


@given(seeds, st.integers(0, 2**32 - 1), st.integers(0, 2**63 - 20), st.integers(1, 9), st.integers(0, 10))
def test_a_sample_is_the_same_in_any_batch(seed, stream, first, size, offset):
    batch = normal((12, size), seed=seed, stream=stream, first=first)
    alone = normal((1, size), seed=seed, stream=stream, first=first + offset)
    assert torch.equal(batch[offset : offset + 1], alone)
    assert torch.equal(batch, normal((12, size), seed=seed, stream=stream, first=first))


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 8, 63, 64, 192, 1000])
def test_a_sample_is_the_same_to_the_last_bit_for_any_size_of_batch(size):
    batch = normal((64, size), seed=1)
    for i in (0, 17, 63):
        assert torch.equal(batch[i : i + 1], normal((1, size), seed=1, first=i))
    assert torch.equal(batch[20:51], normal((31, size), seed=1, first=20))


def test_threads_change_nothing():
    one = normal((64, 3, 32, 32), seed=1)
    torch.set_num_threads(2)
    try:
        assert torch.equal(normal((64, 3, 32, 32), seed=1), one)
    finally:
        torch.set_num_threads(1)


def test_the_shape_only_folds_the_numbers():
    flat = normal((5, 24), seed=1)
    assert torch.equal(normal((5, 2, 3, 4), seed=1), flat.reshape(5, 2, 3, 4))
    assert torch.equal(normal(torch.Size((5, 24)), seed=1), flat)
    assert normal((5,), seed=1).tolist() == flat[:, 0].tolist()
    assert normal((0, 3), seed=1).shape == (0, 3)
    assert normal((3, 0), seed=1).shape == (3, 0)


def test_the_last_addresses_are_addresses():
    last = normal((2, 3), seed=2**64 - 1, stream=2**32 - 1, first=2**63 - 2)
    assert torch.equal(last[1:], normal((1, 3), seed=2**64 - 1, stream=2**32 - 1, first=2**63 - 1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_other_precisions_hold_the_same_numbers(dtype):
    assert torch.equal(normal((3, 5), seed=1, dtype=dtype), normal((3, 5), seed=1).to(dtype))


def test_the_global_generator_is_neither_read_nor_moved():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one = normal((3, 5), seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert torch.equal(normal((3, 5), seed=1), one)


def test_uniforms_are_uniform():
    u = uniform(COUNT // 4, seed=5, stream=1)
    assert stats.kstest(u.numpy(), "uniform").pvalue > 1e-4
    assert u.min() > 0
    assert u.max() <= 1
    assert abs(correlation(u[1:], u[:-1])) < 5 / len(u) ** 0.5
    assert torch.equal(u[17:20], uniform(3, seed=5, stream=1, first=17))
    assert abs(correlation(u, uniform(COUNT // 4, seed=5, stream=2))) < 5 / len(u) ** 0.5


BAD = {
    "seed negative": ({"seed": -1}, "seed is -1", "0 … 2^64 - 1"),
    "seed too large": ({"seed": 2**64}, f"seed is {2**64}", "0 … 2^64 - 1"),
    "seed of 1.5": ({"seed": 1.5}, "seed is 1.5", "integer"),
    "seed of None": ({"seed": None}, "seed is None", "integer"),
    "seed of True": ({"seed": True}, "seed is True", "integer"),
    "stream negative": ({"stream": -1}, "stream is -1", "0 … 2^32 - 1"),
    "stream too large": ({"stream": 2**32}, f"stream is {2**32}", "0 … 2^32 - 1"),
    "first negative": ({"first": -5}, "first is -5", "0 … 2^63 - 1"),
    "first too large": ({"first": 2**63}, f"first is {2**63}", "0 … 2^63 - 1"),
    "last too large": ({"first": 2**63 - 1}, f"first is {2**63 - 1} for 2 samples", "2^63 - 1"),
}


@pytest.mark.parametrize(
    "call", [lambda **at: normal((2, 3), **at), lambda **at: uniform(2, **at)], ids=["normal", "uniform"]
)
@pytest.mark.parametrize("case", BAD.values(), ids=BAD.keys())
def test_a_bad_address_is_named_with_its_value_and_the_remedy(call, case):
    address, *fragments = case
    check_error(lambda: call(**({"seed": 0} | address)), ConfigError, *fragments)


def test_noise_without_a_batch_is_refused():
    check_error(lambda: normal((), seed=0), ConfigError, "()", "batch dimension")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("t", [500, torch.tensor([0, 500, 999])])
def test_noise_by_its_address_is_the_noise_there(dtype, t):
    schedule, shape = NoiseSchedule.cosine(), (3, 2, 4, 4)
    x_0, where = torch.ones(shape, dtype=dtype), address(shape, seed=3, stream=1)
    drawn = add_noise(schedule, x_0, normal(shape, seed=3, stream=1, dtype=dtype), t)
    out = torch.empty_like(x_0)
    assert add_noise(schedule, x_0, where, t, out=out) is out
    torch.testing.assert_close(out, drawn, rtol=torch.finfo(dtype).eps, atol=0)
    with pytest.raises(TimestepError):
        add_noise(schedule, x_0, where, 1000)
