"""A small scan and small conversions, killed, cut off from power and failed at every call that they make."""

from __future__ import annotations

import errno
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed import Client

import embgeom_dask as eg
from embgeom_dask import tuning
from embgeom_dask.errors import EmbgeomError
from embgeom_dask.storage import labels, model_stores, validation
from embgeom_dask.testing import make_checkpoint, make_store
from embgeom_dask.testing.faults import Disk, Killed, fingerprint, remove

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::embgeom_dask.errors.EmbgeomWarning")]

ERRORS = (errno.ENOSPC, errno.EIO, errno.EACCES)
TRIES = 8
CHANGES = ("make", "mkdir", "rmdir", "unlink", "remove", "rename", "replace", "link", "write", "fsync")


@dataclass
class Work:
    """What is done in the folder `root`, which `prepare` fills, the bits that it makes, and the names there then."""

    root: Path
    prepare: Callable[[], None]
    do: Callable[[], object]
    read: Callable[[], Any]
    settle: Callable[[], object]
    left: set[str]

    def fresh(self) -> None:
        for path in (self.root, self.root.with_name(f"{self.root.name}.replaced")):
            if path.exists():
                remove(path)
        self.root.mkdir()
        self.prepare()
        forget()

    def state(self) -> str:
        """What is there, but for what was written aside, which is removed unread, and the times in a journal."""
        return fingerprint(self.root, r"^\.[^/]*\.(partial|\*)/", r"\.journal/")

    def names(self) -> set[str]:
        found = {str(path.relative_to(self.root)) for path in self.root.rglob("*")}
        return {name for name in found if ".zarr/" not in name}


def forget() -> None:
    """Forget what this process has read of stores: a command finds none of it."""
    for read in (labels.read_labels, model_stores._stored_array, validation._validated):
        read.cache_clear()


def record(work: Work) -> tuple[list[str], Any]:
    """The calls that it makes, and its answer."""
    work.fresh()
    with Disk(work.root) as disk:
        work.do()
        work.settle()
    answer = work.read()
    assert work.names() == work.left
    assert not list(checked(work, answer))
    return disk.calls, answer


def kill_everywhere(work: Work) -> list[str]:
    """What goes wrong after a kill, or a power cut, at any of its calls."""
    calls, expected = record(work)
    wrong, seen, missed = [], set(), []
    for call in (call for call in calls if call.split()[0] in CHANGES):
        disk, ended = attempt(work, call, Killed())
        if not disk.met:
            missed.append(call)
            continue
        if disk.changed_after_death:
            wrong.append(f"{call}: a way around the calls watched: {ended!r}")
            continue
        dead = work.root.rename(work.root.with_name("dead"))
        for lost in ("nothing", "contents", "names"):
            shutil.copytree(dead, work.root, symlinks=True, copy_function=os.link)
            if lost != "nothing":
                disk.cut_power(lost, work.root)
            if (state := work.state()) not in seen:
                seen.add(state)
                wrong += [f"{call}, {lost} lost: {error}" for error in checked(work, expected)]
            remove(work.root)
        remove(dead)
    return told(calls, seen, wrong, missed)


def fail_everywhere(work: Work) -> list[str]:
    """What goes wrong when any of its calls fails."""
    calls, expected = record(work)
    wrong, seen, missed = [], {work.state()}, []
    faults = [(call, number) for call in calls for number in ERRORS[call.split()[0] not in CHANGES :]]
    for call, number in faults:
        failed = f"{call}, {errno.errorcode[number]}"
        disk, ended = attempt(work, call, OSError(number, os.strerror(number)))
        if not disk.met:
            missed.append(call)
            continue
        if ended is None:
            wrong += [f"{failed}: other bits"] * (work.read() != expected)
        elif not isinstance(ended, EmbgeomError) or "\n" in str(ended) or len(str(ended)) > 600:
            wrong.append(f"{failed}: {ended!r}")
        if (state := work.state()) not in seen:
            seen.add(state)
            wrong += [f"{failed}, then: {error}" for error in checked(work, expected)]
    return told(calls, seen, wrong, missed)


def attempt(work: Work, call: str, fault: BaseException) -> tuple[Disk, BaseException | None]:
    """Do it with a fault at one call; and how it ended.

    It is done again where threads did not make that call this time, or where a write of another thread was under way
    when the kill came and ended after it: a way around the calls watched is one that is there every time.
    """
    for _ in range(TRIES):
        work.fresh()
        ended: BaseException | None = None
        with Disk(work.root, call, fault) as disk:
            try:
                work.do()
            except BaseException as error:
                ended = error
            work.settle()
        if disk.met and not disk.changed_after_death:
            break
    return disk, ended


def told(calls: list[str], seen: set[str], wrong: list[str], missed: list[str]) -> list[str]:
    """What went wrong, printed with what was tried.

    Only a second mkdir of a folder that two threads make at once may be missed: most often one is in time for both.
    """
    wrong += [f"{call}: never made again" for call in missed if not call.startswith("mkdir ") or call.endswith(" 1")]
    print(f"{len(calls)} calls, {len(seen)} states, {len(missed)} faults at calls not made again", *wrong, sep="\n")
    return wrong


def checked(work: Work, expected: Any) -> Iterator[str]:
    """Do it, undisturbed: what goes wrong, where not the same bits come out, or something else is left."""
    forget()
    try:
        work.do()
        if work.read() != expected:
            yield "other bits"
        if (names := work.names()) != work.left:
            yield f"left: {sorted(names ^ work.left)}"
    except BaseException as error:
        yield repr(error)


ROWS = np.random.default_rng(1).integers(-3, 4, (40, 5)).astype(np.float32)


def bits_of_result(path: Path) -> Any:
    found = eg.open_result(path).load()
    return {str(name): (array.dtype.str, array.values.tolist()) for name, array in found.variables.items()}


def bits_of_store(path: Path) -> Any:
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return [(str(file.relative_to(path)), file.read_bytes()) for file in files]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Dask logs every panel that fails, with its traceback."""
    logging.disable(logging.ERROR)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture(autouse=True)
def _small_chunks() -> Iterator[None]:
    with tuning.override(CHUNK_BYTES=16 * 5 * 4):
        yield


@pytest.fixture
def work(request: pytest.FixtureRequest, tmp_path: Path, client: Client) -> Work:
    root, kind = tmp_path / "disk", request.param
    inputs = tmp_path / "inputs"
    inputs.mkdir()

    def idle() -> object:
        return client.submit(int, pure=False).result()

    if kind == "scan":
        store = make_store(inputs / "m.zarr", ROWS)

        def prepare() -> None:
            shutil.copytree(store, root / "m.zarr", copy_function=os.link)

        def scan() -> None:
            eg.scan(root / "m.zarr", out=root / "r.zarr", farthest=1, neighbors=1, tile=32, client=client)

        journal = {"r.zarr.journal", "r.zarr.journal/run.json", "r.zarr.journal/history.csv"}
        read = partial(bits_of_result, root / "r.zarr")
        return Work(root, prepare, scan, read, idle, {"m.zarr", "r.zarr", *journal})
    tensors = {"model.embed_tokens.weight": ROWS, "lm_head.weight": ROWS[::-1].copy()}
    checkpoint = make_checkpoint(inputs / "org/m", tensors)

    def old() -> None:
        if kind != "convert":
            make_store(root / "org--m.zarr", ROWS, model="old")

    def convert() -> None:
        eg.convert(checkpoint, root, overwrite=kind == "overwrite")

    return Work(root, old, convert, partial(bits_of_store, root / "org--m.zarr"), lambda: None, {"org--m.zarr"})


@pytest.mark.parametrize("work", ["scan", "convert", "overwrite"], indirect=True)
def test_a_kill_or_a_power_cut_at_any_call_loses_nothing(work: Work) -> None:
    assert not kill_everywhere(work)


@pytest.mark.parametrize("work", ["scan", "convert", "overwrite"], indirect=True)
def test_an_error_of_any_call_is_one_line_or_harmless(work: Work) -> None:
    assert not fail_everywhere(work)
