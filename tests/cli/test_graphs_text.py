from __future__ import annotations

import os
import shutil
import sys

import numpy as np
import pytest

import embgeom_dask as eg
from embgeom_dask.cli.graphs_text import cluster_text, components_text
from embgeom_dask.testing import make_store


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(shutil, "get_terminal_size", lambda *_, **__: os.terminal_size((80, 24)))


def test_components_fit_80_columns_and_name_their_first_tokens(tmp_path):
    rows = np.random.default_rng(0).normal(size=(60, 2))
    tokens = [f"{'very' * (i % 7)}long{i}\x1b[31m" for i in range(60)]
    store = make_store(tmp_path / "m.zarr", rows, tokens=tokens, model="some-organisation/a-model-of-some-name")
    found = eg.components(store, [0.1, 0.2], diameter=True)
    said = components_text(found)
    assert max(map(len, said.splitlines())) <= 80
    assert "\x1b" not in said
    assert "within 0.1" in said
    assert "within 0.2" in said


def test_components_without_names_are_shown_by_ids_and_long_lists_are_cut():
    rows = np.repeat(np.eye(12), 2, axis=0)
    said = components_text(eg.components(rows, 0))
    assert "2 more components: --json prints all, --out saves them" in said
    assert said.split("\n\n")[-2].splitlines()[2].split() == ["0", "2", "1", "0", "nan", "0", "1"]


def test_a_cluster_fits_80_columns_with_the_tokens_at_its_edge(tmp_path):
    rows = np.random.default_rng(0).normal(size=(200, 12))
    rows[50:80] = 0.01 * rows[50:80] + 0.1
    tokens = [f"{'very' * (i % 7)}long{i}\x1b[31m" for i in range(200)]
    store = make_store(tmp_path / "m.zarr", rows, tokens=tokens, model="some-organisation/a-model-of-some-name")
    said = cluster_text(eg.cluster(store))
    assert max(map(len, said.splitlines())) <= 80
    assert "\x1b" not in said
    last = said.split("last inside")[1].split("first outside")
    assert [50 <= int(line.split()[0]) < 80 for line in last[0].splitlines()[2:7]] == [True] * 5
    assert [50 <= int(line.split()[0]) < 80 for line in last[1].splitlines()[2:7]] == [False] * 5
