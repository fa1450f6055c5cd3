from __future__ import annotations

from contextvars import Context
from threading import Thread

import pytest

from embgeom_dask import progress


def test_silent_until_shown(capsys):
    with progress.bar(3, "convert", "rows") as advance:
        advance(3)
    assert capsys.readouterr() == ("", "")


def test_shows_title_count_rate_and_time_on_stderr(capsys):
    progress.show(True)
    with progress.bar(200, "scan", "tiles") as advance:
        advance(150)
        advance(50)
    out, err = capsys.readouterr()
    assert out == ""
    last = err.rstrip().split("\r")[-1]
    assert "scan: 100%" in last
    assert "200/200 [00:00<00:00" in last
    assert "tiles/s]" in last


def test_a_log_is_not_flooded(capsys):
    progress.show(True)
    with progress.bar(20_000, "scan", "tiles") as advance:
        for _ in range(20_000):
            advance(1)
    err = capsys.readouterr().err
    assert err.count("\r") <= 3
    assert "20.0k/20.0k" in err


def test_bars_nest_and_close_on_failure(capsys):
    progress.show(True)
    with pytest.raises(ZeroDivisionError), progress.bar(2, "models", "models") as outer:
        with progress.bar(5, "inner", "rows") as inner:
            inner(5)
        outer(1)
        raise ZeroDivisionError
    err = capsys.readouterr().err
    assert "1/2" in err
    assert err.endswith("\n")


def test_it_is_shown_in_the_context_that_asked_for_it(capsys):
    told = Context()
    told.run(progress.show, True)
    progress.note("not here")
    thread = Thread(target=told.run, args=(progress.note, "here"))
    thread.start()
    thread.join()
    assert capsys.readouterr().err == "here\n"
