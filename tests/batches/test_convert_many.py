"""Many checkpoints become stores, on the workers of a cluster."""

from __future__ import annotations

import faulthandler
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from distributed import Client, LocalCluster

import embgeom_dask as eg
from embgeom_dask import tuning
from embgeom_dask.batches import convert_many
from embgeom_dask.batches.convert_many import convert_each
from embgeom_dask.checkpoints.convert import convert_telling
from embgeom_dask.cli import app
from embgeom_dask.errors import EmbgeomError, InputError
from embgeom_dask.execution import convert_on_workers
from embgeom_dask.testing import make_checkpoint
from tests.loopback_hub import taken_for_the_real_one

LLAMA = {"model_type": "llama"}


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(
        n_workers=3, threads_per_worker=2, processes=False, protocol="tcp", dashboard_address=":0"
    ) as cluster:
        yield cluster


@pytest.fixture
def on(cluster: LocalCluster) -> Iterator[Client]:
    with Client(cluster, set_as_default=False) as client:
        yield client


def checkpoints(folder: Path, count: int, rows: int = 40) -> list[str]:
    generator = np.random.default_rng(count)
    return [
        str(make_checkpoint(folder / f"org/m{each}", {"model.embed_tokens.weight": values}, LLAMA))
        for each in range(count)
        for values in [generator.normal(size=(rows, 8)).astype(np.float32)]
    ]


def rows_of(store: str) -> np.ndarray:
    return eg.open_model(store).input_embedding.values


def test_stores_are_those_of_a_conversion_here(tmp_path: Path, on: Client) -> None:
    given = checkpoints(tmp_path, 7)
    done, failed = convert_each(given, tmp_path / "there", client=on)
    assert failed == {}
    assert done == {source: f"{tmp_path}/there/org--m{each}.zarr" for each, source in enumerate(given)}
    here, _ = convert_each(given, tmp_path / "here")
    for source in given:
        one, other = (eg.open_model(each[source]) for each in (here, done))
        assert one.attrs["decision"] == other.attrs["decision"]
        np.testing.assert_array_equal(rows_of(here[source]), rows_of(done[source]))
    for folder in ("there", "here"):
        found = eg.status(tmp_path / folder)
        assert (found["command"], found["state"], found["models_done"]) == ("convert", "finished", 7)


def test_one_that_fails_does_not_stop_the_others_and_is_tried_once_more(
    tmp_path: Path, on: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, tries = checkpoints(tmp_path, 5), list[str]()

    def flaky(warn: Any, source: str, *args: Any, **more: Any) -> str:
        tries.append(Path(source).name)
        if source.endswith("m4") or (source.endswith("m2") and tries.count("m2") == 1):
            raise EmbgeomError("the hub is busy")
        return convert_telling(warn, source, *args, **more)

    monkeypatch.setattr(convert_on_workers, "convert_telling", flaky)
    done, failed = convert_each([*given, "none/such.npy"], tmp_path / "out", client=on)
    assert sorted(done) == given[:4]
    assert failed[given[4]] == "the hub is busy"
    assert failed["none/such.npy"].startswith("no checkpoint at none/such.npy")
    assert sorted(tries) == ["m0", "m1", "m2", "m2", "m3", "m4", "m4", "such.npy"]
    found = eg.status(tmp_path / "out")
    assert (found["state"], found["models_done"], found["models_total"]) == ("finished", 4, 6)
    assert sorted(each.rpartition("/")[2] for each in found["failures"]) == [
        "m4: the hub is busy",
        *[each.rpartition("/")[2] for each in found["failures"] if "such.npy" in each],
    ]
    monkeypatch.undo()
    tries.clear()
    done, failed = convert_each(given, tmp_path / "out", client=on)
    assert (len(done), failed) == (5, {})
    assert eg.status(tmp_path / "out")["models_done"] == 5


def test_the_status_of_a_folder_tells_what_is_done_meanwhile(tmp_path: Path, on: Client) -> None:
    given, told = checkpoints(tmp_path, 6), list[dict[str, Any]]()
    honest = convert_many._Progress.note

    def note(self: Any, *args: Any, **more: Any) -> bool:
        found = honest(self, *args, **more)
        told.append(eg.status(tmp_path / "out"))
        return found

    with pytest.MonkeyPatch.context() as patch, tuning.override(WORKERS_LOOK=0.0):
        patch.setattr(convert_many._Progress, "note", note)
        convert_each(given, tmp_path / "out")
    assert [each["models_done"] for each in told] == [1, 2, 3, 4, 5, 6]
    assert [each["state"] for each in told] == ["begun"] * 5 + ["finished"]
    assert all(each["seconds_left"] is not None for each in told[:5])


@pytest.mark.slow
@pytest.mark.parametrize("connections", [1, 3])
def test_no_more_connections_to_the_hub_are_open_than_are_allowed(
    tmp_path: Path, on: Client, monkeypatch: pytest.MonkeyPatch, connections: int
) -> None:
    paths = checkpoints(tmp_path / "models", 8, rows=1024)
    with taken_for_the_real_one(tmp_path, monkeypatch) as hub:
        hub.models |= {f"acme/m{each}": Path(path) for each, path in enumerate(paths)}
        with tuning.override(CHUNK_BYTES=4096):
            done, failed = convert_each(sorted(hub.models), tmp_path / "out", client=on, connections=connections)
    assert failed == {}
    assert 1 <= hub.most_in_flight <= connections
    for model, path in hub.models.items():
        alone = eg.convert(path, tmp_path / "alone", name=model)
        np.testing.assert_array_equal(rows_of(done[model]), rows_of(alone))


def test_what_cannot_be_done_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"`connections` is 0: give 1 or more"):
        convert_each(["a"], tmp_path, connections=0)
    with pytest.raises(InputError, match=r"`name` org/a names one model: give one source with it, not 2"):
        convert_each(["a", "b"], tmp_path, name="org/a")


def test_the_command_converts_on_a_scheduler(
    tmp_path: Path, cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoints(tmp_path, 3)
    Path("models.txt").write_text("org/m0\norg/m1\norg/m2 # the last\n")
    command = ["convert", "--from-file", "models.txt", "--scheduler", cluster.scheduler_address]
    assert app.main(command) == 0
    stores = capsys.readouterr().out.splitlines()
    assert sorted(stores) == [f"stores/org--m{each}.zarr" for each in range(3)]
    assert app.main(["status", "stores"]) == 0
    said = capsys.readouterr().out
    assert "3 of 3" in said
    assert app.main([*command, "--connections", "0"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "error: --connections is 0: give 1 or more"


@pytest.mark.slow
@pytest.mark.parametrize("models", [100, 1000])
def test_many_models_in_one_command(tmp_path: Path, models: int) -> None:
    """Prints what a model takes beyond its own work, which is next to nothing here."""
    faulthandler.cancel_dump_traceback_later()  # a thousand take more than five minutes
    given, cpu = checkpoints(tmp_path, models, rows=64), psutil.Process()
    how = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": ":0"}

    @contextmanager
    def timed(command: str) -> Iterator[None]:
        began, used = time.monotonic(), sum(cpu.cpu_times()[:2])
        yield
        lasted, used = ((time.monotonic() - began) / models, (sum(cpu.cpu_times()[:2]) - used) / models)
        print(f"\n{command}: {lasted:.3f} s a model of {models:,}, {used:.3f} s of cpu time of this process")
        assert used < 0.3, command  # of which one process has no more than a core's; what others do counts less

    with LocalCluster(**how) as cluster, Client(cluster, set_as_default=False) as client:
        with timed("convert"):
            stores, failed = convert_each(given, tmp_path / "stores", client=client)
        assert failed == {}
        for command, work in {"scan": partial(eg.scan, nearest=1), "survey": eg.survey}.items():
            with timed(command):
                work(list(stores.values()), client=client, out=tmp_path / command)
            assert eg.status(tmp_path / command)["models_done"] == models
