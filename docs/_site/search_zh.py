"""Search in Chinese: a run of characters is indexed by characters and pairs, and asked for by pairs.

A query is cut into pairs that do not overlap, since most words have two characters:
噪声调度 asks for 噪声 and 调度.
"""

from __future__ import annotations

import re
from itertools import pairwise

from sphinx.search import SearchLanguage
from sphinx.search.en import SearchEnglish

__all__ = ["SearchChinese"]

RUN = re.compile(r"[\u3400-\u9fff]+|[^\W\u3400-\u9fff]+")


class SearchChinese(SearchEnglish):
    """Words of Latin letters as in English; a run of Chinese characters by its characters and pairs."""

    lang = "zh"
    language_name = "English"  # of the stemmer that is sent along
    js_splitter_code = r"""
function splitQuery(query) {
  const terms = [];
  for (const run of query.match(/[\u3400-\u9fff]+|[^\s\p{P}\p{S}\u3400-\u9fff]+/gu) || []) {
    if (/^[\u3400-\u9fff]{3,}$/.test(run)) {
      for (let i = 0; i + 1 < run.length; i += 2) terms.push(run.slice(i, i + 2));
      if (run.length % 2) terms.push(run.slice(-2));
    } else terms.push(run);
  }
  return terms;
}
"""

    def split(self, input: str) -> list[str]:
        """Return the terms of a text."""
        return [term for run in RUN.findall(input) for term in _terms(run)]

    def word_filter(self, word: str) -> bool:
        """Return whether a term is indexed: a single character too, if it is Chinese."""
        return bool(word) and ("\u3400" <= word[0] <= "\u9fff" or SearchLanguage.word_filter(self, word))


def _terms(run: str) -> list[str]:
    if not "\u3400" <= run[0] <= "\u9fff":
        return [run]
    return [*run, *map("".join, pairwise(run))]
