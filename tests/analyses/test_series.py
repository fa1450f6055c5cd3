"""A series of steps: against survey and duplicates of each step, and births and merges that were planted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
import xarray as xr
from safetensors.torch import save_file

import embgeom_dask as eg
from embgeom_dask.cli import app
from embgeom_dask.cli.series_text import series_text
from embgeom_dask.errors import InputError
from embgeom_dask.testing import make_store

Array = np.ndarray


def planted() -> Array:
    """8 steps of 60 rows: 5 never changes, 6 is born at step 3, 7 and 8 are one row from step 4 to 5, 9 dies at 2."""
    random = np.random.default_rng(0)
    found = np.cumsum(random.normal(size=(8, 60, 6)), axis=0).astype(ml_dtypes.bfloat16)
    found[:, 5] = found[0, 5]
    found[:3, 6] = found[0, 6]
    found[4:6, 8] = found[4:6, 7]
    found[3:, 9] = found[2, 9]
    return found


def saved(path: Path, steps: Array, *, as_bits: bool) -> str:
    bits = torch.from_numpy(steps.view(np.uint16).copy())
    save_file({"W": bits if as_bits else bits.view(torch.bfloat16), "loss": torch.zeros(8)}, path)
    return str(path)


def test_every_step_is_that_of_survey_and_duplicates(tmp_path: Path) -> None:
    steps = planted()
    found = eg.series(steps)
    for step in (0, 4, 7):
        survey, groups = eg.survey(steps[step]), eg.duplicates(steps[step])
        for name in ("norm_mean", "norm_min", "norm_max", "centroid_l2"):
            assert found[name].values[step] == survey[name].item(), name
        assert found["centroid"].values[step].tolist() == survey["centroid"].values[0].tolist()
        for name in ("unique_count", "group_count", "member_count"):
            assert found[name].values[step] == groups[name].item(), name
    changed = [0, *((steps[i] != steps[i - 1]).any(axis=1).sum() for i in range(1, 8))]
    assert found["changed_count"].values.tolist() == changed


def test_births_deaths_and_merges_are_found() -> None:
    found = eg.series(planted())
    assert found["first_change_step"].values[[5, 6, 7]].tolist() == [-1, 3, 1]
    assert found["last_change_step"].values[[5, 6, 9]].tolist() == [-1, 7, 2]
    assert found["change_count"].values[[5, 7, 9]].tolist() == [0, 7, 2]
    assert found["joined_count"].values.tolist() == [0, 0, 0, 0, 2, 0, 0, 0]
    assert found["left_count"].values.tolist() == [0, 0, 0, 0, 0, 0, 2, 0]
    assert found["grouped_step_count"].values[[7, 8, 9]].tolist() == [2, 2, 0]


def test_files_bits_arrays_and_stores_give_the_same(tmp_path: Path) -> None:
    steps = planted()
    expected = eg.series(steps)
    given: list[Any] = [saved(tmp_path / "a.safetensors", steps, as_bits=False)]
    given += [saved(tmp_path / "b.safetensors", steps, as_bits=True) + ":W", steps.view(np.uint16)]
    given.append([make_store(tmp_path / f"{i}.zarr", output=each, model=f"org/{i}") for i, each in enumerate(steps)])
    for each in given:
        found = eg.series(each)
        xr.testing.assert_equal(found.drop_vars(["token", "text", "step_model"], errors="ignore"), expected)
    assert found["token"].values[3] == "t3"
    assert found["step_model"].values.tolist() == [f"org/{i}" for i in range(8)]
    out = tmp_path / "r.zarr"
    kept = eg.series(given[0], out=out)
    xr.testing.assert_identical(eg.series(given[0], out=out), kept)
    assert kept.embgeom.to_frame("steps")["unique_count"].tolist() == kept["unique_count"].values.tolist()
    other = steps.copy()
    other[3, 3, 3] = 9
    eg.series(steps, out=tmp_path / "s.zarr")
    with pytest.raises(InputError, match="holds a result from other settings"):
        eg.series(other, out=tmp_path / "s.zarr")


def test_the_command_prints_some_of_the_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = saved(tmp_path / "a.safetensors", planted(), as_bits=False)
    assert app.main(["series", f"{path}:W"]) == 0
    said = capsys.readouterr().out
    assert said.rstrip("\n") == series_text(eg.series(path)).replace("a:W", "a:W")
    assert max(map(len, said.splitlines())) <= 100
    assert ["rows", "that", "never", "change", "1"] in [line.split() for line in said.splitlines()]


def test_what_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.safetensors", planted(), as_bits=False)
    with pytest.raises(InputError, match="has 0 tensors of steps, rows and columns: name one"):
        eg.series(f"{path}:loss")
    with pytest.raises(InputError, match=r"cannot read .*none.safetensors"):
        eg.series(tmp_path / "none.safetensors")
    with pytest.raises(InputError, match=r"the array given has the shape \[3, 4\]: give steps, rows and columns"):
        eg.series(np.zeros((3, 4)))
    stores = [make_store(tmp_path / f"{i}.zarr", output=np.eye(4 + i)) for i in range(2)]
    with pytest.raises(InputError, match="has 4 x 4 values and test/model 5 x 5: give one shape"):
        eg.series(stores)
    bad = planted()
    bad[3, 4, 0] = np.nan
    with pytest.raises(InputError, match=r"step 3 of array: rows \[4\] hold NaN"):
        eg.series(bad)
