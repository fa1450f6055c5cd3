"""Validate a store: all that `stores/README.md` documents is checked before any row is read."""

from __future__ import annotations

import json
import math
import os
import re
import stat
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from reprlib import repr as shortened
from typing import Any

import numpy as np

from embgeom_dask.bfloat16 import BFloat16  # registers the data type
from embgeom_dask.errors import EmbgeomError, InputError, shorten
from embgeom_dask.storage import other_formats, paths, records
from embgeom_dask.storage.paths import PathLike
from embgeom_dask.versions import version

FORMAT_VERSION = 2
MATRICES = ("input_embedding", "output_embedding")
ITEMSIZES = {"float64": 8, "float32": 4, "float16": 2, BFloat16._zarr_v3_name: 2}
LABELS: dict[str, Any] = {
    **dict.fromkeys(("token", "text", "bytes"), np.object_),
    **dict.fromkeys(("has_token", "is_added", "is_special"), np.bool_),
}
"""The labels of rows and their dtypes. Strings are Python's: pandas, netCDF and `xarray.concat` take no StringDType."""

REACHABILITY = "reachability"
"""The label, a string, that rows have where it could be told which tokens the tokenizer can write."""

_CHUNK_BYTES = 8 << 20
"""No chunk is larger, unless it is of one row."""
_LARGEST_CHUNK = (1 << 31) - 1
"""What blosc can hold."""
_NO_FILE = -1
_SHA256 = re.compile("[0-9a-f]{64}")
_TEXTS = ("revision", "tokenizer", "architecture", "license", "written_by")
_GRID = ("chunk_grid", "configuration", "chunk_shape")
_AT_ONCE = 8
_INDEX_CODECS = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]


class NoStore(InputError):
    """There is no model's store at a path: nothing at all, or something else."""


class _Damage(Exception):
    """What is wrong with a store."""


@dataclass(frozen=True, eq=False)
class Metadata:
    """What a valid store says of itself: where it is, the group's attributes, and the zarr metadata of every array.

    As long as a store stays as it is, it is the same object.
    """

    path: str
    attrs: Mapping[str, Any]
    arrays: Mapping[str, Any]


def read_metadata(store: PathLike) -> Metadata:
    """Validate a model's store, and return its metadata. A store that was found valid costs one small read.

    Attributes and their types, dimensions, data types, chunk grids, lengths, codecs and digests are checked, the
    consolidated metadata against each array's own, and that every chunk is there. The bytes of chunks are verified as
    they are read.

    Raises
    ------
    NoStore
        where `store` is not a model's store.
    InputError
        where it is damaged, or of another layout.
    EmbgeomError
        where it cannot be read.
    """
    return _validated(*_read_root(store))


def format_attributes() -> dict[str, Any]:
    """The attributes that say in which layout a store is, and which version wrote it."""
    return {"format_version": FORMAT_VERSION, "written_by": written_by()}


def written_by() -> str:
    """What this is, as an attribute of what it writes."""
    return f"embgeom-dask {version('embgeom-dask')}"


def is_store(path: PathLike, document: bytes | None = None) -> bool:
    """Whether a model's store, damaged or not, is at `path` (its zarr.json: `document`). EmbgeomError if unreadable."""
    try:
        _parse(path, _read_root(path)[1] if document is None else document)
    except InputError:
        return False
    return True


def forget() -> None:
    """Validate each store anew when it is used next."""
    _validated.cache_clear()


def damaged(store: PathLike, what: str) -> InputError:
    """The error that says what is wrong with a store."""
    return InputError(f"{store} is damaged: {what}: convert the model again, and overwrite it")


def chunk_count(array: Mapping[str, Any]) -> int:
    """The chunks of a valid matrix."""
    return int(-(-array["shape"][0] // chunk_rows(array)))


def chunk_rows(array: Mapping[str, Any]) -> int:
    """The rows of a chunk of a valid matrix, which may lie with others in a shard."""
    return int(_chunk_shape(array)[0])


def shard_bytes(metadata: Metadata) -> int | None:
    """The most bytes of a matrix, before compression, that a store has in a shard; None where it has none."""
    arrays = [metadata.arrays[name] for name in MATRICES if name in metadata.arrays]
    sizes = [[*_at(array, *_GRID), ITEMSIZES[array["data_type"]]] for array in arrays if _sharding(array)]
    return max(map(math.prod, sizes), default=None)


def _sharding(array: Any) -> Any:
    """How the shards of an array are made; None where it has none."""
    found = _at(array, "codecs")
    only = found[0] if isinstance(found, list) and len(found) == 1 else None
    return _at(only, "configuration") if _at(only, "name") == "sharding_indexed" else None


def _chunk_shape(array: Any) -> Any:
    sharding = _sharding(array)
    return _at(array, *_GRID) if sharding is None else _at(sharding, "chunk_shape")


def _read_root(store: PathLike) -> tuple[str, bytes]:
    """The absolute path or URL of a store, and the bytes of its zarr.json."""
    path = paths.locate(store)
    if path.endswith(".safetensors") or (not paths.is_url(path) and paths.exists(paths.join(path, "config.json"))):
        raise NoStore(f"{store} is a checkpoint, not a store: embgeom convert {store}")
    try:
        return path, _read(paths.join(path, "zarr.json"))
    except (FileNotFoundError, NotADirectoryError):
        raise NoStore(other_formats.why_no_store(store)) from None


def _read(file: str) -> bytes:
    with paths.explained(f"read {file}", passing=(FileNotFoundError, NotADirectoryError)):
        return records.read(file)


def _parse(store: PathLike, content: bytes) -> dict[str, Any]:
    """The zarr.json of a group that is meant to be a model's store, damaged or not."""
    root = _json(content)
    if root is None:
        raise damaged(store, "its zarr.json is no JSON")
    attrs = _at(root, "attributes")
    if _at(attrs, "series_format") is not None:
        raise NoStore(f"{store} is a series of steps: name one, {store}:STEP, or ask embgeom series")
    if _at(attrs, paths.UNFINISHED) is not None:
        raise NoStore(f"{store} is unfinished: its conversion still runs, or was stopped: run that again")
    if _at(attrs, "result_format") is not None:
        raise NoStore(f"{store} is not a model's store but a result: embgeom show prints it")
    if not isinstance(attrs, dict) or len({"model", "tied", "format_version"} & attrs.keys()) < 2:
        raise NoStore(f"{store} is not a model's store: embgeom convert makes one")
    if type(attrs.get("tied")) is int:  # as `open_model` has it, since netCDF has no booleans
        raise NoStore(other_formats.NOT_COPIED.format(store, "what xarray wrote of a model"))
    return dict(root)


@lru_cache(maxsize=256)
def _validated(path: str, content: bytes) -> Metadata:
    root = _parse(path, content)
    found = root["attributes"].get("format_version")
    if found != FORMAT_VERSION:
        newer = type(found) is int and found > FORMAT_VERSION
        remedy = "use that version" if newer else "convert the model again, and overwrite it"
        by = root["attributes"].get("written_by")
        by = shorten(by, 40) if isinstance(by, str) and by else "another embgeom-dask"
        raise InputError(
            f"{path} has layout {found!r:.20}, written by {by}; this version, {version('embgeom-dask')}, reads layout "
            f"{FORMAT_VERSION}: {remedy}"
        )
    try:
        arrays = _at(root, "consolidated_metadata", "metadata")
        whole = isinstance(arrays, dict) and all(isinstance(array, dict) for array in arrays.values())
        _check(whole, "its zarr.json has no consolidated metadata")
        _check_attributes(root["attributes"])
        _check_arrays(root["attributes"], arrays)
        _check_own(path, arrays)
        _check_chunks(path, arrays)
    except _Damage as damage:
        raise damaged(path, str(damage)) from None
    return Metadata(path, root["attributes"], arrays)


def _json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def _check(holds: bool, wrong: str) -> None:
    if not holds:
        raise _Damage(wrong)


def _at(value: Any, *keys: str) -> Any:
    """What lies at `keys` in nested JSON objects; None where it does not."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _check_attributes(attrs: Mapping[str, Any]) -> None:
    _check(isinstance(attrs.get("model"), str) and bool(attrs["model"]), "its model has no name")
    _check(isinstance(attrs.get("tied"), bool), "its attribute tied is neither true nor false")
    for name in _TEXTS:
        _check(isinstance(attrs.get(name, ""), str), f"its attribute {name} is no text")
    decision = attrs.get("decision", {})
    _check(isinstance(decision, dict), "its attribute decision is no object")
    for role in ("input", "output"):
        decided = decision.get(role)
        valid = decided is None or all(isinstance(_at(decided, key), str) for key in ("tensor", "how"))
        _check(valid, f"its attribute decision names no tensor for {role}")


def _check_arrays(attrs: Mapping[str, Any], arrays: Mapping[str, Any]) -> None:
    stored = [name for name in MATRICES if name in arrays]
    _check(bool(stored), "it has no matrix")
    _check(not (attrs["tied"] and len(stored) > 1), "its matrices are tied, and there are two of them")
    for name in stored:
        _check_matrix(name, arrays[name])
    rows = max(arrays[name]["shape"][0] for name in stored)
    widths = {arrays[name]["shape"][1] for name in stored}
    for name in stored:
        role, count = name.removesuffix("_embedding"), arrays[name]["shape"][0]
        own = f"token_{role}" in arrays
        dimension = f"token_id_{role}" if own or count < rows else "token_id"
        hidden = "hidden_output" if name == "output_embedding" and len(widths) > 1 else "hidden"
        _expect(name, arrays[name], ("dimension_names",), [dimension, hidden])
        _check_labels(arrays, f"_{role}" if own else None, dimension, count)
    _check_labels(arrays, "", "token_id", rows)


def _check_labels(arrays: Mapping[str, Any], suffix: str | None, dimension: str, rows: int) -> None:
    """Check the ids along a dimension and, where their names have a suffix, the labels."""
    if suffix is not None or dimension != "token_id":
        _check_label(dimension, arrays.get(dimension), dimension, rows, "int64")
    optional = {REACHABILITY: np.object_} if f"{REACHABILITY}{suffix}" in arrays else {}
    for name, kind in {**LABELS, **optional}.items() if suffix is not None else ():
        label = f"{name}{suffix}"
        _check_label(label, arrays.get(label), dimension, rows, "bool" if kind is np.bool_ else "string")


def label_names(arrays: Mapping[str, Any]) -> list[str]:
    """The arrays of a valid store that are token ids or labels: of all rows, or of one matrix's alone."""
    own = {arrays[name]["dimension_names"][0].removeprefix("token_id") for name in MATRICES if name in arrays}
    names = (f"{name}{suffix}" for suffix in sorted({"", *own}) for name in ("token_id", *LABELS, REACHABILITY))
    return [name for name in names if name in arrays]


def _check_matrix(name: str, array: Any) -> None:
    shape, dtype = _at(array, "shape"), _at(array, "data_type")
    _check(_is_shape(shape, 2), f"the shape of {name} is {shortened(shape)}")
    _check(isinstance(dtype, str) and dtype in ITEMSIZES, f"the data type of {name} is {shortened(dtype)}")
    chunk, objects = _chunk_shape(array), _at(array, *_GRID)
    _check(_is_shape(chunk, 2), f"the chunks of {name} are {shortened(chunk)}")
    row_bytes = shape[1] * ITEMSIZES[dtype]
    fits = chunk[1] == shape[1] and chunk[0] <= shape[0] and chunk[0] * row_bytes <= max(_CHUNK_BYTES, row_bytes)
    _check(
        fits and row_bytes <= _LARGEST_CHUNK,
        f"the chunks of {name} are {shortened(chunk)}, its shape is {shortened(shape)}",
    )
    whole = _is_shape(objects, 2) and objects[1] == shape[1] and objects[0] % chunk[0] == 0
    _check(whole, f"the shards of {name} are {shortened(objects)}, its chunks {shortened(chunk)}")
    _check_stored(name, array, ["bytes", "blosc", "crc32c"])
    attrs = _at(array, "attributes")
    _expect(name, array, ("attributes", "dtype"), dtype)
    _check(isinstance(_at(attrs, "source_tensor"), str), f"{name} has no source_tensor")
    for key in ("sha256", "labels_sha256"):
        _check(_is_sha256(_at(attrs, key)), f"{name} has no {key}")
    digests = _at(attrs, "chunk_sha256")
    _check(isinstance(digests, list) and all(map(_is_sha256, digests)), f"{name} has no chunk_sha256")
    expected = chunk_count(array)
    _check(len(digests) == expected, f"{name} has {len(digests)} chunk_sha256 for {expected} chunks")


def _check_label(name: str, array: Any, dimension: str, rows: int, kind: str) -> None:
    _check(isinstance(array, dict), f"it has no {name}")
    _expect(name, array, ("shape",), [rows])
    _expect(name, array, _GRID, [rows])
    _expect(name, array, ("data_type",), kind)
    _expect(name, array, ("dimension_names",), [dimension])
    _check_stored(name, array, ["vlen-utf8" if kind == "string" else "bytes", "zstd", "crc32c"])


def _check_stored(name: str, array: Any, codecs: Sequence[str]) -> None:
    """Check how the bytes of an array are kept."""
    _expect(name, array, ("zarr_format",), 3)
    _expect(name, array, ("node_type",), "array")
    _expect(name, array, ("chunk_grid", "name"), "regular")
    _expect(name, array, ("chunk_key_encoding",), {"name": "default", "configuration": {"separator": "/"}})
    _check(not _at(array, "storage_transformers"), f"{name} has storage_transformers")
    found = _at(array, "codecs")
    if (sharding := _sharding(array)) is not None:
        _expect(name, sharding, ("index_location",), "end")
        _expect(name, sharding, ("index_codecs",), _INDEX_CODECS)
        found = _at(sharding, "codecs")
    names = [_at(codec, "name") for codec in found] if isinstance(found, list) else found
    _check(names == codecs, f"the codecs of {name} are {shortened(names)}, not {shortened(codecs)}")
    if names[0] == "bytes":
        endian = _at(found[0], "configuration", "endian")
        _check(endian in ("little", None), f"the values of {name} are {shortened(endian)}-endian")


def _expect(name: str, array: Any, keys: Sequence[str], expected: Any) -> None:
    found = _at(array, *keys)
    same = json.dumps(found, sort_keys=True) == json.dumps(expected, sort_keys=True)  # true is not 1, nor is 1.0
    _check(same, f"the {keys[-1]} of {name} is {shortened(found)}, not {shortened(expected)}")


def _is_shape(value: Any, dimensions: int) -> bool:
    lengths = value if isinstance(value, list) else []
    return len(lengths) == dimensions and all(type(length) is int and length > 0 for length in lengths)


def _is_sha256(value: Any) -> bool:
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None


def _check_own(path: str, arrays: Mapping[str, Any]) -> None:
    """Compare the metadata that each array has itself with the group's copy."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        contents = list(pool.map(_read_or_none, [paths.join(path, name, "zarr.json") for name in arrays]))
    for (name, array), content in zip(arrays.items(), contents, strict=True):
        _check(content is not None, f"{name}/zarr.json is missing")
        own = _json(content or b"")
        _check(isinstance(own, dict), f"{name}/zarr.json is no JSON object")
        differing = [key for key in {**own, **array} if own.get(key) != array.get(key)]
        _check(not differing, f"{name}/zarr.json and the group's zarr.json differ in {', '.join(differing)}")


def _read_or_none(file: str) -> bytes | None:
    try:
        return _read(file)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _check_chunks(path: str, arrays: Mapping[str, Any]) -> None:
    """Check that every chunk is there and not empty, where that can be told without reading it."""
    objects = {
        name: -(-arrays[name]["shape"][0] // _at(arrays[name], *_GRID)[0]) for name in MATRICES if name in arrays
    }
    chunks = [f"{name}/c/{i}/0" for name, count in objects.items() for i in range(count)]
    chunks += [f"{name}/c/0" for name in label_names(arrays)]
    sizes = _listed_sizes(path) if paths.is_url(path) else None
    if sizes is None and paths.is_url(path):
        return
    for chunk in chunks:
        size = _file_size(paths.join(path, chunk)) if sizes is None else sizes.get(chunk)
        _check(size is not None, f"chunk {chunk} is missing")
        _check(size != _NO_FILE, f"chunk {chunk} is no file")
        _check(size != 0, f"chunk {chunk} is empty")


def _listed_sizes(url: str) -> dict[str, int] | None:
    """The bytes of each file at a URL; None where they cannot be listed, as over http."""
    if url.startswith(("http://", "https://")):
        return None
    try:
        fs, path = paths.filesystem(url)
        return {name[len(path) + 1 :]: info["size"] for name, info in fs.find(path, detail=True).items()}
    except Exception:  # not allowed, or not known there: the chunks that are missing are told as they are read
        return None


def _file_size(file: str) -> int | None:
    try:
        info = os.stat(file)  # noqa: PTH116
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise EmbgeomError(f"cannot read {file}: {paths.explain(error)}") from error
    return info.st_size if stat.S_ISREG(info.st_mode) else _NO_FILE
