"""The journal of a result: a record of its committed panels, from which an interrupted scan continues.

The journal of RESULT.zarr is the folder RESULT.zarr.journal, local or on an object store:

- `run.json`: what is computed, and the grid, fixed when it began;
- `<pass>-<digest>/pass.json`: how many panels a pass over the tiles has; the digest is of all that their states mean;
- `<pass>-<digest>/<row>-<start>-<stop>`: a committed panel, its state and a checksum, put there whole by the worker
  that computed it; `.failed` after it: why it was given up;
- `history.csv`: a line for every panel;
- `lock` and `claim.json`: while a command makes the result, see `claims`.

When the result is written the passes are removed; `run.json` and `history.csv` stay. What else is in the folder, or in
that of a pass, is left alone.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fsspec import AbstractFileSystem

from embgeom_dask.errors import AbortRun, EmbgeomError, InputError, parse_path
from embgeom_dask.execution import claims
from embgeom_dask.execution.grid import Panel
from embgeom_dask.execution.monitor import is_interrupted
from embgeom_dask.execution.panel_result import LARGEST_BYTES, PanelResult
from embgeom_dask.execution.plan import ITEMSIZE, Plan
from embgeom_dask.pairwise.tables import NamedArrays
from embgeom_dask.storage import paths, records, replacement, results, transactions

_PASS = re.compile(r"[a-z]+-[0-9a-f]{16}")
_PANEL = re.compile(r"\d+-\d+-\d+")
_OF_PASS = re.compile(r"\.?(pass\.json|\d+-\d+-\d+(\.failed)?)(\.[0-9a-f]{8}\.partial)?")
_OF_KILLED = re.compile(r"\.(run\.json|claim\.json|history\.csv)\.[0-9a-f]{8}\.partial")
_FORMAT = 1
"""The version of what a journal is made of: one more when files or states change."""

_TOGETHER = 16  # panels read at a time
_COLUMNS = ("pass", "panel", "start", "end", "worker", "read_bytes", "peak_bytes")


@dataclass(frozen=True)
class Pass:
    """The committed panels of one pass over the tiles, in the folder `url`. Small enough to travel.

    `state_types` are the classes of a panel's states, by the names of the reductions.
    """

    url: str
    state_types: Mapping[str, type[NamedArrays]]

    def names(self) -> set[str]:
        """The names of what is there."""
        with paths.explained(f"read {self.url}", passing=()):
            fs, path = paths.filesystem(self.url)
            return {_last(entry) for entry in fs.ls(path, detail=False)}

    def get(self, panel: Panel) -> PanelResult | None:
        """The result of a committed panel; None if it is not committed or is damaged."""
        path = f"{self.url}/{panel.name}"
        try:
            return PanelResult.from_bytes(records.read(path, largest=LARGEST_BYTES), self.state_types)
        except FileNotFoundError:
            return None
        except Exception as error:  # file systems raise what they like
            raise AbortRun(f"cannot read {path}: {paths.explain(error)}") from error

    def read(self, panels: Sequence[Panel]) -> Iterator[tuple[Panel, PanelResult | None]]:
        """Read many panels as `get` does, some at a time."""
        with ThreadPoolExecutor(_TOGETHER) as threads:
            for start in range(0, len(panels), _TOGETHER):
                some = panels[start : start + _TOGETHER]
                yield from zip(some, threads.map(self.get, some), strict=True)

    def commit(self, panel: Panel, found: PanelResult) -> None:
        """Put a panel there, whole or not at all.

        Raises
        ------
        AbortRun
            where it cannot be written.
        """
        put(f"{self.url}/{panel.name}", found.to_bytes())

    def fail(self, panel: Panel, cause: str) -> None:
        """Record why a panel was given up."""
        put(f"{self.url}/{panel.name}.failed", cause.encode())


class Journal:
    """The journal of the result `out`, in the process that runs the scan; `record` is what `run.json` holds."""

    def __init__(self, out: str | os.PathLike[str]) -> None:
        self.out = parse_path("out", out)
        self.url = paths.locate(out) + ".journal"
        self._lines: list[tuple[Any, ...]] = []
        self.record: dict[str, Any] | None = self._read_run()

    @contextmanager
    def claimed(self, attrs: Mapping[str, Any]) -> Iterator[bool]:
        """Hold the claim on the result (see `claims.claimed`) while entered; the record is read again first."""
        with claims.claimed(self.out, self.url, attrs, is_interrupted) as alone:
            self.record = self._read_run()
            yield alone

    @property
    def is_settled(self) -> bool:
        """Whether no panels and no claim are left: the result was written, or no scan was begun."""
        left = any(paths.exists(f"{self.url}/{name}") for name in claims.FILES)
        return not left and (self.record is None or (self.record["finished"] and not self._leftovers()))

    def check(self, attrs: Mapping[str, Any]) -> None:
        """Refuse to go on with what other settings began. A journal whose result was written is of no more use.

        Raises
        ------
        InputError
            where another input, other settings or another version began this journal; it gives both values.
        """
        if self.record is None:
            return
        if self.record["finished"]:
            self.record = None
        elif self.record["attrs"]["fingerprint"] != attrs["fingerprint"]:
            differing = results.differences(self.record["attrs"], attrs)
            raise InputError(
                f"{self.out} was begun with other settings ({differing}): choose another `out`, or remove {self._path}"
            )

    def fix(self, name: str, value: Any) -> Any:
        """The value that the journal was begun with, or `value` if it is new.

        Raises
        ------
        InputError
            where `value` is another than the journal's.
        """
        begun = value if self.record is None else self.record[name]
        if value is not None and value != begun:
            raise InputError(
                f"{self.out} was begun with {name} {begun}, not {value}: leave `{name}` away, choose another `out`, "
                f"or remove {self._path}"
            )
        return begun

    def begin(self, attrs: Mapping[str, Any], plan: Plan, resume_command: str | None = None) -> None:
        """Write down what is computed, unless it is there, and the command line that goes on with it."""
        if self.record is not None:
            return
        self.record = {
            "journal_format": _FORMAT,
            "attrs": results.identity(attrs),
            "tile": plan.sides[0].tile,
            "element": plan.sides[0].point_format.element,
            "began": _time(datetime.now(UTC).timestamp()),
            "resume": resume_command,
            "finished": False,
        }
        self._write_json("run.json", self.record)

    def open_pass(self, plan: Plan, what: str) -> Pass:
        """The pass of `plan`: the same plan gets the same committed panels again."""
        name = f"{what}-{plan.digest[:16]}"
        if self.read_json(f"{name}/pass.json") is None:
            if not paths.is_url(self.url):
                with paths.explained(f"write {self.url}/{name}"):
                    transactions.make_folder(Path(self.url, name))
            self._write_json(f"{name}/pass.json", {"panels": plan.grid.panel_count})
        state_types = {each: reduction.state_type for each, reduction in plan.reductions.items()}
        return Pass(f"{self.url}/{name}", state_types)

    def note(self, what: str, panel: Panel, found: PanelResult) -> None:
        """Keep the line of a panel for the history."""
        if work := found.work:
            self._lines.append(
                (what, panel.name, _time(work.start), _time(work.end), work.worker, work.read, work.peak)
            )

    def write_history(self) -> None:
        """Write `history.csv`."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([_COLUMNS, *sorted(self._lines, key=lambda line: line[2])])
        put(f"{self.url}/history.csv", text.getvalue().encode())

    def finish(self) -> None:
        """The result is written, and on the disk: remove the panels."""
        if self.record is None:
            return
        if not self.record["finished"]:
            self.record["finished"] = True
            self._write_json("run.json", self.record)
        fs, _ = paths.filesystem(self.url)
        with suppress(Exception):  # what stays is never read, and the same command tries again
            for entry in self._leftovers():
                if entry["type"] == "directory":
                    _remove_pass(fs, entry["name"])
                else:
                    fs.rm_file(entry["name"])

    def _leftovers(self) -> list[dict[str, Any]]:
        """The passes that are there, and the files that a killed command was writing."""
        fs, path = paths.filesystem(self.url)
        with paths.explained(f"list {self.url}"):
            entries = fs.ls(path, detail=True)
        wanted = {"directory": _PASS, "file": _OF_KILLED}
        return [each for each in entries if (kind := wanted.get(each["type"])) and kind.fullmatch(_last(each["name"]))]

    @property
    def _path(self) -> str:
        return self.out.rstrip("/") + ".journal"

    def _read_run(self) -> dict[str, Any] | None:
        run = self.read_json("run.json")
        if run is None:
            return None
        attrs = run.get("attrs")
        known = {**(attrs if isinstance(attrs, dict) else {}), **run}
        results.check_format(f"{self._path} is a journal", known, "journal_format", _FORMAT)
        if not _is_run(run):
            raise InputError(self._foreign("run.json"))
        return run

    def _foreign(self, name: str) -> str:
        return f"{self._path}/{name} is damaged, or no journal's: choose another `out`, or move {self._path} away"

    def read_json(self, name: str) -> dict[str, Any] | None:
        """One of its files; None where it is not there.

        Raises
        ------
        InputError
            where it is something else than was written there.
        EmbgeomError
            where it cannot be read now.
        """
        path = f"{self.url}/{name}"
        try:
            content = records.read(path)
        except FileNotFoundError:
            return None
        except (NotADirectoryError, IsADirectoryError):
            raise InputError(self._foreign(name)) from None
        except Exception as error:  # file systems raise what they like
            why = paths.explain(error)
            raise EmbgeomError(f"cannot read {path}: {why}: nothing is lost, run again once it can be read") from error
        try:
            found = json.loads(content)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise InputError(self._foreign(name))
        return found

    def _write_json(self, name: str, content: Mapping[str, Any]) -> None:
        put(f"{self.url}/{name}", json.dumps(content, indent=1).encode())


def _is_run(run: Mapping[str, Any]) -> bool:
    """Whether this is what `Journal.begin` writes."""
    kinds = {"tile": int, "element": str, "began": str, "resume": str | None, "finished": bool}
    known = all(name in run and isinstance(run[name], kind) for name, kind in kinds.items())
    return (
        known
        and run["tile"] > 0
        and run["tile"] is not True
        and run["element"] in ITEMSIZE
        and results.is_provenance(run.get("attrs"))
    )


def _remove_pass(fs: AbstractFileSystem, folder: str) -> None:
    """Remove what a pass wrote, and its folder where nothing else is in it."""
    made = [entry for entry in fs.ls(folder, detail=False) if _OF_PASS.fullmatch(_last(entry))]
    paths.remove(fs, made)
    with suppress(OSError):
        fs.rmdir(folder)


def status(out: str | os.PathLike[str]) -> dict[str, Any]:
    """Report the progress of one scan, as `batches.batch.status` says. Raises InputError where none has begun."""
    journal = Journal(out)
    if journal.record is None:
        raise InputError(f"no journal beside {out}: name what was given as `out` to embgeom scan")
    with paths.explained(f"read {journal.url}"):
        return _status(journal, journal.record)


def _status(journal: Journal, run: Mapping[str, Any]) -> dict[str, Any]:
    passes, failures, commits = list[dict[str, Any]](), list[dict[str, str]](), list[float]()
    fs, path = paths.filesystem(journal.url)
    folders = sorted(entry["name"] for entry in fs.ls(path, detail=True) if entry["type"] == "directory")
    for folder in (folder for folder in folders if _PASS.fullmatch(_last(folder))):
        what, known = _last(folder).rpartition("-")[0], journal.read_json(f"{_last(folder)}/pass.json")
        there = {_last(entry["name"]): entry for entry in fs.ls(folder, detail=True)}
        done = [name for name in there if _PANEL.fullmatch(name)]
        commits += [modified(there[name]) for name in done]
        passes.append({"pass": what, "done": len(done), "total": known.get("panels") if known else None})
        for name in sorted(there):
            if (panel := name.removesuffix(".failed")) != name and panel not in there:
                failed = f"{journal.url}/{_last(folder)}/{name}"
                with paths.explained(f"read {failed}", passing=()):
                    cause = records.read(failed).decode(errors="replace")
                failures.append({"pass": what, "panel": panel, "cause": cause})
    recent = sorted(commits)[-100:]
    lasted = recent[-1] - recent[0] if recent else 0.0
    rate = (len(recent) - 1) / lasted if lasted > 0 else None
    left = sum(each["total"] - each["done"] for each in passes if each["total"])
    return {
        "result": journal.out,
        "command": run["attrs"]["command"],
        "state": "finished" if run["finished"] else "begun",
        "panels_done": sum(each["done"] for each in passes),
        "panels_total": sum(each["total"] or 0 for each in passes),
        "passes": passes,
        "panels_per_second": rate,
        "seconds_left": left / rate if rate else None,
        "last_commit": _time(recent[-1]) if recent else None,
        "failures": failures,
        "resume": run["resume"],
    }


def _last(path: str) -> str:
    return path.rstrip("/").rsplit("/", 1)[-1]


def modified(entry: Mapping[str, Any]) -> float:
    """Return when an entry that a file system lists was written, in seconds."""
    names = ("mtime", "LastModified", "last_modified", "uploaded_at")
    when = next((entry[name] for name in names if entry.get(name)), 0.0)
    return float(when.timestamp() if isinstance(when, datetime) else when)


def put(url: str, content: bytes) -> None:
    """Write a key at once: on a disk aside, to the disk itself, then renamed; an object store does so by itself."""
    try:
        if paths.is_url(url):
            fs, path = paths.filesystem(url)
            fs.pipe_file(path, content)
        else:
            with replacement.whole_file(Path(url)) as file:
                file.write(content)
    except Exception as error:  # file systems raise what they like
        raise AbortRun(f"cannot write {url}: {paths.explain(error)}") from error


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
