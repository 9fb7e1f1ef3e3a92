"""SIGINT and SIGTERM as a question that a loop asks: whether to finish what is at hand, and end."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["signals"]


@contextmanager
def signals(what: str) -> Iterator[Callable[[], bool]]:
    """Yield whether SIGINT or SIGTERM came; a second SIGINT interrupts, if not under torchrun.

    Args:
        what: what is finished first, for the line on stderr.
    """
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and number in came and "TORCHELASTIC_RUN_ID" not in os.environ:
            raise KeyboardInterrupt
        came.append(number)
        os.write(2, f"alphabar: finishing {what}\n".encode())  # print is not safe in a handler

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
