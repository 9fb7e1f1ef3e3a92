"""Subscripts for what the sources write as x_t, x̂_0 or x_{t−1}: in running text and in blocks of formulas."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape
from typing import Any

from docutils import nodes

__all__ = ["set_subscripts"]

INDEXED = re.compile(r"(?<![\w.])([A-Za-zα-ωᾱ]\u0302?)_(\{[^}]*\}|[tskT0-9])(?!\w)")


def set_subscripts(app: Any, doctree: nodes.document) -> None:
    """Change one page: not the reference, where x_0 is the name of an argument."""
    for block in list(doctree.findall(nodes.literal_block)):
        text = block.astext().rstrip("\n")
        if block.get("language") == "text":
            lowered = INDEXED.sub(lambda match: f"{match[1]}<sub>{match[2].strip('{}')}</sub>", escape(text))
            block.replace_self(
                nodes.raw("", f'<div class="formula"><pre>{lowered}</pre></div>', format="html")
            )
        elif block.rawsource == block.astext():
            block.rawsource = text
            block.children = [nodes.Text(text)]
    if not app.env.docname.startswith("api/"):
        for text in list(doctree.findall(nodes.Text)):
            if isinstance(text.parent, nodes.paragraph | nodes.title | nodes.reference | nodes.strong):
                text.parent.replace(text, list(_lowered(text.astext())))


def _lowered(text: str) -> Iterator[nodes.Node]:
    end = 0
    for match in INDEXED.finditer(text):
        yield nodes.Text(text[end : match.end(1)])
        index = match[2].strip("{}")
        yield nodes.subscript(index, index)
        end = match.end()
    yield nodes.Text(text[end:])
