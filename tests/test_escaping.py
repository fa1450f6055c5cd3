from __future__ import annotations

import pytest

from embgeom_dask import progress
from embgeom_dask.cli.text_tables import align
from embgeom_dask.escaping import shown, shown_lines
from embgeom_dask.streams import say

HOSTILE = "\x1b]0;owned\x07\x1b[2J\u202emodel\r\n\u200b\x9b\ud800"
SEEN = r"\x1b]0;owned\x07\x1b[2J\u202emodel\r\n\u200b\x9b\ud800"


@pytest.mark.parametrize("text", ["", "plain", "日本 é ✓", r"a\b'c\"d"])
def test_text_that_a_terminal_only_shows_stays_as_it_is(text):
    assert shown(text) == text


def test_what_a_terminal_would_act_on_or_hide_is_written_out():
    assert shown(HOSTILE) == SEEN
    assert shown_lines("a\x1b\nb\t") == "a\\x1b\nb\\t"
    assert shown(7) == "7"


def test_lines_bars_and_tables_send_nothing_from_outside(capsys):
    with progress.showing(True):
        progress.note(HOSTILE)
        say(f"error: {HOSTILE}")
        with progress.bar(2, HOSTILE, "rows") as advance:
            advance(2, HOSTILE)
    err = capsys.readouterr().err
    first, second, bar, *_ = err.split("\n")
    assert (first, second) == (SEEN, f"error: {SEEN}")
    assert bar.count(SEEN) >= 2
    assert bar.replace("\r", "").isprintable()
    assert align([HOSTILE], [[HOSTILE]]) == f"{SEEN}\n{SEEN}"
