"""What a command over many models has done: a record in the folder of its results, and how far it is.

The record is `batch.json`. Where several commands share a batch, each has a record of its own part of it,
`batch-2-of-8.json`, so that no two write one file.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeVar

import xarray as xr

from embgeom_dask.batches import step_records
from embgeom_dask.errors import InputError, parse_path
from embgeom_dask.execution import journal
from embgeom_dask.redaction import redact
from embgeom_dask.storage import paths, records, result_trees, results
from embgeom_dask.storage.paths import PathLike

T = TypeVar("T")
_RECORD = re.compile(r"batch(-\d+-of-\d+)?\.json")
_KEYS = {"command", "part", "settings", "ended", "failed", "resume"}


@dataclass(frozen=True)
class Part:
    """Part `number` of the `count` that a list of models is split into, from 1; all of it is part 1 of 1."""

    number: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str | None) -> Part:
        """The part that a text like "2/8" names; all, where there is none. Raises InputError where it names none."""
        if text is None:
            return cls()
        known = re.fullmatch(r"0*([1-9]\d{0,8})/0*([1-9]\d{0,8})", str(text))
        if known is None or int(known[1]) > int(known[2]):
            raise InputError(f"`part` {str(text)!r:.40}: give I/N with I from 1 to N, like 2/8 for part 2 of 8")
        return cls(int(known[1]), int(known[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @property
    def record(self) -> str:
        """The name of its record."""
        return f"batch-{self.number}-of-{self.count}.json" if self.count > 1 else "batch.json"

    def places(self, total: int) -> range:
        """The places of its models in a list of `total`: every `count`-th, also where the list has grown at its end."""
        return range(self.number - 1, total, self.count)

    def of(self, given: Sequence[T]) -> list[T]:
        """Those of its places."""
        return [given[place] for place in self.places(len(given))]


class Saved(NamedTuple):
    """What is saved of a command over many models, for `status` and for other parts of them too.

    Attributes
    ----------
    command : str
        What was asked.
    out : path
        The folder of the results.
    together : function
        It makes the table of results.
    asked : mapping
        The settings, which all parts share.
    of : function
        Of what the work gives of a model, the result that is in the folder.
    """

    command: str
    out: PathLike
    together: Callable[[Sequence[xr.Dataset]], xr.Dataset]
    asked: Mapping[str, Any]
    of: Callable[[Any], xr.Dataset] = lambda found: found


def begin(
    out: PathLike,
    command: str,
    stores: Sequence[str],
    outs: Sequence[PathLike | None],
    resume: str | None,
    part: Part,
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """Write into the folder `out` what a command is about to do with its part of `stores`; return that.

    `outs` are the results of all stores, `settings` what was asked.

    Raises
    ------
    InputError
        where another part has results of other stores or settings.
    """
    record = {
        "command": command,
        "part": [part.number, part.count],
        "stores": [redact(each) for each in stores],
        "results": names(outs),
        "settings": json.loads(json.dumps(dict(settings), default=repr)),
        "began": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "ended": None,
        "failed": [],
        "resume": resume,
    }
    if part.count > 1:
        _check_others(out, part, record)
    url = paths.locate(out)
    with paths.explained(f"write {url}"):
        paths.filesystem(url)[0].makedirs(paths.filesystem(url)[1], exist_ok=True)
    write(out, record)
    return record


def write(out: PathLike, record: Mapping[str, Any]) -> None:
    """Write the record of a command into the folder `out`."""
    journal.put(paths.join(paths.locate(out), Part(*record["part"]).record), json.dumps(record, indent=1).encode())


def end(out: PathLike, record: Mapping[str, Any], failed: Sequence[str]) -> None:
    """Write that a command has done what it can, and what `failed`."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    write(out, {**record, "ended": now, "failed": list(failed)})


def names(outs: Sequence[PathLike | None]) -> list[str | None]:
    """The results of a record, by their names in its folder."""
    return [None if each is None else os.path.basename(each) for each in outs]  # noqa: PTH119 - or a URL


def whole(out: PathLike) -> tuple[list[str], list[str]] | None:
    """The results of all parts of a batch, in the order of its stores, and what failed; None before all have ended."""
    parts = _last_batch(out)
    first = next(iter(parts.values()), None)
    if first is None or len(parts) < first["part"][1]:
        return None
    stores = {tuple(each["stores"]) for each in parts.values()}
    if len(stores) > 1 or not all(each["ended"] for each in parts.values()):
        return None
    done = [name for name in _results(parts) if name and _is_done(paths.join(os.fspath(out), name))]
    return done, [said for number in sorted(parts) for said in parts[number]["failed"]]


def status(out: PathLike) -> dict[str, Any]:
    """Report the progress of a scan or of a command over many models, whether it still runs or was interrupted.

    Parameters
    ----------
    out : path
        Where the scan saves its result; for many models, the folder.

    Returns
    -------
    dict
        Of one scan or another command over pairs: `result`, the path; `command`; `state`, "finished" or "begun";
        `panels_done` and `panels_total` of the passes known so far; `passes`, a list of `pass`, `done` and `total`;
        `panels_per_second` over the last hundred commits and `seconds_left` at that rate, None if not known;
        `last_commit` (ISO 8601); `failures`, a list of `pass`, `panel` and `cause`; `resume`, the command that goes on,
        None if it was started from Python.

        Of a folder: `result`, `state` and `resume`; `command`; `models_done` and `models_total`; `running`, of scans
        that are begun what this function says of each; `failures`, a list of texts; `seconds_left` at the rate of the
        models done since the command began, None where there is none yet. `parts`, where several commands share the
        models, a list of `part` ("2/8"), `state`, `models_done`, `models_total` and `resume`; `state` may be
        "not begun". Of a folder of such folders, as `describe` makes of several stores, the same of all of them, and
        `questions`, a list of `question`, `state`, `models_done` and `models_total`.

        Of `series` and `store_series`: `result`, `command`, `state`, `seconds_left` and `resume`; `steps_done` and
        `steps_total`, of all that is asked of every step, and `questions`, where that is several things, a list of
        `question`, `state`, `steps_done`, `steps_total` and `seconds_left`.

    Raises
    ------
    InputError
        If nothing has begun there.

    Examples
    --------
    >>> import embgeom_dask as eg
    >>> from embgeom_dask.testing import make_store
    >>> store = make_store("tiny.zarr", output=np.eye(4, 2, dtype=np.float32))
    >>> found = eg.scan(store, farthest=1, out="scan.zarr")
    >>> status("scan.zarr")["state"]
    'finished'
    """
    parts = _last_batch(parse_path("out", out))
    if not parts:
        of_steps = step_records.status(out) if journal.Journal(out).record is None else None
        return of_steps or _of_folders(out) or journal.status(out)
    of_all = max(parts.values(), key=lambda each: len(each["stores"]))
    named, total = _results(parts), len(of_all["stores"])
    fs, folder = paths.filesystem(paths.locate(out))
    with paths.explained(f"read {out}"):
        there = {name: paths.join(os.fspath(out), name) for name in named if name}
        done = {name for name, result in there.items() if _is_done(result)}
        written = [journal.modified(fs.info(f"{folder}/{name}/zarr.json")) for name in done]
        others = [result for name, result in there.items() if name not in done]
        begun = [journal.status(result) for result in others if journal.Journal(result).record is not None]
    count = of_all["part"][1]
    each = [_part_status(Part(number, count), parts.get(number), named, done) for number in range(1, count + 1)]
    failures = [said for number in sorted(parts) for said in map(str, parts[number]["failed"])]
    began = min(datetime.fromisoformat(record["began"]).timestamp() for record in parts.values())
    fresh = sum(when >= began for when in written)
    models_done = sum(part["models_done"] for part in each)
    left = total - models_done - len(failures)
    finished = all(part["state"] == "finished" for part in each) and _has_table(out, of_all, models_done)
    unfinished = [part for part in each if part["state"] == "begun"] or ([] if finished else each)
    lasted = datetime.now(UTC).timestamp() - began
    return {
        "result": os.fspath(out),
        "command": of_all["command"],
        "state": "finished" if finished else "begun",
        "models_done": models_done,
        "models_total": total,
        "running": begun,
        "failures": failures,
        "seconds_left": left * lasted / fresh if fresh and left > 0 else None,
        "resume": next((part["resume"] for part in unfinished), None),
        "parts": each if count > 1 else [],
        "questions": [],
    }


def _of_folders(out: PathLike) -> dict[str, Any] | None:
    """How far the batches are whose folders are in a folder; None where there is none."""
    folders = [each for each in result_trees.folders_in(os.fspath(out)) if _last_batch(each)]
    each = [status(folder) for folder in folders]
    if not each:
        return None
    names = [folder.rstrip("/").rpartition("/")[2] for folder in folders]
    least = min(each, key=lambda one: int(one["models_done"]))
    left = [one["seconds_left"] for one in each if one["seconds_left"] is not None]
    told = ("state", "models_done", "models_total")
    return {
        **least,
        "result": os.fspath(out),
        "command": ", ".join(names),
        "state": "finished" if all(one["state"] == "finished" for one in each) else "begun",
        "running": [scan for one in each for scan in one["running"]],
        "failures": [*dict.fromkeys(said for one in each for said in one["failures"])],
        "seconds_left": max(left, default=None),
        "resume": next((one["resume"] for one in each if one["resume"]), None),
        "questions": [
            {"question": name, **{key: one[key] for key in told}} for name, one in zip(names, each, strict=True)
        ],
    }


def _part_status(
    part: Part, record: Mapping[str, Any] | None, named: Sequence[str | None], done: set[str]
) -> dict[str, Any]:
    """How far one part is: `record` is its own, None where it has not begun."""
    mine = part.of(named)
    finished = sum(name in done for name in mine)  # two stores may be of one result
    state = "not begun"
    if record is not None:
        state = "finished" if record["ended"] and finished + len(record["failed"]) >= len(mine) else "begun"
    resume = None if record is None else record["resume"]
    return {
        "part": str(part),
        "state": state,
        "models_done": finished,
        "models_total": len(mine),
        "resume": resume,
    }


def _has_table(out: PathLike, record: Mapping[str, Any], models_done: int) -> bool:
    """Whether the table of all models is there, or none is made: of stores, and where all models failed."""
    table = paths.locate(paths.join(os.fspath(out), results.TABLE))
    return record["command"] == "convert" or not models_done or paths.exists(table)


def _last_batch(out: PathLike) -> dict[int, dict[str, Any]]:
    """The records of the batch in a folder that began last, by the numbers of its parts; empty where there is none."""
    found = _read_all(out)
    if not found:
        return {}
    last = max(found, key=lambda each: datetime.fromisoformat(each["began"]))
    return {each["part"][0]: each for each in found if not _difference(each, last)}


def _results(parts: Mapping[int, Mapping[str, Any]]) -> list[str | None]:
    """The names of the results of all stores of a batch: of each as its own part has it, else as any part does."""
    most = max(parts.values(), key=lambda each: len(each["stores"]))
    found: list[str | None] = list(most["results"])
    for number, record in parts.items():
        for place in Part(number, record["part"][1]).places(len(record["results"])):
            found[place] = record["results"][place]
    return found


def _difference(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """What keeps two records from being parts of one batch; empty where nothing does.

    The list of one may be longer than that of the other: no model is of another part for that.
    """
    if there["part"][1] != here["part"][1]:
        return f"there are {there['part'][1]} parts there and {here['part'][1]} here"
    old, new = ({"command": each["command"], **each["settings"]} for each in (there, here))
    for name in sorted({*old, *new}):
        if old.get(name) != new.get(name):
            return f"{name} is {old.get(name)!r} there and {new.get(name)!r} here"
    for place, (one, other) in enumerate(zip(there["stores"], here["stores"], strict=False)):
        same_result = there["results"][place] == here["results"][place] is not None
        if one != other and not same_result:
            return f"store {place + 1} of the list is {one} there and {other} here"
    return ""


def _check_others(out: PathLike, part: Part, record: Mapping[str, Any]) -> None:
    """Refuse to add a part to those that have results of other stores or settings: the table would mix them."""
    for other in _read_all(out, but=part.record):
        if other["part"][1] == part.count and (why := _difference(other, record)):
            theirs = Part(*other["part"])
            if any(name and _is_done(paths.join(os.fspath(out), name)) for name in theirs.of(other["results"])):
                raise InputError(
                    f"{out} holds part {theirs} of something else ({why}): give every part the same "
                    "stores and settings, or choose another `out`"
                )


def _read_all(out: PathLike, but: str = "") -> list[dict[str, Any]]:
    """The records in a folder, without that of the name `but`."""
    url = paths.locate(out)
    fs, folder = paths.filesystem(url)
    try:
        with paths.explained(f"read {url}", passing=(FileNotFoundError, NotADirectoryError)):
            there = sorted(path.rstrip("/").rpartition("/")[2] for path in fs.ls(folder, detail=False))
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [_read(paths.join(url, name)) for name in there if _RECORD.fullmatch(name) and name != but]


def _read(url: str) -> dict[str, Any]:
    """A record of a folder."""
    with paths.explained(f"read {url}"):
        text = records.read(url)
    try:
        record: dict[str, Any] = json.loads(text)
        datetime.fromisoformat(record["began"])
        named = Part(*record["part"]).record == url.rpartition("/")[2]
        if named and len(record["stores"]) == len(record["results"]) and record.keys() >= _KEYS:
            return record
    except (ValueError, TypeError, KeyError, AttributeError):
        pass
    raise InputError(f"{url} is damaged: the command that made it writes it again")


def _is_done(result: str) -> bool:
    try:
        paths.open_group(paths.locate(result))
    except (FileNotFoundError, ValueError):
        return False
    return True
