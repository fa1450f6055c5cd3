"""Steps of bfloat16: against a list of all its numbers in order, the published graph, and brute force."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import xarray as xr
from distributed import Client
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import embgeom_dask as eg
from embgeom_dask import tuning
from embgeom_dask.analyses.lattice import exponents_of, steps_of
from embgeom_dask.errors import InputError
from embgeom_dask.progress import showing
from embgeom_dask.testing import make_store

Array = np.ndarray
BFLOAT16 = ml_dtypes.bfloat16


def numbers() -> Array:
    """All finite numbers of bfloat16 in their order, float64, without -0."""
    sizes = np.arange(0x7F80, dtype=np.uint16)  # infinity comes next
    return np.unique(np.concatenate([sizes, sizes | 0x8000]).view(BFLOAT16).astype(np.float64))


def bits(values: Any) -> Array:
    return np.asarray(values, np.uint16).view(BFLOAT16)


def test_a_step_is_the_place_among_all_numbers() -> None:
    every = numbers()
    place = np.arange(every.size) - np.searchsorted(every, 0)
    steps = steps_of(every.astype(BFLOAT16)[None])[0]
    assert steps.tolist() == place.tolist()
    assert steps_of(bits([[0x0000, 0x8000]])).tolist() == [[0, 0]]
    gaps = np.diff(every)
    above = every[:-1] >= 0
    ulp = np.ldexp(1.0, np.maximum(exponents_of(every[:-1].astype(BFLOAT16)[None])[0].astype(int), 1) - 134)
    assert gaps[above].tolist() == ulp[above].tolist()


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(2, 30), width=st.integers(1, 6), scale=st.integers(-130, 100))
def test_extents_and_pairs_are_those_of_brute_force(
    seed: int, rows: int, width: int, scale: int, client: Client
) -> None:
    random = np.random.default_rng(seed)
    values = np.ldexp(random.integers(-5, 6, (rows, width)).astype(float), scale).astype(BFLOAT16)
    every = numbers()
    place = np.searchsorted(every, values.astype(np.float64))
    apart = np.abs(place[:, None] - place[None])
    radius = int(np.median(apart.max(axis=2)))
    found = eg.lattice(values, within=radius, pairs_within=radius, client=client)
    assert found["step_extent"].values.tolist() == np.ptp(place, axis=0).tolist()
    assert found["value_min"].values.tolist() == values.astype(float).min(axis=0).tolist()
    assert found["value_max"].values.tolist() == values.astype(float).max(axis=0).tolist()
    first, second = np.nonzero(np.triu(apart.max(axis=2) <= radius, 1))
    assert found["pair_token_id"].values.tolist() == np.stack([first, second], 1).tolist()
    assert found["pair_chebyshev_steps"].values.tolist() == apart.max(axis=2)[first, second].tolist()
    assert found["pair_cityblock_steps"].values.tolist() == apart.sum(axis=2)[first, second].tolist()
    assert found["within_count"].values.tolist() == [first.size]
    assert found["exponent_count"].values.sum() == values.size


def chain(counts: list[int], width: int, seed: int) -> Array:
    """Components of so many rows each, at one step in few columns from another row of theirs, across 0 in column 0."""
    random = np.random.default_rng(seed)
    found = []
    for number, count in enumerate(counts):
        rows = [np.full(width, 100 * number + 7)]
        rows[0][0] = 1000 * number
        for _ in range(count - 1):
            row = rows[-1].copy()
            row[random.choice(width, 2, replace=False)] += 1
            rows.append(row)
        found += rows
    steps = np.array(found)
    steps[:, 0] -= 1  # the first component steps from -1 over 0 to 1
    return np.where(steps < 0, 0x8000 | -steps, steps).astype(np.uint16)


def test_a_planted_graph_is_found_and_raw_patterns_miss_it(client: Client) -> None:
    csgraph = pytest.importorskip("scipy.sparse.csgraph")
    patterns = chain([15, 8, 7] + [1] * 30, 12, 1)
    patterns[1, 0] = 1  # two steps from -1 in the first column,
    patterns[0, 0] = 0x8001
    rows = bits(patterns)
    found = eg.lattice(rows, pairs_within=2, client=client)
    parts, labels = csgraph.connected_components(found.embgeom.to_csr("pairs"))
    assert sorted(np.bincount(labels).tolist())[-3:] == [7, 8, 15]
    assert parts == 33
    assert [0, 1] in found["pair_token_id"].values.tolist()
    raw = int(np.abs(patterns[0].astype(int) - patterns[1].astype(int)).max())
    assert raw > 32_767  # what was published as a distance
    assert found["pair_chebyshev_steps"].values[0] == 2


def test_exponents_near_those_of_a_token(tmp_path: Path, client: Client) -> None:
    random = np.random.default_rng(3)
    values = (random.choice([-1, 1], (200, 8)) * np.exp2(random.uniform(-20, 3, (200, 8)))).astype(BFLOAT16)
    values[7] = values[3] * BFLOAT16(2)
    values[9, 0] = 0
    with tuning.override(CHUNK_BYTES=512, PART_BYTES=512):
        store = make_store(tmp_path / "m.zarr", output=values, tokens=[f"w{i}" for i in range(200)])
        found = eg.lattice(store, origin="w3", exponents=1, client=client, out=tmp_path / "r.zarr")
    exponent = np.frexp(values.astype(float))[1].astype(int) + 126
    exponent[9, 0] = 0
    expected = np.abs(exponent - exponent[3]).max(axis=1)
    assert found["exponent_distance"].values.tolist() == expected.tolist()
    assert found["exponent_within_count"].item() == (expected <= 1).sum()
    assert found["exponent_min"].values.tolist() == exponent.min(axis=0).tolist()
    assert found["column_ulp"].values.tolist() == np.ldexp(1.0, exponent.max(axis=0) - 134).tolist()
    assert found["exponent_count"].values.tolist() == np.bincount(exponent.ravel(), minlength=256).tolist()
    assert found["negative_value_count"].item() == (values.astype(float) < 0).sum()
    assert found["token"].values[3] == "w3"
    xr.testing.assert_identical(eg.open_result(tmp_path / "r.zarr"), found)
    assert found.embgeom.to_frame("exponent_distances")["exponent_distance"].tolist() == expected.tolist()


def test_a_selection_keeps_its_ids(tmp_path: Path, client: Client) -> None:
    values = np.random.default_rng(4).integers(0x3F00, 0x3F04, (40, 2)).astype(np.uint16).view(BFLOAT16)
    store = make_store(tmp_path / "m.zarr", output=values)
    found = eg.lattice(store, tokens="10:20", within="0,1", pairs_within=0, client=client)
    assert found["token_count"].item() == 10
    assert found["token_id"].values.tolist() == list(range(10, 20))
    steps = steps_of(values[10:20])
    same = (steps[:, None] == steps[None]).all(axis=2)
    first, second = np.nonzero(np.triu(same, 1))
    assert found["pair_token_id"].values.tolist() == (np.stack([first, second], 1) + 10).tolist()
    assert found["pair_token"].values[0].tolist() == [f"t{first[0] + 10}", f"t{second[0] + 10}"]
    part = xr.DataArray(values[:4], dims=("token_id", "hidden"), coords={"token_id": [9, 3, 5, 7]})
    again = eg.lattice(part, pairs_within=4, client=client)
    assert set(again["pair_token_id"].values.ravel().tolist()) == {3, 5, 7, 9}


def test_the_note_of_what_is_written_names_the_matrix(
    tmp_path: Path, client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    store = make_store(tmp_path / "m.zarr", output=np.eye(9, 3).astype(BFLOAT16), model="org/m")
    with showing(True):
        eg.lattice(store, within=1, client=client)
        assert "org/m in steps (array) is in " in capsys.readouterr().err
        eg.lattice(np.eye(9, 3).astype(BFLOAT16), client=client)
        assert "the array given is in " in capsys.readouterr().err


def test_what_is_refused(tmp_path: Path, client: Client) -> None:
    store = make_store(tmp_path / "m.zarr", output=np.eye(4, dtype=np.float32))
    with pytest.raises(InputError, match="output_embedding is float32, and steps are those of bfloat16"):
        eg.lattice(store)
    with pytest.raises(InputError, match=r"the array given is uint16: bits of bfloat16 are not in the order"):
        eg.lattice(np.zeros((3, 2), np.uint16))
    rows = np.eye(4).astype(BFLOAT16)
    with pytest.raises(InputError, match="`metric` cosine: choose chebyshev or cityblock"):
        eg.lattice(rows, metric="cosine")
    with pytest.raises(InputError, match="`exponents` -1: give an integer, 0 or more"):
        eg.lattice(rows, exponents=-1)
    with pytest.raises(InputError, match="are numbers of steps here"):
        eg.lattice(rows, within="2ulp")
    rows[2, 1] = np.nan
    with pytest.raises(InputError, match=r"1 of 4 rows .* hold NaN or infinity \(token ids 2\)"):
        eg.lattice(rows, client=client)
