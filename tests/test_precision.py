"""Every road of a sum is within half a unit in the last place of the exact sum, in every precision."""

import math
from contextlib import contextmanager
from functools import cache
from math import inf

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alphabar import kernels as ops
from alphabar.kernels import cpu
from alphabar.kernels.normal_form import normal_form

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
SHAPE = (3, 2, 2, 4)
ADDRESS = ops.Address(seed=2**63 + 5, stream=3, first=2**40)


@contextmanager
def no_kernels():
    held, cpu.LIBRARY = cpu.LIBRARY, None
    try:
        yield
    finally:
        cpu.LIBRARY = held


def native(coefficients, tensors, **settings):
    if cpu.LIBRARY is None:
        pytest.skip("no CPU kernels were built")
    return ops.lincomb(coefficients, tensors, **settings)


def plain(coefficients, tensors, **settings):
    with no_kernels():
        return ops.lincomb(coefficients, tensors, **settings)


def traced(coefficients, tensors, **settings):
    """Autograd's road: nothing is written."""
    return ops.lincomb(coefficients, [x.clone().requires_grad_() for x in tensors], **settings).detach()


def triton(coefficients, tensors, *, rows=None, noise=None, limit=inf):
    """In the interpreter, on a CPU; on a GPU this would be ``lincomb``'s own road."""
    cuda = pytest.importorskip("alphabar.kernels.cuda")
    if torch.cuda.is_available():
        pytest.skip("the kernel is compiled here: see test_cuda.py")
    out = torch.empty_like(tensors[0])
    assert cuda.lincomb(normal_form(coefficients, tensors, rows, noise, limit), out)
    return out


ROADS = {road.__name__: road for road in (native, plain, traced, triton)}
every_road = pytest.mark.parametrize("road", ROADS.values(), ids=ROADS.keys())
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


SMALLEST = 1074  # every float64 is a whole number of 2⁻¹⁰⁷⁴, and a product of two of 2⁻²¹⁴⁸


def whole(x):
    """The number as an integer of 2⁻¹⁰⁷⁴: sums and products of these are exact, and fast."""
    numerator, denominator = x.as_integer_ratio()
    return numerator << (SMALLEST + 1 - denominator.bit_length())


def unit(exact, dtype):
    """The distance of neighbouring numbers of a precision around an exact one; both in 2⁻²¹⁴⁸."""
    facts = torch.finfo(dtype)
    eps, least = round(math.log2(facts.eps)), round(math.log2(facts.tiny * facts.eps))
    return 1 << max(abs(exact).bit_length() - 1 + eps, least + 2 * SMALLEST)


def check(found, coefficients, columns, limit=inf, road=None):
    """To half a unit of the exact sum, apart from the rounding of float64 itself.

    Halves are rounded through float32, and the CPU kernels may add 2⁻⁷ for bfloat16 (see its header);
    Triton's interpreter cuts bfloat16 off where a GPU rounds.
    """
    dtype = found.dtype
    if road is triton and dtype == torch.bfloat16:
        most = 128
    else:
        most = 64 + (1 if dtype in (torch.bfloat16, torch.float16) else 0)  # in 1/128 of a unit
    largest = whole(torch.finfo(dtype).max) << SMALLEST
    end = None if limit == inf else whole(limit) << SMALLEST
    for result, factors, numbers in zip(found.flatten().tolist(), coefficients, columns, strict=True):
        terms = [whole(c) * whole(x) for c, x in zip(factors, numbers, strict=True)]
        exact = sum(terms)
        if end is not None:
            exact = max(-end, min(end, exact))
        if abs(exact) > largest:
            continue
        error = abs((whole(result) << SMALLEST) - exact)
        slack = len(terms) * max(map(abs, terms))  # times 2⁻⁵²
        assert error << 52 + 7 <= (most * unit(exact, dtype) << 52) + (slack << 7), (result, factors, numbers)


def drawn(data, dtype, count):
    """Data that is ordinary, or of which two tensors are the same or nearly so."""
    seed = data.draw(st.integers(0, 2**32), "seed")
    made = torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    made *= data.draw(st.sampled_from([1.0, 1e-4, 300.0]), "scale")
    if count > 1 and data.draw(st.booleans(), "alike"):
        made[1] = made[0] * data.draw(st.sampled_from([1.0, 1 + 2**-7, 1 + 2**-20]), "ratio")
    return [x.to(dtype) for x in made]


ordinary = st.floats(-3, 3).filter(lambda c: c == 0 or abs(c) > 1e-3)


def coefficients_of(data, count):
    """Numbers; often the second takes away most of what the first gives."""
    numbers = data.draw(st.lists(ordinary, min_size=count, max_size=count), "coefficients")
    if count > 1 and data.draw(st.booleans(), "cancels"):
        numbers[1] = -numbers[0] * (
            1 - data.draw(st.sampled_from([0, 2**-9, 2**-14, 2**-20, 2**-30, 2**-40]), "less")
        )
    return numbers


def columns_of(tensors):
    return list(zip(*(x.contiguous().double().flatten().tolist() for x in tensors), strict=True))


limits = st.sampled_from([inf, inf, 1.0, 0.3, 0.0])


@every_road
@every_dtype
@given(data=st.data())
def test_numbers(road, dtype, data):
    count = data.draw(st.integers(1, 6), "count")
    tensors, numbers, limit = (
        drawn(data, dtype, count),
        coefficients_of(data, count),
        data.draw(limits, "limit"),
    )
    if not any(numbers):
        numbers[0] = 1.0  # nothing to add up is not the backends' task
    if data.draw(st.booleans(), "channels last"):
        tensors = [x.to(memory_format=torch.channels_last) for x in tensors]
    found = road(numbers, tensors, limit=limit)
    check(found.contiguous(), [numbers] * found.numel(), columns_of(tensors), limit, road)


@every_road
@every_dtype
@given(data=st.data())
def test_tables(road, dtype, data):
    count = data.draw(st.integers(1, 4), "count")
    tensors, limit = drawn(data, dtype, count), data.draw(limits, "limit")
    table = torch.tensor([coefficients_of(data, count) for _ in range(5)], dtype=torch.float64)
    lead = data.draw(st.sampled_from([(), (1,), (3,), (3, 2)]), "lead")
    rows = torch.tensor(data.draw(st.lists(st.integers(0, 4), min_size=6, max_size=6), "rows"))
    rows = rows[: math.prod(lead)].reshape(lead)
    each = (
        table[rows]
        .reshape(*lead, *[1] * (4 - len(lead)), count)
        .expand(*SHAPE, count)
        .reshape(-1, count)
        .tolist()
    )
    check(road(table, tensors, rows=rows, limit=limit), each, columns_of(tensors), limit, road)
    if lead in ((), (3,), (3, 2)):
        check(road(table[rows], tensors, limit=limit), each, columns_of(tensors), limit, road)


@cache
def normals(road):
    """What a road draws at the address, (3, 2, 2, 4) float32: a second's work for Triton's interpreter."""
    z = torch.empty(SHAPE)
    if road is triton:
        pytest.importorskip("alphabar.kernels.cuda").normal(z.view(3, -1), ADDRESS)
    elif road is plain:
        with no_kernels():
            ops.normal(z.view(3, -1), ADDRESS)
    else:
        ops.normal(z.view(3, -1), ADDRESS)
    return z


@every_road
@given(data=st.data())
def test_noise(road, data):
    count = data.draw(st.integers(1, 3), "count")
    tensors, limit = drawn(data, torch.float32, count), data.draw(limits, "limit")
    numbers = coefficients_of(data, count + 1)
    numbers[0] = numbers[0] or 1.0
    found = road(numbers, tensors, noise=ADDRESS, limit=limit)
    check(found, [numbers] * found.numel(), columns_of([*tensors, normals(road)]), limit, road)


@pytest.mark.parametrize("size", [40, 3000])
@given(data=st.data())
def test_blocks_and_their_ends_are_as_exact(size, data):
    # Words, blocks and what is left over; coefficients of a schedule, and those of two bfloat16 that cancel.
    dtype = data.draw(st.sampled_from(DTYPES), "dtype")
    x = torch.randn(2, size, generator=torch.Generator().manual_seed(size)).to(dtype)
    a, b = data.draw(st.tuples(st.floats(-1, 1), st.floats(-1, 1)), "a, b")
    if data.draw(st.booleans(), "cancel"):
        p, q = data.draw(st.tuples(st.integers(128, 255), st.integers(128, 255)), "p, q")
        b = -a * p / q * (1 + data.draw(st.sampled_from([0, 2**-18, -(2**-21), 2**-25, 2**-35]), "nearly"))
        x[0], x[1] = p / 128, q / 128
    if abs(a) > 1e-30 and abs(b) > 1e-30:
        check(native((a, b), tuple(x)), [(a, b)] * size, columns_of(x))


@pytest.mark.parametrize("a, b", [(1e-44, 0.5), (1.5, -1.0), (1.0, 1.0), (2**-90, -(2**-91)), (0.3, 1e-300)])
def test_two_of_bfloat16_are_exact_at_the_ends_of_their_range(a, b):
    x = torch.tensor([3e38, 1e38, 1e-38, 2e38, 1e-40, 0.0], dtype=torch.bfloat16)
    y = torch.tensor([0.0, 3e38, 3e-38, 1e-40, 1e-40, 0.0], dtype=torch.bfloat16)
    table = torch.tensor([a, b], dtype=torch.float64)
    check(native(table, (x, y)), [(a, b)] * 6, columns_of((x, y)))
