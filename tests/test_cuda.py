"""The CUDA kernels return the numbers of the reference: in Triton's interpreter where there is no GPU."""

import pytest
import torch
from cases import normals

from alphabar import kernels as ops
from alphabar.kernels import cpu

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


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("count", [1, 2, 4, 6])
def test_a_sum_is_the_reference(dtype, count):
    tensors = drawn(count, dtype)
    per_sample = [normals(3, 1, 1, 1, seed=10 + k).to(DEVICE) for k in range(count)]
    for coefficients in ([1.5 - k for k in range(count)], per_sample):
        out = torch.empty_like(tensors[0])
        assert cuda.lincomb(coefficients, tensors, out)
        check(out, ops.lincomb(coefficients, tensors))
    table = normals(3, 2, count, seed=9).to(DEVICE)
    out = torch.empty_like(tensors[0])
    assert cuda.by_rows(table, tensors, out)
    check(out, ops.lincomb(table, tensors))


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
    (x,) = drawn(1, torch.float32)
    z = torch.empty(x.shape, device=DEVICE)
    cuda.normal(z.view(3, -1), ADDRESS)
    out = torch.empty_like(x)
    assert cuda.lincomb((0.5, scale), (x,), out, ADDRESS)
    check(out, ops.lincomb((0.5, scale), (x, z)))


def test_what_lies_otherwise_is_left_to_the_reference():
    x, z = drawn(2, torch.float32)
    out = torch.empty_like(x)
    assert not cuda.lincomb((1.0, 1.0), (x, z.transpose(2, 3).contiguous().transpose(2, 3)), out)
    assert not cuda.lincomb((x.double(), 1.0), (x, z), out)  # a coefficient for each element
    last = [tensor.to(memory_format=torch.channels_last) for tensor in (x, z)]
    out = torch.empty_like(last[0])
    assert cuda.lincomb((0.5, 2.0), last, out)
    check(out, ops.lincomb((0.5, 2.0), (x, z)))
    assert not cuda.lincomb((0.5, 2.0), last, out, ADDRESS)  # its elements are counted in another order
