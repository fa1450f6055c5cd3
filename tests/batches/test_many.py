from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import xarray as xr
from distributed import Client
from scipy.spatial.distance import pdist

import embgeom_dask as eg
from embgeom_dask import progress, tuning
from embgeom_dask.batches import many
from embgeom_dask.cli import app, text
from embgeom_dask.cli.scan_text import scan_text, scans_text
from embgeom_dask.errors import SomeFailed
from embgeom_dask.execution import planning
from embgeom_dask.execution.callbacks import PanelCallback
from embgeom_dask.execution.grid import Panel
from embgeom_dask.execution.plan import Plan
from embgeom_dask.testing import make_store
from tests.clusters import workers_of_one_thread

HOW: dict[str, Any] = {
    "farthest": 2,
    "nearest": 2,
    "neighbors": 3,
    "within": "4,5",
    "pairs_within": 2.5,
    "histogram": 8,
}


@pytest.fixture(autouse=True)
def small_chunks() -> Iterator[None]:
    with tuning.override(CHUNK_BYTES=2048):
        yield


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with workers_of_one_thread(2) as client:
        yield client


def stores_in(folder: Path, count: int = 3) -> list[str]:
    random = np.random.default_rng(5)
    return [
        make_store(
            folder / f"{name}.zarr",
            random.normal(size=(90 + 20 * i, 6 + i)).astype(np.float32),
            tokens=[f"{name}{token}" for token in range(90 + 20 * i)],
            model=f"org/{name}",
        )
        for i, name in enumerate("abcdefgh"[:count])
    ]


def nodes(tree: xr.DataTree) -> list[xr.Dataset]:
    return [node.to_dataset() for node in tree.children.values()]


def break_a_chunk(store: str) -> None:
    chunk = sorted(Path(store, "output_embedding", "c").rglob("0"))[-1]
    chunk.write_bytes(chunk.read_bytes()[:-9])


def test_scans_of_many_models_are_those_of_each(tmp_path: Path, client: Client) -> None:
    stores, out = stores_in(tmp_path), tmp_path / "out"
    tree = eg.scan(stores, out=out, client=client, **HOW)
    found = nodes(tree)
    assert [*tree.children] == ["org--a", "org--b", "org--c"]
    reopened = eg.open_result(out)
    assert [*reopened.children] == [*tree.children]
    for one, other in zip(nodes(reopened), found, strict=True):
        xr.testing.assert_identical(one, other)
    xr.testing.assert_equal(
        reopened.to_dataset(), eg.open_result(out / "table.zarr").drop_indexes(["model", "side", "radius"])
    )
    xr.testing.assert_equal(reopened.to_dataset(), tree.to_dataset())
    assert [each.attrs["model"] for each in found] == [["org/a"], ["org/b"], ["org/c"]]
    for name, store, each in zip("abc", stores, found, strict=True):
        alone = eg.scan(store, **HOW).drop_attrs()
        xr.testing.assert_identical(each.drop_attrs(), alone)
        xr.testing.assert_identical(eg.open_result(out / f"org--{name}.zarr").drop_attrs().load(), alone)
    table = eg.open_result(out / "table.zarr").load()
    assert table["model"].values.tolist() == ["org/a", "org/b", "org/c"]
    assert table["matrix"].values.tolist() == ["output_embedding"] * 3
    assert table["radius"].values.tolist() == [4, 5]
    for place, each in enumerate(found):
        one = table.isel(model=place)
        assert one["farthest_distance"].item() == each["farthest_distance"].values[0]
        assert one["nearest_token"].values.tolist() == each["nearest_token"].values[0].tolist()
        assert one["within_count"].values.tolist() == each["within_count"].values.tolist()
        assert one["distance_mean"].item() == each["distance_mean"].item()
        assert one["pairs_within_count"].item() == each.sizes["pair"] > 0
    assert table.attrs["sha256"] == [each.attrs["sha256"][0] for each in found]
    assert "failed" not in table.attrs


def test_the_first_interrupt_keeps_what_is_in_flight_of_every_model(tmp_path: Path, client: Client) -> None:
    stores, out = stores_in(tmp_path, 2), tmp_path / "out"
    how: dict[str, Any] = {"neighbors": 2, "tile": 16, "out": out, "client": client}
    started, sent = list[tuple[str, str]](), threading.Event()

    def count(event: str, plan: Plan, panel: Panel) -> None:
        if event == "started":
            started.append((plan.sides[0].matrix.model.replace("/", "--"), panel.name))

    def interrupt(event: str, plan: Plan, panel: Panel) -> None:
        if len({model for model, _ in started}) == 2 and not sent.is_set():
            sent.set()
            os.kill(os.getpid(), signal.SIGINT)

    with PanelCallback(count), PanelCallback(interrupt), pytest.raises(KeyboardInterrupt):
        eg.scan(stores, **how)
    kept = {(path.parts[-3].split(".")[0], path.name) for path in out.glob("*.zarr.journal/scan-*/*-*-*")}
    assert {model for model, _ in kept} == {"org--a", "org--b"}
    assert sorted(started) == sorted(kept)
    with PanelCallback(count):
        found = nodes(eg.scan(stores, **how))
    assert len(started) == len(set(started)) > len(kept)
    for store, each in zip(stores, found, strict=True):
        xr.testing.assert_identical(each.drop_attrs(), eg.scan(store, neighbors=2).drop_attrs())


def test_what_is_there_is_not_computed_again(tmp_path: Path, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    stores, out = stores_in(tmp_path), tmp_path / "out"
    first = nodes(eg.scan(stores[:2], out=out, client=client, nearest=1))
    assert eg.open_result(out / "table.zarr").sizes["model"] == 2
    planned: list[str] = []
    plan = planning.make_plan

    def make_plan(client: Client, sides: list[Any], *how: Any) -> Any:
        planned.append(sides[0][0].model)
        return plan(client, sides, *how)

    monkeypatch.setattr("embgeom_dask.analyses.all_pairs.make_plan", make_plan)
    with tuning.override(HELD_BYTES=0):
        again = nodes(eg.scan(stores, out=out, client=client, nearest=1))
    assert planned == ["org/c"]
    assert not any(each["nearest_distance"].variable._in_memory for each in again)
    xr.testing.assert_identical(again[0].load(), first[0].load())
    assert eg.open_result(out / "table.zarr").sizes["model"] == 3


def test_a_broken_store_fails_alone(tmp_path: Path, client: Client) -> None:
    stores, out = stores_in(tmp_path), tmp_path / "out"
    break_a_chunk(stores[1])
    for command in (
        lambda given: eg.scan(given, out=out / "scan", client=client, nearest=1),
        lambda given: eg.survey(given, out=out / "survey", client=client),
        lambda given: eg.duplicates(given, out=out / "duplicates", client=client),
    ):
        with pytest.raises(
            eg.SomeFailed, match=r"^2 of 4 stores failed: .*b\.zarr: .*cannot read .*; .*no store at"
        ) as caught:
            command([*stores, tmp_path / "none.zarr"])
        assert "\n" not in str(caught.value)
        assert [each.attrs["model"] for each in caught.value.results] == [["org/a"], ["org/c"]]
    for name in ("scan", "survey", "duplicates"):
        folders = sorted(path.name for path in (out / name).iterdir() if not path.name.endswith(".journal"))
        assert folders == ["batch.json", "org--a.zarr", "org--c.zarr", "table.zarr"]
        table = eg.open_result(out / name / "table.zarr")
        assert table["model"].values.tolist() == ["org/a", "org/c"]
        assert [text.partition(": ")[0] for text in table.attrs["failed"]] == [stores[1], str(tmp_path / "none.zarr")]


def test_a_store_that_fails_is_tried_once_more_after_the_others(tmp_path: Path, client: Client) -> None:
    values, tried = np.arange(20, dtype=np.float32).reshape(10, 2), list[str]()
    stores = [make_store(tmp_path / f"{name}.zarr", values, model=f"org/{name}") for name in "abc"]

    def fail(event: str, plan: Plan, panel: Panel) -> None:
        del panel
        model = plan.sides[0].matrix.model
        if event == "received":
            tried.append(model)
            if model == "org/a" and tried.count(model) == 1:
                raise OSError("the disk was busy")
            if model == "org/b":
                raise OSError("the disk is gone")

    with PanelCallback(fail), pytest.raises(SomeFailed, match=r"1 of 3 .*b.zarr: .*disk is gone") as found:
        eg.scan(stores, nearest=1, client=client)
    assert [one.attrs["model"] for one in found.value.results] == [["org/a"], ["org/c"]]
    assert tried.count("org/b") == 2
    assert tried.index("org/c") < len(tried) - 1 - tried[::-1].index("org/a")


def test_a_reason_that_all_share_is_given_once(tmp_path: Path, client: Client) -> None:
    stores = stores_in(tmp_path)
    with pytest.raises(eg.InputError, match="no metric 'foo'"):
        eg.scan(stores, metric="foo", nearest=1, client=client)
    with pytest.raises(eg.InputError, match="scan needs at least one store"):
        eg.scan([])


def test_names_that_would_collide_are_refused(tmp_path: Path, client: Client) -> None:
    stores = stores_in(tmp_path, 2)
    same = make_store(tmp_path / "same.zarr", np.eye(4), model="org/a")
    with pytest.raises(eg.InputError, match=r"same.zarr and .*a.zarr would both be called org--a"):
        eg.survey([*stores, same], out=tmp_path / "out", client=client)
    table = make_store(tmp_path / "t.zarr", np.eye(4), model="table")
    with pytest.raises(eg.InputError, match=r"the table of all models would both be called table"):
        eg.survey([*stores, table], out=tmp_path / "out", client=client)
    eg.survey(stores[0], out=tmp_path / "one.zarr", client=client)
    with pytest.raises(eg.InputError, match=r"one.zarr is a result: with several stores `out` names a folder"):
        eg.survey(stores, out=tmp_path / "one.zarr", client=client)
    assert not (tmp_path / "out").exists()


def test_revisions_of_a_model_are_told_apart(tmp_path: Path, client: Client) -> None:
    commits = ["a" * 40, "b" * 40]
    paths = [
        make_store(tmp_path / f"{commit[0]}.zarr", np.eye(4) * (1 + place), model="org/m", revision=commit)
        for place, commit in enumerate(commits)
    ]
    out = tmp_path / "out"
    survey = eg.survey(paths, out=out / "survey", client=client)
    assert survey.revision.values.tolist() == commits
    assert eg.open_result(out / "survey/table.zarr").revision.values.tolist() == commits
    files = ["batch.json", "org--m@aaaaaaaaaaaa.zarr", "org--m@bbbbbbbbbbbb.zarr", "table.zarr"]
    assert sorted(path.name for path in (out / "survey").iterdir()) == files
    groups = eg.duplicates(paths, client=client)
    assert groups.revision.values.tolist() == commits
    scans = nodes(eg.scan(paths, nearest=1, against=paths[0], client=client))
    table = many.table(scans)
    assert table.revision.values.tolist() == commits
    assert table.against_revision.values.tolist() == [commits[0]] * 2
    assert scans[1].attrs["revision"] == commits[::-1]
    for said in (text.survey_text(survey), text.duplicates_text(groups), scans_text(table)):
        assert all(said.count(f"org/m@{commit[:12]}") for commit in commits)
    assert scan_text(scans[1]).startswith("org/m@bbbbbbbbbbbb, output_embedding against org/m@aaaaaaaaaaaa,")
    assert "org/m@bbbbbbbbbbbb id" in scan_text(scans[1])


def test_a_result_of_another_revision_is_not_taken_for_this_one(tmp_path: Path, client: Client) -> None:
    out = tmp_path / "r.zarr"
    for name in ("a", "b"):
        make_store(tmp_path / f"{name}.zarr", np.eye(4), model="org/m", revision=name * 40)
    eg.survey(tmp_path / "a.zarr", out=out, client=client)
    with pytest.raises(eg.InputError, match=r"revision is \['aaa.* there and \['bbb.* here"):
        eg.survey(tmp_path / "b.zarr", out=out, client=client)


def test_a_slow_store_holds_up_no_other(tmp_path: Path, client: Client) -> None:
    others = threading.Semaphore(0)

    def work(store: Any, out: Any, client: Client, at_once: int) -> xr.Dataset:
        assert at_once == 2
        if store == "slow":
            for _ in range(4):
                assert others.acquire(timeout=60), "the others wait for the slow one"
        else:
            others.release()
        return xr.Dataset(attrs={"model": [store]})

    found = many.on_each("work", ["slow", "b", "c", "d", "e"], work, many.table, client=client)
    assert [each.attrs["model"] for each in found] == [["slow"], ["b"], ["c"], ["d"], ["e"]]


def test_models_share_the_memory_of_a_process(tmp_path: Path, client: Client) -> None:
    stores = stores_in(tmp_path)
    how: dict[str, Any] = {"nearest": 1, "client": client, "memory_limit": "4GiB", "dry_run": True}
    alone = eg.scan(stores[0], **how).attrs["plan"]
    together = [each.attrs["plan"] for each in nodes(eg.scan(stores, **how))]
    assert alone["memory_allowed"] == 4 << 30
    assert len(together) == 3
    held = psutil.Process().memory_info().rss  # already, which is the same memory for all of them
    for plan in together:  # at least two share what is left
        assert plan["memory_allowed"] < held + ((4 << 30) - held) / 2 * 1.1


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stores, out = stores_in(tmp_path), tmp_path / "out"
    assert app.main(["scan", *stores, "--farthest", "2", "--within", "3,4", "--out", str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["model", "matrix", "farthest_distance"]
    assert [line.split()[:2] for line in lines[1:]] == [[f"org/{name}", "output_embedding"] for name in "abc"]
    break_a_chunk(stores[2])
    assert app.main(["scan", *stores, "--nearest", "1", "--json"]) == 1
    printed = capsys.readouterr()
    document = json.loads(printed.out)
    assert document["model"] == ["org/a", "org/b"]
    assert [each["nearest_token"] for each in document["results"]] == [[pair] for pair in document["nearest_token"]]
    last = printed.err.replace("\r", "\n").splitlines()[-1]
    assert last.startswith(f"error: 1 of 3 stores failed: {stores[2]}: ")


def test_a_dry_run_writes_nothing(tmp_path: Path, client: Client) -> None:
    found = nodes(eg.scan(stores_in(tmp_path), nearest=1, out=tmp_path / "out", dry_run=True, client=client))
    assert [each.attrs["plan"]["rows"] for each in found] == [[90], [110], [130]]
    assert not (tmp_path / "out").exists()


def test_models_side_by_side_say_what_they_do_where_the_caller_shows_it(
    client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    def work(store: Any, *_: Any) -> xr.Dataset:
        progress.note(f"working on {store}")
        return xr.Dataset()

    many.on_each("scan", ["a"], work, lambda each: each[0], client=client)
    assert capsys.readouterr().err == ""
    with progress.showing(True):
        many.on_each("scan", ["a", "b"], work, lambda each: each[0], client=client)
    said = capsys.readouterr().err
    assert "working on a" in said
    assert "working on b" in said


def test_each_model_gives_its_own_default_matrix_and_says_which(
    tmp_path: Path, client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = np.eye(4, 3, dtype=np.float32), np.eye(4, 3, 1, dtype=np.float32)
    untied = make_store(tmp_path / "untied.zarr", one, other, model="org/untied")
    alone = make_store(tmp_path / "alone.zarr", input=other, model="org/alone")
    given, names = [untied, alone], ["output_embedding", "input_embedding"]
    asked: list[Any] = [eg.survey, eg.duplicates, eg.tokens, eg.spectrum, partial(eg.scan, nearest=1)]
    for use in [*asked, partial(eg.components, radius=1)]:
        assert use(given, client=client)["matrix"].values.tolist() == names
        assert use(given, role="input", client=client)["matrix"].values.tolist() == ["input_embedding"] * 2
    described = eg.describe(given, ["survey", "tokens"], client=client)
    assert [described[f"{each}/matrix"].values.tolist() for each in ("survey", "tokens")] == [names] * 2
    for command in (["survey"], ["duplicates"], ["tokens"], ["scan", "--nearest", "1"]):
        assert app.main([command[0], untied, alone, *command[1:], "--out", str(tmp_path / command[0])]) == 0
        said = capsys.readouterr().out
        assert all(name in said for name in names)


def test_models_are_counted_in_the_same_bins_where_asked(tmp_path: Path, client: Client) -> None:
    stores = stores_in(tmp_path)
    tree = eg.scan(stores, histogram=16, common_edges=True, client=client)
    for place, (store, each) in enumerate(zip(stores, nodes(tree), strict=True)):
        edges = each["bin_edge"].values
        np.testing.assert_array_equal(edges, tree["bin_edge"])
        distance = pdist(eg.open_model(store)["output_embedding"].values.astype(np.float64))
        assert edges[-1] >= distance.max()
        np.testing.assert_array_equal(tree["histogram_count"].values[place], np.histogram(distance, edges)[0])
        assert tree["histogram_cdf"].values[place, -1] == 1
    apart = eg.scan(stores, histogram=16, client=client)
    assert "histogram_count" not in apart.data_vars
    with pytest.raises(eg.InputError, match="`common_edges`: give the number of bins"):
        eg.scan(stores, nearest=1, common_edges=True, client=client)


def test_the_table_of_histograms_says_how_many_bins_there_are(
    tmp_path: Path, client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    values = np.random.default_rng(2).normal(size=(40, 3)).astype(np.float32)
    stores = [make_store(tmp_path / f"{name}.zarr", values, model=f"org/{name}") for name in "ab"]
    eg.scan(stores, histogram=64, common_edges=True, client=client, out=tmp_path / "out")
    assert app.main(["show", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert said.count("64 values") == 4  # the counts and the share below each edge
    assert said.endswith("--json prints all values, to-csv of a saved result writes them\n")


def test_a_folder_of_results_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stores, out = stores_in(tmp_path), tmp_path / "out"
    for command in (["scan", "--nearest", "1"], ["survey"], ["duplicates"]):
        folder = str(out / command[0])
        assert app.main([command[0], *stores, *command[1:], "--out", folder]) == 0
        printed = capsys.readouterr().out
        assert app.main(["show", folder]) == 0
        assert capsys.readouterr().out == printed
    (out / "scan" / "table.zarr").rename(tmp_path / "elsewhere")
    assert [*eg.open_result(out / "scan").children] == ["org--a", "org--b", "org--c"]
    assert app.main(["show", str(out / "scan")]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]] == ["org--a", "org--b", "org--c"]
