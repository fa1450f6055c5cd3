"""The writing system of a token, from the Unicode names of its letters."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from functools import cache

import numpy as np

_OTHERS = {"N": "number", "P": "punctuation", "S": "symbol", "Z": "space", "C": "control", "M": "mark"}
"""What a text without letters is called, by the class of its characters."""

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def scripts(texts: Iterable[str]) -> np.ndarray:
    """Return the script of each text, (n,) of Python's strings: see `script`."""
    return np.array([script(text) for text in texts], np.object_)


def script(text: str) -> str:
    """Name the script of a text.

    It is the first word of the Unicode names of its letters (in compatibility form, NFKC) in lower case, like `latin`,
    `cyrillic`, `cjk`, `hiragana` or `hangul`; `mixed` where they differ. A text without letters is `number`,
    `punctuation`, `symbol`, `space`, `control` or `mark` by the general category of its characters, spaces aside where
    there are others, and `mixed` where they differ. One that holds U+FFFD, as bytes that are no text alone decode to,
    is `bytes`; an empty one is empty.

    Examples
    --------
    >>> [script(text) for text in (" queen", "\N{CYRILLIC SMALL LETTER DE}a", "1999", "?!", "")]
    ['latin', 'mixed', 'number', 'punctuation', '']
    """
    if text.isascii() and text.lower() != text.upper():
        return "latin"  # most tokens: the letters of ASCII are
    if _REPLACEMENT in text:
        return "bytes"
    found = {_class_of(character) for character in unicodedata.normalize("NFKC", text)}
    letters = {name for name, is_letter in found if is_letter}
    names = letters or {name for name, _ in found} - {"space"} or {name for name, _ in found}
    return names.pop() if len(names) == 1 else "mixed" if names else ""


@cache
def _class_of(character: str) -> tuple[str, bool]:
    """What a character is called, and whether it is a letter."""
    category = unicodedata.category(character)
    if category[0] != "L":
        return ("space" if character.isspace() else _OTHERS[category[0]]), False
    return unicodedata.name(character, "unnamed").split()[0].lower(), True
