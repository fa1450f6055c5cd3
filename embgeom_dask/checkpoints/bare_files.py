"""Single files of tensors without a model folder: `.safetensors`, `.npy`, and files that torch pickled."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from embgeom_dask.checkpoints.files import LocalFile, LocalFolder
from embgeom_dask.checkpoints.folder_advice import other_format
from embgeom_dask.checkpoints.safetensors import Listing, Tensor, read_header
from embgeom_dask.checkpoints.torch_files import read_torch_file
from embgeom_dask.errors import InputError

ENDINGS = (".safetensors", ".npy", ".bin", ".pt", ".pth", ".ckpt")
_NPY_KINDS = {"<f8": "F64", "<f4": "F32", "<f2": "F16", "<u2": "U16", "|V2": "U16", "<V2": "U16"}
_MOST_NPY_HEADER = 1 << 16
_SHOWN = 8


def check_ending(path: Path) -> None:
    """Raise InputError if the ending of a file is not one of these kinds."""
    if path.suffix == ".json":
        raise InputError(f"{path} is not a checkpoint: give the folder that it lies in")
    if said := other_format(path.name):
        raise InputError(f"{path} is not a checkpoint: {said}")
    if path.suffix not in ENDINGS:
        raise InputError(f"{path} is not a checkpoint: give a model folder or a {', '.join(ENDINGS)} file")


def read_matrix(path: Path, key: str = "") -> Tensor:
    """Return the matrix `key` of a file, or its only one.

    Raises
    ------
    InputError
        where the file is broken or not there, there is no such matrix, or there are several.
    """
    listing = list_file(path)
    tensors = listing.headers[path.name]
    matrices = [name for name, tensor in tensors.items() if tensor.is_matrix]
    if key and key not in matrices:
        raise InputError(f"{path} has no matrix {key!r}: its matrices of floats are {_some(matrices)}")
    if not matrices:
        shapes = (f"{name} {tensor.kind} {list(tensor.shape)}" for name, tensor in tensors.items())
        raise InputError(f"{path} has no matrix of floats, rows and columns: it holds {_some(shapes)}")
    if not key and len(matrices) != 1:
        raise InputError(f"{path} has {len(matrices)} matrices of floats: name one, {path}:KEY ({_some(matrices)})")
    return tensors[key or matrices[0]]


def read_vector(path: Path, key: str = "") -> np.ndarray:
    """Return the vector of floats `key` of a file, or its only one, (n,) float64.

    Raises
    ------
    InputError
        where the file is broken or not there, there is no such vector, or there are several.
    """
    tensors = list_file(path).headers[path.name]
    vectors = {
        name: row
        for name, tensor in tensors.items()
        if len(tensor.shape) == 1 and (row := replace(tensor, shape=(1, *tensor.shape))).is_matrix
    }
    if not key and len(vectors) != 1:
        raise InputError(f"{path} has {len(vectors)} lists of floats: name one, {path}:KEY ({_some(vectors)})")
    if key and key not in vectors:
        raise InputError(f"{path} has no list of floats {key!r}: its lists are {_some(vectors)}")
    found: np.ndarray = vectors[key or next(iter(vectors))].read(0, 1)[0].astype(np.float64)
    return found


def _some(names: Iterable[str]) -> str:
    """The first of some names, for a message."""
    listed = list(names)
    return ", ".join(listed[:_SHOWN]) + (", ..." if len(listed) > _SHOWN else "") or "none"


def list_file(path: Path) -> Listing:
    """List the tensors of a file that `check_ending` accepts; the array of a `.npy` file is named after the file.

    A matrix of 16-bit unsigned integers is read as the bits of bfloat16, a type that numpy does not have. Raises
    InputError if the file is broken.
    """
    if path.suffix == ".safetensors":
        tensors = read_header(LocalFile.open(path))
    elif path.suffix == ".npy":
        tensors = {path.stem: _read_npy(path)}
    else:
        tensors = read_torch_file(path)
    viewed = {
        name: replace(tensor, kind="BF16") if tensor.kind == "U16" and len(tensor.shape) == 2 else tensor
        for name, tensor in tensors.items()
    }
    folder = LocalFolder(path.parent, path.stem, "")
    return Listing(path, str(path), folder, dict.fromkeys(viewed, path.name), {path.name: viewed})


def _read_npy(path: Path) -> Tensor:
    """Read the header of a `.npy` file (https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html)."""
    source = LocalFile.open(path)
    start = io.BytesIO(source.read(0, min(source.size, _MOST_NPY_HEADER)))
    try:
        version = np.lib.format.read_magic(start)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, transposed, dtype = read(start)
    except Exception as error:  # for a broken header, numpy raises any type
        reason = " ".join(str(error).split())[:100]
        raise InputError(f"{path} is not a .npy file, or a broken one: {reason}") from error
    kind = _NPY_KINDS.get(dtype.str)
    if kind is None or transposed:
        order = " in Fortran's order" if transposed else ""
        raise InputError(f"{path} holds {dtype.str}{order}: save it as little-endian floats or uint16, in C's order")
    size = math.prod(shape) * dtype.itemsize
    if source.size - start.tell() != size:
        raise InputError(f"{path} has {source.size - start.tell()} bytes of data, its shape {list(shape)} takes {size}")
    return Tensor(source, path.stem, kind, tuple(shape), start.tell())
