"""Attention written out is attention, and so are its gradients."""

import pytest
import torch
from cases import normals
from torch.nn import functional as F  # noqa: N812  its usual name

from alphabar.training.attention import WrittenOut


def both(*more, **options):
    """Attention and the gradient of its sum of squares, by torch and written out."""
    results = []
    for context in (torch.enable_grad(), WrittenOut()):
        q, k, v = (normals(2, 3, 7, 4, seed=seed).requires_grad_() for seed in range(3))
        with context:
            out = F.scaled_dot_product_attention(q, k, v, *more, **options)
        out.square().sum().backward()
        results.append((out, q.grad, k.grad, v.grad))
    return zip(*results, strict=True)


@pytest.mark.parametrize(
    "options", [{}, {"scale": 0.3}, {"attn_mask": None, "dropout_p": 0.0, "is_causal": False}]
)
def test_it_is_torchs_attention_in_forward_and_backward_pass(options):
    for expected, found in both(**options):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)  # float64, sums of seven


@pytest.mark.parametrize("options", [{"is_causal": True}, {"attn_mask": torch.tril(torch.ones(7, 7)) > 0}])
def test_masks_are_left_to_torch(options):
    for expected, found in both(**options):
        assert torch.equal(found, expected)
    for expected, found in both(torch.tril(torch.ones(7, 7)) > 0):
        assert torch.equal(found, expected)


def test_no_kernel_of_torchs_attention_runs_within_it():
    q = normals(1, 1, 3, 2)
    with WrittenOut(), torch.profiler.profile() as profile:
        F.scaled_dot_product_attention(q, q, q)
    assert not [event.key for event in profile.key_averages() if "attention" in event.key]
