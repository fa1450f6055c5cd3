from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from distributed import Client

import embgeom_dask as eg
from embgeom_dask import tuning
from embgeom_dask.cli import app
from embgeom_dask.errors import SomeFailed
from embgeom_dask.execution.worker_state import state_of
from embgeom_dask.testing import make_store

EACH = ("survey", "tokens", "duplicates", "spectrum")
SHAPE = (8192 * 2 + 100, 4)  # of several parts of spectrum
NBYTES = 4 * SHAPE[0] * SHAPE[1]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store of chunks of 2,048 rows, some of which are the same."""
    rows = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    rows[5], rows[16000:16003] = rows[9000], rows[7]
    with tuning.override(CHUNK_BYTES=2048 * 16):
        return make_store(tmp_path_factory.mktemp("stores") / "m.zarr", rows, model="org/m")


@pytest.fixture(scope="module")
def alone(store: str, client: Client) -> dict[str, xr.Dataset]:
    """What each function gives by itself."""
    return {name: getattr(eg, name)(store, client=client) for name in EACH}


def small(folder: Path, names: str) -> list[str]:
    rows = np.random.default_rng(1).normal(size=(70, 3)).astype(np.float32)
    return [make_store(folder / f"{name}.zarr", rows[i:], model=f"org/{name}") for i, name in enumerate(names)]


def same(found: Any, expected: Any) -> None:
    """Assert that a node is what a function gave: a Dataset or a tree."""
    assert [*found.children] == [*getattr(expected, "children", {})]
    table = expected.to_dataset() if found.children else expected
    xr.testing.assert_identical(found.to_dataset().drop_attrs(), table.drop_attrs())
    assert {**found.attrs, "seconds": 0} == {**expected.attrs, "seconds": 0}
    for name, child in found.children.items():
        same(child, expected[name].to_dataset())


def read_by(client: Client, work: Any) -> int:
    """The bytes of chunks of matrices that the workers of a client read from files while `work` is done."""

    def begin() -> None:
        from zarr import storage

        local: Any = storage.LocalStore
        honest, local.read_here = local.get, 0

        async def counted(self: Any, key: str, *args: Any, **more: Any) -> Any:
            found = await honest(self, key, *args, **more)
            if "embedding/c/" in key and found is not None:
                local.read_here += len(found)
            return found

        local.honest, local.get = honest, counted

    def end() -> int:
        from zarr import storage

        local: Any = storage.LocalStore
        local.get = local.honest
        return int(local.read_here)

    client.run(begin)
    try:
        work()
    finally:
        nbytes = sum(client.run(end).values())
    return nbytes


def kept(client: Client) -> list[int]:
    """How many runs have rows that the workers keep."""
    return [*client.run(lambda dask_worker: len(state_of(dask_worker).rows)).values()]


def test_each_is_what_its_function_gives_and_the_store_is_read_once(
    store: str, alone: dict[str, xr.Dataset], client: Client, workers: Client, tmp_path: Path
) -> None:
    stored = sum(path.stat().st_size for path in Path(store, "output_embedding/c").rglob("*") if path.is_file())
    for cluster, most in ((client, 1.0), (workers, 1.2)):
        found = list[Any]()
        nbytes = read_by(cluster, lambda cluster=cluster, found=found: found.append(eg.describe(store, client=cluster)))
        assert 0 < nbytes <= most * stored, nbytes / stored
        assert not any(kept(cluster))
        assert [*found[0].children] == [*EACH]
        for name in EACH:
            same(found[0][name], alone[name])


@pytest.mark.parametrize("share", [0.0, 1e-9])
def test_little_memory_changes_no_result(
    store: str, alone: dict[str, xr.Dataset], client: Client, capsys: pytest.CaptureFixture[str], share: float
) -> None:
    """Of 1e-9 of the memory hardly one stretch is kept, if any; the others are read by every pass."""
    asked = ("survey", "tokens")
    with tuning.override(KEPT_SHARE=share):
        found = eg.describe(store, asked, client=client, progress=True)
        nbytes = read_by(client, lambda: eg.describe(store, asked, client=client))
    for name in asked:
        same(found[name], alone[name])
    assert nbytes > 2.0 * NBYTES
    assert "what does not fit is read again" in capsys.readouterr().err
    assert not any(kept(client))


def test_several_stores_give_what_each_function_gives_of_them(client: Client, tmp_path: Path) -> None:
    stores, out = small(tmp_path, "ab"), tmp_path / "out"
    found = eg.describe(stores, {"survey": {}, "spectrum": {"components": 2}}, out=out, client=client)
    expected = {
        "survey": eg.survey(stores, client=client),
        "spectrum": eg.spectrum(stores, components=2, client=client),
    }
    for name, each in expected.items():
        same(found[name], each)
        same(xr.DataTree(eg.open_result(out / name)) if name == "survey" else eg.open_result(out / name), each)
        same(eg.open_result(out)[name], each)


def test_parts_of_several_stores_share_a_folder_that_is_told_shown_and_drawn(
    client: Client, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stores, out = small(tmp_path, "abc"), str(tmp_path / "out")
    monkeypatch.setenv("COLUMNS", "80")
    asked = ["describe", *stores, "--each", "survey,tokens", "--out", out]
    with client.as_current():
        assert app.main([*asked, "--part", "1/2"]) == 0
        assert eg.status(out)["resume"].endswith("--part 1/2")
        capsys.readouterr()
        assert app.main(["status", out]) == 0
        said = capsys.readouterr().out.splitlines()
        assert [line.split() for line in said[-3:]] == [
            ["part", "state", "models"],
            ["1/2", "finished", "2", "of", "2"],
            ["2/2", "not", "begun", "0", "of", "1"],
        ]
        assert "tokens    begun  2 of 3" in said
        assert app.main([*asked, "--part", "2/2"]) == 0
    assert {name: eg.status(out)[name] for name in ("state", "models_done", "command")} == {
        "state": "finished",
        "models_done": 3,
        "command": "survey, tokens",
    }
    found = eg.open_result(out)
    assert found["survey"]["model"].values.tolist() == ["org/a", "org/b", "org/c"]
    assert [*found["tokens"].children] == ["org--a", "org--b", "org--c"]
    capsys.readouterr()
    assert app.main(["show", out]) == 0
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["result", "command", "model", "figure", "value"],
        ["survey", "survey", "models", "3"],
        *(
            [f"tokens/org--{each}", "tokens", f"org/{each}", "vocab_size", str(70 - at)]
            for at, each in enumerate("abc")
        ),
    ]
    assert app.main(["show", out, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["results"][1]["result"] == "tokens/org--a"
    for command in (["report", out, "-o", "all.html"], ["plot", out, "--norms", "-o", "all.svg"]):
        assert app.main([*command[:-1], str(tmp_path / command[-1])]) == 0
        page = (tmp_path / command[-1]).read_text()
        assert all(name in page for name in ("org/a", "org/b", "org/c"))


def test_one_that_fails_leaves_the_others(client: Client, tmp_path: Path) -> None:
    stores = small(tmp_path, "abc")
    Path(stores[1], "output_embedding/c/0/0").unlink()
    with pytest.raises(SomeFailed, match=r"b\.zarr") as told:
        eg.describe(stores, "duplicates", client=client)
    (others,) = told.value.results
    assert others["duplicates"]["model"].values.tolist() == ["org/a", "org/c"]
    assert not any(kept(client))


def test_what_is_there_is_not_computed_again(store: str, client: Client, tmp_path: Path) -> None:
    out = tmp_path / "out"
    one = eg.survey(store, out=out / "survey.zarr", client=client)
    first = eg.describe(store, ["survey", "duplicates"], out=out, client=client)
    assert first["survey"].attrs == one.attrs  # with its seconds
    assert read_by(client, lambda: eg.describe(store, ["survey", "duplicates"], out=out, client=client)) == 0
    assert eg.duplicates(store, out=out / "duplicates.zarr", client=client).attrs == first["duplicates"].attrs
    assert {*eg.open_result(out).children} == {"survey", "duplicates"}
    with pytest.raises(eg.InputError, match="is a result: `out` names a folder"):
        eg.describe(store, out=out / "survey.zarr", client=client)


def test_an_array_is_written_once_and_keeps_its_ids(client: Client) -> None:
    rows = xr.DataArray(np.eye(4, 3), {"token_id": [5, 9, 7, 70]}, ("token_id", "hidden"))
    found = eg.describe(rows, client=client)
    for name in EACH:
        same(found[name], getattr(eg, name)(rows, client=client))


@pytest.mark.parametrize("each", ["scan", ["survey", "surveys"], [], {"token": {}}])
def test_what_cannot_be_asked_is_refused(store: str, client: Client, each: Any) -> None:
    with pytest.raises(eg.InputError, match=r"`each` .*choose of survey, tokens, duplicates"):
        eg.describe(store, each, client=client)


def test_the_command_prints_each(
    tmp_path: Path, client: Client, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stores = small(tmp_path, "ab")
    monkeypatch.setenv("COLUMNS", "80")
    with client.as_current():
        assert app.main(["describe", stores[0], "--each", "survey, duplicates", "--out", str(tmp_path / "out")]) == 0
        shown = capsys.readouterr().out
        assert app.main(["survey", stores[0]]) == app.main(["duplicates", stores[0]]) == 0
        assert shown.split() == capsys.readouterr().out.split()
        assert app.main(["describe", *stores, "--each", "survey,tokens", "--json"]) == 0
        told = json.loads(capsys.readouterr().out)["each"]
        assert [*told] == ["survey", "tokens"]
        assert told["survey"]["model"] == ["org/a", "org/b"]
        assert [one["attrs"]["model"] for one in told["tokens"]["results"]] == [["org/a"], ["org/b"]]
        assert app.main(["describe", *stores, "--each", "nothing"]) == 2
        assert "--each 'nothing': choose of survey" in capsys.readouterr().err
