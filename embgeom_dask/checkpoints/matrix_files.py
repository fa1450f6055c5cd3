"""Parse the name of a matrix in a file, like `FILE.npy` or `FILE.safetensors:KEY`. No file is opened."""

from __future__ import annotations

import re
from pathlib import Path

from embgeom_dask.errors import parse_path

_MATRIX_FILE = re.compile(r"(?P<file>.+\.npy|.+\.safetensors)(?::(?P<key>.+))?")
_STACK_FILE = re.compile(r"(?P<file>.+\.(?:safetensors|h5|hdf5))(?::(?P<key>.+))?")


def find_matrix_file(given: str) -> tuple[Path, str] | None:
    """Return the file and the tensor, "" where none is named, of `FILE.npy`, `FILE.safetensors` or `FILE:KEY`.

    None for every other path: that of a folder, or a URL.

    Examples
    --------
    >>> find_matrix_file("sae.safetensors:W_dec")
    (PosixPath('sae.safetensors'), 'W_dec')
    >>> find_matrix_file("stores/a.zarr") is None
    True
    """
    found = _MATRIX_FILE.fullmatch(parse_path("", given))
    if found is None or "://" in given or Path(given).is_dir():
        return None
    return Path(found["file"]), found["key"] or ""


def find_stack_file(given: str) -> tuple[str, str] | None:
    """Return the file and the tensor, "" where none is named, of a file that may hold a matrix at many steps.

    None for every other path.

    Examples
    --------
    >>> find_stack_file("run.h5:run/W"), find_stack_file("runs/pretraining")
    (('run.h5', 'run/W'), None)
    """
    found = _STACK_FILE.fullmatch(given)
    return (found["file"], found["key"] or "") if found else None
