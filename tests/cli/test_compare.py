"""`embgeom compare`: its tables at 80 columns, its JSON and what it refuses."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

import embgeom_dask as eg
from embgeom_dask.cli import app
from embgeom_dask.cli.compare_text import compare_text
from embgeom_dask.testing import make_store


@pytest.fixture
def stores(tmp_path, monkeypatch):
    """Three stores: a base, one tuned in two rows, and one of another width that shares a column."""
    monkeypatch.chdir(tmp_path)
    rows = np.random.default_rng(0).normal(size=(50, 9))
    tuned = rows.copy()
    tuned[3] *= 2
    tuned[4, 1] += 0.25
    tokens = [f"{'very' * (i % 7)}long{i}\x1b[31m" for i in range(50)]
    arrays = {"base": rows, "tuned": tuned, "narrow": rows[:, :4]}
    return [make_store(f"{name}.zarr", each, tokens=tokens, model=f"org/{name}") for name, each in arrays.items()]


@pytest.fixture
def narrow(monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(shutil, "get_terminal_size", lambda *_, **__: os.terminal_size((80, 24)))


def run(capsys, *args):
    capsys.readouterr()
    code = app.main(list(args))
    return (code, *capsys.readouterr())


def test_both_tables_fit_80_columns(stores, narrow):
    part = eg.open_model(stores[0])["output_embedding"][:, :]
    more = eg.compare(part, part[:20], columns=True, shared=2, neighbors=3)
    for said in (compare_text(eg.compare(*stores[:2])), compare_text(eg.compare(stores)), compare_text(more)):
        assert max(map(len, said.splitlines())) <= 80
        assert "\x1b" not in said
    again = compare_text(eg.compare(stores)).split("more columns:\n")[1].splitlines()
    assert again[0].split()[:2] == ["model", "against"]
    assert again[1].split()[:2] == ["org/base", "org/tuned"]


def test_two_stores_are_compared_row_by_row(stores, capsys):
    code, out, _ = run(capsys, "compare", *stores[:2], "--json")
    found = json.loads(out)
    assert code == 0
    assert np.flatnonzero(found["euclidean_distance"]).tolist() == [3, 4]
    assert found["changed_value_count"][3:5] == [9, 1]
    code, out, _ = run(capsys, "compare", *stores[:2], "--match", "token")
    assert code == 0
    assert ["identical_count", "48"] in [line.split() for line in out.splitlines()]
    assert out.partition("farthest from the row matched")[2].splitlines()[2].split()[:2] == ["1", "3"]
    assert run(capsys, "compare", stores[0], stores[0])[1].endswith("all rows that are matched are identical\n")


def test_more_stores_are_compared_all_against_all(stores, capsys):
    code, out, _ = run(capsys, "compare", *stores, "--json", "--out", "all.zarr")
    found = json.loads(out)
    assert (code, found["identical_row_count"]) == (0, [[50, 48, 0], [48, 50, 0], [0, 0, 50]])
    assert found["shared_column_count"][0] == [9, 0, 4]
    code, out, _ = run(capsys, "show", "all.zarr")
    lines = out.partition("against")[2].splitlines()[1:]
    assert [line.split()[:2] for line in lines] == [["org/base", "org/tuned"], ["org/base", "org/narrow"],
                                                    ["org/tuned", "org/narrow"]]  # fmt: skip
    Path("list.txt").write_text("\n".join(stores[:2]))
    code, out, _ = run(capsys, "compare", "--from-file", "list.txt", "--json")
    assert (code, json.loads(out)["dims"]) == (0, {"model": 2, "against": 2})


def test_what_is_refused_is_one_line(stores, capsys):
    code, out, err = run(capsys, "compare", stores[0])
    assert (code, out, err) == (2, "", "error: compare needs two stores or more: name another\n")
    code, out, err = run(capsys, "compare", stores[0], "nothing")
    assert (code, out) == (2, "")
    assert "no store at nothing" in err
