from __future__ import annotations

import os
import shutil
import sys

import ml_dtypes
import numpy as np
import pytest

import embgeom_dask as eg
from embgeom_dask.cli.compare_text import compare_text
from embgeom_dask.cli.graphs_text import cluster_text, components_text
from embgeom_dask.cli.lattice_text import lattice_text
from embgeom_dask.cli.one_pass_text import spectrum_text, tokens_text
from embgeom_dask.cli.text import duplicates_text, outliers_text, survey_text
from embgeom_dask.cli.unused_text import undertrained_text
from embgeom_dask.testing import make_store

MATRICES = ["input_embedding", "output_embedding"]


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(shutil, "get_terminal_size", lambda *_, **__: os.terminal_size((80, 24)))


@pytest.fixture
def store(tmp_path):
    rows = np.random.default_rng(0).normal(size=(50, 9))
    rows[:, 4] *= 9
    rows[7] = rows[3]
    tokens = [f"{'very' * (i % 7)}long{i}\x1b[31m" for i in range(50)]
    return make_store(tmp_path / "m.zarr", rows, tokens=tokens, model="some-organisation/a-model-of-some-name")


def test_a_spectrum_fits_80_columns_and_names_outlier_dimensions(store):
    said = spectrum_text(eg.spectrum(store, components=2))
    assert max(map(len, said.splitlines())) <= 80
    assert "\x1b" not in said
    table = said.split("\n\n")[-1].splitlines()
    assert table[0].split() == ["outlier", "dimension", "variance", "of", "the", "mean"]
    assert table[1].split()[0] == "4"
    assert len(table) == 2


def test_tokens_fit_80_columns(store):
    result = eg.tokens(store, origin=3)
    said = tokens_text(result)
    assert max(map(len, said.splitlines())) <= 80
    assert "\x1b" not in said
    assert "group_count   1" in said
    nearest = said.split("nearest to ")[1].splitlines()[2:4]
    assert [line.split()[:2] for line in nearest] == [["1", "3"], ["2", "7"]]


def test_headings_tell_two_revisions_of_a_model_apart(tmp_path, client):
    rows = np.random.default_rng(0).normal(size=(40, 3))
    rows[:20] /= 1000  # a cluster that stands apart
    made = {name: make_store(tmp_path / f"{name}.zarr", rows, model="org/m", revision=name) for name in ("one", "two")}
    said = {
        tokens_text: eg.tokens(made["two"], client=client),
        spectrum_text: eg.spectrum(made["two"], client=client),
        undertrained_text: eg.undertrained(made["two"], unused="3,7", client=client),
        components_text: eg.components(made["two"], 0.1, client=client),
        cluster_text: eg.cluster(made["two"], least=4, client=client),
    }
    for text, result in said.items():
        assert text(result).startswith("org/m@two, output_embedding\n")
    both = eg.compare(made["one"], made["two"], client=client)
    assert compare_text(both).startswith("org/m@one, output_embedding against org/m@two, output_embedding\n")


def test_tokens_without_names_are_shown_by_their_ids():
    rows = np.random.default_rng(1).normal(size=(9, 3))
    result = eg.spectrum(rows, components=1)
    order = np.argsort(result["score"].values[:, 0])
    assert " ".join(map(str, order[:5])) in spectrum_text(result)
    assert "(no token)" in tokens_text(eg.tokens(rows, origin=2))
    assert "nearest to 2" in tokens_text(eg.tokens(rows, origin=2))


def test_undertrained_tokens_fit_80_columns_and_come_in_order(store):
    found = eg.undertrained(store, unused="3,7")
    said = undertrained_text(found)
    assert max(map(len, said.splitlines())) <= 80
    assert "\x1b" not in said
    assert ["unused", "tokens", "2", "(given)"] in [line.split() for line in said.splitlines()]
    found = eg.undertrained(np.random.default_rng(2).normal(size=(300, 4)), unused=[1, 2])
    lines = undertrained_text(found).partition("not among the unused\n")[2].splitlines()[1:]
    values = found["unused_cosine_distance"].values
    order = [each for each in np.argsort(values) if each > 2 and values[each] <= found["threshold"].item()]
    assert [int(line.split()[0]) for line in lines] == order


def test_a_lattice_fits_80_columns_and_counts_pairs(tmp_path):
    rows = np.random.default_rng(3).integers(0x3F00, 0x3F03, (30, 3)).astype(np.uint16).view(ml_dtypes.bfloat16)
    tokens = [f"{'very' * (i % 7)}long{i}\x1b[31m" for i in range(30)]
    store = make_store(tmp_path / "l.zarr", rows, tokens=tokens, model="some-organisation/a-model-of-some-name")
    found = eg.lattice(store, origin=3, within="0,1", pairs_within=1)
    said = lattice_text(found)
    assert max(map(len, said.splitlines())) <= 80
    assert "\x1b" not in said
    steps = rows.view(np.uint16).astype(int)
    apart = np.abs(steps[:, None] - steps[None])[np.triu_indices(30, 1)]
    count = np.count_nonzero(apart.max(axis=1) <= 1)
    assert f"{count} pairs at most 1 steps apart" in said
    of_one = np.count_nonzero(apart.sum(axis=1) == 1)
    assert ["1", str(of_one)] in [line.split() for line in said.splitlines()]


def test_hubs_fit_80_columns(store):
    result = eg.tokens(store, neighbors_of=eg.scan(store, neighbors=5))
    said = tokens_text(result)
    assert max(map(len, said.splitlines())) <= 80
    hubs = said.split("hubs\n")[1].split("\n\n")[0].splitlines()
    lines = [line.split() for line in hubs if line.split()[0].isdigit()]
    assert len(lines) == 10
    assert int(lines[0][0]) == result["k_occurrence"].values.argmax()


def test_both_matrices_of_a_model_are_told_apart_wherever_they_are_listed(tmp_path):
    rows = np.random.default_rng(0).normal(size=(20, 4))
    rows[5] = rows[9]
    both = make_store(tmp_path / "m.zarr", rows, 2 * rows, model="acme/base")
    sides = [f"{both}:input", f"{both}:output"]
    said = survey_text(eg.survey(sides)).splitlines()
    assert [line.split() for line in said[:2]] == [
        ["model", "acme/base", "acme/base"],
        ["matrix", "input_embedding", "output_embedding"],
    ]
    for part in survey_text(eg.survey(sides * 3)).split("\n\nmore columns:\n"):
        assert all(
            line.split()[1] == name for line, name in zip(part.splitlines(), ["matrix", *MATRICES * 3], strict=True)
        )
    groups = duplicates_text(eg.duplicates(sides)).split("\n\n")[-1].splitlines()
    assert [line.split()[:3] for line in groups[1:]] == [["acme/base", name, "2"] for name in MATRICES]
    assert duplicates_text(eg.duplicates(sides[:1])).split("\n\n")[-1].splitlines()[1].split()[:2] == ["acme/base", "2"]


def test_what_the_corners_of_a_triangle_are_is_said(store):
    said = outliers_text(eg.outliers(store, tokens="0:20"))
    assert "triangle of A, B and C, the centroid, with angles in degrees\nsegment  segment_length\n" in said
    assert max(map(len, said.splitlines())) <= 80
