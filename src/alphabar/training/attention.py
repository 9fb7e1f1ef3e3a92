"""Attention written out, where torch's own is slow to differentiate: in bfloat16 on a CPU.

    softmax(q · kᵀ · scale) · v

Vaswani et al. 2017, arXiv 1706.03762, equation 1. The fused kernels keep the weights out of memory, and their
backward pass makes them again, slowly; torch's written-out one looks for masked rows where no mask was given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  its usual name
from torch.overrides import TorchFunctionMode

__all__ = ["WrittenOut"]


class WrittenOut(TorchFunctionMode):
    """Within its context ``scaled_dot_product_attention`` is plain torch, whatever network calls it.

    It takes memory of the square of the number of places. Calls with a mask, dropout or grouped heads are
    left to torch. diffusers' ``AttnProcessor`` does the same for diffusers' networks alone, a little slower.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Carry out a call of torch, attention in the way of :func:`_attention`."""
        return (_attention if func is F.scaled_dot_product_attention else func)(*args, **(kwargs or {}))


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    if attn_mask is not None or dropout_p or is_causal or enable_gqa:
        more: dict[str, Any] = {"scale": scale, "enable_gqa": enable_gqa}
        return F.scaled_dot_product_attention(query, key, value, attn_mask, dropout_p, is_causal, **more)
    scaled = query * (query.shape[-1] ** -0.5 if scale is None else scale)
    return torch.softmax(scaled @ key.transpose(-2, -1), -1) @ value
