"""The CPU kernels return the numbers of the reference, and step aside where they do not apply."""

import shutil

import pytest
import torch
from cases import normals
from hypothesis import given
from hypothesis import strategies as st

from alphabar import ops
from alphabar.ops import native

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
SHAPE = (3, 2, 5, 7)


@pytest.fixture
def reference(monkeypatch):
    """Call something as if no kernels had been built."""

    def call(function, *arguments, **settings):
        with monkeypatch.context() as without:
            without.setattr(native, "LIBRARY", None)
            return function(*arguments, **settings)

    return call


def test_where_there_is_a_compiler_there_are_kernels():
    assert (native.LIBRARY is not None) == (not native.REASON)
    if shutil.which("c++"):
        assert native.LIBRARY is not None, native.REASON


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", range(1, 8))  # one more than the kernels take
def test_a_sum_of_any_length_is_the_reference_bit_for_bit(dtype, count, reference):
    tensors = [normals(*SHAPE, seed=k, dtype=dtype) for k in range(count)]
    per_sample = [normals(3, 1, 1, 1, seed=10 + k) for k in range(count)]
    for coefficients in ([1.5 - k for k in range(count)], per_sample, [0.3, *per_sample[1:]]):
        expected = reference(ops.lincomb, coefficients, tensors)
        assert torch.equal(ops.lincomb(coefficients, tensors), expected)


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


def test_writing_over_an_input_reads_each_element_first(reference):
    for size in (7, 100, 40_000):  # within a vector, within a thread's share, and beyond
        x, z = normals(2, size, dtype=torch.float32), normals(2, size, seed=1, dtype=torch.float32)
        expected = reference(ops.lincomb, (0.6, 0.8), (x, z))
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
    seed=st.integers(0, 2**64 - 1),
    stream=st.integers(0, 2**32 - 1),
    first=st.integers(0, 2**62),
    size=st.integers(1, 700),
    samples=st.integers(1, 3),
)
def test_normals_are_those_of_the_reference(seed, stream, first, size, samples):
    found = ops.normal(samples, size, seed=seed, stream=stream, first=first)
    held, native.LIBRARY = native.LIBRARY, None
    try:
        expected = ops.normal(samples, size, seed=seed, stream=stream, first=first)
    finally:
        native.LIBRARY = held
    # The bits are the same; logarithm, cosine and the product 2πu differ by units of rounding. The angle
    # itself, up to 2π, is rounded to 2.4e-7, and a radius of up to 6.8 stands before it.
    assert (found - expected).abs().max() < 4e-6


def test_threads_and_pieces_change_nothing():
    threads = torch.get_num_threads()
    x, z = normals(3, 100_001, dtype=torch.float32), normals(3, 100_001, seed=1, dtype=torch.float32)
    results = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        results.append((ops.lincomb((0.6, 0.8), (x, z)), ops.normal(3, 100_001, seed=5, stream=1)))
    torch.set_num_threads(threads)
    assert all(map(torch.equal, results[0], results[1]))
    assert all(map(torch.equal, results[0], results[2]))


def test_gradients_and_transforms_take_the_reference():
    x = normals(4, 3).requires_grad_()
    ops.lincomb((2.0, 3.0), (x, x)).sum().backward()
    assert torch.equal(x.grad, torch.full_like(x, 5.0))
    mapped = torch.vmap(lambda row: ops.lincomb((2.0,), (row,)))(normals(4, 3))
    assert torch.equal(mapped, 2 * normals(4, 3))
