"""Addressed Gaussian noise: z = normal(seed, sample, stream), a pure function.

What is drawn for a sample depends on its address alone, never on what was drawn before. So training,
sampling and resuming are reproducible, in any batch size and on any number of devices.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from alphabar import kernels
from alphabar.errors import ConfigError, DtypeError, ShapeError

__all__ = ["address", "normal", "uniform"]


def normal(
    shape: Sequence[int],
    *,
    seed: int,
    stream: int = 0,
    first: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Draw standard normal noise for the samples ``first``, ``first + 1`` and so on.

    >>> batch = normal((64, 1, 8, 8), seed=0)
    >>> torch.equal(batch[17:18], normal((1, 1, 8, 8), seed=0, first=17))
    True

    Args:
        shape: (B, …): B samples of any shape.
        seed: 0 … 2⁶⁴−1, the key of the generator.
        stream: 0 … 2³²−1, which of a sample's independent noises: the number of a step, say.
        first: the number of the first sample, 0 … 2⁶³−1.
        dtype: of the result; the numbers are made in float32.
        device: of the result.
        out: where to write instead: contiguous float32 of this shape, on its own device.

    Returns:
        Noise of the given shape; |z| < 6.77, the largest a 32-bit uniform can give.

    Raises:
        ConfigError: seed, stream or first outside their ranges, or an empty shape.
        ShapeError, DtypeError: an ``out`` of another shape, dtype or layout.
    """
    where = address(shape, seed=seed, stream=stream, first=first)
    if out is None:
        out = torch.empty(tuple(shape), dtype=torch.float32, device=device)
    else:
        _check_out(out, torch.Size(shape))
    kernels.normal(out.view(shape[0], torch.Size(shape[1:]).numel()), where)
    return out.to(dtype)


def uniform(
    samples: int, *, seed: int, stream: int = 0, first: int = 0, device: torch.device | str | None = None
) -> Tensor:
    """Draw one number for each sample, (samples,) float32, uniform in (0, 1].

    Arguments as in :func:`normal`.
    """
    place = address((samples,), seed=seed, stream=stream, first=first)
    return kernels.uniform(samples, 1, place, None if device is None else torch.device(device))[:, 0]


def address(shape: Sequence[int], *, seed: int, stream: int = 0, first: int = 0) -> kernels.Address:
    """Return the address of the noise of a batch of this shape; arguments and errors as in :func:`normal`."""
    if not len(shape):
        raise ConfigError("shape is (): noise has at least a batch dimension")
    for name, value, bits in (("seed", seed, 64), ("stream", stream, 32), ("first", first, 63)):
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**bits:
            raise ConfigError(f"{name} is {value!r}: it must be an integer in 0 … 2^{bits} - 1")
    if first + shape[0] > 2**63:
        raise ConfigError(f"first is {first} for {shape[0]} samples: the last must be at most 2^63 - 1")
    return kernels.Address(seed, stream, first)


def _check_out(out: Tensor, shape: torch.Size) -> None:
    if out.shape != shape:
        raise ShapeError(f"out has shape {tuple(out.shape)}, shape is {tuple(shape)}: make them equal")
    if out.dtype != torch.float32 or not out.is_contiguous():
        raise DtypeError(f"out is {out.dtype} with strides {out.stride()}: make it contiguous float32")
