"""Make sure that only one command at a time makes a result.

The claim on RESULT.zarr lies in the folder of its journal. On this machine it is a lock, which ends with its process: a
second command with the same settings waits for it and then opens the result, one with other settings is refused. An
object store has no locks: the claim is an object with the settings, made only where there is none. A second command
with the same settings shares the panels there, one with other settings is refused; so it is after a command that was
killed, until its journal is removed.
"""

from __future__ import annotations

import errno
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from embgeom_dask import progress
from embgeom_dask.errors import InputError
from embgeom_dask.storage import paths, records, replacement, results, transactions

FILES = ("claim.json", "lock")
_CLAIM, _LOCK = FILES
_LOOK = 0.2  # seconds between looks at the lock of another command
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP)  # what a file system says that has none


@contextmanager
def claimed(out: str, folder: str, attrs: Mapping[str, Any], stopped: Callable[[], bool]) -> Iterator[bool]:
    """Hold the claim on the result `out`, whose journal is `folder`, a path or a URL, while entered.

    It gives whether no other command has, or has left, a claim with the same settings, as one may at a URL. `attrs` are
    those of `results.provenance`; `stopped` tells whether to wait no longer. A folder that this made and in which
    nothing was written is gone afterwards.

    Raises
    ------
    InputError
        where another command makes it with other settings, or the folder cannot be made.
    KeyboardInterrupt
        where waiting was stopped.
    """
    by_lock = not paths.is_url(folder)
    with _by_lock(out, Path(folder), attrs, stopped) if by_lock else _by_object(out, folder, attrs) as alone:
        yield alone


@contextmanager
def _by_lock(out: str, folder: Path, attrs: Mapping[str, Any], stopped: Callable[[], bool]) -> Iterator[bool]:
    lock = FileLock(folder / _LOCK, thread_local=False)
    try:
        _wait(lock, out, folder, attrs, stopped)
        with replacement.whole_file(folder / _CLAIM) as file:
            file.write(_content(attrs))
    except BaseException as error:
        _leave(lock, folder)
        if isinstance(error, OSError):
            raise InputError(f"cannot make the folder {folder}: {paths.explain(error)}") from error
        raise
    try:
        yield True
    finally:
        with suppress(OSError):
            (folder / _CLAIM).unlink()
        _leave(lock, folder)


def _leave(lock: FileLock, folder: Path) -> None:
    """Release the lock, if it is held, and remove its file, and the folder where nothing else is in it."""
    with suppress(OSError):
        if lock.is_locked:
            Path(lock.lock_file).unlink()
    lock.release()
    with suppress(OSError):
        folder.rmdir()


def _wait(lock: FileLock, out: str, folder: Path, attrs: Mapping[str, Any], stopped: Callable[[], bool]) -> None:
    """Return once the lock is held, or where there are no locks."""
    before, said = None, False
    while not _take(lock, folder):
        there = _read(str(folder))
        if there is not None and there == before:  # else its owner may just have come, and not have written it
            _check(out, there, attrs, "wait until it has ended, or choose another `out`")
            if not said:
                progress.note(f"another command makes {out}: waiting for it to end")
            said = True
        before = there
        if stopped():
            raise KeyboardInterrupt
        time.sleep(_LOOK)


def _take(lock: FileLock, folder: Path) -> bool:
    transactions.make_folder(folder)
    try:
        lock.acquire(timeout=0)
    except (Timeout, FileNotFoundError):  # the other command has removed the folder
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    return True


@contextmanager
def _by_object(out: str, folder: str, attrs: Mapping[str, Any]) -> Iterator[bool]:
    fs, path = paths.filesystem(folder)
    name, made = f"{path}/{_CLAIM}", True
    with paths.explained(f"write {folder}", passing=(InputError,)):
        try:
            fs.pipe_file(name, _content(attrs), mode="create")
        except Exception:  # it is there, or this store cannot say "where there is none"
            if there := _read(folder):
                _check(out, there, attrs, f"choose another `out`, or remove {folder} if none runs")
                made = False
            else:
                fs.pipe_file(name, _content(attrs))
    try:
        yield made
    finally:
        if made:
            with suppress(Exception):  # it keeps only other settings away
                fs.rm_file(name)


def _content(attrs: Mapping[str, Any]) -> bytes:
    return json.dumps(results.identity(attrs), indent=1).encode()


def _read(folder: str) -> dict[str, Any] | None:
    """The settings of the claim that is there; None where there is none, or none yet."""
    try:
        there: dict[str, Any] = json.loads(records.read(f"{folder}/{_CLAIM}"))
    except (OSError, ValueError):
        return None
    return there if results.is_provenance(there) else None


def _check(out: str, there: Mapping[str, Any], attrs: Mapping[str, Any], remedy: str) -> None:
    if there["fingerprint"] != attrs["fingerprint"]:
        differing = results.differences(there, attrs)
        raise InputError(f"another command makes {out} with other settings ({differing}): {remedy}")
