"""Radii in units in the last place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from distributed import Client
from hypothesis import given
from hypothesis import strategies as st

import embgeom_dask as eg
from embgeom_dask.cli import app
from embgeom_dask.errors import InputError
from embgeom_dask.execution.spec import unit_in_last_place
from embgeom_dask.testing import make_store

TYPES: dict[str, Any] = {
    "bfloat16": ml_dtypes.bfloat16,
    "float16": np.float16,
    "float32": np.float32,
    "float64": np.float64,
}


@pytest.mark.parametrize("dtype", TYPES)
@given(value=st.floats(-60_000, 60_000))
def test_a_unit_is_the_gap_to_the_next_value_of_its_type(dtype: str, value: float) -> None:
    value = abs(float(np.asarray(value, TYPES[dtype])))
    gap = np.spacing(np.asarray(value, TYPES[dtype]), dtype=TYPES[dtype]).astype(np.float64)
    assert float(unit_in_last_place(value, dtype)) == gap


@pytest.fixture(params=["bfloat16", "float16", "float32"])
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, float]:
    """A store whose rows 2 to 7 differ in whole steps of the type at their largest value; its unit there."""
    dtype = TYPES[request.param]
    unit = float(np.spacing(np.asarray(0.37, dtype), dtype=dtype))
    rows = np.random.default_rng(0).normal(0, 4, (12, 3))
    rows[2:8] = np.asarray(0.37, dtype).astype(np.float64)
    rows[2:8, 1] += unit * np.arange(6)
    rows[2:8, 2] = 0.01
    return make_store(tmp_path / "m.zarr", rows.astype(dtype), model="org/m"), unit


def test_ulps_are_those_of_the_rows_selected(cluster: tuple[str, float], client: Client) -> None:
    store, unit = cluster
    how: dict[str, Any] = {"metric": "chebyshev", "client": client}
    found = eg.scan(store, tokens="2:8", within="1ulp, 2ulp", pairs_within="1 ulp", **how)
    assert found["radius"].values.tolist() == [unit, 2 * unit]
    assert found["within_count"].values.tolist() == [5, 9]
    assert found["pair_token_id"].values.tolist() == [[i, i + 1] for i in range(2, 7)]
    assert found.attrs == found.attrs | {
        "settings": eg.scan(store, tokens="2:8", within=[unit, 2 * unit], pairs_within=unit, **how).attrs["settings"]
    }
    array = eg.open_model(store)["output_embedding"][2:8]
    assert eg.scan(array, within=["2ulp"], **how)["within_count"].item() == 9
    against = eg.scan(store, tokens="2:8", against=store, within=["2ulp", 1], **how)
    assert against["radius"].values.tolist() == [2 * unit, 1.0]


def test_radii_come_in_whatever_holds_them(cluster: tuple[str, float], client: Client) -> None:
    store, unit = cluster
    how: dict[str, Any] = {"metric": "chebyshev", "client": client}
    for each in (
        {"1ulp", "2ulp"},
        (f"{n}ulp" for n in (1, 2)),
        np.array(["1ulp", "2ulp"]),
        np.array(["1ulp", "2ulp"], object),
        xr.DataArray(["1ulp", "2ulp"]),
        pd.Series(["1ulp", "2ulp"]),
        xr.DataArray([unit, 2 * unit]),
        torch.tensor([unit, 2 * unit]),
        map(float, (unit, 2 * unit)),
    ):
        found = eg.scan(store, tokens=iter(range(2, 8)), within=each, **how)
        assert found["radius"].values.tolist() == [unit, 2 * unit]
        assert found["within_count"].values.tolist() == [5, 9]
    one = eg.scan(store, tokens="2:8", nearest=1, **how)["nearest_distance"]
    assert eg.scan(store, tokens="2:8", within=one[0], pairs_within=one, **how)["pair_radius"].item() == unit
    with pytest.raises(InputError, match=r"^`within` \['a', 'b'\]: give numbers[^\n]*$"):
        eg.scan(store, within=xr.DataArray(["a", "b"]))


def test_a_list_of_one_store_is_one_store(cluster: tuple[str, float], client: Client) -> None:
    store, unit = cluster
    how: dict[str, Any] = {"metric": "chebyshev", "tokens": "2:8", "client": client}
    tree = eg.scan([store], within="2ulp", **how)
    assert tree["org--m"]["radius"].item() == 2 * unit
    assert tree["org--m"].to_dataset().equals(eg.scan(store, within="2ulp", **how))


def test_what_is_read_once_is_for_every_store(cluster: tuple[str, float], tmp_path: Path, client: Client) -> None:
    other = make_store(tmp_path / "n.zarr", np.eye(9), model="org/n")
    asked: dict[str, Any] = {"tokens": "0:9", "within": iter([1.0, 2.0]), "quantiles": iter([0.5]), "client": client}
    tree = eg.scan([cluster[0], other], **asked)
    assert [each["radius"].values.tolist() for each in tree.children.values()] == [[1.0, 2.0]] * 2
    assert tree["quantile_lower"].shape == (2, 1)


def test_of_two_matrices_the_type_with_fewer_bits_counts(tmp_path: Path, client: Client) -> None:
    rows = np.full((4, 2), 0.5)
    narrow, wide = (
        make_store(tmp_path / f"{dtype}.zarr", rows.astype(TYPES[dtype]), model=f"org/{dtype}")
        for dtype in ("bfloat16", "float32")
    )
    for first, second in ((narrow, wide), (wide, narrow)):
        found = eg.scan(first, tokens="0:2", against=second, within="1ulp", client=client)
        assert found["radius"].item() == 2.0**-8


def test_units_of_a_whole_matrix_or_of_several_are_refused(
    cluster: tuple[str, float], capsys: pytest.CaptureFixture[str]
) -> None:
    store, unit = cluster
    for option in ("--within", "--pairs-within"):
        assert app.main(["scan", store, option, "2ulp"]) == 2
        said = capsys.readouterr().err.splitlines()[-1]
        assert said == (
            f"error: {option}: the values of a whole matrix have many units in the last place; select rows with "
            "--tokens, or say at which value, 2ulp@0.037"
        )
    with pytest.raises(InputError, match="of several stores each would have another radius"):
        eg.scan([store, store], within="2ulp", tokens="2:8")
    with pytest.raises(InputError, match="`histogram_edges` 1ulp,2ulp: give numbers"):
        eg.scan(store, histogram_edges="1ulp,2ulp")
    assert app.main(["scan", store, "--within", "2ulp", "--tokens", "2:8", "--dry-run"]) == 0
    assert f"1ulp is {unit!r}, for the rows' largest absolute value 0." in capsys.readouterr().err
