"""Whether all numbers are finite: in every precision, size and layout, with kernels and without."""

import pytest
import torch
from cases import normals

from alphabar.kernels import all_finite, cpu

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
SHAPE = (3, 2, 5, 7)


@pytest.mark.parametrize("kernels", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [0, 1, 63, 5000, 300_000])
def test_one_number_that_is_not_finite_is_found_wherever_it_stands(dtype, size, kernels, monkeypatch):
    x = normals(size, dtype=dtype)
    x[: size // 2] = torch.finfo(dtype).max
    if not kernels:
        monkeypatch.setattr(cpu, "LIBRARY", None)
    assert all_finite(x)
    for place in {0, size // 3, size - 1} if size else ():
        for bad in (float("inf"), -float("inf"), float("nan")):
            broken = x.clone()
            broken[place] = bad
            assert not all_finite(broken)


def test_finite_is_asked_of_every_layout():
    x = normals(*SHAPE)
    x[0, 0, 0, 0] = float("nan")
    for layout in (x, x.to(memory_format=torch.channels_last), x.transpose(1, 3), x[::2, :, :, ::3]):
        assert not all_finite(layout)
    assert all_finite(x[:, :, 1:])
    assert all_finite(torch.arange(3))
