"""Choose the folder where numba caches compiled functions, before the first one is defined."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

import numba

from embgeom_dask import private_apis, progress


def settle() -> None:
    """Let numba cache where it can write; if it cannot, in a private temporary folder; else not at all.

    When a function is defined, numba looks for a folder beside its file and in the home folder; if it can write to
    neither, the definition fails.
    """
    if _can_keep():
        return
    if folder := _temporary_folder():
        numba.config.CACHE_DIR = folder  # type: ignore[attr-defined]
        if _can_keep():
            progress.note(f"no cache folder of numba can be written: compiled passes are kept in {folder}")
            return
    private_apis.stop_numba_caching()
    progress.note("no folder can be written: passes are compiled anew, for a minute (NUMBA_CACHE_DIR names one)")


def _can_keep() -> bool:
    try:
        numba.njit(cache=True)(_can_keep)
    except RuntimeError:
        return False
    return True


def _temporary_folder() -> str | None:
    """Return a folder that only this user can write to (numba runs the code that it finds there), or None."""
    try:
        folder = Path(tempfile.gettempdir(), f"embgeom-numba-{os.getuid()}")
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError:
        return None
    own = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077
    return str(folder) if own else None
