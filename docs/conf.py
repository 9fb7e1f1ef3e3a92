"""How the site is built: ``make docs`` runs Sphinx once a language on ``docs/en`` and ``docs/zh``."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sphinx.application import Sphinx

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_site"))

project = "alphabar"
author = "The alphabar authors"
project_copyright = author
extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "myst_parser",
    "sphinx_copybutton",
]
templates_path = ["_templates"]
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"announcement": "English · 中文"}  # its block in page.html switches the language

myst_heading_anchors = 3
myst_enable_extensions = ["attrs_block", "colon_fence"]
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
pygments_style = "friendly"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
maximum_signature_line_length = 88
napoleon_use_rtype = False

TITLES = {"en": "alphabar", "zh_CN": "alphabar 文档"}
THEME = {"Next": "下一页", "Previous": "上一页", "On this page": "本页内容", "Home": "首页"}
"""What the theme has in English alone."""
SECTION = re.compile(r"^(Args|Returns|Raises|Warns|Yields|Examples?|Note|Attributes):$")

ELSEWHERE = re.compile(r"\[([^\]]+)\]\((\.\./(?:en|zh)/[\w/]+)\.md(#[\w-]+)?\)")
CJK = r"[\u3001-\u9fff\uff00-\uffef]"
BREAK = re.compile(rf"(?<={CJK})\n *(?={CJK})|(?<=[，。；：、）])\n *(?=[\w`.√ᾱ])")
BAR = re.compile(r"((?:``.*?``|[^|`]|`)*?)\|")

PLAIN: dict[tuple[str, str], list[str]] = {}
"""Docstrings as they were before napoleon."""


def setup(app: Sphinx) -> None:
    """Connect what reads the library: the pictures, and docstrings whose equations are indented blocks."""
    from formulas import set_subscripts
    from search_zh import SearchChinese

    app.add_search_language(SearchChinese)
    app.connect("config-inited", _name_the_site)
    app.connect("builder-inited", _make_pictures)
    app.connect("source-read", _prepare)
    app.connect("doctree-read", set_subscripts)
    app.connect("html-page-context", _translate_theme)
    app.connect("html-collect-pages", _list_read_modules, priority=400)  # before viewcode, at 500
    app.connect("autodoc-process-docstring", _keep_equations, priority=400)  # before napoleon, at 500
    app.connect("autodoc-process-docstring", _restore_plain, priority=600)


def _name_the_site(app: Sphinx, config: Any) -> None:
    config.html_title = TITLES[config.language]


def _translate_theme(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    from sphinx.locale import _

    if app.config.language == "zh_CN":
        context["_"] = lambda text: THEME.get(text) or _(text)


def _make_pictures(app: Sphinx) -> None:
    from pictures import write_all

    folder = Path(app.srcdir, "_pictures")
    write_all(folder, app.config.language)
    app.config.html_static_path.append(str(folder))


def _prepare(app: Sphinx, page: str, source: list[str]) -> None:
    """Make a link to the other language's source one to its page, which is another project to Sphinx."""
    text = ELSEWHERE.sub(r'<a href="\2.html\3">\1</a>', source[0])
    source[0] = text.replace(".. drop-ins", _drop_ins()) if page == "api/diffusers" else joined(text)


def _list_read_modules(app: Sphinx) -> list[Any]:
    """Leave out modules without source, which viewcode lists and then has no page for."""
    modules: dict[str, Any] = getattr(app.env, "_viewcode_modules", {})
    for name in [name for name, entry in modules.items() if not entry or name == "builtins"]:
        del modules[name]
    return []


def _drop_ins() -> str:
    """Return a directive for each drop-in class, without the long signature of diffusers."""
    import alphabar.diffusers as drop_ins

    own = {"FittedScheduler"}  # which diffusers has no class for
    classes = [name for name in drop_ins.__all__ if name.endswith("Scheduler") and name not in own]
    return "\n".join(f".. autoclass:: alphabar.diffusers.{name}(**config)" for name in classes)


def joined(text: str) -> str:
    """Return the text with each break within a Chinese sentence removed: it would show as a space."""
    parts = re.split(r"(?ms)(^```.*?^```$)", text)
    return "".join(part if part.startswith("```") else BREAK.sub("", part) for part in parts)


def _keep_equations(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = list(literal_blocks(lines))
    PLAIN[what, name] = list(lines)


def _restore_plain(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Undo what napoleon makes of "a: of x_t" beneath an attribute: a type and a description."""
    plain = PLAIN.pop((what, name))
    if what in {"attribute", "data", "property"}:
        lines[:] = plain


def literal_blocks(lines: list[str]) -> Iterator[str]:
    """Return the lines with ``::`` before each indented block that follows a blank line, and bars escaped.

    Docstrings write equations and tables as such blocks, which reStructuredText would take for quotations,
    and |a| for a modulus, which it would take for a substitution.
    """
    literal = in_section = False
    for i, line in enumerate(lines):
        indented = line.startswith("    ")
        if line.strip() and not indented:
            literal, in_section = False, bool(SECTION.match(line))
        if indented and not literal and not in_section and not lines[i - 1].strip():
            literal = True
            yield from ("::", "")
        yield line if literal else BAR.sub(r"\1\|", line)
