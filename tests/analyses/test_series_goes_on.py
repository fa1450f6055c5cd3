"""Series that are read in place, and what goes on after a kill: at the step where it was, to the same bits."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from distributed import Client

import embgeom_dask as eg
from embgeom_dask import tuning
from embgeom_dask.analyses import series_state, steps, store_series
from embgeom_dask.analyses.outliers import without_cluster
from embgeom_dask.cli import app
from embgeom_dask.errors import EmbgeomError, EmbgeomWarning, InputError
from embgeom_dask.execution import arrays
from embgeom_dask.storage.series_stores import read_series, write_series
from embgeom_dask.testing.faults import Disk, Killed
from tests.analyses.test_series import EACH, planted, saved


def stored(folder: Path, values: np.ndarray, name: str = "org/run") -> str:
    with pytest.warns(EmbgeomWarning, match="no row has a token"):
        return eg.store_series(values, folder, name=name)


def refused(*_: Any, **__: Any) -> None:
    raise AssertionError("a temporary folder is made")


def test_steps_of_a_store_are_read_where_they_are(
    tmp_path: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = planted()[[0, 4]]
    expected = eg.series(values, each=EACH, client=client)
    there = eg.scan(values[1], neighbors=2, against=values[0], client=client)
    monkeypatch.setattr(tuning, "CHUNK_BYTES", 25 * 6 * 2)  # three chunks a step
    store = stored(tmp_path, values)
    for module, name in ((steps, "temporary_folder"), (arrays, "temporary_folder")):
        monkeypatch.setattr(module, name, refused)
    found = eg.series(store, each=EACH, client=client)
    for name in EACH:
        one, other = found[name].to_dataset(), expected[name].to_dataset()
        told = [each for each in one.variables if each not in other.variables]
        assert told == (["is_added", "is_special"] if name == "tokens" else [])
        xr.testing.assert_equal(one.drop_vars(told), other)
    alone = eg.scan(f"{store}:1", neighbors=2, against=f"{store}:0", client=client)
    for name in ("neighbor_distance", "neighbor_token_id"):
        assert alone[name].values.tolist() == there[name].values.tolist()
    chunks = Path(store) / "output_embedding/c"
    (chunks / "1/1/0").write_bytes((chunks / "0/1/0").read_bytes())
    with pytest.raises(EmbgeomError, match=r"of step 1 of .*: chunk 1 holds other bytes than were converted"):
        eg.survey(f"{store}:1", client=client)


def test_a_step_of_a_series_that_was_replaced_is_not_read(tmp_path: Path) -> None:
    matrix = read_series(stored(tmp_path / "a", planted())).at(2)
    assert matrix.read(3, 5).tolist() == planted()[2, 3:5].tolist()
    assert matrix.take(np.array([7, 0])).tolist() == planted()[2, [7, 0]].tolist()
    Path(matrix.store).rename(tmp_path / "old")
    stored(tmp_path / "a", planted()[::-1].copy())
    for use in (lambda: matrix.read(3, 5), matrix.check_unchanged):
        with pytest.raises(EmbgeomError, match=r"holds other bytes|was replaced by another series"):
            use()


def test_where_no_cluster_stands_apart_nothing_is_told(
    client: Client, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    random = np.random.default_rng(0)
    values = random.normal(size=(3, 80, 6)).astype(np.float32)
    values[1, :20] = 0.5 + random.normal(size=(20, 6)) / 1000
    path = stored(tmp_path, values)
    with client.as_current():
        assert app.main(["series", path, "--each", "outliers", "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr()
    assert "no cluster of org/run stands apart at 2 of 3 steps (0, 2): they have no outliers" in said.err
    found = eg.open_result(tmp_path / "out")["outliers"].to_dataset()
    alone = eg.outliers(values[1], client=client)
    assert found["token_count"].values.tolist() == [0, 20, 0]
    assert found["outlier_token_id"].values.tolist() == [-1, alone["outlier_token_id"].item(), -1]
    assert found["farthest_distance"].values[1] == alone["farthest_distance"].item()
    assert np.isnan(found["centroid"].values).all(axis=1).tolist() == [True, False, True]
    none = without_cluster(6)
    assert {name: (each.dims, each.dtype.kind) for name, each in none.data_vars.items()} == {
        name: (each.dims, each.dtype.kind) for name, each in alone.data_vars.items()
    }


def counted(monkeypatch: pytest.MonkeyPatch, end: int) -> list[int]:
    """The steps that are looked at, as they are: the process is killed at that of a number."""
    looked: list[int] = []
    honest: Callable[..., None] = series_state.SeriesState.add

    def add(self: Any, rows: Any, step: int, name: str) -> None:
        if len(looked) == end:
            raise Killed
        looked.append(step)
        honest(self, rows, step, name)

    monkeypatch.setattr(series_state.SeriesState, "add", add)
    return looked


def test_a_series_that_is_killed_goes_on_at_its_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = saved(tmp_path / "a.safetensors", planted(), as_bits=True), tmp_path / "r.zarr"
    undisturbed = eg.series(path)
    monkeypatch.setattr(tuning, "STEPS_KEPT_SECONDS", 0)
    looked = counted(monkeypatch, 5)
    with suppress(Killed):
        eg.series(path, out=out, resume_command="embgeom series a.safetensors")
    with pytest.raises(InputError, match="no result at"):
        eg.open_result(out)
    assert app.main(["status", str(out)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "state begun steps 5 of 8" in said
    assert "goes on with embgeom series a.safetensors" in said
    looked[:] = [-1] * 6
    found = eg.series(path, out=out)
    assert looked[6:] == [5, 6, 7]
    xr.testing.assert_identical(found.drop_attrs(), undisturbed.drop_attrs())
    assert [each.name for each in tmp_path.iterdir() if each.name.startswith("r.")] == ["r.zarr"]
    assert eg.status(out)["state"] == "finished"
    other = tmp_path / "s.zarr"
    looked[:] = [-1] * 4
    monkeypatch.undo()
    monkeypatch.setattr(tuning, "STEPS_KEPT_SECONDS", 0)
    looked = counted(monkeypatch, 1)
    with suppress(Killed):
        eg.series(path, out=other)
    (kept,) = other.with_name("s.zarr.parts").glob("*.npz")
    kept.write_bytes(kept.read_bytes()[:-100])
    looked[:] = [-1] * 2
    xr.testing.assert_identical(eg.series(path, out=other).drop_attrs(), undisturbed.drop_attrs())
    assert looked[2:] == [*range(8)]


def test_questions_of_every_step_have_a_status(tmp_path: Path, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    path, out = saved(tmp_path / "a.safetensors", planted(), as_bits=True), tmp_path / "out"
    looked = counted(monkeypatch, 3)
    with suppress(Killed):
        eg.series(path, each="survey", out=out, client=client)
    found = eg.status(out)
    assert (found["command"], found["state"], found["steps_total"]) == ("series", "begun", 16)
    assert [each["state"] for each in found["questions"]] == ["begun", "not begun"]
    looked[:] = [-1] * 4
    eg.series(path, each="survey", out=out, client=client)
    assert [eg.status(out)[name] for name in ("state", "steps_done")] == ["finished", 16]
    assert not [each for each in out.iterdir() if each.name.endswith(".parts")]


def test_a_store_that_is_killed_goes_on_at_its_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "a.safetensors", planted(), as_bits=True)
    read: list[int] = []
    honest = write_series

    def write(*args: Any, **how: Any) -> str:
        target, name, reading, *rest = args
        return honest(target, name, lambda place: read.append(place) or reading(place), *rest, **how)

    monkeypatch.setattr(store_series, "write_series", write)

    def make(folder: str) -> Path:
        with pytest.warns(EmbgeomWarning):
            return Path(eg.store_series(path, tmp_path / folder, name="org/run"))

    (tmp_path / "whole").mkdir()
    with Disk(tmp_path / "whole") as disk:
        make("whole")
    whole = eg.open_series(tmp_path / "whole/org--run.zarr").load()
    of_step = [call for call in disk.calls if re.search(r"_embedding/c/5/", call)]
    for place, call in enumerate((of_step[0], "rename org--run.zarr 1")):
        folder = tmp_path / str(place)
        folder.mkdir()
        with suppress(Killed), Disk(folder, call, Killed()) as killed:
            make(str(place))
        assert killed.met
        there = folder / "org--run.zarr"
        assert not there.exists()
        assert eg.list_models(folder).sizes["model"] == 0
        assert [eg.status(there)[name] for name in ("state", "steps_done")] == ["begun", (5, 8)[place]]
        read.clear()
        make(str(place))
        assert read == ([5, 6, 7], [])[place]
        xr.testing.assert_identical(eg.open_series(there).load(), whole)
        assert eg.status(there)["state"] == "finished"
        assert [each.name for each in folder.iterdir()] == ["org--run.zarr"]


def test_steps_of_several_dtypes_are_no_series_store(tmp_path: Path) -> None:
    made = [saved_step(tmp_path, place, dtype) for place, dtype in enumerate((np.float32, np.float64))]
    with pytest.raises(InputError, match="step 1 is float64 and others are float32: give steps of one dtype"):
        eg.store_series(made, tmp_path / "stores", name="org/run")


def saved_step(folder: Path, place: int, dtype: Any) -> str:
    from embgeom_dask.testing import make_store

    return make_store(folder / f"step-{place}.zarr", output=np.eye(4, dtype=dtype))


def test_series_stores_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved_step(tmp_path, 0, np.float32)
    stored(tmp_path, planted())
    assert app.main(["list", "--stores", str(tmp_path)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert "steps" in lines[0]
    series = next(line for line in lines if line[0] == "org/run")
    assert series[2:5] == ["bfloat16", "60", "6"]
    assert "8" in series
    listed = eg.list_models(tmp_path)
    assert dict(zip(listed["model"].values.tolist(), listed["steps"].values.tolist(), strict=True)) == {
        "org/run": 8,
        "test/model": 0,
    }
    (tmp_path / "org--run.zarr/step/c/0").unlink()
    assert "org--run.zarr is damaged" in eg.list_models(tmp_path).attrs["broken"][0]
