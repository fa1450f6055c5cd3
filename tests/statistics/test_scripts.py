from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embgeom_dask.statistics.scripts import script

KNOWN = {
    "queen": "latin",
    " Queen's": "latin",
    "\u017ce\u0301": "latin",
    "\u0434\u0430": "cyrillic",
    "\u03c0": "greek",
    "\u6f22\u5b57": "cjk",
    "\u3072\u3089": "hiragana",
    "\u30ab\u30bf": "katakana",
    "\uff76\uff80": "katakana",
    "\ud55c\uad6d": "hangul",
    "\u05d0": "hebrew",
    "\u0639": "arabic",
    "\uff21": "latin",
    "\u00b5": "greek",
    "\u6f22\u3072": "mixed",
    "1999": "number",
    " 7 ": "number",
    "\u0663": "number",
    "?!": "punctuation",
    "+": "symbol",
    "1+": "mixed",
    "\t\n ": "space",
    "\x00": "control",
    "\u0301": "mark",
    "a\ufffd": "bytes",
    "": "",
}


@pytest.mark.parametrize("text", KNOWN)
def test_known_texts(text: str) -> None:
    assert script(text) == KNOWN[text]


@given(st.text(min_size=1))
def test_every_text_has_a_script_that_no_order_changes(text: str) -> None:
    text = "".join(each for each in text if not unicodedata.combining(each)) or "a"
    assert script(text)
    assert script(" ".join(text)) == script(" ".join(reversed(text)))
