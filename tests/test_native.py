"""The CPU kernels return the numbers of the reference, and step aside where they do not apply."""

import math
import shutil

import pytest
import torch
from cases import normals
from hypothesis import given
from hypothesis import strategies as st

from alphabar import kernels as ops
from alphabar.kernels import cpu

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
SHAPE = (3, 2, 5, 7)


def at_once(coefficients, tensors, rows=None, noise=None, out=None, dtype=None, limit=math.inf):
    """The one call of the kernels: the sum, or None where they decline."""
    grad = torch.is_grad_enabled()
    return cpu.LIBRARY.lincomb(coefficients, tensors, rows, noise, out, dtype, limit, grad)


def normals_at(address, samples, *shape):
    z = torch.empty(samples, *shape)
    ops.normal(z.view(samples, -1), address)
    return z


def check_close(found, expected, count):
    """To the last bit of one term and of float64; of more a near tie may fall either way.

    The reference rounds products to float64 before it adds them, ``avx2.h`` does not, nor ``bfloat16.h``.
    """
    if count == 1 or found.dtype == torch.float64:
        assert torch.equal(found, expected)
    else:
        torch.testing.assert_close(found, expected, rtol=torch.finfo(found.dtype).eps, atol=0)
        assert (found != expected).double().mean() < 0.01


@pytest.fixture
def reference(monkeypatch):
    """Call something as if no kernels had been built."""

    def call(function, *arguments, **settings):
        with monkeypatch.context() as without:
            without.setattr(cpu, "LIBRARY", None)
            return function(*arguments, **settings)

    return call


def test_where_there_is_a_compiler_there_are_kernels():
    assert (cpu.LIBRARY is not None) == (not cpu.REASON)
    if shutil.which("c++"):
        assert cpu.LIBRARY is not None, cpu.REASON


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", range(1, 8))  # one more than the kernels take
def test_a_sum_of_any_length_is_the_reference_bit_for_bit(dtype, count, reference):
    tensors = [normals(*SHAPE, seed=k, dtype=dtype) for k in range(count)]
    per_sample = [normals(3, 1, 1, 1, seed=10 + k) for k in range(count)]
    for coefficients in ([1.5 - k for k in range(count)], per_sample, [0.3, *per_sample[1:]]):
        expected = reference(ops.lincomb, coefficients, tensors)
        check_close(ops.lincomb(coefficients, tensors), expected, count)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("lead", [1, 2, 3])
def test_a_table_of_coefficients_is_one_for_each_row(dtype, lead, reference):
    tensors = [normals(*SHAPE, seed=k, dtype=dtype) for k in range(3)]
    table = normals(*SHAPE[:lead], 3, seed=9)
    columns = [column.reshape(*SHAPE[:lead], *[1] * (4 - lead)) for column in table.unbind(-1)]
    expected = reference(ops.lincomb, columns, tensors)
    assert torch.equal(ops.lincomb(table, tensors), expected)
    assert torch.equal(reference(ops.lincomb, table, tensors), expected)


def test_what_is_not_finite_stays_so():
    x = torch.tensor([float("inf"), -float("inf"), float("nan"), 3e38, 0.0, 0.0])
    y = torch.tensor([1.0, 2.0, 3.0, 3e38, -0.0, 0.0])
    assert ops.lincomb((0.5, 1.5), (x, y)).nan_to_num(7, 8, 9).tolist() == [8, 9, 7, 8, 0, 0]
    assert ops.lincomb((1.5, -0.6), (x, y)).nan_to_num(7, 8, 9)[3] == pytest.approx(2.7e38)


@pytest.mark.parametrize(
    "arrange",
    [
        lambda x: x,
        lambda x: x.to(memory_format=torch.channels_last),
        lambda x: x.transpose(1, 3),
        lambda x: x[:, :, 1:],
        lambda x: x[:0],
        lambda x: x.flatten(),
    ],
    ids=["contiguous", "channels last", "transposed", "a slice", "empty", "one dimension"],
)
def test_the_layout_in_memory_changes_nothing(arrange, reference):
    x, z = arrange(normals(*SHAPE)), arrange(normals(*SHAPE, seed=1))
    for lead in range(x.ndim + 1):  # coefficients for all, for a sample, for a token, for an element
        shape = x.shape[:lead] + (1,) * (x.ndim - lead)
        coefficients = [normals(*shape, seed=2), normals(*shape, seed=3)] if lead else [0.5, -2.0]
        expected = reference(ops.lincomb, coefficients, (x, z))
        assert torch.equal(ops.lincomb(coefficients, (x, z)), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_precision_sum_can_be_kept_in_float32(dtype, reference):
    x, z = normals(*SHAPE, dtype=dtype), normals(*SHAPE, seed=1, dtype=dtype)
    expected = reference(ops.lincomb, (0.3, 0.7), (x, z), dtype=torch.float32)
    found = ops.lincomb((0.3, 0.7), (x, z), dtype=torch.float32)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


def test_writing_over_an_input_reads_each_element_first():
    for size in (7, 100, 40_000):  # within a vector, within a thread's share, and beyond
        x, z = normals(2, size, dtype=torch.float32), normals(2, size, seed=1, dtype=torch.float32)
        expected = ops.lincomb((0.6, 0.8), (x, z))
        place = z.data_ptr()
        assert torch.equal(ops.lincomb((0.6, 0.8), (x, z), out=z), expected)
        assert z.data_ptr() == place


@pytest.mark.parametrize("special", [float("nan"), float("inf"), -float("inf"), 3.4e38, 1e-45, -0.0])
@pytest.mark.parametrize("dtype", DTYPES)
def test_numbers_at_the_edge_of_a_precision_round_alike(special, dtype, reference):
    x = torch.tensor([[special, 1.0, -special, 65_504.0]], dtype=torch.float64).to(dtype)
    for coefficient in (1.0, 1 + 2**-9, 2.0, 1e-30):
        expected = reference(ops.lincomb, (coefficient,), (x,))
        assert torch.equal(ops.lincomb((coefficient,), (x,)).nan_to_num(7), expected.nan_to_num(7))


@given(
    address=st.builds(
        ops.Address, st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**62)
    ),
    size=st.integers(1, 700),
    samples=st.integers(1, 3),
)
def test_normals_are_those_of_the_reference(address, size, samples):
    found = normals_at(address, samples, size)
    held, cpu.LIBRARY = cpu.LIBRARY, None
    try:
        expected = normals_at(address, samples, size)
    finally:
        cpu.LIBRARY = held
    # The bits are the same; logarithm, cosine and the product 2πu differ by units of rounding. The angle
    # itself, up to 2π, is rounded to 2.4e-7, and a radius of up to 6.8 stands before it.
    assert (found - expected).abs().max() < 4e-6


@pytest.mark.parametrize("shape", [(3, 5), (2, 3, 7, 9), (1, 40_003), (5, 1, 64, 64)])
@pytest.mark.parametrize("count", [1, 2, 6])
def test_noise_made_on_the_way_is_the_noise_made_before(shape, count):
    tensors = [normals(*shape, seed=k, dtype=torch.float32) for k in range(count)]
    address = ops.Address(seed=2**63 + 5, stream=3, first=2**40)
    z = normals_at(address, *shape)
    per_sample = normals(shape[0], *[1] * (len(shape) - 1), seed=50)
    for scale in (0.7, per_sample):
        coefficients = [1.5 - k for k in range(count)]
        expected = ops.lincomb([*coefficients[:5], scale], [*tensors[:5], z])
        found = ops.lincomb([*coefficients[:5], scale], tensors[:5], noise=address)
        assert torch.equal(found, expected)
    if count == 6:  # six and their noise still fit, six and a drawn one do not
        found = ops.lincomb([*coefficients, 0.7], tensors, noise=address)
        check_close(found, ops.lincomb([*coefficients, 0.7], [*tensors, z]), 7)


@pytest.mark.parametrize("dtype", DTYPES)
def test_noise_by_address_serves_every_precision_and_layout(dtype, reference):
    address = ops.Address(seed=1, stream=2, first=3)
    for x in (normals(*SHAPE, dtype=dtype), normals(*SHAPE, dtype=dtype).transpose(1, 3)):
        z = normals_at(address, *x.shape).to(dtype)
        for scale in (0.25, normals(3, 1, 1, 1, seed=4), normals(3, x.shape[1], 1, 1, seed=4)):
            expected = reference(ops.lincomb, (0.5, scale), (x, z))
            check_close(ops.lincomb((0.5, scale), (x,), noise=address), expected, 2)
            wide = reference(ops.lincomb, (0.5, scale), (x, z), dtype=torch.float64)  # z is as rough as x
            assert torch.equal(ops.lincomb((0.5, scale), (x,), noise=address, dtype=torch.float64), wide)


def test_a_result_larger_than_the_cache_goes_past_it_unchanged(reference):
    x, z = (
        normals(2, 3, 1200, 1201, dtype=torch.float32),
        normals(2, 3, 1200, 1201, seed=1, dtype=torch.float32),
    )
    expected = reference(ops.lincomb, (0.6, 0.8), (x, z))
    found = ops.lincomb((0.6, 0.8), (x, z))
    check_close(found, expected, 2)
    assert torch.equal(ops.lincomb((0.6, 0.8), (x, z), out=x), found)


def test_threads_and_pieces_change_nothing():
    threads = torch.get_num_threads()
    x, z = normals(3, 100_001, dtype=torch.float32), normals(3, 100_001, seed=1, dtype=torch.float32)
    results = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        results.append((ops.lincomb((0.6, 0.8), (x, z)), normals_at(ops.Address(5, 1), 3, 100_001)))
    torch.set_num_threads(threads)
    assert all(map(torch.equal, results[0], results[1]))
    assert all(map(torch.equal, results[0], results[2]))


def test_a_sum_can_be_kept_within_a_limit(reference):
    for dtype in DTYPES:
        x = torch.cat([normals(40_000, dtype=dtype), torch.tensor([float("nan"), float("inf")], dtype=dtype)])
        for limit in (0.3, 0.0, 1e300):  # .3 is rounded in every precision, and 1e300 is infinite in most
            expected = (2 * x).double().clamp(-limit, limit).to(dtype)
            for found in (
                at_once((2.0,), (x,), limit=limit),
                reference(ops.lincomb, (2.0,), (x,), limit=limit),
            ):
                assert torch.equal(found.nan_to_num(7), expected.nan_to_num(7))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [1, 8, 9])  # bfloat16 goes two at a time
def test_what_is_not_finite_stays_so_in_every_precision(dtype, count, reference):
    special = torch.tensor(
        [float("inf"), -float("inf"), float("nan"), 0.0, 1.0, -2.0, 3.0, float("inf"), 1e4]
    )
    x = special[-count:].to(dtype)
    for coefficients in ((1.0, 0.5), (-1.0, 2.0), (0.6, -0.8), (1 - 2**-30, 2**-13)):
        expected = reference(ops.lincomb, coefficients, (x, x))
        torch.testing.assert_close(ops.lincomb(coefficients, (x, x)), expected, equal_nan=True)


@pytest.mark.parametrize(("dtype", "digits", "least"), [(torch.bfloat16, 8, -133), (torch.float16, 11, -24)])
def test_sums_of_any_two_halves_err_by_half_a_unit(dtype, digits, least, reference):
    x = torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype)
    y = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))]
    for a, b in ((0.6, 0.81), (1 / 3, -1.0), (1.0, 2**-20)):
        found, expected = ops.lincomb((a, b), (x, y)), reference(ops.lincomb, (a, b), (x, y))
        finite = expected.isfinite()
        assert torch.equal(found[~finite].nan_to_num(7), expected[~finite].nan_to_num(7))
        exact = (a * x.double() + b * y.double())[finite]
        unit = 2.0 ** (exact.frexp()[1] - digits).clamp(least)
        off = (found[finite] - exact) / unit
        assert off.abs().max() <= 0.5 + 2**-10  # a float has 13 digits more than a float16


def test_an_element_does_not_depend_on_its_neighbours():
    x = normals(5000, dtype=torch.float32)
    y = torch.where(torch.arange(5000) % 97 == 0, x, x.flip(0))  # every 97th cancels, and no other
    x[1234] = float("inf")
    whole = ops.lincomb((0.7, -0.7 * (1 - 2**-20)), (x, y))
    for start, stop in ((0, 1), (1, 3), (97, 98), (60, 500), (1234, 1235), (1235, 4999)):
        part = ops.lincomb((0.7, -0.7 * (1 - 2**-20)), (x[start:stop].clone(), y[start:stop].clone()))
        assert torch.equal(part, whole[start:stop])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [1, 200])
def test_one_term_that_is_not_finite_decides_the_sum(dtype, count, reference):
    values = torch.tensor([1.0, 0.0, float("inf"), -float("inf"), float("nan")], dtype=dtype)
    for x, y in torch.cartesian_prod(values, values):
        for coefficients in ((0.6, 0.8), (1.0, 1.0), (0.6, -1.0), (0.1, 1 / 3), (0.0, 1.0)):
            table = torch.tensor(coefficients, dtype=torch.float64)  # numbers that are 0 would be left out
            expected = reference(ops.lincomb, table, (x.repeat(count), y.repeat(count)))
            found = ops.lincomb(table, (x.repeat(count), y.repeat(count)))
            torch.testing.assert_close(found, expected, equal_nan=True)


TABLE = normals(10, 3)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("t", [4, torch.tensor(4), torch.tensor([4]), torch.tensor([9, 0, 3])])
def test_coefficients_are_looked_up_on_the_way(dtype, t):
    x, y = normals(*SHAPE, dtype=dtype), normals(*SHAPE, seed=1, dtype=dtype)
    rows = TABLE[t].reshape(-1, 3).expand(3, 3).contiguous()
    address = ops.Address(seed=1, stream=2)
    found = at_once(TABLE, (x, y), t, address)
    assert (found is not None) == (dtype == torch.float32)  # noise is made in float32 only
    assert torch.equal(
        ops.lincomb(TABLE, (x, y), rows=t, noise=address), ops.lincomb(rows, (x, y), noise=address)
    )
    found = at_once(TABLE, (x, y, x), t, out=y)
    assert found is y
    assert torch.equal(y, ops.lincomb(rows, (x, normals(*SHAPE, seed=1, dtype=dtype), x)))


def test_coefficients_are_looked_up_for_each_token():
    t = torch.tensor([[1, 2], [3, 4], [5, 6]])
    x = normals(*SHAPE)
    assert torch.equal(at_once(TABLE, (x, x, x), t), ops.lincomb(TABLE[t], (x, x, x)))


X = normals(*SHAPE)
NOT_AT_ONCE = {
    "t too large": {"rows": 10},
    "t far too large": {"rows": 2**70},
    "t below 0": {"rows": torch.tensor([0, -1, 0])},
    "another batch": {"rows": torch.tensor([0, 1])},
    "as many axes as the data": {"rows": torch.zeros(SHAPE, dtype=torch.int64)},
    "t no integer": {"rows": torch.tensor([0.0, 1.0, 2.0])},
    "t nothing like it": {"rows": "1"},
    "t a bool": {"rows": True},
    "another table": {"coefficients": normals(10, 2)},
    "a table in float32": {"coefficients": TABLE.float()},
    "too few numbers": {"coefficients": (1.0, 2.0)},
    "another shape": {"tensors": (X, X, X[:2])},
    "another dtype": {"tensors": (X, X, X.float())},
    "integers": {"tensors": (X.long(), X.long(), X.long())},
    "no tensor": {"tensors": (X, X, None)},
    "no tensors": {"tensors": (None, X, X)},
    "a gradient": {"tensors": (X, X, X.clone().requires_grad_())},
    "an out of another dtype": {"out": X.float()},
    "an out of another shape": {"out": X[:2].clone()},
    "an out that is none": {"out": "x"},
    "a result of another dtype": {"dtype": torch.float32},
    "a result of integers": {"dtype": torch.int64},
    "a table with a gradient": {"coefficients": TABLE.clone().requires_grad_()},
    "coefficients that are tensors": {"coefficients": (TABLE[0], 1.0, 2.0), "rows": None},
    "numbers with rows": {"coefficients": (1.0, 2.0, 3.0), "rows": 0},
    "a negative limit": {"limit": -1.0},
    "a limit that is no number": {"limit": float("nan")},
    "a limit of text": {"limit": "1"},
    "noise without numbers": {"tensors": (X.float(), X.float()), "noise": (1, 2, None)},
    "a seed beyond 64 bits": {"tensors": (X.float(), X.float()), "noise": ops.Address(2**64, 2)},
    "a stream beyond 32 bits": {"tensors": (X.float(), X.float()), "noise": ops.Address(1, 2**32)},
    "a sample below 0": {"tensors": (X.float(), X.float()), "noise": ops.Address(1, 2, -1)},
    "a sparse tensor": {"tensors": (X.to_sparse(), X, X)},
    "an empty batch": {"tensors": (X[:0], X[:0], X[:0])},
}


@pytest.mark.parametrize("wrong", NOT_AT_ONCE.values(), ids=NOT_AT_ONCE.keys())
def test_what_does_not_fit_is_left_alone(wrong):
    arguments = {"coefficients": TABLE, "tensors": (X, X, X)} | wrong
    assert at_once(**{"rows": 0} | arguments) is None


def test_what_requires_a_gradient_is_served_where_none_is_kept():
    x = X.clone().requires_grad_()
    with torch.no_grad():
        assert torch.equal(at_once((2.0,), (x,)), 2 * X)


def test_gradients_and_transforms_take_the_reference():
    x = normals(4, 3).requires_grad_()
    ops.lincomb((2.0, 3.0), (x, x)).sum().backward()
    assert torch.equal(x.grad, torch.full_like(x, 5.0))
    mapped = torch.vmap(lambda row: ops.lincomb((2.0,), (row,)))(normals(4, 3))
    assert torch.equal(mapped, 2 * normals(4, 3))
