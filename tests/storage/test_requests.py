"""What saving and going on at an object store ask of it, and what happens while it cannot be reached."""

from __future__ import annotations

import pickle
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import s3fs
import xarray as xr
from distributed import Client

import embgeom_dask as eg
from benchmarks.requests import counting
from embgeom_dask import tuning
from embgeom_dask.errors import AbortRun, EmbgeomError
from embgeom_dask.execution import journal
from embgeom_dask.execution.callbacks import PanelCallback
from embgeom_dask.execution.grid import Panel
from embgeom_dask.execution.plan import Plan
from embgeom_dask.storage import outages, paths, results
from embgeom_dask.testing import make_store
from tests.proxy import Proxy

HOW: dict[str, Any] = {"farthest": 3, "nearest": 3, "histogram": 16, "neighbors": 2, "tile": 64}


def rows(count: int = 300) -> np.ndarray:
    return np.random.default_rng(count).normal(size=(count, 8)).astype(np.float32)


def saved(bucket: str, tmp_path: Path) -> tuple[xr.Dataset, str]:
    """A result, and the URL where it is saved, too."""
    result = eg.scan(make_store(tmp_path / "m.zarr", rows()), **HOW)
    results.save(result, f"{bucket}/r.zarr")
    return result, f"{bucket}/r.zarr"


def test_a_save_waits_for_five_answers_at_most(bucket: str, tmp_path: Path) -> None:
    result, url = saved(bucket, tmp_path)
    with counting() as made:
        results.save(result, f"{bucket}/other.zarr")
    assert made.waits <= 5, made
    with counting() as made:
        opened = eg.open_result(url)
    assert made.waits <= 3, made
    xr.testing.assert_identical(opened, eg.open_result(f"{bucket}/other.zarr"))
    xr.testing.assert_identical(opened.drop_attrs(), result.drop_attrs())
    xr.testing.assert_identical(xr.open_zarr(url)["farthest_distance"].load(), result["farthest_distance"])
    with counting() as made:
        make_store(f"{bucket}/m.zarr", rows())
    assert made.waits <= 5, made


def test_a_result_that_was_there_is_replaced_whole(bucket: str, tmp_path: Path) -> None:
    result, url = saved(bucket, tmp_path)
    less = result.drop_vars(["farthest_distance"])
    results.save(less, url, replace=True)
    assert not [key for key in paths.sizes_in(url) if key.startswith("farthest_distance/")]
    xr.testing.assert_identical(eg.open_result(url).drop_attrs(), less.drop_attrs())


def two_results(tmp_path: Path, bucket: str) -> tuple[xr.Dataset, xr.Dataset, str]:
    """Two small results of one command, and the URL where the first is saved."""
    one, two = (eg.survey(make_store(tmp_path / f"m{n}.zarr", rows(n))) for n in (300, 301))
    results.save(one, f"{bucket}/r.zarr")
    return one, two, f"{bucket}/r.zarr"


def same(one: xr.Dataset, other: xr.Dataset) -> None:
    xr.testing.assert_identical(one.drop_attrs(), other.drop_attrs())


def test_to_replace_waits_for_five_answers_at_most(bucket: str, tmp_path: Path) -> None:
    _, two, url = two_results(tmp_path, bucket)
    with counting() as made:
        results.save(two, url, replace=True)
    assert made.waits <= 5, made
    same(eg.open_result(url), two)
    for _ in range(2):
        with counting() as made:
            make_store(f"{bucket}/m.zarr", rows())
        assert made.waits <= 5, made
    assert eg.open_model(f"{bucket}/m.zarr").output_embedding.values.tobytes() == rows().tobytes()


@pytest.mark.slow
def test_who_reads_meanwhile_gets_the_old_or_the_new_or_nothing(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two, url = two_results(tmp_path, bucket)
    seen = list[str]()

    def look() -> None:
        try:
            opened = eg.open_result(url)
        except eg.InputError:
            seen.append("nothing")
        else:
            old = opened["vocab_size"].item() == 300
            same(opened, one if old else two)
            seen.append("old" if old else "new")

    def between(name: str) -> None:
        step = getattr(paths, name)

        def stepped(*args: Any) -> None:
            look()
            step(*args)
            look()

        monkeypatch.setattr(paths, name, stepped)

    look()
    between("remove")
    between("flush")
    results.save(two, url, replace=True)
    look()
    assert seen == ["old", *["nothing"] * 4, "new"]


def test_a_result_that_is_replaced_while_it_is_read_is_read_again(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, two, url = two_results(tmp_path, bucket)
    honest = paths._contents

    def late(*args: Any) -> dict[str, bytes]:
        monkeypatch.setattr(paths, "_contents", honest)
        results.save(two, url, replace=True)
        return honest(*args)

    monkeypatch.setattr(paths, "_contents", late)
    same(eg.open_result(url), two)


@pytest.mark.slow
@pytest.mark.parametrize("done", [0, 1, 2, 5])
def test_a_replacement_that_is_killed_leaves_the_old_or_nothing(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, done: int
) -> None:
    """`done`: the requests that write before the kill: the mark, the removal, some keys. Nothing is undone either."""
    one, two, url = two_results(tmp_path, bucket)
    left, honest = iter(range(done)), s3fs.S3FileSystem._call_s3

    async def call(self: Any, method: str, *args: Any, **more: Any) -> Any:
        if method in ("put_object", "delete_objects") and next(left, None) is None:
            raise ValueError(method)  # which is not tried again
        return await honest(self, method, *args, **more)

    with monkeypatch.context() as patch, pytest.raises(EmbgeomError):
        patch.setattr(s3fs.S3FileSystem, "_call_s3", call)
        results.save(two, url, replace=True)
    if done:
        with pytest.raises(eg.InputError, match="is unfinished"):
            eg.open_result(url)
    else:
        same(eg.open_result(url), one)
    results.save(two, url, replace=True)
    same(eg.open_result(url), two)


@pytest.mark.slow
@pytest.mark.parametrize("limit", [0, 100, 1 << 20])
def test_no_limit_of_what_is_kept_in_memory_changes_what_is_written_and_read(
    bucket: str, tmp_path: Path, limit: int
) -> None:
    with tuning.override(FETCHED_BYTES=limit, COLLECTED_BYTES=limit):
        result, url = saved(bucket, tmp_path)
        xr.testing.assert_identical(eg.open_result(url).drop_attrs(), result.drop_attrs())
        store = make_store(f"{bucket}/m.zarr", rows(), tokens=[f"t{each}" for each in range(300)])
        assert eg.open_model(store).output_embedding.values.tobytes() == rows().tobytes()
        assert eg.open_model(store)["token"].values[7] == "t7"


def test_a_large_result_is_read_where_it_is_used(bucket: str, tmp_path: Path) -> None:
    result, url = saved(bucket, tmp_path)
    with tuning.override(LOADED_BYTES=100):
        opened = eg.open_result(url)
    assert opened.chunks
    again = pickle.loads(pickle.dumps(opened))
    assert len(pickle.dumps(opened)) < 300_000
    xr.testing.assert_identical(again.load().drop_attrs(), result.drop_attrs())


def test_a_resume_lists_its_panels_once(bucket: str, client: Client) -> None:
    store, out = make_store(f"{bucket}/m.zarr", rows()), f"{bucket}/r.zarr"

    def stop(event: str, plan: Plan, panel: Panel) -> None:
        if event == "received" and panel.row == 2:
            raise KeyboardInterrupt

    with PanelCallback(stop), pytest.raises(KeyboardInterrupt):
        eg.scan(store, out=out, client=client, **HOW)
    read = list[str]()
    with counting() as made, PanelCallback(lambda event, plan, panel: read.append(event)):
        found = eg.scan(store, out=out, client=client, **HOW)
    assert read.count("received") > read.count("computed") > 0
    # two looks at the result, the panels, two before it is saved, what is left over, and what is removed of it
    assert made.count("list_objects_v2") <= 8, made
    xr.testing.assert_identical(found.drop_attrs(), eg.scan(store, client=client, **HOW).drop_attrs())


def test_a_claim_is_made_once_where_the_store_has_conditional_puts(bucket: str) -> None:
    fs, path = paths.filesystem(f"{bucket}/claim.json")
    fs.pipe_file(path, b"one", mode="create")
    with pytest.raises(OSError, match=r"(?i)pre-?condition|exists"):
        fs.pipe_file(path, b"two", mode="create")
    assert fs.cat_file(path) == b"one"


@pytest.mark.slow
def test_a_worker_waits_for_a_bucket_and_goes_on(bucket: str, proxy: Proxy, client: Client) -> None:
    store, out = make_store(f"{bucket}/m.zarr", rows()), f"{bucket}/r.zarr"
    cuts = {"started": 2, "computed": 4}

    def cut(event: str, plan: Plan, panel: Panel) -> None:
        if panel.row == cuts.get(event):
            del cuts[event]
            proxy.cut_for(4.0)

    began = time.monotonic()
    with PanelCallback(cut):
        found = eg.scan(store, out=out, client=client, **HOW)
    assert cuts == {}
    assert time.monotonic() - began >= 4.0
    xr.testing.assert_identical(found.drop_attrs(), eg.scan(store, client=client, **HOW).drop_attrs())


@pytest.mark.slow
def test_what_stays_away_is_told_at_last(bucket: str, proxy: Proxy) -> None:
    proxy.cut_for(60.0)

    def work() -> None:
        journal.put(f"{bucket}/x", b"")

    with tuning.override(OUTAGE=0.0), pytest.raises(AbortRun, match=r"cannot write s3://.*/x: ") as told:
        outages.waited_out(work)
    assert outages.is_outage(told.value)
    proxy.cut = False
    outages.waited_out(work)


def test_only_an_outage_is_waited_for() -> None:
    tries = list[int]()

    def work() -> None:
        tries.append(1)
        raise EmbgeomError("no space left on device") from OSError(28, "No space left on device")

    with pytest.raises(EmbgeomError):
        outages.waited_out(work)
    assert len(tries) == 1
