"""What is given in place of a path and is none is refused in a line that names the parameter."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed import Client

import embgeom_dask as eg
from embgeom_dask.reporting import files, plots
from embgeom_dask.testing import make_store

ROWS = np.eye(4, 3, dtype=np.float32)
CALLS: list[tuple[str, Callable[[Any, str], Any]]] = [
    ("source", lambda bad, _: eg.convert(bad)),
    ("stores", lambda bad, _: eg.convert("x", bad)),
    ("tokenizer", lambda bad, _: eg.convert("x", tokenizer=bad)),
    ("name", lambda bad, _: eg.convert("x", name=bad)),
    ("input_key", lambda bad, _: eg.convert("x", input_key=bad)),
    ("store", lambda bad, _: eg.open_model(bad)),
    ("store", lambda bad, _: eg.open_series(bad)),
    ("store", lambda bad, _: eg.export(bad, "m.safetensors")),
    ("output", lambda bad, store: eg.export(store, bad)),
    ("stores", lambda bad, _: eg.list_models(bad)),
    ("path", lambda bad, _: eg.open_result(bad)),
    ("path", lambda bad, store: eg.report(eg.survey(store), bad)),
    ("path", lambda bad, store: eg.tokens(store).embgeom.to_parquet(bad)),
    ("path", lambda bad, store: eg.survey(store).embgeom.to_csv(bad, "survey")),
    ("path", lambda bad, store: eg.tokens(store).embgeom.to_masks(bad)),
    ("path", lambda bad, store: files.netcdf(eg.survey(store), bad)),
    ("path", lambda bad, store: plots.write(eg.tokens(store), plots.Plots.norms, bad)),
    ("out", lambda bad, _: eg.status(bad)),
    ("stores", lambda bad, store: eg.controls(store, stores=bad)),
    ("stores", lambda bad, store: eg.whiten(store, stores=bad)),
    ("stores", lambda bad, _: eg.store_series(ROWS[None], bad, name="org/s")),
    ("out", lambda bad, store: eg.survey(store, out=bad)),
    ("out", lambda bad, store: eg.survey([store, ROWS], out=bad)),
    ("out", lambda bad, store: eg.scan(store, nearest=1, out=bad)),
    ("out", lambda bad, store: eg.describe(store, out=bad)),
    ("out", lambda bad, _: eg.series(ROWS[None], out=bad)),
    ("neighbors_of", lambda bad, store: eg.tokens(store, neighbors_of=bad)),
    ("unused", lambda bad, store: eg.undertrained(store, unused=bad)),
    ("labels", lambda bad, store: eg.readout(ROWS, store, labels=bad)),
    ("each", lambda bad, store: eg.describe(store, bad)),
]


@pytest.mark.parametrize("place", range(len(CALLS)))
def test_what_is_no_path_is_refused_by_the_name_of_its_parameter(
    place: int, tmp_path: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x").mkdir()
    parameter, call = CALLS[place]
    store = make_store(tmp_path / "m.zarr", output=ROWS)
    before = sorted(tmp_path.rglob("*"))
    for bad in (3, 2.5, object()):
        with pytest.raises(eg.InputError) as caught:
            call(bad, store)
        assert f"`{parameter}`" in str(caught.value)
        assert repr(bad)[:12] in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_none_is_no_path() -> None:
    for call in (eg.convert, eg.open_model, eg.open_result, eg.list_models, eg.status):
        with pytest.raises(eg.InputError, match="` None is no path: name a file or a folder"):
            call(None)
