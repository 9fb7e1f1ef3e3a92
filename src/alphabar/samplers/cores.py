"""A batch on the cores of a processor: each draws a part of it from beginning to end.

Threads that share the work of each layer wait for the slowest of them at its end, hundreds of times an
evaluation, and beside another busy process for as long as that one holds a core. Parts meet once, at the end
of the chain. Noise is addressed by the number of the sample, so that the parts are those of the batch.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import torch
from torch import Tensor

__all__ = ["on_each_core", "workers"]


def on_each_core(draw: Callable[[range], Tensor], device: torch.device) -> Callable[[range], Tensor]:
    """Return what draws the same samples, on a processor with as many threads as torch has.

    Args:
        draw: returns the samples of some numbers, (B, …).
        device: where it computes; elsewhere than on a processor it is returned as it is.
    """
    cores = torch.get_num_threads()
    if cores == 1 or device.type != "cpu":
        return draw

    def shared(block: range) -> Tensor:
        size = -(-len(block) // cores)
        parts = [block[first : first + size] for first in range(0, len(block), size)]
        return torch.cat(list(workers(cores).map(draw, parts)))

    return shared


@lru_cache
def workers(count: int) -> ThreadPoolExecutor:
    """Return threads of which each computes on one core."""
    everywhere = torch.get_num_threads()
    pool = ThreadPoolExecutor(count, "core")
    all_there = threading.Barrier(count + 1)

    def begin() -> None:
        torch.set_num_threads(1)
        torch.get_num_threads()  # from here on torch keeps this thread's number, whatever others set
        all_there.wait()

    for _ in range(count):
        pool.submit(begin)
    all_there.wait()
    torch.set_num_threads(everywhere)  # of the threads that begin later
    return pool
