"""Find the stores that a command is given, before any import that takes seconds."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from embgeom_dask.checkpoints.matrix_files import find_matrix_file
from embgeom_dask.errors import NO_STORE, InputError, parse_path

_FOLDER = "stores"
_MOST = 1 << 24  # bytes of a list


def find_store(given: str, *, must_be_there: bool = True) -> str:
    """Return the path of a store: of a path, a URL, or the name of a model of the folder `stores`.

    What is after it, a step or a role, `STORE:100` or `STORE:input`, stays there.

    What need not be there, since others see it, is a path.

    Raises
    ------
    InputError
        where nothing is there.
    """
    given = parse_path("store", given)
    if "://" in given or find_matrix_file(given) is not None:
        return given
    store, colon, step = given.rpartition(":")
    if colon and (step.isdecimal() or step in ("input", "output")):  # a step of a series, or one matrix of a store
        return f"{find_store(store, must_be_there=must_be_there)}:{step}"
    named = os.path.join(_FOLDER, f"{given.replace('/', '--')}.zarr")  # noqa: PTH118
    for path in (given, named):  # first what is a store: a checkpoint's folder may have the same name
        if _may_be_there(os.path.join(path, "zarr.json")):  # noqa: PTH118
            return path
    for path in (given, named):
        if _may_be_there(path):
            return path
    if not must_be_there:
        return given
    raise InputError(NO_STORE.format(given))


def find_stores(given: Sequence[str] | None, from_file: str | None = None) -> list[str]:
    """Return the paths of the stores given and of those that a file lists, as `find_store` does.

    Of several those that are not there are left to fail alone.

    Raises
    ------
    InputError
        where there is none, the only one is not there, or the file cannot be read.
    """
    given = list(dict.fromkeys([*(given or []), *(read_list(from_file) if from_file else [])]))
    if not given:
        raise InputError("no store: give STORE, or --from-file FILE with one a line")
    if len(given) == 1:
        return [find_store(given[0])]
    found = []
    for store in given:
        try:
            found.append(find_store(store))
        except InputError:
            found.append(store)
    return found


def read_list(path: str) -> list[str]:
    """Read a text file with one a line; `#` begins a comment. Raises InputError if the file cannot be read."""
    path = parse_path("from_file", path)
    try:
        with Path(path).open("rb") as file:  # it may be a pipe: no size to look at
            text = file.read(_MOST + 1)
        if len(text) > _MOST or b"\0" in text:
            raise ValueError
        lines = text.decode("utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {getattr(error, 'strerror', None) or 'it is no list'}") from error
    found = (re.sub(r"(^|\s)#.*", "", line).strip() for line in lines)
    return [each for each in found if each]


def _may_be_there(path: str) -> bool:
    """Whether something is at a path, or cannot be looked at: what reads it says why."""
    try:
        os.stat(path)  # noqa: PTH116
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False
    except OSError:
        return True
    return True
