"""Writing a model's store: rows are streamed chunk by chunk, and what is there is whole or not there at all."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

from embgeom_dask import progress
from embgeom_dask.errors import InputError
from embgeom_dask.storage import fill, paths, replacement
from embgeom_dask.storage.fill import RowSource
from embgeom_dask.storage.labels import digest_labels, kinds_of, write_label
from embgeom_dask.storage.model_stores import DTYPES, MATRICES, empty_labels
from embgeom_dask.storage.paths import PathLike
from embgeom_dask.storage.validation import format_attributes, is_store, read_metadata

if TYPE_CHECKING:
    import xarray as xr


def write_model(
    path: PathLike,
    matrices: Mapping[str, RowSource],
    *,
    attrs: Mapping[str, Any],
    labels: xr.Dataset | None = None,
    own_labels: Mapping[str, xr.Dataset] | None = None,
    tied: bool = False,
    overwrite: bool = False,
    resume: str | None = None,
    shard: int | None = None,
) -> str:
    """Write a model's store, streaming its rows chunk by chunk, and return its path.

    A folder is written aside and moved into place when it is complete; on any failure nothing is left behind and a
    store that was there stays. At a URL what was there is removed first, and the attributes are written last.
    Where two matrices differ in rows, the shorter one's rows are its own dimension, `token_id_input` or
    `token_id_output`; so are those of a matrix that has `own_labels`, by its name: its rows are other tokens.
    `matrices` is keyed by `input_embedding` and `output_embedding` (one of them where `tied`; two of the same bits are
    found to be), `attrs` needs `model`, and `labels` is as `make_labels` gives (default: no tokens). With `resume`,
    which names these very rows, what fails is kept, and the next writer goes on from the chunks there. Chunks lie in
    objects of up to `shard` bytes, before compression, where that is given.

    Raises
    ------
    InputError
        where something exists at `path` and `overwrite` is not given (or it is no store), where a matrix has no rows or
        another dtype than F64, F32, F16 and BF16, or where labels and rows differ in number.
    """
    target = paths.locate(path)
    there = check_writable(target, overwrite=overwrite)
    rows, own = _check_matrices(matrices, tied), own_labels or {}
    if labels is None:
        labels = empty_labels(rows)
    for name, given in {"": labels, **own}.items():
        if given.sizes["token_id"] != (expected := matrices[name].shape[0] if name else rows):
            raise InputError(f"{given.sizes['token_id']} labels for {expected} rows of {target}")
    widths = {source.shape[1] for source in matrices.values()}
    with replacement.replacing(target, overwrite=overwrite, resume=resume, there=there) as aside:
        group = zarr.open_group(writer := paths.writer(aside, fresh=resume is None), mode="a", zarr_format=3)
        for name in ("token_id", *kinds_of(labels)):
            write_label(group, name, labels[name].values)
        found = set()
        for name, source in matrices.items():
            suffix = f"_{name.removesuffix('_embedding')}" if name in own or source.shape[0] < rows else ""
            hidden = "hidden_output" if name == "output_embedding" and len(widths) > 1 else "hidden"
            if suffix and f"token_id{suffix}" not in group:
                write_label(group, f"token_id{suffix}", np.arange(source.shape[0]), f"token_id{suffix}")
            for label in kinds_of(own[name]) if name in own else ():
                write_label(group, f"{label}{suffix}", own[name][label].values, f"token_id{suffix}")
            array = fill.create(group, name, source, [f"token_id{suffix}", hidden], shard)
            with progress.bar(math.prod(source.shape) * source.dtype.itemsize, f"{attrs['model']} {name}", "B") as bar:
                kept = paths.names_in(paths.join(aside, name)) if resume else ()
                sha256, chunk_sha256 = fill.fill(array, source, bar, kept)
            facts: dict[str, Any] = {"source_tensor": source.tensor, "dtype": source.dtype.name, "sha256": sha256}
            facts |= {"labels_sha256": digest_labels(own.get(name, labels), source.shape[0])}
            facts["chunk_sha256"] = chunk_sha256
            if name in own or not suffix:
                facts["coordinates"] = " ".join(f"{label}{suffix}" for label in kinds_of(own.get(name, labels)))
            array.attrs.put(facts)
            found.add((source.shape, source.dtype, sha256, name in own))
        if len(found) < len(matrices):
            del group["output_embedding"]
            tied = True
        replacement.finish(aside, {**attrs, "tied": tied, **format_attributes()}, writer)
    return os.fspath(path)


def check_writable(path: PathLike, *, overwrite: bool) -> paths.Contents:
    """What is at `path`; InputError where writing a store there would replace a store unasked, or anything else."""
    paths.check_writable(paths.locate(path))
    there = paths.look(paths.locate(path))
    if not there.free and not is_store(path, there.document):
        raise InputError(f"{path} is not a store: move it away")
    if not there.free and not overwrite:
        read_metadata(path)  # which says what is wrong with a store that is damaged
        raise InputError(f"{path} exists: `overwrite` replaces it, another `name` keeps it")
    return there


def _check_matrices(matrices: Mapping[str, RowSource], tied: bool) -> int:
    if not matrices or not set(matrices) <= set(MATRICES) or (tied and len(matrices) > 1):
        raise ValueError(f"cannot store {list(matrices)} as the {'tied matrix' if tied else 'matrices'} of a model")
    for source in matrices.values():
        if source.dtype.name not in DTYPES:
            raise InputError(f"{source.tensor} has dtype {source.dtype.name}: only {', '.join(DTYPES)} can be stored")
        if 0 in source.shape:
            raise InputError(f"{source.tensor} is empty: its shape is {list(source.shape)}")
    return max(source.shape[0] for source in matrices.values())
