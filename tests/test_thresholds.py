"""Thresholds on x̂_0: the quantile is exact, a sample's own, and the peer's."""

import pytest
import torch
from cases import Known, normals
from diffusers import DDPMScheduler

from alphabar.denoise.guidance import DynamicThreshold

F64 = torch.float64


@pytest.mark.parametrize("quantile", [0.5, 0.9, 0.995, 1.0])
@pytest.mark.parametrize("largest", [1.0, 1.5, 100.0])
def test_dynamic_thresholding_is_the_peers(quantile, largest):
    x_0 = 3 * normals(4, 3, 16, 16, dtype=torch.float32)
    peer = DDPMScheduler(
        thresholding=True, dynamic_thresholding_ratio=quantile, sample_max_value=largest
    )._threshold_sample(x_0)
    found = DynamicThreshold(Known(x_0), quantile, largest)(x_0, 5).x_0
    # The peer's rank is rounded to float32: 1e-7 of 768 ranks, a few 1e-5 of a gap between neighbours.
    torch.testing.assert_close(found, peer, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, F64], ids=str)
def test_the_quantile_is_exact_in_every_precision(dtype):
    # 0, 1, …, 200 in any order: the quantile q is 200 q.
    order = torch.randperm(201, generator=torch.Generator().manual_seed(0))
    values = (order * torch.where(order % 2 == 0, 1, -1)).to(dtype)
    for quantile in (0.25, 0.5, 0.9, 1.0):
        found = DynamicThreshold(Known(values[None]), quantile)(values[None], 5).x_0
        s = 200 * quantile
        expected = values.double().clip(-s, s) / s
        torch.testing.assert_close(found[0].double(), expected, rtol=1e-6, atol=0)


def test_the_quantile_lies_between_neighbours_in_proportion():
    values = torch.tensor([[1.0, 2.0, 4.0]], dtype=F64)  # q = .625 is a quarter of the way from 2 to 4
    found = DynamicThreshold(Known(values), 0.625)(values, 5).x_0
    assert found.tolist() == [[1 / 2.5, 2 / 2.5, 1.0]]


def test_more_values_than_torch_can_take_the_quantile_of():
    values = torch.linspace(0, 4, 2**24 + 2).reshape(1, 2, -1)
    with pytest.raises(RuntimeError):
        torch.quantile(values.flatten(1), 0.5, dim=1)
    found = DynamicThreshold(Known(values), 0.5)(values, 5).x_0
    assert found[0, 0, -1].item() == pytest.approx(1, abs=1e-6)
    assert found[0, 1].eq(1).all()


def test_estimates_within_the_range_are_left_alone():
    x_0 = normals(3, 50).clip(-1, 1)
    assert torch.equal(DynamicThreshold(Known(x_0))(x_0, 5).x_0, x_0)


def test_each_sample_has_a_threshold_of_its_own():
    x_0 = torch.tensor([1.0, 10.0])[:, None] * torch.linspace(-1, 1, 101)
    found = DynamicThreshold(Known(x_0), 1.0)(x_0, 5).x_0
    torch.testing.assert_close(found[1], found[0])
