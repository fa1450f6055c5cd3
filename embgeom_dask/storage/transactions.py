"""Write to a disk so that a power cut loses nothing: what replaces a file or folder is on the disk first.

A file is on the disk once it is synced and the folder that names it is, too; a rename, once the folder is.
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

_TOGETHER = 16
"""Files synced at a time: a file system writes down many in hardly more time than one."""

_OCCUPIED = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR)  # what a folder meets that is moved to where something is
_MEANWHILE = "another command has put something there meanwhile"
_NO_FOLDERS = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)  # what file systems say that cannot sync a folder


def sync_file(path: Path) -> None:
    """Sync a file: its contents are on the disk when this returns."""
    descriptor = os.open(path, os.O_RDWR if sys.platform == "win32" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Sync a folder: the names in it are on the disk when this returns, if the file system supports it."""
    if sys.platform == "win32":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDERS:
            raise
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Sync a folder with all files and folders in it."""
    with ThreadPoolExecutor(_TOGETHER) as threads:
        for parent, _, names in os.walk(folder, topdown=False):
            list(threads.map(sync_file, [Path(parent, name) for name in names]))
            sync_folder(Path(parent))


def make_folder(path: Path) -> None:
    """Make a folder, and those above it, unless they exist; new ones are on the disk when this returns."""
    if path.is_dir():
        return
    make_folder(path.parent)
    path.mkdir(exist_ok=True)
    sync_folder(path.parent)


def put_in_place(aside: Path, target: Path, old: Path | None) -> None:
    """Move the folder `aside` to `target`; what was at `target` is at `old` then, and may be removed.

    All is on the disk when this returns. Where it fails, nothing has changed.

    Raises
    ------
    FileExistsError
        where something is at `target`, and no `old` given.
    """
    sync_tree(aside)
    if os.path.lexists(target):
        if old is None:
            raise FileExistsError(errno.EEXIST, _MEANWHILE)
        target.rename(old)
    try:
        _move(aside, target)
        sync_folder(target.parent)
    except BaseException:
        if not os.path.lexists(aside):
            target.rename(aside)
        if old is not None and os.path.lexists(old):
            old.rename(target)
        raise


def _move(aside: Path, target: Path) -> None:
    try:
        aside.rename(target)
    except OSError as error:
        if error.errno in _OCCUPIED:
            raise FileExistsError(errno.EEXIST, _MEANWHILE) from error
        raise


def put_back(old: Path, target: Path) -> None:
    """Complete a `put_in_place` that was killed: put `old` back, or remove it if something is at `target`."""
    if os.path.lexists(target):
        discard(old)
    else:
        with suppress(OSError):
            old.rename(target)


def discard(path: Path) -> None:
    """Remove a file, a folder, or a link but not what it names; what cannot be removed stays."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()
