"""The precision of a network's arithmetic by name, in training and in sampling.

In bfloat16, matrix products and convolutions take factors of 8 bits each, by ``torch.autocast``. Parameters,
the state of a chain and every sum outside the network keep their own precision.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch

from alphabar.errors import look_up

__all__ = ["PRECISIONS", "autocast", "has_bfloat16", "precision_on"]


def has_bfloat16(device: torch.device) -> bool:
    """Return whether a device multiplies in bfloat16 natively."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(torch.cpu._is_avx512_bf16_supported())


# A graph that is being compiled takes the answer as it is: process/coefficients.py says why it is said so.
has_bfloat16._dynamo_marked_constant = True  # type: ignore[attr-defined]

PRECISIONS: dict[str, Callable[[torch.device], bool]] = {
    "auto": has_bfloat16,
    "float32": lambda device: False,
    "bfloat16": lambda device: True,
}
"""Whether the network runs in bfloat16 on a device."""


def precision_on(device: torch.device, precision: str) -> str:
    """Return what a precision comes to on a device: ``"bfloat16"``, or ``"float32"``, the network as it is.

    Raises:
        UnknownNameError: another precision.
    """
    return "bfloat16" if look_up(PRECISIONS, precision, "precision")(device) else "float32"


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Return the context in which a network runs in a precision; ``"float32"`` leaves it as it is."""
    if PRECISIONS[precision](device):
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()
