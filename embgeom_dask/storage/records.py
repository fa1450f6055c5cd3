"""Read small files of stores, results and journals, with a limit of their size."""

from __future__ import annotations

import errno

from embgeom_dask.storage import paths

_LARGEST = 64 << 20
"""Bytes of a record: more than any metadata takes."""


def read(file: str, largest: int = _LARGEST) -> bytes:
    """Return what a file at a path or URL holds; of a path only a regular file of at most `largest` bytes is read.

    Raises
    ------
    OSError
        where it is not there, or is a pipe, a device or too large; at a URL whatever its file system raises.
    """
    fs, path = paths.filesystem(file)
    if not paths.is_url(file) and paths.status(path).st_size > largest:
        raise OSError(errno.EFBIG, f"it is larger than {largest >> 20} MiB")
    return bytes(fs.cat_file(path))
