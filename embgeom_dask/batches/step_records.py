"""Progress records of a command over the steps of a training: one beside each result, and one for all of them.

What is asked of every step and saved at `RESULT.zarr` has the folder `RESULT.zarr.parts` until it is done, in it
`series.json`; a folder of several such results has `series.json` itself, which stays.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from glob import escape
from pathlib import Path
from time import time
from typing import Any, cast

from embgeom_dask.errors import EmbgeomError, InputError
from embgeom_dask.execution import journal
from embgeom_dask.storage import paths, records, results, series_stores, transactions
from embgeom_dask.storage.paths import PathLike

_NAME = "series.json"


def parts_of(out: str) -> str:
    """The folder of what is saved of the result `out` before it is whole."""
    return f"{out}.parts"


def remove_parts(out: str) -> None:
    """Remove that folder, where it is there."""
    fs, path = paths.filesystem(paths.locate(parts_of(out)))
    if fs.exists(path):
        fs.rm(path, recursive=True)


class Record:
    """How many of the `total` steps are done, of one result; `resume` is the command that goes on with it."""

    def __init__(self, out: str, total: int, resume: str | None) -> None:
        self.folder, self._total, self._resume = parts_of(out), total, resume
        self._began, self._first = time(), -1

    def write(self, done: int) -> None:
        """Write down how many steps are done."""
        self._first = done if self._first < 0 else self._first
        each = (time() - self._began) / (done - self._first) if done > self._first else None
        found = {"steps_done": done, "steps_total": self._total, "seconds_a_step": each, "resume": self._resume}
        _put(self.folder, found)


def begin(out: str, names: Sequence[str], total: int, resume: str | None) -> None:
    """Write into the folder `out` what is asked of how many steps: the names of its results."""
    _put(out, {"results": list(names), "steps_total": total, "resume": resume})


def _put(folder: str, content: Mapping[str, Any]) -> None:
    url = paths.locate(folder)
    if not paths.is_url(url):
        with paths.explained(f"write {url}"):
            transactions.make_folder(Path(url))
    told = {**content, "written": datetime.now(UTC).isoformat(timespec="milliseconds")}
    journal.put(paths.join(url, _NAME), json.dumps(told, indent=1).encode())


def status(out: PathLike) -> dict[str, Any] | None:
    """How far a command over steps is, as `batches.batch.status` says; None where `out` is of none."""
    path = os.fspath(out)
    whole = _read(path)
    if whole is not None and isinstance(whole.get("results"), list):
        each = [_of_one(paths.join(path, f"{name}.zarr"), name, whole["steps_total"]) for name in whole["results"]]
    elif (record := _read(parts_of(path))) is not None:
        whole, each = record, [_of_one(path, "table", record["steps_total"])]
    elif (found := _finished(path)) is not None or (found := _stored(path)) is not None:
        return found
    else:
        return None
    left = [one["seconds_left"] for one in each]
    finished = all(one["state"] == "finished" for one in each)
    return {
        "result": path,
        "command": "series",
        "state": "finished" if finished else "begun",
        "steps_done": sum(one["steps_done"] for one in each),
        "steps_total": sum(one["steps_total"] for one in each),
        "questions": each if len(each) > 1 else [],
        "seconds_left": None if finished or None in left else sum(left),
        "resume": whole["resume"],
    }


def _of_one(out: str, name: str, total: int) -> dict[str, Any]:
    """How far the result `out` is."""
    found = {"question": name, "state": "not begun", "steps_done": 0, "steps_total": total, "seconds_left": None}
    if _steps_of(out) is not None:
        return {**found, "state": "finished", "steps_done": total, "seconds_left": 0.0}
    if (record := _read(parts_of(out))) is None:
        return found
    done, each = record["steps_done"], record["seconds_a_step"]
    return {**found, "state": "begun", "steps_done": done, "seconds_left": each and each * (total - done)}


def _finished(out: str) -> dict[str, Any] | None:
    steps = _steps_of(out)
    return None if steps is None else _plainly(out, "series", "finished", steps, steps)


def _steps_of(out: str) -> int | None:
    """The steps of a result of `series`; None where there is none at `out`."""
    with suppress(FileNotFoundError, ValueError, EmbgeomError):
        group = paths.open_group(paths.locate(out))
        if results.is_provenance(group.attrs) and group.attrs["command"] == "series":
            return int(cast(Any, group["step"]).shape[0])
    return None


def _stored(out: str) -> dict[str, Any] | None:
    """How far a series store is that is written, or was, on this machine."""
    with suppress(InputError):
        steps = len(series_stores.read_series(out).step)
        return _plainly(out, "store-series", "finished", steps, steps)
    if paths.is_url(out):
        return None
    target = Path(paths.locate(out))
    for aside in target.parent.glob(f".{escape(target.name)}.*.partial"):
        with suppress(OSError, ValueError, KeyError):
            total = json.loads((aside / "step" / "zarr.json").read_text())["shape"][0]
            done = max(len(list(each.glob("c/*"))) for each in aside.glob("*_embedding"))
            return _plainly(out, "store-series", "begun", done, total)
    return None


def _plainly(out: str, command: str, state: str, done: int, total: int) -> dict[str, Any]:
    found = {"result": out, "command": command, "state": state}
    return {**found, "steps_done": done, "steps_total": total, "questions": [], "seconds_left": None, "resume": None}


def _read(folder: str) -> dict[str, Any] | None:
    """The record in a folder; None where there is none."""
    url = paths.join(paths.locate(folder), _NAME)
    try:
        with paths.explained(f"read {url}", passing=(FileNotFoundError, NotADirectoryError)):
            found = json.loads(records.read(url))
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not isinstance(found, dict) or not {"steps_total", "resume"} <= found.keys():
        raise InputError(f"{url} is damaged: the command that made it writes it again")
    return found
