from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import termios
import time
from contextvars import copy_context
from threading import Thread

import numpy as np
import pytest

import embgeom_dask as eg
from embgeom_dask import progress
from embgeom_dask.testing import make_store


def test_silent_until_shown(capsys):
    with progress.bar(3, "convert", "rows") as advance:
        advance(3)
    assert capsys.readouterr() == ("", "")


def test_shows_title_count_rate_and_time_on_stderr(capsys):
    with progress.showing(True), progress.bar(200, "scan", "tiles") as advance:
        advance(150)
        advance(50)
    out, err = capsys.readouterr()
    assert out == ""
    last = err.rstrip().split("\r")[-1]
    assert "scan: 100%" in last
    assert "200/200 [00:00<00:00" in last
    assert "tiles/s]" in last


def test_a_long_name_leaves_room_for_the_rate_on_a_terminal(monkeypatch):
    terminal, stderr = pty.openpty()
    fcntl.ioctl(stderr, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    name = "sentence-transformers/all-MiniLM-L6-v2 scan"
    monkeypatch.delenv("COLUMNS", raising=False)
    with os.fdopen(stderr, "w") as stream:
        monkeypatch.setattr("sys.stderr", stream)
        with progress.showing(True), progress.bar(120, name, "tiles") as advance:
            time.sleep(0.2)
            advance(120, "2 workers, 1.2 GiB")
        stream.flush()
        shown = b""
        while select.select([terminal], [], [], 0.5)[0]:  # what was written comes in any number of pieces
            shown += os.read(terminal, 1 << 16)
    os.close(terminal)
    last = shown.decode().rstrip().split("\r")[-1]
    assert last.startswith("sentence-t...-L6-v2 scan: 100%")
    assert "120/120 [00:00<00:00, " in last
    assert "tiles/s" in last
    assert len(last) <= 80


def test_a_log_is_not_flooded(capsys):
    with progress.showing(True), progress.bar(20_000, "scan", "tiles") as advance:
        for _ in range(20_000):
            advance(1)
    err = capsys.readouterr().err
    assert err.count("\r") <= 3
    assert "20.0k/20.0k" in err


def test_bars_nest_and_close_on_failure(capsys):
    with pytest.raises(ZeroDivisionError), progress.showing(True), progress.bar(2, "models", "models") as outer:
        with progress.bar(5, "inner", "rows") as inner:
            inner(5)
        outer(1)
        raise ZeroDivisionError
    err = capsys.readouterr().err
    assert "1/2" in err
    assert err.endswith("\n")


def test_it_is_shown_in_the_context_that_asked_for_it(capsys):
    with progress.showing(True):
        told = copy_context()
    progress.note("not here")
    thread = Thread(target=told.run, args=(progress.note, "here"))
    thread.start()
    thread.join()
    assert capsys.readouterr().err == "here\n"


def test_what_is_asked_for_holds_as_long_as_it_lasts_and_in_calls_within(capsys):
    with progress.showing(True):
        with progress.showing(None):
            progress.note("as around")
        with progress.showing(False):
            progress.note("hidden")
        progress.note("as before")
    progress.note("in a script")
    assert capsys.readouterr().err == "as around\nas before\n"


COMMANDS = {
    "scan": lambda store, **how: eg.scan(store, nearest=1, **how),
    "survey": eg.survey,
    "duplicates": eg.duplicates,
    "outliers": lambda store, **how: eg.outliers(store, range(3), **how),
    "scan of two": lambda store, **how: eg.scan([store, np.eye(5)], nearest=1, **how),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_script_sees_the_cluster_its_dashboard_and_bars_where_it_asks_for_them(name, tmp_path, capfd):
    store = make_store(tmp_path / "m.zarr", np.eye(8, dtype=np.float32), model="org/tiny")
    COMMANDS[name](store)
    assert capfd.readouterr().err == ""
    COMMANDS[name](store, progress=True)
    err = capfd.readouterr().err
    assert err.startswith("dask cluster: local; dashboard: http://127.0.0.1:")
    assert err.count("dask cluster") == 1
    assert f"org/tiny {name.removesuffix(' of two')}: " in err
    assert "100%" in err
    visits_pairs = name not in ("survey", "duplicates")
    assert ("\nmemory: " in err) == (", euclidean\n" in err) == ("\n1 tile of " in err) == visits_pairs
    if name == "scan":
        assert max(len(line) for line in err.splitlines() if "%|" not in line) <= 80
