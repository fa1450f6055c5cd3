"""A batch that several commands share, each with its part of the models."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from distributed import Client
from hypothesis import given
from hypothesis import strategies as st

import embgeom_dask as eg
from embgeom_dask import tuning
from embgeom_dask.batches import many
from embgeom_dask.batches.batch import Part
from embgeom_dask.batches.convert_many import convert_each
from embgeom_dask.cli import app
from embgeom_dask.errors import InputError, SomeFailed
from embgeom_dask.execution.callbacks import PanelCallback
from embgeom_dask.execution.grid import Panel
from embgeom_dask.execution.journal import Journal
from embgeom_dask.execution.plan import Plan
from embgeom_dask.testing import make_checkpoint, make_store

COMMANDS: dict[str, Callable[..., Any]] = {
    "scan": lambda stores, **how: eg.scan(stores, nearest=2, within=[2.0, 3.0], histogram_edges=[0, 2, 9], **how),
    "survey": eg.survey,
    "duplicates": eg.duplicates,
    "tokens": eg.tokens,
}
ALL = [*COMMANDS, "components", "spectrum", "undertrained", "lattice", "cluster"]


def stores_in(folder: Path, names: str) -> list[str]:
    random = np.random.default_rng(8)
    return [
        make_store(
            folder / f"{name}.zarr",
            np.repeat(random.normal(size=(12 + i, 4 + i)).astype(np.float32), 2, axis=0),
            tokens=[f"{name}{token}" for token in range(24 + 2 * i)],
            model=f"org/{name}",
        )
        for i, name in enumerate(names)
    ]


def models(result: xr.Dataset | xr.DataTree) -> list[str]:
    return result["model"].values.tolist()


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".journal"))


@given(st.integers(0, 40), st.integers(1, 12), st.integers(0, 20))
def test_parts_are_a_partition_that_a_longer_list_does_not_change(total: int, count: int, more: int) -> None:
    every = [Part(number, count).places(total) for number in range(1, count + 1)]
    assert sorted(place for places in every for place in places) == list(range(total))
    assert max(map(len, every)) - min(map(len, every)) <= 1
    for number, places in enumerate(every, 1):
        assert [place for place in Part(number, count).places(total + more) if place < total] == list(places)
        assert Part.parse(str(Part(number, count))) == Part(number, count)


@pytest.mark.parametrize("text", ["0/2", "3/2", "1/0", "-1/2", "2", "1/2/3", "a/b", "1 / 2", "", "1GiB", "1/2\n"])
def test_what_is_no_part_is_refused(text: str, tmp_path: Path) -> None:
    for use in (eg.survey, eg.tokens, eg.components, eg.scan):
        with pytest.raises(InputError, match=r"^`part` '.*': give I/N with I from 1 to N, like 2/8 for part 2 of 8$"):
            use(["a", "b"], part=text, out=tmp_path / "out", **({"radius": 1} if use is eg.components else {}))
    with pytest.raises(InputError, match=r"^`part` "):
        convert_each(["a", "b"], tmp_path / "out", part=text)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", [*ALL, "convert"])
def test_every_command_over_many_models_refuses_what_is_no_part(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--radius", "1"] if command == "components" else []
    out = ["--stores" if command == "convert" else "--out", str(tmp_path / "out")]
    assert app.main([command, *stores_in(tmp_path, "ab"), *more, *out, "--part", "9/8"]) == 2
    said = capsys.readouterr().err
    assert said == "error: --part '9/8': give I/N with I from 1 to N, like 2/8 for part 2 of 8\n"
    assert not (tmp_path / "out").exists()


def test_one_store_has_no_parts(tmp_path: Path) -> None:
    (store,) = stores_in(tmp_path, "a")
    for use in (eg.survey, eg.tokens, eg.components, eg.scan):
        with pytest.raises(InputError, match=r"^`part` is of several stores: give a list of them$"):
            use(store, part="1/2", **({"radius": 1} if use is eg.components else {}))


@pytest.mark.parametrize(
    "command", ["scan", *(pytest.param(name, marks=pytest.mark.slow) for name in ("survey", "duplicates", "tokens"))]
)
def test_the_parts_make_what_one_command_makes(command: str, tmp_path: Path, client: Client) -> None:
    stores, out, whole = stores_in(tmp_path, "abc"), tmp_path / "out", tmp_path / "whole"
    COMMANDS[command](stores, out=whole, client=client)
    for number, its in ((2, "b"), (1, "ac")):
        assert not (out / "table.zarr").exists()
        found = COMMANDS[command](stores, out=out, client=client, part=f"{number}/2")
        assert models(found) == [f"org/{name}" for name in its]
    records = ["batch-1-of-2.json", "batch-2-of-2.json"]
    assert files(out) == records + [name for name in files(whole) if name != "batch.json"]
    for name in [name for name in files(whole) if name.endswith(".zarr")]:
        one, other = (eg.open_result(folder / name).load() for folder in (out, whole))
        xr.testing.assert_identical(one.drop_attrs(), other.drop_attrs())
        assert one.attrs["fingerprint"] == other.attrs["fingerprint"]
    xr.testing.assert_equal(*(eg.open_result(folder) for folder in (out, whole)))


def test_the_status_tells_of_all_parts(
    tmp_path: Path, client: Client, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    stores, told = stores_in(tmp_path, "abcd"), list[dict[str, Any]]()
    eg.scan(stores, nearest=1, out="out", client=client, part="3/3")
    assert eg.status("out")["parts"][2]["state"] == "finished"

    def look(event: str, plan: Plan, panel: Panel) -> None:
        del plan, panel
        told.append(eg.status("out"))

    with PanelCallback(look):
        eg.scan(stores, nearest=1, out="out", client=client, part="1/3", resume_command="embgeom scan --part 1/3")
    begun = told[0]
    assert (begun["state"], begun["models_done"], begun["models_total"]) == ("begun", 1, 4)
    assert begun["resume"] == "embgeom scan --part 1/3"
    assert [each["part"] for each in begun["parts"]] == ["1/3", "2/3", "3/3"]
    assert [each["state"] for each in begun["parts"]] == ["begun", "not begun", "finished"]
    assert app.main(["status", "out"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert "models        3 of 4" in said
    assert [line.split() for line in said[-4:]] == [
        ["part", "state", "models"],
        ["1/3", "finished", "2", "of", "2"],
        ["2/3", "not", "begun", "0", "of", "1"],
        ["3/3", "finished", "1", "of", "1"],
    ]
    assert max(map(len, said)) <= 80
    assert app.main(["show", "out"]) == 0
    assert [line.split()[:2] for line in capsys.readouterr().out.splitlines()] == [
        ["result", "command"],
        *([f"org--{model}", "scan"] for model in "acd"),
    ]
    assert app.main(["to-csv", "out", "nearest", "-o", "nearest.csv"]) == 2
    assert "out has no table: embgeom show lists its results" in capsys.readouterr().err
    eg.scan(stores, nearest=1, out="out", client=client, part="2/3")
    done = eg.status("out")
    assert (done["state"], done["models_done"], done["resume"]) == ("finished", 4, None)
    assert models(eg.open_result("out/table.zarr")) == ["org/a", "org/b", "org/c", "org/d"]


@pytest.mark.slow
def test_a_part_that_was_stopped_goes_on(tmp_path: Path, client: Client) -> None:
    stores, out, received = stores_in(tmp_path, "abcd"), tmp_path / "out", list[str]()

    def stop(event: str, plan: Plan, panel: Panel) -> None:
        del panel
        if event == "received":
            received.append(plan.sides[0].matrix.model)
            if received[-1] == "org/d":
                raise KeyboardInterrupt

    eg.scan(stores, nearest=1, out=out, client=client, part="1/2")
    with PanelCallback(stop), pytest.raises(KeyboardInterrupt):
        eg.scan(stores, nearest=1, out=out, client=client, part="2/2")
    assert [each["state"] for each in eg.status(out)["parts"]] == ["finished", "begun"]
    assert not (out / "table.zarr").exists()
    eg.scan(stores, nearest=1, out=out, client=client, part="2/2")
    assert models(eg.open_result(out / "table.zarr")) == [f"org/{name}" for name in "abcd"]
    (out / "table.zarr").rename(tmp_path / "table.zarr")  # as if the last part had died before it was written
    found = eg.status(out)
    assert (found["state"], found["models_done"]) == ("begun", 4)
    with PanelCallback(stop):  # all is there: no panel is computed
        found = eg.scan(stores, nearest=1, out=out, client=client, part="2/2")
    assert models(found) == ["org/b", "org/d"]
    assert eg.status(out)["state"] == "finished"
    assert received.count("org/d") == 1


def test_what_fails_in_one_part_is_told_of_all(tmp_path: Path, client: Client) -> None:
    stores, out = [*stores_in(tmp_path, "ab"), str(tmp_path / "none.zarr")], tmp_path / "out"
    with pytest.raises(InputError, match="no store at"):  # the one of its part
        eg.survey(stores, out=out, client=client, part="3/3")
    eg.survey(stores, out=out, client=client, part="1/3")
    eg.survey(stores, out=out, client=client, part="2/3")
    table, found = eg.open_result(out / "table.zarr"), eg.status(out)
    assert models(table) == ["org/a", "org/b"]
    assert (found["state"], found["models_done"], found["models_total"]) == ("finished", 2, 3)
    assert found["failures"] == table.attrs["failed"]
    assert found["failures"][0].startswith(f"{stores[2]}: no store at")
    with pytest.raises(SomeFailed, match=r"^1 of 2 stores failed: "):
        eg.survey([stores[0], stores[2]], out=tmp_path / "other", client=client, part="1/1")
    values = np.eye(4, dtype=np.float32)
    make_store(stores[2], values, model="org/none")
    eg.survey(stores, out=out, client=client, part="3/3")
    assert models(eg.open_result(out / "table.zarr")) == ["org/a", "org/b", "org/none"]


def test_parts_of_something_else_are_refused(tmp_path: Path, client: Client) -> None:
    stores, out = stores_in(tmp_path, "abcd"), tmp_path / "out"
    eg.scan(stores[:3], nearest=1, out=out, client=client, part="1/2")
    why = [
        (stores, {"nearest": 2}, "nearest is 1 there and 2 here"),
        (stores, {"nearest": 1, "metric": "cosine"}, "metric is 'euclidean' there and 'cosine' here"),
        (stores[::-1], {"nearest": 1}, rf"store 1 of the list is {stores[0]} there and {stores[3]} here"),
    ]
    for other, how, text in why:
        with pytest.raises(InputError, match=rf"holds part 1/2 of something else \({text}\): give every part the same"):
            eg.scan(other, out=out, client=client, part="2/2", **how)
    with pytest.raises(InputError, match=r"1/2 of something else \(command is 'scan' there and 'survey' here\)"):
        eg.survey(stores, out=out, client=client, part="2/2")
    assert files(out) == ["batch-1-of-2.json", "org--a.zarr", "org--c.zarr"]
    eg.scan(stores, nearest=1, out=out, client=client, part="2/2")  # the list has grown: part 1 does as it was
    assert not (out / "table.zarr").exists()
    eg.scan(stores, nearest=1, out=out, client=client, part="1/2")
    assert models(eg.open_result(out / "table.zarr")) == [f"org/{name}" for name in "abcd"]
    with pytest.raises(InputError, match="`common_edges` needs all stores at once, not a `part`"):
        eg.scan(stores, histogram=4, common_edges=True, client=client, part="1/2")


def test_parts_that_end_at_the_same_time_make_one_table(tmp_path: Path, client: Client) -> None:
    stores = stores_in(tmp_path, "abcd")
    out, parts = tmp_path / "out", ["1/4", "2/4", "3/4", "4/4"]
    with ThreadPoolExecutor(4) as threads:
        ended = [threads.submit(eg.survey, stores, out=out, client=client, part=part) for part in parts]
        assert [models(each.result()) for each in ended] == [[f"org/{name}"] for name in "abcd"]
    assert models(eg.open_result(out / "table.zarr")) == [f"org/{name}" for name in "abcd"]
    assert [name for name in files(out) if name.startswith(".")] == []


@pytest.mark.parametrize("dies", [False, True])
def test_a_part_that_ends_while_another_writes_the_table_leaves_it_to_it(
    dies: bool, tmp_path: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores, out, saved = stores_in(tmp_path, "ab"), tmp_path / "out", list[Any]()

    @contextmanager
    def claimed(*_: Any) -> Iterator[bool]:  # as on an object store
        yield False

    def save(*what: Any) -> None:
        saved.append(what)
        honest(*what)

    honest = many._save_table
    eg.survey(stores, out=out, client=client, part="1/2")
    eg.survey(stores, out=out, client=client, part="2/2")
    (out / "table.zarr").rename(tmp_path / "table.zarr")
    monkeypatch.setattr(Journal, "claimed", claimed)
    monkeypatch.setattr(many, "_save_table", save)
    other = threading.Timer(0.2, (tmp_path / "table.zarr").rename, [out / "table.zarr"])
    with tuning.override(OUTAGE=0.1 if dies else 60.0):
        if not dies:
            other.start()
        eg.survey(stores, out=out, client=client, part="2/2")
    assert len(saved) == dies
    assert models(eg.open_result(out / "table.zarr")) == ["org/a", "org/b"]


@pytest.mark.slow
def test_the_command_does_its_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stores, out = stores_in(tmp_path, "ab"), tmp_path / "out"
    listed = tmp_path / "stores.txt"
    listed.write_text("\n".join(stores))
    for command in (["tokens"], ["survey"]):
        how = [*command, "--from-file", str(listed), "--out", str(out / command[0])]
        for number, its in ((3, []), (1, ["org/a"]), (2, ["org/b"])):
            assert app.main([*how, "--part", f"{number}/3", "--json"]) == 0
            printed = capsys.readouterr()
            assert json.loads(printed.out).get("model", []) == its
            assert ("part 3/3 of these models has none" in printed.err) == (number == 3)
            assert ("all 3 parts have ended" in printed.err) == (number == 2)
        assert app.main([*how, "--part", "3/3"]) == 0
        assert app.main(["show", str(out / command[0])]) == 0
        assert "org/b" in capsys.readouterr().out


def test_a_conversion_is_shared(tmp_path: Path) -> None:
    values = {"model.embed_tokens.weight": np.eye(6, 3, dtype=np.float32)}
    sources = [str(make_checkpoint(tmp_path / f"org/m{each}", values, {"model_type": "llama"})) for each in range(3)]
    out = tmp_path / "out"
    for number in (2, 1, 4, 3):
        done, failed = convert_each(sources, out, part=f"{number}/4")
        assert (list(done), failed) == (sources[number - 1 : number], {})
    found = eg.status(out)
    assert (found["command"], found["state"], found["models_done"]) == ("convert", "finished", 3)
    assert [each["models_total"] for each in found["parts"]] == [1, 1, 1, 0]
