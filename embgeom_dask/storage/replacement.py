"""Write groups and files so that they are either complete or absent.

A folder is written aside and moved into place. At a URL nothing can be moved: a group is written where it belongs,
marked unfinished, and gets its attributes last.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import zarr
from zarr.abc.store import Store

from embgeom_dask import private_apis
from embgeom_dask.errors import EmbgeomError, InputError, parse_path, shorten
from embgeom_dask.storage import paths, transactions

_FRESH = re.compile("[0-9a-f]{8}")


@contextmanager
def new_file(path: str | os.PathLike[str], *, overwrite: bool) -> Iterator[BinaryIO]:
    """Yield a file to write that is at `path` once it is complete and on the disk; on any failure nothing changes.

    Raises
    ------
    InputError
        where `path` is none, and as `check_new`.
    EmbgeomError
        where it cannot be written.
    """
    path = Path(parse_path("path", path))
    check_new(path, overwrite=overwrite)
    try:
        with whole_file(Path(os.path.realpath(path))) as file:  # a link stays one
            yield file
    except OSError as error:
        raise EmbgeomError(f"cannot write {shorten(path, 300)}: {error.strerror or error}") from error


def check_new(path: Path, *, overwrite: bool) -> None:
    """Refuse a path that `new_file` does not write, before what is written there is computed.

    Raises
    ------
    InputError
        where there is no folder for it, a folder, a device or a pipe is at `path`, or a file is and `overwrite` is not
        given.
    EmbgeomError
        where one cannot look there.
    """
    try:
        if not path.parent.is_dir():
            raise InputError(f"no folder {path.parent}: make it first")
        special = path.exists() and not path.is_file()  # /dev/stdout would be replaced by a file, for all
        if special or str(path) == "-":
            raise InputError(f"{path} is {'a folder' if path.is_dir() else 'no file'}: name a file")
        if path.exists() and not overwrite:
            raise InputError(f"{path} exists: `overwrite` replaces it")
    except OSError as error:
        raise EmbgeomError(f"cannot write {shorten(path, 300)}: {error.strerror or error}") from error


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """As `new_file`, for files of this package: what is at `path` is replaced, and OSError is raised as it is."""
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        with aside.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
        transactions.sync_folder(path.parent)
    except BaseException:
        with suppress(OSError):
            aside.unlink()
        raise


@contextmanager
def replacing(
    target: str, *, overwrite: bool, resume: str | None = None, there: paths.Contents | None = None
) -> Iterator[str]:
    """Yield the path to write a group to, which is at `target` in the end; on any failure nothing is left.

    The caller writes the group there and calls `finish`. A folder is written under another name, and what was at
    `target` is kept until the new group is complete. At a URL, what was there is removed as soon as writing starts.
    Without `overwrite` nothing may be at `target`. `resume` is a name for what is written: with it, an interrupted
    group stays, under the other name or marked as unfinished, and the next writer with the same name continues it.
    `there` is what `paths.look` has just returned for `target`.

    Raises
    ------
    EmbgeomError
        where it cannot be written (InputError where nothing can be written there at all).
    """
    remote = paths.is_url(target)
    with _in_place(target, overwrite, resume, there) if remote else _aside(target, overwrite, resume) as path:
        try:
            yield path
        except BaseException as error:
            private_apis.wait_for_zarr(_writes_in_flight())  # after an interrupt: they would make the folder again
            of_storage = isinstance(error, OSError) or (remote and isinstance(error, Exception))
            if of_storage and not isinstance(error, EmbgeomError):
                raise EmbgeomError(f"cannot write {target}: {paths.explain(error)}") from error
            raise


@contextmanager
def _in_place(target: str, overwrite: bool, resume: str | None, there: paths.Contents | None) -> Iterator[str]:
    paths.check_writable(target)
    there = there or paths.look(target)
    if not overwrite and not there.free:
        raise EmbgeomError(f"cannot write {target}: something is there")
    try:
        resumed = resume is not None and there.unfinished == resume
        fs, path = paths.filesystem(target)
        mark = {"zarr_format": 3, "node_type": "group", "attributes": {paths.UNFINISHED: resume or True}}
        fs.pipe_file(f"{path}/zarr.json", json.dumps(mark).encode())
        old = [] if resumed else [f"{path}/{name}" for name in there.sizes if name != "zarr.json"]
        paths.remove(fs, old)
    except FileNotFoundError as error:
        raise EmbgeomError(f"cannot write {target}: there is no such bucket: {paths.explain(error)}") from error
    except Exception as error:
        raise EmbgeomError(f"cannot write {target}: {paths.explain(error)}") from error
    try:
        yield target
    except BaseException:
        if resume is None:
            with suppress(Exception):  # it stays marked unfinished
                fs.invalidate_cache()
                fs.rm(path, recursive=True)
        raise


@contextmanager
def _aside(target: str, overwrite: bool, resume: str | None) -> Iterator[str]:
    folder = Path(target)
    try:
        transactions.make_folder(folder.parent)
        aside, held = _begin(folder, resume)
    except OSError as error:
        raise InputError(f"cannot make the folder {folder.parent}: {error.strerror}") from error
    old = aside.with_suffix(".old")
    try:
        yield str(aside)
        transactions.put_in_place(aside, folder, old if overwrite else None)
        transactions.discard(old)
    except OSError as error:
        raise EmbgeomError(f"cannot write {target}: {paths.explain(error)}") from error
    finally:
        try:
            if resume is None:
                transactions.discard(aside)
        finally:
            if held is not None:
                os.close(held)


def _begin(target: Path, resume: str | None) -> tuple[Path, int | None]:
    """Make, or take up again, the hidden folder beside `target` that is written to, and lock it."""
    fresh = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
    aside = target.with_name(f".{target.name}.{resume}.partial") if resume else fresh.with_name(f"{fresh.name}.partial")
    sweep(target, aside)
    if aside.exists():
        held = _hold(aside)
        if held is not None:
            return aside, held
        aside = fresh.with_name(f"{fresh.name}.partial")  # another writer has it
    fresh.mkdir()
    held = _hold(fresh)
    try:
        fresh.rename(aside)
    except FileNotFoundError:  # another writer has swept it up before it was locked
        if held is not None:
            os.close(held)
        return _begin(target, resume)
    except BaseException:
        transactions.discard(fresh)
        raise
    return aside, held


def sweep(target: Path, kept: Path | None = None) -> None:
    """Remove what killed writers of `target` left beside it, except `kept`; put back what one of them was replacing."""
    name, beside = f".{target.name}.", list[str]()
    with suppress(OSError):
        beside = [each for each in os.listdir(target.parent) if each.startswith(name)]  # noqa: PTH208 - of thousands
    for each in beside:
        left = target.with_name(each)
        if not (each.endswith(".partial") or _FRESH.fullmatch(each, len(name))):
            continue
        if (held := _hold(left)) is not None:
            transactions.put_back(left.with_suffix(".old"), target)
            if left != kept:
                transactions.discard(left)
            os.close(held)
    for old in (target.with_name(each) for each in beside if each.endswith(".old")):
        if not old.with_suffix(".partial").exists():  # else its writer runs
            transactions.put_back(old, target)


def _hold(folder: Path) -> int | None:
    """Lock a folder until the descriptor returned is closed or the process ends; None where that cannot be done."""
    if sys.platform == "win32":
        return None
    import fcntl

    descriptor = None
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # another holds it, or no lock can be had in this file system
        if descriptor is not None:
            os.close(descriptor)
        return None
    return descriptor


async def _writes_in_flight() -> None:
    """Wait for what zarr does now; not for others that wait so, in other threads: they are known by their name."""
    me = asyncio.current_task()
    assert me is not None
    me.set_name(_writes_in_flight.__qualname__)
    if tasks := {task for task in asyncio.all_tasks() if task.get_name() != me.get_name()}:
        await asyncio.wait(tasks)


def finish(path: str, attributes: Mapping[str, Any], store: Store) -> None:
    """Write the attributes and consolidated metadata of the group written at `path`: this completes it.

    `store` is the `paths.writer` by which it was written; what it keeps is written first.

    It is what `zarr.consolidate_metadata` writes, and then `Group.attrs.put`. The former warns that format 3 does not
    specify it, and no warning can be silenced in one thread without meddling with those of others.
    """
    group = zarr.open_group(store, mode="r+", zarr_format=3, use_consolidated=False)
    arrays = {name: array.metadata.to_dict() for name, array in sorted(group.arrays())}
    document = {
        "attributes": dict(attributes),
        "zarr_format": 3,
        "consolidated_metadata": {"kind": "inline", "must_understand": False, "metadata": arrays},
        "node_type": "group",
    }
    paths.flush(path, store)
    fs, root = paths.filesystem(path)
    fs.pipe_file(f"{root}/zarr.json", json.dumps(document, indent=2).encode())
