"""The CUDA kernels return the numbers of the reference: in Triton's interpreter where there is no GPU."""

import math
from math import inf

import pytest
import torch
from cases import normals

from alphabar import kernels as ops
from alphabar.kernels import cpu
from alphabar.kernels.normal_form import normal_form

cuda = pytest.importorskip("alphabar.kernels.cuda")  # interpreted where there is no GPU: see conftest.py
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHAPE = (3, 2, 5, 7)
ADDRESS = ops.Address(seed=2**63 + 12_345, stream=2**31 + 7, first=2**40 + 3)


@pytest.fixture(autouse=True)
def reference_alone(monkeypatch):
    """What the kernels are compared with is plain torch."""
    monkeypatch.setattr(cpu, "LIBRARY", None)


def drawn(count, dtype, shape=SHAPE):
    return [normals(*shape, seed=k, dtype=dtype).to(DEVICE) for k in range(count)]


def check(found, expected):
    """To the last bit; the interpreter cuts bfloat16 off instead of rounding it, and GPUs contract sums."""
    eps = torch.finfo(found.dtype).eps if DEVICE == "cuda" or found.dtype == torch.bfloat16 else 0
    torch.testing.assert_close(found, expected, rtol=eps, atol=0)


def serve(coefficients, tensors, *, noise=None, limit=inf, rows=None):
    """What the kernel writes; it must not decline."""
    out = torch.empty_like(tensors[0])
    assert cuda.lincomb(normal_form(coefficients, tensors, rows, noise, limit), out)
    return out


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("count", [1, 2, 4, 6])
def test_a_sum_is_the_reference(dtype, count):
    tensors = drawn(count, dtype)
    per_sample = [normals(3, 1, 1, 1, seed=10 + k).to(DEVICE) for k in range(count)]
    table = normals(3, 2, count, seed=9).to(DEVICE)
    for coefficients in ([1.5 - k for k in range(count)], per_sample, table, table[0, 0]):
        for limit in (inf, 0.3):
            check(serve(coefficients, tensors, limit=limit), ops.lincomb(coefficients, tensors, limit=limit))
    rows = torch.tensor([1, 0, 1], device=DEVICE)
    for at in (1, rows, rows[:1]):
        check(serve(table[0], tensors, rows=at), ops.lincomb(table[0], tensors, rows=at))


def test_what_is_not_a_number_is_not_clipped():
    x = torch.tensor([[math.nan, inf, -inf, 1.0]], device=DEVICE)
    found = serve((1.0,), (x,), limit=0.1)
    assert found.flatten().nan_to_num(7).tolist() == pytest.approx([7, 0.1, -0.1, 0.1])


@pytest.mark.parametrize("size", [1, 4, 1023, 1030, 5000])
def test_normals_are_those_of_the_reference(size):
    found, expected = torch.empty(2, 3, size, device=DEVICE)
    assert cuda.normal(found, ADDRESS)
    ops.normal(expected, ADDRESS)
    # The bits are the same; logarithm, cosine and 2πu differ by units of rounding (see test_native.py).
    assert (found - expected).abs().max() < 4e-6


@pytest.mark.parametrize(
    "scale", [0.7, torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64).reshape(3, 1, 1, 1)]
)
def test_noise_made_on_the_way_is_the_noise_made_before(scale):
    z = torch.empty(SHAPE, device=DEVICE)
    cuda.normal(z.view(3, -1), ADDRESS)
    for dtype in (torch.float64, torch.float32, torch.float16):
        (x,) = drawn(1, dtype)
        check(serve((0.5, scale), (x,), noise=ADDRESS), ops.lincomb((0.5, scale), (x, z.to(dtype))))


def test_what_lies_otherwise_is_left_to_the_reference():
    x, z = drawn(2, torch.float32)
    out = torch.empty_like(x)

    def declined(coefficients, tensors, noise=None):
        return not cuda.lincomb(normal_form(coefficients, tensors, None, noise, inf), out)

    assert declined((1.0, 1.0), (x, z.transpose(2, 3).contiguous().transpose(2, 3)))
    assert declined((x.double(), 1.0), (x, z))  # a coefficient for each element
    assert declined((0.0,), (x,))  # nothing is left
    last = [tensor.to(memory_format=torch.channels_last) for tensor in (x, z)]
    check(serve((0.5, 2.0), last), ops.lincomb((0.5, 2.0), (x, z)))
    out = torch.empty_like(last[0])
    assert declined((0.5, 2.0), last[:1], ADDRESS)  # its elements are counted in another order
