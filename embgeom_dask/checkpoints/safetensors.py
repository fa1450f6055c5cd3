"""Read safetensors files, local or remote: a strict parser of headers, and rows by byte ranges.

The format is described at https://huggingface.co/docs/safetensors. The safetensors library is not used, because it maps
files into memory: if a mapped file is truncated, the process is killed.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import ml_dtypes
import numpy as np

from embgeom_dask.checkpoints.files import ByteSource, Folder
from embgeom_dask.checkpoints.folder_advice import explain, weights_in
from embgeom_dask.checkpoints.small_files import read_json
from embgeom_dask.errors import InputError, shorten

_BITS = {
    **{"BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64},
    **{"F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6},
    **{"F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E5M2FNUZ": 8, "F8_E4M3FNUZ": 8},
}
_MATRIX_DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
_INTEGER_DTYPES: dict[str, np.dtype[Any]] = {
    **{"BOOL": np.dtype(np.bool_), "U8": np.dtype(np.uint8), "I8": np.dtype(np.int8), "I16": np.dtype("<i2")},
    **{"I32": np.dtype("<i4"), "I64": np.dtype("<i8")},
}
_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_MAX_HEADER = 100_000_000  # bytes, as in the safetensors library
_FIRST_READ = 16 << 10  # bytes that are read before the length of the header is known
_STRANGERS = {
    b"version https://git-lfs": "is a Git LFS pointer, not the weights: fetch them with git lfs pull",
    b"<": "is a web page, not the weights: download the file again",
    b"PK\x03\x04": "is a PyTorch archive: save the model as safetensors first",
    b"\x80": "is a Python pickle: save the model as safetensors first",
    b"GGUF": "is a GGUF file: give the original safetensors checkpoint",
}
_SHOWN = 8
_SHARD = re.compile(r"[^/\\\0]{1,200}")  # a name that every file system takes


@dataclass(frozen=True)
class Tensor:
    """One tensor of a file. One of two dimensions and dtype F64, F32, F16 or BF16 is a `storage.fill.RowSource`.

    Attributes
    ----------
    source : ByteSource
        The file.
    tensor : str
        The name of the tensor.
    kind : str
        Its dtype by the name that safetensors gives it: `F32`, `BF16`, ...
    shape : tuple of int
        Its dimensions.
    offset : int
        The byte of the file where its values start; they are in C order, little-endian.
    """

    source: ByteSource
    tensor: str
    kind: str
    shape: tuple[int, ...]
    offset: int

    @property
    def is_matrix(self) -> bool:
        """Whether the tensor has two dimensions and a dtype that a store can hold."""
        return len(self.shape) == 2 and self.kind in _MATRIX_DTYPES

    @property
    def missing_bytes(self) -> int:
        """Bytes of the values that are missing in the file."""
        return 0

    @property
    def dtype(self) -> np.dtype[Any]:
        """The numpy dtype of a matrix."""
        return _MATRIX_DTYPES[self.kind]

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return rows start..stop-1 of a matrix, (stop - start, columns) of `dtype`. Raises as its source does."""
        row_bytes = self.shape[1] * self.dtype.itemsize
        data = self.source.read(self.offset + start * row_bytes, self.offset + stop * row_bytes)
        return np.frombuffer(data, dtype=self.dtype).reshape(stop - start, self.shape[1])

    def integers(self) -> np.ndarray:
        """Return a vector of integers or bools, (n,) int64.

        Raises InputError if the tensor is not such a vector, and EmbgeomError as its source does.
        """
        dtype = _INTEGER_DTYPES.get(self.kind)
        if dtype is None or len(self.shape) != 1:
            raise InputError(
                f"{self.tensor} in {self.source.name} is {self.kind} {list(self.shape)}, no list of integers"
            )
        data = self.source.read(self.offset, self.offset + self.shape[0] * dtype.itemsize)
        return np.frombuffer(data, dtype).astype(np.int64)


@dataclass(frozen=True)
class Listing:
    """The names of a checkpoint's tensors; the headers of its files are read when first needed.

    Attributes
    ----------
    source : Path
        The model folder, with the config, or the single file.
    name : str
        What messages call it.
    folder : Folder
        The files.
    files : dict of str to str
        The file of each tensor, by the name of the tensor.
    headers : dict of str to dict of str to Tensor
        The tensors of the files read so far, by file and name.
    """

    source: Path
    name: str
    folder: Folder
    files: dict[str, str]
    headers: dict[str, dict[str, Tensor]] = field(default_factory=dict)

    def __iter__(self) -> Iterator[str]:
        return iter(self.files)

    def matrix(self, name: str) -> Tensor:
        """Return a matrix. Raises InputError if it is missing, or not a matrix that a store can hold."""
        if name not in self.files:
            raise InputError(f"no tensor {name!r} in {self.name}: it has {describe(self.matrices())}")
        file = self.files[name]
        if not self.folder.has(file):
            raise InputError(f"{name} is in {self.folder.name}/{file}, which is missing: download it")
        tensor = self._tensor(name)
        if len(tensor.shape) != 2:
            shape = list(tensor.shape)
            raise InputError(f"{name} in {tensor.source.name} has shape {shape}: an embedding has two dimensions")
        if not tensor.is_matrix:
            kinds = ", ".join(_MATRIX_DTYPES)
            stem = name.rpartition(".")[0]
            beside = [other for other in self if stem and other != name and other.startswith(f"{stem}.")][:_SHOWN]
            facts = tensor.kind + (f", beside {', '.join(beside)}" if beside else "")
            raise InputError(f"{name} in {tensor.source.name} is {facts}: only {kinds} can be stored bit for bit")
        if tensor.missing_bytes:
            raise InputError(
                f"{name} in {tensor.source.name} has shape {list(tensor.shape)}, of which {tensor.missing_bytes} bytes "
                "are not in the file (it was expanded): save a copy, tensor.clone()"
            )
        return tensor

    def integers(self, name: str) -> np.ndarray:
        """Return the integers of a vector, (n,) int64. Raises as `Tensor.integers` does."""
        return self._tensor(name).integers()

    def matrices(self) -> list[Tensor]:
        """Return the tensors that a store can hold as a matrix; files that are missing are left out."""
        there = {file for file in set(self.files.values()) if self.folder.has(file)}
        tensors = (self._tensor(name) for name, file in self.files.items() if file in there)
        return [tensor for tensor in tensors if tensor.is_matrix]

    def kind(self, name: str) -> str:
        """Return the safetensors dtype of a tensor."""
        return self._tensor(name).kind

    def _tensor(self, name: str) -> Tensor:
        file = self.files[name]
        if file not in self.headers:
            self.headers[file] = read_header(self.folder.open(file))
        if name not in self.headers[file]:
            raise InputError(f"{self.folder.name}/{file} has no tensor {name!r}, though {_INDEX} says so")
        return self.headers[file][name]


def describe(tensors: list[Tensor]) -> str:
    """List tensors with their shapes in one line, the largest first, a few at most."""
    ordered = sorted(tensors, key=lambda tensor: (-math.prod(tensor.shape), tensor.tensor))
    named = [
        f"{shorten(tensor.tensor)} ({' x '.join(map(str, tensor.shape))} {tensor.kind})" for tensor in ordered[:_SHOWN]
    ]
    return ", ".join([*named, f"{len(ordered) - _SHOWN} more"] if len(ordered) > _SHOWN else named) or "no matrix"


def list_folder(folder: Folder) -> Listing:
    """List a model folder: `model.safetensors`, else the files that `model.safetensors.index.json` names.

    Raises InputError if there is neither, if the index is broken or names a file outside the folder, and as
    `read_header` does.
    """
    if folder.has(_SINGLE):
        header = read_header(folder.open(_SINGLE))
        return Listing(folder.path, folder.name, folder, dict.fromkeys(header, _SINGLE), {_SINGLE: header})
    if not folder.has(_INDEX):
        raise InputError(f"{folder.name} is not a checkpoint: it has no {_SINGLE} and no {_INDEX}; {explain(folder)}")
    return Listing(folder.path, folder.name, folder, read_index(folder, _INDEX, ".safetensors"))


def read_index(folder: Folder, file: str, ending: str) -> dict[str, str]:
    """Read an index of shards, and return the file of each tensor by the tensor's name.

    Raises InputError if the file is not an index, or names a file outside the folder or with another ending.
    """
    index = folder.open(file)
    weight_map = read_json(index, what := f"an index of {ending} files", _MAX_HEADER).get("weight_map")
    if not isinstance(weight_map, dict):
        raise InputError(f"{index.name} is not {what}: it has no weight_map of tensors to files")
    for shard in weight_map.values():
        if not isinstance(shard, str) or not _SHARD.fullmatch(shard) or ".." in shard or not shard.endswith(ending):
            raise InputError(f"{index.name} names {shorten(repr(shard))}, which is not a {ending} file of the folder")
    shards = sorted(set(weight_map.values()))
    if shards and not any(map(folder.has, shards)):
        named = f"{folder.name}/{file} names {shorten(shards[0])}, which is missing"
        raise InputError(f"{named}: download it, or the index of the weights that are there ({weights_in(folder)})")
    return weight_map


def read_header(source: ByteSource) -> dict[str, Tensor]:
    """Read and check the header of a safetensors file, and return its tensors by name.

    Raises InputError for every header that the safetensors library refuses, and also for a name that occurs twice and
    for a field that the format does not have.
    """
    start = source.read(0, min(source.size, _FIRST_READ))
    length = _header_length(source, start)
    header = start[8 : 8 + length]
    if len(header) < length:
        header += source.read(8 + len(header), 8 + length)
    try:
        entries = json.loads(
            header.decode(), object_pairs_hook=_unique, parse_int=_unsigned, parse_constant=_not_a_number
        )
        if not isinstance(entries, dict):
            raise ValueError("not a JSON object")
        _check_metadata(entries.pop("__metadata__", None))
        tensors = {name: _tensor(source, name, entry, 8 + length) for name, entry in entries.items()}
    except RecursionError:
        raise InputError(f"{source.name} has a broken header: nested too deep") from None
    except ValueError as error:
        raise InputError(f"{source.name} has a broken header: {' '.join(str(error).split())}") from error
    _check_cover(source.name, tensors, entries, source.size - 8 - length)
    return tensors


def _header_length(source: ByteSource, start: bytes) -> int:
    name, size = source.name, source.size
    if size < 8:
        raise InputError(f"{name} is not a safetensors file: it is {'empty' if size == 0 else f'{size} bytes long'}")
    length: int = struct.unpack("<Q", start[:8])[0]
    if length > min(_MAX_HEADER, size - 8):
        for beginning, words in _STRANGERS.items():
            if start[:64].lstrip().startswith(beginning):
                raise InputError(f"{name} {words}")
    if length > _MAX_HEADER:
        raise InputError(f"{name} is not a safetensors file: a header of {length} bytes is past {_MAX_HEADER}")
    if length > size - 8:
        raise InputError(
            f"{name} is truncated: its header takes {length} bytes, and {size - 8} are left: download it again"
        )
    return length


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries: dict[str, Any] = {}
    for name, value in pairs:
        name.encode()  # a lone surrogate is a UnicodeEncodeError, which is a ValueError
        if name in entries:
            raise ValueError(f"{name!r} stands twice")
        entries[name] = value
    return entries


def _check_metadata(metadata: Any) -> None:
    if metadata is None:
        return
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("__metadata__ maps no names to strings")
    "".join(metadata.values()).encode()


def _unsigned(digits: str) -> int:
    if digits.startswith("-"):
        raise ValueError(f"{digits} is negative")
    return int(digits)


def _not_a_number(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _tensor(source: ByteSource, name: str, entry: Any, data: int) -> Tensor:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{name!r} has not the fields dtype, shape and data_offsets")
    kind, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(kind, str) or kind not in _BITS:
        raise ValueError(f"{name!r} has the unknown dtype {kind!r}")
    if not isinstance(shape, list) or not all(type(size) is int for size in shape):
        raise ValueError(f"{name!r} has shape {shape!r}")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(type(offset) is int for offset in offsets):
        raise ValueError(f"{name!r} has data_offsets {offsets!r}")
    begin, end = offsets
    if begin > end:
        raise ValueError(f"{name!r} begins at byte {begin}, after its end {end}")
    elements = 1
    for size in (*shape, _BITS[kind]):
        elements *= size
        if max(elements, size) >= 1 << 64:
            raise ValueError(f"{name!r} has shape {shape}, which overflows")
    if elements != 8 * (end - begin):
        raise ValueError(f"{name!r} has {end - begin} bytes, but {kind} of shape {shape} takes {elements / 8:g}")
    return Tensor(source, name, kind, tuple(shape), data + begin)


def _check_cover(file: str, tensors: dict[str, Tensor], entries: dict[str, Any], size: int) -> None:
    """Raise InputError if the tensors do not cover the `size` data bytes of the file exactly once."""
    position = 0
    for name in sorted(tensors, key=lambda name: entries[name]["data_offsets"]):
        begin, end = entries[name]["data_offsets"]
        if begin != position:
            fault = (
                "overlaps the tensor before it" if begin < position else f"leaves a hole of {begin - position} bytes"
            )
            raise InputError(f"{file} has a broken header: {name!r} {fault}")
        position = end
    if position > size:
        raise InputError(
            f"{file} is truncated: its tensors take {position} bytes, and {size} are left: download it again"
        )
    if position < size:
        raise InputError(f"{file} has {size - position} bytes after its last tensor: download it again")
