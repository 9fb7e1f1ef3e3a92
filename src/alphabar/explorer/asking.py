"""What the page sends, checked: numbers in their ranges, names, lists."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from json import loads
from pathlib import Path
from typing import Any

from alphabar.errors import ConfigError, look_up

__all__ = ["LANGUAGES", "Asked", "RefusedError", "said", "texts_of"]

LANGUAGES = {"en": "English", "zh": "中文"}


@lru_cache(maxsize=len(LANGUAGES))
def texts_of(language: str) -> Mapping[str, str]:
    """Return the texts of a language.

    Raises:
        UnknownNameError: another language.
    """
    look_up(LANGUAGES, language, "language")
    texts: dict[str, str] = loads((Path(__file__).parent / "texts" / f"{language}.json").read_text("utf-8"))
    return texts


class RefusedError(ConfigError):
    """What the page refuses, in any of its languages; printed, in English.

    Args:
        key: of the text that says so.
        values: what fills its gaps.
    """

    def __init__(self, key: str, **values: object) -> None:
        super().__init__(texts_of("en")[key].format(**values))
        self.key, self.values = key, values


def said(wrong: Exception, texts: Mapping[str, str]) -> str:
    """Return an error as a sentence of the reader's language; what the library says is quoted in English."""
    if isinstance(wrong, RefusedError):
        return texts[wrong.key].format(**wrong.values)
    return texts["library_says"].format(why=wrong)


@dataclass(frozen=True)
class Asked:
    """One question of the page.

    Args:
        body: what was sent.
        texts: the sentences of the reader's language.
    """

    body: Mapping[str, Any]
    texts: Mapping[str, str]

    def real(self, name: str, low: float, high: float) -> float:
        """Return a number in low … high.

        Raises:
            RefusedError: something else.
        """
        value = self.body.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise RefusedError("out_of_range", name=name, value=value, low=low, high=high)
        return float(value)

    def whole(self, name: str, low: int, high: int) -> int:
        """Return a whole number in low … high; errors as in :meth:`real`."""
        value = self.real(name, low, high)
        if not value.is_integer():
            raise RefusedError("not_whole", name=name, value=value)
        return int(value)

    def name(self, name: str) -> str:
        """Return a text.

        Raises:
            ConfigError: there is none.
        """
        value = self.body.get(name)
        if not isinstance(value, str):
            raise ConfigError(f"{name} is {value!r}: it must be a text")
        return value

    def numbers(self, name: str, most: int) -> list[float]:
        """Return a list of 2 … ``most`` finite numbers.

        Raises:
            ConfigError: something else.
        """
        values = self.body.get(name)
        if not isinstance(values, list) or not 2 <= len(values) <= most or not all(map(_is_number, values)):
            raise ConfigError(f"{name} must be a list of 2 to {most} finite numbers")
        return [float(value) for value in values]

    def pairs(self, name: str) -> list[list[float]]:
        """Return a list of pairs of finite numbers.

        Raises:
            ConfigError: something else.
        """
        values = self.body.get(name)
        if not isinstance(values, list) or not all(
            isinstance(pair, list) and len(pair) == 2 and all(map(_is_number, pair)) for pair in values
        ):
            raise ConfigError(f"{name} must be a list of pairs of finite numbers")
        return [[float(value) for value in pair] for pair in values]

    def parts(self, name: str, most: int) -> list[Asked]:
        """Return a list of 1 … ``most`` objects, each as a question.

        Raises:
            ConfigError: something else.
        """
        values = self.body.get(name)
        if not isinstance(values, list) or not 1 <= len(values) <= most:
            raise ConfigError(f"{name} must be a list of 1 to {most} objects")
        if not all(isinstance(value, dict) for value in values):
            raise ConfigError(f"{name} must be a list of objects")
        return [Asked(value, self.texts) for value in values]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
