"""`embgeom readout`: its tables at 80 columns, its JSON and what it refuses."""

from __future__ import annotations

import json
import os
import shutil
import sys

import numpy as np
import pytest
import scipy.stats

import embgeom_dask as eg
from embgeom_dask.cli import app
from embgeom_dask.cli.readout_text import readout_text
from embgeom_dask.testing import make_store


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A store of long tokens, twelve directions and their labels."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    tokens = [f"{'very' * (i % 9)}long{i}\x1b[31m" for i in range(50)]
    make_store("m.zarr", rng.normal(size=(50, 6)).astype(np.float32), tokens=tokens, model="org/model")
    np.save("d.npy", rng.normal(size=(12, 6)).astype(np.float32))
    np.save("g.npy", np.full(6, 2.0))
    (tmp_path / "labels.txt").write_text("".join(f"feature {i}\n" for i in range(12)))
    return tmp_path


def run(capsys, *args):
    capsys.readouterr()
    code = app.main(list(args))
    return (code, *capsys.readouterr())


def test_its_tables_fit_80_columns(files, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(shutil, "get_terminal_size", lambda *_, **__: os.terminal_size((80, 24)))
    found = eg.readout("d.npy", "m.zarr", k=30, labels="labels.txt")
    for some, more in ((found.isel(direction=[9, 2]), "10 more tokens of each"), (found, "25 more tokens of each")):
        said = readout_text(some)
        assert max(map(len, said.splitlines())) <= 80
        assert "\x1b" not in said
        assert said.endswith(f"\n\n{more}: --json prints all, --out saves them")
    assert "direction 9 feature 9\nmean " in readout_text(found.isel(direction=[9, 2]))


def test_of_many_directions_those_of_the_largest_kurtosis_have_a_line_each(files):
    directions = np.random.default_rng(1).normal(size=(25, 6))
    found = eg.readout(directions, "m.zarr", k=7)
    heading, names, *lines, _, more = readout_text(found).split("\n\n", 1)[1].splitlines()
    assert heading == "directions whose products have the largest kurtosis"
    assert names.split()[:4] == ["direction", "kurtosis", "most", "least"]
    kurtosis = scipy.stats.kurtosis(eg.open_model("m.zarr")["output_embedding"].values @ directions.T, fisher=False)
    order = np.argsort(-kurtosis)[:20]
    assert [int(line.split()[0]) for line in lines] == order.tolist()
    assert [float(line.split()[1]) for line in lines] == pytest.approx(kurtosis[order], rel=1e-5)
    tokens = [each.replace("\x1b[31m", "\\x1b[31m") for each in found["top_token"].values[order[0], :5].tolist()]
    assert " ".join(tokens) in lines[0]
    assert more == "5 more directions, 2 more tokens of each: --json prints all, --out saves them"
    names, first, *_ = (
        readout_text(eg.readout(directions, "m.zarr", k=1, moments=False)).split("\n\n", 1)[1].splitlines()
    )
    assert names.split() == ["direction", "most", "least", "largest", "smallest"]
    assert first.split()[0] == "0"


def test_json_table_and_saved_result_are_one(files, capsys):
    code, out, _ = run(capsys, "readout", "d.npy", "--against", "m.zarr", "-k", "2", "--gain", "g.npy", "--json")
    assert code == 0
    found = json.loads(out)
    products = 2 * np.load("d.npy").astype(float) @ eg.open_model("m.zarr")["output_embedding"].values.T.astype(float)
    np.testing.assert_allclose(found["top_product"], np.sort(products, axis=1)[:, ::-1][:, :2], rtol=1e-12)
    assert found["bottom_token_id"] == np.argsort(products, axis=1)[:, :2].tolist()
    args = ("readout", "d.npy", "--against", "m.zarr:output", "-k", "2", "--labels", "labels.txt", "--out", "r.zarr")
    code, first, _ = run(capsys, *args)
    assert code == 0
    assert first.splitlines()[0] == "d.npy against org/model, output_embedding"
    assert run(capsys, "show", "r.zarr")[1] == first
    assert run(capsys, "to-csv", "r.zarr", "top", "-o", "top.csv")[0] == 0
    assert (files / "top.csv").read_text().splitlines()[0].startswith('"direction","label","rank","top_token_id"')


def test_what_it_refuses(files, capsys):
    for args, words in (
        (["d.npy"], "Missing option '--against'"),
        (["none.npy", "--against", "m.zarr"], "cannot read none.npy: No such file or directory"),
        (["d.npy", "--against", "none"], "no store at none"),
        (["d.npy", "--against", "m.zarr", "--labels", "g.npy"], "cannot read the labels g.npy: it is no text"),
        (["d.npy", "--against", "m.zarr", "--gain", "d.npy"], "d.npy has 0 lists of floats"),
    ):
        code, out, err = run(capsys, "readout", *args)
        assert (code, out) == (2, "")
        assert words in err
