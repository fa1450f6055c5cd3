"""How far a command over many models is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed import Client

import embgeom_dask as eg
from embgeom_dask.cli import app
from embgeom_dask.errors import InputError, SomeFailed
from embgeom_dask.execution.callbacks import PanelCallback
from embgeom_dask.execution.grid import Panel
from embgeom_dask.execution.plan import Plan
from embgeom_dask.testing import make_store


def stores(folder: Path, names: str) -> list[str]:
    values = np.random.default_rng(3).normal(size=(90, 4)).astype(np.float32)
    return [make_store(folder / f"{name}.zarr", values, model=f"org/{name}") for name in names]


def test_the_status_of_a_folder_tells_what_is_done_and_what_has_begun(tmp_path: Path, client: Client) -> None:
    given, out, told = stores(tmp_path, "abcd"), tmp_path / "out", list[dict[str, Any]]()

    def look(event: str, plan: Plan, panel: Panel) -> None:
        del panel
        if event == "received" and plan.sides[0].matrix.model == "org/d":
            told.append(eg.status(out))

    with PanelCallback(look):
        eg.scan(given, nearest=1, tile=32, client=client, out=out)
    assert {each["state"] for each in told} == {"begun"}
    assert all(each["models_total"] == 4 and each["models_done"] < 4 for each in told)
    last = told[-1]
    (running,) = [each for each in last["running"] if each["result"].endswith("org--d.zarr")]
    assert 0 < running["panels_done"] <= running["panels_total"]
    assert last["models_done"] + len(last["running"]) <= 4
    done = eg.status(out)
    assert (done["state"], done["models_done"], done["running"], done["failures"]) == ("finished", 4, [], [])
    assert done["seconds_left"] is None


def test_the_status_of_a_folder_tells_what_failed(
    tmp_path: Path, client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    given, out = stores(tmp_path, "ab"), tmp_path / "out"
    with pytest.raises(SomeFailed):
        eg.scan([*given, tmp_path / "none.zarr"], nearest=1, client=client, out=out)
    found = eg.status(out)
    assert (found["models_done"], found["models_total"], found["state"]) == (2, 3, "finished")
    (failed,) = found["failures"]
    assert failed.startswith(f"{tmp_path / 'none.zarr'}: no store at ")
    assert app.main(["status", str(out)]) == 0
    said = capsys.readouterr().out
    assert "models   2 of 3" in said
    assert "none.zarr: no store" in said


def test_a_record_that_is_damaged_is_said_to_be(tmp_path: Path) -> None:
    for text in ("", "[]", json.dumps({"began": "today"})):
        (tmp_path / "batch.json").write_text(text)
        with pytest.raises(InputError, match=r"batch.json is damaged: the command that made it writes it again"):
            eg.status(tmp_path)
    (tmp_path / "batch.json").unlink()
    with pytest.raises(InputError, match="no journal beside "):
        eg.status(tmp_path)
