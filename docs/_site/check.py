"""Check a built site: every link inside it leads somewhere, and no page loads anything from elsewhere.

python docs/_site/check.py docs/_build/html
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

__all__ = ["faults"]

LOADS = {("link", "href"), ("script", "src"), ("img", "src"), ("iframe", "src"), ("source", "src")}


class Page(NamedTuple):
    """What a page offers and asks for."""

    anchors: frozenset[str]
    links: tuple[str, ...]
    loads: tuple[str, ...]


class Reader(HTMLParser):
    """Collects anchors, links and what a page loads."""

    def __init__(self) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep what one element says."""
        given = {name: value for name, value in attrs if value is not None}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        self.loads += [given[name] for each, name in LOADS if each == tag and name in given]


def read(path: Path) -> Page:
    """Return what a page offers and asks for."""
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    return Page(frozenset(reader.anchors), tuple(reader.links), tuple(reader.loads))


def faults(root: Path) -> Iterator[str]:
    """Return a sentence for each dead link, and for each thing that is loaded from another host.

    Args:
        root: the folder of the site.
    """
    pages = {path.resolve(): read(path) for path in sorted(root.rglob("*.html"))}
    for path, page in pages.items():
        where = path.relative_to(root.resolve())
        yield from (f"{where} loads {url}" for url in page.loads if urlsplit(url).netloc)
        for url in {*page.links, *page.loads}:
            parts = urlsplit(url)
            if parts.scheme or parts.netloc:
                continue
            goal = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not goal.is_file():
                yield f"{where} links to {url}, which is not there"
            elif goal in pages and parts.fragment and unquote(parts.fragment) not in pages[goal].anchors:
                yield f"{where} links to {url}, which has no such place"


if __name__ == "__main__":
    found = list(faults(Path(sys.argv[1])))
    sys.exit("\n".join(found) if found else None)
