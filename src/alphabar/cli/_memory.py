"""Memory that a process keeps: what one layer of a network frees serves the next one.

By default glibc hands large blocks back to the system when they are freed, and what is free at the end of its
heap. Each layer then begins on fresh pages, which the system fills with zeros one by one.
"""

from __future__ import annotations

import ctypes
import sys

__all__ = ["keep_memory"]

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # M_… of glibc's malloc.h
MOST = 2**31 - 1
LARGEST = (1 << 25, 1 << 30)  # bytes of a block; glibc before 2.35 takes the first alone


def keep_memory() -> bool:
    """Have glibc keep freed blocks of up to 1 GiB for this process; return whether it does."""
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # another C library, such as musl
        return False
    kept = [mallopt(MMAP_THRESHOLD, size) for size in LARGEST]
    return any(kept) and bool(mallopt(TRIM_THRESHOLD, MOST))
