from __future__ import annotations

import csv
import json
import os
import shlex
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from re import fullmatch
from typing import Any
from urllib.request import urlopen

import numpy as np
import pytest
import xarray as xr
from distributed import Client, LocalCluster, performance_report

import embgeom_dask as eg
from embgeom_dask.cli.app import main
from embgeom_dask.errors import EmbgeomError, InputError
from embgeom_dask.execution import journal
from embgeom_dask.execution.callbacks import PanelCallback
from embgeom_dask.execution.grid import Panel
from embgeom_dask.storage import model_stores, results
from embgeom_dask.testing import make_store

WANTED: dict[str, Any] = {"farthest": 4, "nearest": 4, "neighbors": 3, "histogram": 16, "within": [4.0], "tile": 16}
PANELS = 7 + 6  # 100 rows are 7 blocks of 16: the diagonal, and for each but the last a run of the others


@pytest.fixture
def store(tmp_path: Path) -> str:
    rows = np.random.default_rng(1).integers(-3, 4, (100, 5)).astype(np.float32)
    return make_store(tmp_path / "m.zarr", rows)


@pytest.fixture
def runs() -> Iterator[list[str]]:
    """The names of the panels that were started, in order."""
    names: list[str] = []
    with at("started", lambda panel: names.append(panel.name)):
        yield names


def at(event: str, do: Callable[[Panel], object]) -> PanelCallback:
    """Do something with every panel when that happens to it."""
    return PanelCallback(lambda now, plan, panel: do(panel) if now == event else None)


def failing(bad: Callable[[Panel], bool], error: Exception) -> PanelCallback:
    """Raise an error in every panel that is `bad`."""

    def fail(panel: Panel) -> None:
        if bad(panel):
            raise error

    return at("started", fail)


def settle(client: Client) -> None:
    """Wait for what the one thread of the cluster does."""
    client.submit(int, pure=False).result()


def same(one: xr.Dataset, other: xr.Dataset) -> None:
    xr.testing.assert_identical(one.drop_attrs().load(), other.drop_attrs().load())


def panels_of(out: Path) -> list[Path]:
    return sorted(path for path in Path(f"{out}.journal").glob("scan-*/*") if fullmatch(r"\d+-\d+-\d+", path.name))


def test_a_finished_result_leaves_settings_and_history(store: str, tmp_path: Path, client: Client) -> None:
    out = tmp_path / "r.zarr"
    eg.scan(store, out=out, client=client, **WANTED)
    assert sorted(path.name for path in Path(f"{out}.journal").iterdir()) == ["history.csv", "run.json"]
    with Path(f"{out}.journal", "history.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len({line["panel"] for line in lines}) == len(lines) == PANELS
    assert sum(int(line["read_bytes"]) for line in lines) == 100 * 5 * 4
    assert all(line["start"] <= line["end"] and line["worker"] and int(line["peak_bytes"]) > 1e7 for line in lines)


@pytest.mark.parametrize("first", [1, 7, 12])
def test_what_was_committed_is_not_computed_again_and_the_bits_are_the_same(
    first: int, store: str, tmp_path: Path, client: Client, runs: list[str]
) -> None:
    out = tmp_path / "r.zarr"
    undisturbed = eg.scan(store, client=client, **WANTED)
    assert len(runs) == PANELS
    runs.clear()

    def die(panel: Panel) -> None:
        if len(panels_of(out)) >= first:
            raise MemoryError("the client dies")

    with at("received", die), pytest.raises(MemoryError):
        eg.scan(store, out=out, client=client, **WANTED)
    settle(client)
    committed = [path.name for path in panels_of(out)]
    assert first <= len(committed) <= PANELS
    runs.clear()
    resumed = eg.scan(store, out=out, client=client, **{**WANTED, "tile": None})
    assert sorted(runs + committed) == sorted(set(runs + committed))
    assert len(runs) + len(committed) == PANELS
    same(undisturbed, resumed)


def test_a_torn_or_altered_panel_is_computed_again(
    store: str, tmp_path: Path, client: Client, runs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "r.zarr"
    undisturbed = eg.scan(store, client=client, **WANTED)
    with monkeypatch.context() as patch:
        patch.setattr(results, "save", lambda *_: (_ for _ in ()).throw(MemoryError()))
        with pytest.raises(MemoryError):
            eg.scan(store, out=out, client=client, **WANTED)
    torn, altered, empty, *_ = panels_of(out)
    torn.write_bytes(torn.read_bytes()[:-1])
    content = bytearray(altered.read_bytes())
    content[len(content) // 2] ^= 1
    altered.write_bytes(content)
    empty.write_bytes(b"")
    runs.clear()
    same(undisturbed, eg.scan(store, out=out, client=client, **WANTED))
    assert sorted(runs) == sorted([torn.name, altered.name, empty.name])


def test_exact_quantiles_go_on_too(
    store: str, tmp_path: Path, client: Client, runs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = {"quantiles": [0.1, 0.5], "exact_quantiles": True, "tile": 16}
    undisturbed = eg.scan(store, client=client, **wanted)
    passes = len(runs) // PANELS
    assert passes >= 2
    with monkeypatch.context() as patch:
        patch.setattr(results, "save", lambda *_: (_ for _ in ()).throw(MemoryError()))
        with pytest.raises(MemoryError):
            eg.scan(store, out=tmp_path / "r.zarr", client=client, **wanted)
    runs.clear()
    same(undisturbed, eg.scan(store, out=tmp_path / "r.zarr", client=client, **wanted))
    assert runs == []


def begun(store: str, folder: Path, client: Client) -> Path:
    """A scan of the 2 farthest with tiles of 16 that was begun there, and in which every panel failed."""
    out = folder / "r.zarr"
    with failing(lambda panel: True, ValueError("boom")), pytest.raises(EmbgeomError):
        eg.scan(store, out=out, client=client, farthest=2, tile=16)
    return out


def test_other_settings_are_refused_with_both_values(
    store: str, tmp_path: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = begun(store, tmp_path, client)
    with pytest.raises(InputError, match=r"farthest is 2 there and 3 here.*r.zarr.journal$"):
        eg.scan(store, out=out, client=client, farthest=3)
    with pytest.raises(InputError, match=r"tile 16, not 32"):
        eg.scan(store, out=out, client=client, farthest=2, tile=32)
    monkeypatch.setattr(results, "version", lambda _: "9.9")
    monkeypatch.setattr("embgeom_dask.versions.installed", lambda: {"embgeom-dask": "9.9"})
    with pytest.raises(InputError, match=r"embgeom-dask is 0.1.0 there and 9.9 here"):
        eg.scan(store, out=out, client=client, farthest=2)


def test_a_store_that_changed_is_refused(
    store: str, tmp_path: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = begun(store, tmp_path, client)
    old = model_stores.find_matrix(store).sha256
    new = model_stores.find_matrix(make_store(store, np.eye(5, dtype=np.float32))).sha256
    with pytest.raises(InputError) as caught:
        eg.scan(store, out=out, client=client, farthest=2)
    assert old in str(caught.value)
    assert new in str(caught.value)


@pytest.mark.parametrize("change", ["replaced", "a chunk removed"])
def test_nothing_is_committed_once_the_store_changed_under_the_run(
    change: str, store: str, tmp_path: Path, client: Client
) -> None:
    out = tmp_path / "r.zarr"
    started: list[str] = []

    def meddle(panel: Panel) -> None:
        started.append(panel.name)
        if started[3:] == [panel.name]:
            if change == "replaced":
                make_store(store, np.eye(5, dtype=np.float32))
            else:
                shutil.rmtree(Path(store, "output_embedding", "c"), ignore_errors=True)

    with at("started", meddle), pytest.raises(EmbgeomError, match=r"was replaced|is missing") as caught:
        eg.scan(store, out=out, client=client, farthest=2, tile=16)
    assert "\n" not in str(caught.value)
    assert [path.name for path in panels_of(out)] == sorted(started[:3])


def test_panels_that_fail_do_not_stop_the_others(store: str, tmp_path: Path, client: Client, runs: list[str]) -> None:
    out = tmp_path / "r.zarr"
    undisturbed = eg.scan(store, client=client, **WANTED)
    bad = {"2-2-3", "1-2-7"}
    said = r"^2 of 13 panels failed .*: panels 2-2-3, 1-2-7: ValueError: boom$"
    with failing(lambda panel: panel.name in bad, ValueError("boom")), pytest.raises(EmbgeomError, match=said):
        eg.scan(store, out=out, client=client, **WANTED)
    assert {path.name for path in panels_of(out)}.isdisjoint(bad)
    runs.clear()
    same(undisturbed, eg.scan(store, out=out, client=client, **WANTED))
    assert set(runs) == bad


def test_a_panel_is_tried_three_times(store: str, tmp_path: Path, client: Client) -> None:
    tries: list[str] = []

    def bad(panel: Panel) -> bool:
        tries.append(panel.name)
        return tries.count("0-0-1") < 3 and panel.name == "0-0-1"

    undisturbed = eg.scan(store, client=client, **WANTED)
    with failing(bad, ValueError("boom")):
        same(undisturbed, eg.scan(store, client=client, **WANTED))
    assert tries.count("0-0-1") == 3


def test_a_scan_that_cannot_work_ends_soon(tmp_path: Path, client: Client, runs: list[str]) -> None:
    store = make_store(tmp_path / "m.zarr", np.random.default_rng(0).random((1000, 3)).astype(np.float32))
    said = r"^32 of \d+ panels failed.*: panels .*, \.\.\.: ValueError: boom$"
    with failing(lambda panel: True, ValueError("boom")), pytest.raises(EmbgeomError, match=said):
        eg.scan(store, farthest=1, tile=8, client=client)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), PermissionError(13, "Permission denied")])
def test_a_disk_that_is_full_is_one_line_and_leaves_nothing(
    error: OSError, store: str, tmp_path: Path, client: Client, runs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "r.zarr"
    undisturbed = eg.scan(store, client=client, **WANTED)
    fsync = os.fsync

    def full(number: int) -> None:
        if len(panels_of(out)) == 3:
            raise error
        fsync(number)

    with monkeypatch.context() as patch:
        patch.setattr(journal.os, "fsync", full)  # type: ignore[attr-defined]
        with pytest.raises(EmbgeomError, match=rf"^cannot write .*/\d+-\d+-\d+: {error.strerror}$"):
            eg.scan(store, out=out, client=client, **WANTED)
        settle(client)
    kept = panels_of(out)
    assert len(kept) == 3
    assert not list(Path(f"{out}.journal").rglob("*.partial"))
    runs.clear()
    same(undisturbed, eg.scan(store, out=out, client=client, **WANTED))
    assert len(runs) == PANELS - 3


def test_the_first_interrupt_keeps_what_is_in_flight(
    store: str, tmp_path: Path, client: Client, runs: list[str]
) -> None:
    out, sent = tmp_path / "r.zarr", threading.Event()
    undisturbed = eg.scan(store, client=client, **WANTED)

    def interrupt(panel: Panel) -> None:
        if panel.row == 2:
            os.kill(os.getpid(), signal.SIGINT)
            sent.set()

    before = signal.getsignal(signal.SIGINT)
    with at("started", interrupt), pytest.raises(KeyboardInterrupt):
        eg.scan(store, out=out, client=client, **WANTED)
    assert sent.is_set()
    assert signal.getsignal(signal.SIGINT) is before
    kept = {path.name for path in panels_of(out)}
    assert {"0-0-1", "1-1-2", "2-2-3"} <= kept
    assert len(kept) <= 4
    runs.clear()
    same(undisturbed, eg.scan(store, out=out, client=client, **WANTED))
    assert kept.isdisjoint(runs)
    assert len(runs) == PANELS - len(kept)


def test_status_says_how_far_it_is_what_failed_and_how_to_go_on(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "r.zarr"
    command = ["scan", store, "--farthest", "2", "--tile", "16", "--out", str(out)]
    assert main(["status", str(out)]) == 2
    assert capsys.readouterr().err.startswith(f"error: no journal beside {out}")
    with failing(lambda panel: panel.name == "1-2-7", ValueError("boom")):
        assert main(command) == 1
    assert main(["status", str(out), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["state"] == "begun"
    assert (said["panels_done"], said["panels_total"]) == (PANELS - 1, PANELS)
    assert said["failures"] == [{"pass": "scan", "panel": "1-2-7", "cause": "ValueError: boom"}]
    assert said["panels_per_second"] > 0
    assert said["seconds_left"] == pytest.approx(1 / said["panels_per_second"])
    assert main(["status", str(out)]) == 0
    text = capsys.readouterr().out
    assert f"{PANELS - 1} of {PANELS}" in text
    assert main(shlex.split(said["resume"])[1:]) == 0
    capsys.readouterr()
    assert main(["status", str(out), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["state"], said["failures"], said["panels_per_second"]) == ("finished", [], None)


def test_a_performance_report_can_be_made_around_a_scan(store: str, tmp_path: Path) -> None:
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        with performance_report(tmp_path / "report.html"):
            eg.scan(store, client=client, out=tmp_path / "r.zarr", **WANTED)
        with urlopen(client.dashboard_link) as page:
            assert b"Dask" in page.read()
    assert "run_panel" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize("wrong", [2, None, "1"], ids=["newer", "older", "text"])
def test_a_journal_of_another_format_is_refused_and_kept(
    wrong: object, store: str, tmp_path: Path, client: Client
) -> None:
    out = tmp_path / "r.zarr"

    def die(panel: Panel) -> None:
        if len(panels_of(out)) >= 3:
            raise MemoryError("the client dies")

    with at("received", die), pytest.raises(MemoryError):
        eg.scan(store, out=out, client=client, **WANTED)
    settle(client)
    file = Path(f"{out}.journal/run.json")
    run = json.loads(file.read_text())
    assert run.pop("journal_format") == 1
    file.write_text(json.dumps(run if wrong is None else {**run, "journal_format": wrong}))
    kept = panels_of(out)
    own = version("embgeom-dask")
    said = f"{out}.journal is a journal in format {wrong!r}, written by embgeom-dask {own}; this version, {own}, knows "
    said += "format 1: use that version, or move it away and make it again"
    for asked in (lambda: eg.scan(store, out=out, client=client, **WANTED), lambda: eg.status(out)):
        with pytest.raises(eg.InputError) as raised:
            asked()
        assert str(raised.value) == said
    assert panels_of(out) == kept
