"""What a command over many models has done: a record in the folder of its results, and how far it is."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, cast

from embgeom_dask.errors import InputError
from embgeom_dask.execution import journal
from embgeom_dask.redaction import redact
from embgeom_dask.storage import paths, records, results
from embgeom_dask.storage.paths import PathLike

_RECORD = "batch.json"


def begin(
    out: PathLike, command: str, stores: Sequence[str], outs: Sequence[PathLike | None], resume: str | None
) -> dict[str, Any]:
    """Write into the folder `out` what a command is about to do: `outs` are the results of `stores`; return that."""
    record = {
        "command": command,
        "stores": [redact(each) for each in stores],
        "results": names(outs),
        "began": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "resume": resume,
    }
    url = paths.locate(out)
    with paths.explained(f"write {url}"):
        paths.filesystem(url)[0].makedirs(paths.filesystem(url)[1], exist_ok=True)
    write(out, record)
    return record


def write(out: PathLike, record: Mapping[str, Any]) -> None:
    """Write the record of a command into the folder `out`."""
    journal.put(paths.join(paths.locate(out), _RECORD), json.dumps(record, indent=1).encode())


def names(outs: Sequence[PathLike | None]) -> list[str | None]:
    """The results of a record, by their names in its folder."""
    return [None if each is None else os.path.basename(each) for each in outs]  # noqa: PTH119 - or a URL


def status(out: PathLike) -> dict[str, Any]:
    """Report the progress of a scan, or of a command over many models, whether it is running or has died.

    Parameters
    ----------
    out : path
        Where the scan saves its result; of many models, the folder.

    Returns
    -------
    dict
        Of one scan: `result`, the path; `state`, "finished" or "begun"; `panels_done` and `panels_total` of the passes
        known so far; `passes`, a list of `pass`, `done` and `total`; `panels_per_second` over the last hundred commits
        and `seconds_left` at that rate, None if not known; `last_commit` (ISO 8601); `failures`, a list of `pass`,
        `panel` and `cause`; `resume`, the command that continues the scan, None if it was started from Python.

        Of a folder: `result`, `state` and `resume`; `command`; `models_done` and `models_total`; `running`, of scans
        that are begun what this function says of each; `failures`, a list of texts; `seconds_left` at the rate of the
        models done since the command began, None where there is none yet.

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
    record = _read(out)
    if record is None:
        return journal.status(out)
    fs, folder = paths.filesystem(paths.locate(out))
    with paths.explained(f"read {out}"):
        fs.invalidate_cache()
        named = {name: paths.join(os.fspath(out), name) for name in record["results"] if name}
        done = [name for name, result in named.items() if _is_done(result)]
        written = [journal.modified(fs.info(f"{folder}/{name}/zarr.json")) for name in done]
        others = [result for name, result in named.items() if name not in done]
        begun = [journal.status(result) for result in others if journal.Journal(result).run is not None]
    failures = list(map(str, record.get("failed", []))) or _failures(out)
    began = datetime.fromisoformat(record["began"]).timestamp()
    fresh = sum(when >= began for when in written)
    total = len(record["stores"])
    count = sum(name in done for name in record["results"])  # two stores may be of one result
    left = total - count - len(failures)
    lasted = datetime.now(UTC).timestamp() - began
    return {
        "result": os.fspath(out),
        "command": record["command"],
        "state": "finished" if left <= 0 else "begun",
        "models_done": count,
        "models_total": total,
        "running": begun,
        "failures": failures,
        "seconds_left": left * lasted / fresh if fresh and left > 0 else None,
        "resume": record["resume"],
    }


def _read(out: PathLike) -> Mapping[str, Any] | None:
    """The record of a folder; None where there is none."""
    url = paths.locate(paths.join(os.fspath(out), _RECORD))
    try:
        with paths.explained(f"read {url}", passing=(FileNotFoundError, NotADirectoryError)):
            text = records.read(url)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        record: Mapping[str, Any] = json.loads(text)
        datetime.fromisoformat(record["began"])
        if len(record["stores"]) == len(record["results"]) and {"command", "resume"} <= record.keys():
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


def _failures(out: PathLike) -> list[str]:
    """What the table of a folder says of models that failed, in the end."""
    try:
        group = paths.open_group(paths.locate(paths.join(os.fspath(out), results.TABLE)))
    except (FileNotFoundError, ValueError):
        return []
    return list(map(str, cast("list[str]", group.attrs.get("failed", []))))
