"""From a store back to a file: the matrix as it was in the checkpoint, byte for byte."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np

from embgeom_dask import progress, tuning
from embgeom_dask.errors import EmbgeomError, InputError, parse_path
from embgeom_dask.storage import model_stores, replacement
from embgeom_dask.storage.model_stores import Matrix, Role

_TENSOR = "W"


def export(
    store: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    role: Role | None = None,
    overwrite: bool = False,
) -> str:
    """Write a matrix of a store to a `.safetensors` file, as the tensor `W` of shape (V, d).

    The bytes are those of the checkpoint; the metadata names the model, the matrix and its SHA-256. `convert` can read
    the file again. It is written under another name and moved into place when it is complete.

    Parameters
    ----------
    store : path or URL
        The store.
    output : path
        The file: its name ends in `.safetensors`, and its folder exists.
    role : {"input", "output"}, optional
        The matrix to write; by default output, or input if the store has no output matrix.
    overwrite : bool
        Whether to replace a file that exists.

    Returns
    -------
    str
        The path of the file.

    Raises
    ------
    InputError
        If there is no such store or matrix, if `output` is not such a file, or if it exists and `overwrite` is False.
    EmbgeomError
        If the store is damaged or the file cannot be written; nothing is left behind.

    Examples
    --------
    >>> from embgeom_dask.testing import make_store
    >>> export(make_store("tiny.zarr", output=np.eye(4, 2, dtype=np.float32)), "tiny.safetensors")
    'tiny.safetensors'
    """
    found, path = model_stores.find_matrix(store, role), Path(parse_path("output", output))
    if path.suffix != ".safetensors":
        raise InputError(f"{path} must end in .safetensors")
    with replacement.new_file(path, overwrite=overwrite) as file:
        _write(found, file)
    return str(path)


def _write(matrix: Matrix, file: BinaryIO) -> None:
    row_bytes = matrix.hidden_size * np.dtype(matrix.read(0, 1).dtype).itemsize
    size = matrix.vocab_size * row_bytes
    entry = {
        "dtype": model_stores.DTYPES[matrix.dtype],
        "shape": [matrix.vocab_size, matrix.hidden_size],
        "data_offsets": [0, size],
    }
    metadata = {"format": "pt", "model": matrix.model, "matrix": matrix.name, "sha256": matrix.sha256}
    header = json.dumps({"__metadata__": metadata, _TENSOR: entry}).encode()
    header += b" " * (-len(header) % 8)
    rows = max(matrix.chunk_rows, tuning.EXPORT_BYTES // row_bytes // matrix.chunk_rows * matrix.chunk_rows)
    digest = hashlib.sha256()
    with progress.bar(size, f"{matrix.model} {matrix.name}", "B") as advance:
        file.write(struct.pack("<Q", len(header)) + header)
        for start in range(0, matrix.vocab_size, rows):
            block = np.ascontiguousarray(matrix.read(start, min(start + rows, matrix.vocab_size))).view(np.uint8).data
            digest.update(block)
            file.write(block)
            advance(block.nbytes)
    if digest.hexdigest() != matrix.sha256:
        raise EmbgeomError(f"{matrix.store}/{matrix.name} is damaged: its bytes have another SHA-256 than it says")
