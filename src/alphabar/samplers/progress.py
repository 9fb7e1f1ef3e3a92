"""A progress bar on a terminal, with rate and time left; elsewhere nothing, or a plain line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

__all__ = ["track"]

Item = TypeVar("Item")


def track(
    items: Iterable[Item],
    total: int | None,
    what: str,
    *,
    shown: bool | None = None,
    every: float | None = None,
    told: Callable[[Item], str] = lambda item: "",
) -> Iterator[Item]:
    """Yield the items; draw a bar on stderr while they come.

    Args:
        items: what is counted.
        total: how many there will be; None where nobody knows.
        what: the word before the bar.
        shown: by default, whether stderr is a terminal and rich (of the ``train`` extra) is installed.
        every: seconds between plain lines on stderr where no bar is drawn because it is no terminal; by
            default there are none.
        told: returns what the bar says of the newest item.
    """
    if not (sys.stderr.isatty() if shown is None else shown):
        yield from items if every is None or shown is False else _lines(items, total, what, every)
        return
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    except ImportError:
        yield from items
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[told]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total, rate="", told="")
        for item in items:
            yield item
            speed = bar.tasks[task].speed
            bar.update(task, advance=1, rate=f"{speed:.1f}/s" if speed else "", told=told(item))


def _lines(items: Iterable[Item], total: int | None, what: str, every: float) -> Iterator[Item]:
    began = said = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - said >= every:
            said = now
            each = (now - began) / done
            of = "" if total is None else f" of {total}"
            print(f"{what}: {done}{of}, {each:.3g} s each", file=sys.stderr, flush=True)
