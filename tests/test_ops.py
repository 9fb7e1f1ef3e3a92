"""The two primitives: Philox against published answers and plain integers, sums against exact fractions."""

import math
from fractions import Fraction

import numpy
import pytest
import torch
from cases import check_error, normals, unit_in_the_last_place
from hypothesis import given
from hypothesis import strategies as st

from alphabar import kernels as ops
from alphabar.errors import ConfigError, DtypeError, ShapeError, TimestepError
from alphabar.kernels import cpu
from alphabar.kernels.philox import BLOCKS_AT_ONCE
from alphabar.kernels.reference import BLOCK

words = st.integers(0, 2**32 - 1)


def philox(counter, key):
    """Ask for one block."""
    return tuple(int(word) for word in ops.philox4x32(tuple(torch.tensor([c]) for c in counter), key))


def plain_philox(counter, key):
    """Salmon et al. 2011, section 3.3, in Python's own integers."""
    (c0, c1, c2, c3), (k0, k1) = counter, key
    for _ in range(10):
        a, b = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (b >> 32) ^ c1 ^ k0, b % 2**32, (a >> 32) ^ c3 ^ k1, a % 2**32
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return c0, c1, c2, c3


@pytest.mark.parametrize(
    ("counter", "key", "output"),
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_philox_gives_the_published_answers(counter, key, output):
    counter, key, output = (tuple(int(word, 16) for word in text.split()) for text in (counter, key, output))
    assert philox(counter, key) == output


@given(st.tuples(words, words, words, words), st.tuples(words, words))
def test_philox_is_philox_everywhere(counter, key):
    assert philox(counter, key) == plain_philox(counter, key)


addresses = st.builds(ops.Address, st.integers(0, 2**64 - 1), words, st.integers(0, 2**63 - 3))


def normals_at(samples, size, address):
    return ops.normal(torch.empty(samples, size), address)


@given(addresses, st.integers(1, 3), st.integers(1, 9))
def test_uniforms_are_philox_at_their_address(address, samples, size):
    found = ops.uniform(samples, size, address)
    seed, key_bits = address.seed, 2**32
    for i in range(samples):
        sample, expected = address.first + i, []
        for block in range(math.ceil(size / 4)):
            counter = (block, address.stream, sample % key_bits, sample // key_bits)
            expected += [
                (word + 0.5) / 2**32 for word in plain_philox(counter, (seed % key_bits, seed // key_bits))
            ]
        assert found[i].tolist() == pytest.approx(expected[:size], rel=2**-23, abs=0)


@given(addresses, st.integers(1, 3), st.integers(1, 9))
def test_normals_are_box_muller_of_the_uniforms_at_their_address(address, samples, size):
    found = normals_at(samples, size, address)
    pairs = ops.uniform(samples, 4 * math.ceil(size / 4), address).double().reshape(samples, -1, 2)
    radius, angle = (-2 * pairs[..., 0].log()).sqrt(), 2 * math.pi * pairs[..., 1]
    exact = torch.stack([radius * angle.cos(), radius * angle.sin()], -1).reshape(samples, -1)[:, :size]
    # float32 holds an angle below 2π to 5·10⁻⁷, and the radius, below 6.77, multiplies that.
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=5e-6)


@pytest.mark.parametrize(
    ("samples", "size"), [(3, 4 * BLOCKS_AT_ONCE + 5), (BLOCKS_AT_ONCE + 3, 2), (5, 30_001)]
)
def test_where_the_work_is_cut_does_not_show(samples, size):
    whole = normals_at(samples, size, ops.Address(1, 2))
    assert whole.shape == (samples, size)
    for i in (0, 1, samples - 1):
        assert torch.equal(whole[i : i + 1], normals_at(1, size, ops.Address(1, 2, i)))
    assert torch.equal(whole[:, : size // 2], normals_at(samples, size // 2, ops.Address(1, 2)))


@pytest.mark.parametrize(("word", "least", "most"), [(0, 6.76, 6.77), (2**32 - 1, 0.0, 0.0)])
def test_the_first_and_the_last_word_give_numbers(monkeypatch, word, least, most):
    # √(−2 log u) with u = 2⁻³³, the smallest, and u = 1.
    monkeypatch.setattr("alphabar.kernels.cpu.LIBRARY", None)
    monkeypatch.setattr(
        "alphabar.kernels.philox.philox4x32", lambda counter, key: (counter[0] * 0 + word,) * 4
    )
    radius = normals_at(1, 4, ops.Address(0, 0)).reshape(2, 2).norm(dim=1)
    assert ((least <= radius) & (radius <= most)).all()
    assert 0 < ops.uniform(1, 1, ops.Address(0, 0)).item() <= 1


# --- lincomb ---

numbers = st.floats(-1e6, 1e6)


@given(st.lists(st.tuples(numbers, st.floats(-1e6, 1e6, width=32)), min_size=1, max_size=5))
def test_a_combination_of_float32_data_is_exact_up_to_its_rounding(terms):
    coefficients, data = zip(*terms, strict=True)
    found = ops.lincomb(coefficients, [torch.tensor([x]) for x in data])
    exact = float(sum(Fraction(c) * Fraction(x) for c, x in terms))
    # Products and sums in float64 err by ε of the largest term; what remains is half a float32 place.
    places = 0.5001
    slack = 2 * len(terms) * 2**-52 * max(abs(c * x) for c, x in terms)
    place = unit_in_the_last_place(torch.tensor(exact, dtype=torch.float64), torch.float32).item()
    assert abs(found.item() - exact) <= places * place + slack


def test_a_combination_that_cancels_keeps_its_small_difference():
    x = torch.tensor([1.0, 3.0])
    found = ops.lincomb([1 + 2**-40, -1.0], [x, x])
    assert torch.equal(found, x * 2**-40)


def test_a_coefficient_of_zero_leaves_its_tensor_out():
    x, nan = torch.ones(3), torch.full((3,), math.nan)
    assert torch.equal(ops.lincomb([2.0, 0.0, 0], [x, nan, nan]), 2 * x)
    assert torch.equal(ops.lincomb([0.0], [nan]), torch.zeros(3))


@pytest.mark.parametrize("rows", [3, 3 * BLOCK // 100 + 1])
def test_coefficients_may_be_tensors_that_broadcast(rows):
    x, y = normals(rows, 10, 10, seed=1), normals(rows, 10, 10, seed=2)
    for shape in [(), (1, 1, 1), (rows, 1, 1), (1, 10, 1), (rows, 10, 1), (rows, 10, 10)]:
        a, b = normals(*shape, seed=3), normals(*shape, seed=4)
        torch.testing.assert_close(ops.lincomb([a, b], [x, y]), a * x + b * y, rtol=0, atol=1e-14)


def test_the_result_has_the_precision_asked_for():
    x = torch.tensor([1 / 3], dtype=torch.float16)
    assert ops.lincomb([1 / 3], [x]).dtype == torch.float16
    wide = ops.lincomb([1 / 3], [x], dtype=torch.float64)
    assert wide.item() == x.double().item() * (1 / 3)


def test_gradients_flow_to_data_and_coefficients():
    x, y = normals(4, 3, seed=1).requires_grad_(), normals(4, 3, seed=2).requires_grad_()
    a = normals(4, 1, seed=3).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, x, y: ops.lincomb([a, 0.5], [x, y]), (a, x, y))
    half = normals(4, 3, seed=1, dtype=torch.float16).requires_grad_()
    ops.lincomb([0.25], [half]).sum().backward()
    assert torch.equal(half.grad, torch.full_like(half, 0.25))


def test_forward_derivatives_are_those_of_the_sum():
    x, y = normals(4, 3), normals(4, 3, seed=1)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
        found = torch.autograd.forward_ad.unpack_dual(ops.lincomb((2.0, 3.0), (dual, y)))
    assert torch.equal(found.primal, 2 * x + 3 * y)
    assert torch.equal(found.tangent, torch.full_like(x, 2.0))


X, TABLE = torch.ones(2, 3), torch.ones(5, 1, dtype=torch.float64)
BAD = {
    "too many coefficients": (([1.0, 2.0], [X]), {}, ConfigError, "2 coefficients for 1 tensors"),
    "no coefficient for the noise": (
        ([1.0], [X]),
        {"noise": ops.Address(0, 0)},
        ConfigError,
        "and the noise",
    ),
    "no tensors": (([], []), {}, ConfigError, "no tensors"),
    "a list": (([1.0], [[1.0]]), {}, DtypeError, "list"),
    "integers": (([1.0], [X.long()]), {}, DtypeError, "torch.int64"),
    "another shape": (([1.0, 1.0], [X, X[:1]]), {}, ShapeError, "(1, 3)", "(2, 3)", "make them equal"),
    "another device": (([1.0, 1.0], [X, X.to("meta")]), {}, DtypeError, "meta", "cpu"),
    "coefficients of text": ((["1"], [X]), {}, DtypeError, "'1'"),
    "a coefficient of another shape": (
        ([torch.ones(2)], [X]),
        {},
        ShapeError,
        "(1, 2)",
        "(2, 3)",
        "broadcast",
    ),
    "a larger coefficient": (([torch.ones(4, 2, 3)], [X]), {}, ShapeError, "(4, 2, 3)", "broadcast"),
    "a table of another batch": ((torch.ones(3, 1), [X]), {}, ShapeError, "(3,)", "(2, 3)", "leading"),
    "a table of integers": ((torch.ones(1, dtype=torch.long), [X]), {}, DtypeError, "torch.int64"),
    "rows of numbers": (([1.0], [X]), {"rows": 1}, ConfigError, "table"),
    "rows beyond the table": ((TABLE, [X]), {"rows": 5}, ConfigError, "rows is 5", "0 … 4"),
    "rows below 0": ((TABLE, [X]), {"rows": torch.tensor([0, -1])}, ConfigError, "0 … 4"),
    "rows of another batch": ((TABLE, [X]), {"rows": torch.tensor([0, 1, 2])}, ShapeError, "(3,)", "rows"),
    "rows of floats": ((TABLE, [X]), {"rows": torch.tensor([0.0, 1.0])}, DtypeError, "torch.float32"),
    "rows of True": ((TABLE, [X]), {"rows": True}, DtypeError, "True"),
    "rows of no table": ((TABLE[0], [X]), {"rows": 0}, ShapeError, "(T, n)"),
    "a limit below 0": (([1.0], [X]), {"limit": -1.0}, ConfigError, "-1.0"),
    "a limit that is no number": (([1.0], [X]), {"limit": math.nan}, ConfigError, "nan"),
    "an out of another shape": (([1.0], [X]), {"out": X[:1]}, ShapeError, "(1, 3)", "(2, 3)"),
    "an out of integers": (([1.0], [X]), {"out": X.long()}, DtypeError, "torch.int64"),
    "an out of another dtype": (
        ([1.0], [X]),
        {"out": X.half(), "dtype": torch.float64},
        DtypeError,
        "float16",
    ),
    "an out and a gradient": (
        ([1.0], [X.clone().requires_grad_()]),
        {"out": X.clone()},
        ConfigError,
        "no_grad",
    ),
    "a seed beyond 64 bits": (([1.0, 1.0], [X]), {"noise": ops.Address(2**64, 0)}, ConfigError, "2^64"),
    "noise without samples": (([1.0, 1.0], [X[0, 0]]), {"noise": ops.Address(0, 0)}, ShapeError, "batch"),
}


@pytest.mark.parametrize("case", BAD.values(), ids=BAD.keys())
def test_what_does_not_fit_is_named(case):
    arguments, settings, *expected = case
    check_error(lambda: ops.lincomb(*arguments, **settings), *expected)


def test_a_callers_checks_come_first_and_only_where_the_kernels_decline():
    def check():
        raise TimestepError("mine")

    with pytest.raises(TimestepError, match="mine"):
        ops.lincomb([1.0, 2.0], [X], check=check)
    if cpu.LIBRARY is not None:
        assert torch.equal(ops.lincomb([2.0], [X], check=check), 2 * X)


def test_numbers_of_other_libraries_are_numbers():
    assert torch.equal(ops.lincomb([numpy.float32(0.5), numpy.int64(2)], [X, X]), 2.5 * X)


def test_a_coefficient_broadcasts_from_the_last_dimension_as_everywhere_in_torch():
    x, c = normals(3, 3), normals(3, seed=1)
    assert torch.equal(ops.lincomb([c], [x]), c * x)


def test_float64_is_the_working_precision_wherever_the_device_has_it():
    assert ops.work_dtype(torch.device("cpu")) == ops.work_dtype(torch.device("cuda")) == torch.float64
    assert ops.work_dtype(torch.device("mps")) == torch.float32
