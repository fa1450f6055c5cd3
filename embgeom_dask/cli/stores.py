"""Find the stores that a command is given, before anything is imported that takes seconds."""

from __future__ import annotations

import os
from collections.abc import Sequence

from embgeom_dask.errors import NO_STORE, InputError

_FOLDER = "stores"


def find_store(given: str) -> str:
    """Return the path of a store: of a path, a URL, or the name of a model of the folder `stores`.

    Raises
    ------
    InputError
        where nothing is there.
    """
    if "://" in given:
        return given
    named = os.path.join(_FOLDER, f"{given.replace('/', '--')}.zarr")  # noqa: PTH118
    for path in (given, named):  # first what is a store: a checkpoint's folder may have the same name
        if _may_be_there(os.path.join(path, "zarr.json")):  # noqa: PTH118
            return path
    for path in (given, named):
        if _may_be_there(path):
            return path
    raise InputError(NO_STORE.format(given))


def find_stores(given: Sequence[str]) -> list[str]:
    """Return the paths of stores as `find_store` does. Of several those that are not there are left to fail alone."""
    if len(given) == 1:
        return [find_store(given[0])]
    found = []
    for store in given:
        try:
            found.append(find_store(store))
        except InputError:
            found.append(store)
    return found


def find_other(given: str) -> str:
    """Return the path of a store as `find_store` does, with `:input` or `:output` after it where that was given."""
    store, colon, role = given.rpartition(":")
    return f"{find_store(store)}:{role}" if colon and role in ("input", "output") else find_store(given)


def _may_be_there(path: str) -> bool:
    """Whether something is at a path, or cannot be looked at: what reads it says why."""
    try:
        os.stat(path)  # noqa: PTH116
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False
    except OSError:
        return True
    return True
