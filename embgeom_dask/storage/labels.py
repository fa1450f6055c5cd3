"""The token labels of a store: written once, read once, and checked against what the conversion recorded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Container, Mapping
from functools import lru_cache
from typing import Any, cast

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec

from embgeom_dask.storage import paths
from embgeom_dask.storage.validation import LABELS, MATRICES, REACHABILITY, Metadata, damaged, label_names

TOKEN_IDS = ("token_id", "token_id_input", "token_id_output")
"""What the dimension of rows is called: the last two of a matrix with labels or a number of rows of its own."""

_UNREADABLE = ValueError, RuntimeError, IndexError, TypeError
"""What zarr raises for bytes that are not what they should be."""


@lru_cache(maxsize=8)
def read_labels(metadata: Metadata) -> Mapping[str, np.ndarray]:
    """Return token ids and labels of a store's rows by the names of their arrays: numpy arrays, read and verified once.

    Raises
    ------
    InputError
        where they are damaged, or not those that were converted.
    EmbgeomError
        where they cannot be read.
    """
    path = metadata.path
    try:
        with paths.explained(f"read the token labels of {path}", passing=_UNREADABLE):
            group = paths.open_group(path)
            found = {name: strings(np.asarray(cast(Any, group[name])[:])) for name in label_names(metadata.arrays)}
    except _UNREADABLE as error:
        raise damaged(path, f"its token labels cannot be read ({paths.explain(error)})") from error
    whole = all(
        np.array_equal(values, np.arange(len(values))) for name, values in found.items() if name.startswith("token_id")
    )
    for name in MATRICES:
        if name in metadata.arrays:
            array = metadata.arrays[name]
            whole &= digest_labels(_own(found, name), array["shape"][0]) == array["attributes"]["labels_sha256"]
    if not whole:
        raise damaged(path, "its token labels are not those that were converted")
    return found


def labels_of(metadata: Metadata, matrix: str) -> dict[str, Any]:
    """Return all the labels of a stored matrix, and of rows after it where it shares them. Raises as `read_labels`."""
    return _own(read_labels(metadata), matrix)


def _own(found: Mapping[str, np.ndarray], matrix: str) -> dict[str, Any]:
    suffix = suffix_of(matrix, found)
    names = (*LABELS, REACHABILITY)
    return {name: found[f"{name}{suffix}"] for name in names if f"{name}{suffix}" in found}


def kinds_of(labels: Container[Any] | Mapping[Any, Any]) -> dict[str, Any]:
    """The names of some labels and their dtypes: those that all rows have, and `reachability` where it is there."""
    return LABELS | ({REACHABILITY: np.object_} if REACHABILITY in labels else {})


def strings(values: np.ndarray) -> np.ndarray:
    """Return strings of any dtype as Python's, which all libraries take; other values as they are."""
    return values.astype(np.object_) if values.dtype.kind in "TU" else values


def empty_label(name: str) -> str | bool:
    """The label of that name where there is none."""
    return False if LABELS.get(name) is np.bool_ else ""


def suffix_of(matrix: str, arrays: Container[str]) -> str:
    """The suffix of the names of a matrix's labels: `_input` or `_output` if it has labels of its own, else empty."""
    suffix = f"_{matrix.removesuffix('_embedding')}"
    return suffix if f"token{suffix}" in arrays else ""


def digest_labels(labels: Mapping[Any, Any], rows: int) -> str:
    """Return the sha256 of all the labels of the first `rows` rows."""
    listed = [np.asarray(labels[name])[:rows].tolist() for name in kinds_of(labels)]
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()


def write_label(group: zarr.Group, name: str, values: np.ndarray, *dimensions: str) -> None:
    """Write one label array of a store, (n,) over `token_id` or of other dimensions: one chunk, with a checksum."""
    array = group.create_array(
        name,
        shape=values.shape,
        chunks=values.shape,
        dtype=cast(Any, "string" if values.dtype.kind in "OTU" else values.dtype),
        compressors=[ZstdCodec(level=1), Crc32cCodec()],
        dimension_names=dimensions or ("token_id",),
        config={"write_empty_chunks": True},
        overwrite=True,
    )
    array[:] = values
