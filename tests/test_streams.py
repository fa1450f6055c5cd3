from __future__ import annotations

import errno
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from embgeom_dask import testing
from embgeom_dask.cli import app

STORE = "stores/a.zarr"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory, with the store of a model whose tokens are in no charset of one byte."""
    monkeypatch.chdir(tmp_path)
    testing.make_store(STORE, output=np.eye(3, 2), tokens=["花", "á", "✓"], model="org/花")
    return tmp_path


def test_without_stdout_nothing_is_begun(folder, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", None)
    assert app.main(["scan", STORE, "--nearest", "1", "--out", "r.zarr"]) == 1
    assert capsys.readouterr().err.startswith("error: stdout is closed")
    assert not Path("r.zarr").exists()


class Full(io.StringIO):
    """A file on a full disk."""

    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("extra", [[], ["--json"]])
def test_a_full_stdout_is_one_line(folder, monkeypatch, capsys, extra):
    monkeypatch.setattr(sys, "stdout", Full())
    assert app.main(["list", *extra]) == 1
    said = "error: cannot write the answer to stdout: No space left on device: send it to a file\n"
    assert capsys.readouterr().err == said


def test_who_reads_only_the_first_lines_is_told_nothing(folder):
    code = "import sys; from embgeom_dask.cli import app; sys.argv = ['embgeom', 'list']; app.run()"
    command = ["bash", "-c", 'set -o pipefail; "$0" -c "$1" | true', sys.executable, code]
    done = subprocess.run(command, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@pytest.mark.parametrize("stream", [Full(), None])
def test_a_stderr_that_is_full_or_closed_is_done_without(folder, monkeypatch, capsys, stream):
    monkeypatch.setattr(sys, "stderr", stream)
    assert app.main(["survey", STORE, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model"] == ["org/花"]


@pytest.mark.parametrize("charset", ["latin-1", "cp1252", "ascii", "gbk"])
def test_what_a_charset_lacks_is_written_out_and_json_needs_none(folder, monkeypatch, charset):
    for extra in ([], ["--json"]):
        written = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=charset))
        assert app.main(["list", *extra]) == 0
        text = written.getvalue().decode(charset)
        if extra:
            assert written.getvalue().isascii()
            assert json.loads(text)["model"] == ["org/花"]
        else:
            assert ("org/花" if charset == "gbk" else r"org/\u82b1") in text


def test_streams_that_are_closed_keep_their_numbers(folder):
    """What is opened next would get them, and what libraries print would be written into it."""
    code = "import os, sys; from embgeom_dask.cli import app; sys.argv = ['embgeom', 'list']; app.main = "
    code += "lambda: [os.write(n, b'noise') for n in (1, 2)] and open('x', 'w').fileno() > 2 and 7; app.run()"
    done = subprocess.run(f'{sys.executable} -c "{code}" <&- >&- 2>&-', shell=True, check=False)
    assert done.returncode == 7
    assert Path("x").read_bytes() == b""


def test_a_working_directory_that_is_gone_is_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert app.main(["list"]) == 2
    assert capsys.readouterr().err == "error: the working directory is gone: change to one that is there\n"
