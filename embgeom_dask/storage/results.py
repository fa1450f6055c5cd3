"""Labelled results: where they come from, how they are saved and opened."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from typing import Any, cast

import numpy as np
import xarray as xr
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec

from embgeom_dask import progress, tuning, versions
from embgeom_dask.errors import EmbgeomError, InputError, parse_path
from embgeom_dask.storage import other_formats, paths, replacement, result_names, result_trees
from embgeom_dask.storage.model_stores import Matrix
from embgeom_dask.storage.paths import PathLike
from embgeom_dask.versions import version

_COMPRESSORS = (ZstdCodec(level=1), Crc32cCodec())
TABLE = "table.zarr"
"""The table of all models in the folder of their results."""

_ORDER = "variables"
"""The attribute of a saved result that lists its variables in the order of the result: zarr has none.

What xarray writes of an opened result does not have it."""

_ONE_TABLE = ("survey", "duplicates")
"""The commands of which several models' results are one Dataset, their table; those of others are a tree."""

RESULT_FORMAT = 1
"""The version of what a result is made of, its attribute `result_format`: one more when names or meanings change."""

_SAME = ("command", "model", "revision", "matrix", "sha256", "labels_sha256")
_IDENTITY = (*_SAME, "settings", "versions", "fingerprint")
_STRING = 64  # about the bytes of a string in memory


def fingerprint(command: str, matrices: Sequence[Matrix], settings: Mapping[str, Any]) -> str:
    """The sha256 of all that decides a result: command, matrices (their bytes and labels), settings, version."""
    decides = {
        "command": command,
        "matrices": [[each.model, each.revision, each.name, each.sha256, each.labels_sha256] for each in matrices],
        "settings": dict(settings),
        "version": version("embgeom-dask"),
    }
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


def provenance(
    command: str,
    matrices: Sequence[Matrix],
    devices: Sequence[str],
    seconds: float,
    settings: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The attributes of every result: what it was made from, by what, how, in how many seconds of wall time.

    `settings` holds plain JSON values; they and the versions are kept as JSON text.
    """
    settings = dict(settings or {})
    return {
        "command": command,
        "result_format": RESULT_FORMAT,
        "model": [matrix.model for matrix in matrices],
        "revision": [matrix.revision for matrix in matrices],
        "matrix": [matrix.name for matrix in matrices],
        "sha256": [matrix.sha256 for matrix in matrices],
        "labels_sha256": [matrix.labels_sha256 for matrix in matrices],
        "settings": json.dumps(settings, sort_keys=True),
        "versions": json.dumps(versions.installed()),
        "devices": sorted(set(devices)),
        "seconds": round(seconds, 3),
        "fingerprint": fingerprint(command, matrices, settings),
    }


def identity(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Those attributes of `provenance` by which two results are the same or not."""
    return {name: attrs[name] for name in _IDENTITY}


def existing(path: PathLike, attrs: Mapping[str, Any]) -> xr.Dataset | None:
    """The result at `path` if the same command made it from the same input and settings; None if nothing is there.

    `attrs` are those of `provenance`. Every chunk of it is read: one that is damaged is none, which a note says.

    Raises
    ------
    InputError
        where something else is at `path`; it names what differs, with both values.
    """
    place = paths.locate(parse_path("out", path))
    paths.check_writable(place)
    there = paths.look(place)
    if there.free:
        return None
    try:
        group = _result_group(path, there)
    except InputError:
        if paths.look(place).free:
            return None
        raise
    if group.attrs["fingerprint"] != attrs["fingerprint"]:
        reason = differences(group.attrs, attrs)
        raise InputError(f"{path} holds a result from other settings ({reason}): choose another `out`, or remove it")
    if _ORDER not in group.attrs:  # it may be a part of the result
        raise InputError(f"{path} is what another program wrote of a result: choose another `out`, or remove it")
    try:
        paths.check_chunks(group)
    except EmbgeomError as error:
        progress.note(f"{path} is damaged, and is made again: {error}")
        return None
    if not paths.is_url(place):
        replacement.sweep(Path(place))
    return _opened(path, group)


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """What differs between the attributes of two results, with both values."""
    differing = [
        f"{name} is {there.get(name)!r} there and {here[name]!r} here"
        for name in _SAME
        if there.get(name) != here[name]
    ]
    old, new = json.loads(there["settings"]), json.loads(here["settings"])
    differing += [
        f"{name} is {old.get(name)!r} there and {new.get(name)!r} here"
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    ]
    if not differing:
        versions = [json.loads(attrs["versions"]).get("embgeom-dask") for attrs in (there, here)]
        differing = [f"embgeom-dask is {versions[0]} there and {versions[1]} here"]
    return "; ".join(differing)


def finish(
    dataset: xr.Dataset,
    attrs: Mapping[str, Any],
    started: float,
    out: PathLike | None,
    scalars: Mapping[str, str] | None = None,
) -> xr.Dataset:
    """Complete a result with its names and attributes, save it at `out` if that is given, and return it.

    `attrs` are those of `provenance`, to which come the seconds since `started`, a value of `perf_counter`; `scalars`
    the coordinates that the whole result has, as `result_names.complete` takes them.
    """
    attrs = {**attrs, "seconds": round(perf_counter() - started, 3)}
    dataset = result_names.complete(dataset.assign_attrs(attrs), scalars)
    if out is not None:
        save(dataset, out)
    return dataset


def save(dataset: xr.Dataset, path: PathLike, *, replace: bool = False) -> None:
    """Write a result to zarr at `path`: aside first, then moved into place. The same result there is left as it is.

    With `replace` any result there is replaced. Every chunk has a checksum.

    Raises
    ------
    InputError
        where something else is at `path`.
    """
    place = paths.locate(path)
    there = paths.look(place)
    if replace and not there.free:
        _result_group(path, there, whole=False)
    elif not there.free and existing(path, dataset.attrs) is not None:
        return
    try:
        with replacement.replacing(place, overwrite=not there.free, there=there) as aside:
            writer = paths.writer(aside, fresh=True)
            _storable(dataset).to_zarr(
                writer,
                mode="a",
                zarr_format=3,
                consolidated=False,
                write_empty_chunks=True,
                encoding={name: {"compressors": _COMPRESSORS} for name in dataset.variables},
            )
            attrs = {**dataset.attrs, **_apart(dataset), _ORDER: [str(name) for name in dataset.variables]}
            replacement.finish(aside, attrs, writer)
    except EmbgeomError as error:
        another = isinstance(error.__cause__, FileExistsError)
        if not another or existing(path, dataset.attrs) is None:  # which another command has put there meanwhile
            raise


def _storable(dataset: xr.Dataset) -> xr.Dataset:
    """The variables alone, strings of any length: those of numpy would be stored in a type of zarr-python's own.

    xarray tells strings by the first one, and would store none as numbers.
    """
    fixed = {name: each.astype(np.object_) for name, each in dataset.variables.items() if each.dtype.kind == "U"}
    empty = {
        name: each.astype(np.dtypes.StringDType())
        for name, each in dataset.variables.items()
        if each.dtype.kind == "O" and not each.size
    }
    return dataset.drop_attrs(deep=False).assign(fixed | empty)


def _apart(dataset: xr.Dataset) -> dict[str, str]:
    """The attribute that names the coordinates along which no variable lies, as xarray writes and reads it."""
    others = dataset.coords.keys() - dataset.dims
    names = [
        str(name)
        for name in dataset.coords
        if name in others and not any({*each.dims} >= {*dataset[name].dims} for each in dataset.data_vars.values())
    ]
    return {"coordinates": " ".join(names)} if names else {}


def open_result(path: PathLike) -> Any:
    """Open a saved result.

    Parameters
    ----------
    path : path or URL
        Where the result was saved: the `out` of a command.

    Returns
    -------
    xarray.Dataset or xarray.DataTree
        What the command returned. Arrays of up to 64 MiB are loaded, larger ones are read when they are used. A folder
        of surveys or duplicates of several stores gives their table; a folder of other results that have a table gives
        a DataTree with the table in the root. Any other folder gives a node for each result in it and for each folder
        of results, as `describe` makes of several stores. So does a DataTree of results that xarray has written.

    Raises
    ------
    InputError
        If there is no result at `path`.
    EmbgeomError
        If the result is damaged.

    Examples
    --------
    >>> import embgeom_dask as eg
    >>> from embgeom_dask.testing import make_store
    >>> store = make_store("tiny.zarr", output=np.eye(4, 2, dtype=np.float32))
    >>> found = eg.scan(store, farthest=1, out="scan.zarr")
    >>> open_result("scan.zarr")["farthest_distance"].values
    array([1.41421356])
    """
    folder = paths.locate(parse_path("path", path))
    if not paths.exists(paths.join(folder, "zarr.json")):
        groups = _groups_in(folder)
        if any(_stem(each) == _stem(TABLE) for each in groups):
            return _of_one_command(groups)
        others = result_trees.folders_in(folder)
        folders = {_stem(each): each for each in others if _is_result(each) or _groups_in(each)}
        apart = {f"{_stem(each)}{'.zarr' if _stem(each) in folders else ''}": each for each in groups}
        if found := {name: open_result(each) for name, each in (apart | folders).items()}:
            return result_trees.tree_of(None, found)
    group = _group(path)
    written = None if _ORDER in group.attrs else _node(path, group)
    return _opened(path, _checked(path, group)) if written is None else written


def _of_one_command(groups: Sequence[str]) -> xr.Dataset | xr.DataTree:
    """The results that one command made of several models, one of which is their table."""
    found = {_stem(each): open_result(each) for each in groups}
    table = found.pop(_stem(TABLE))
    if table.attrs["command"] in _ONE_TABLE:
        return cast(xr.Dataset, table)
    return result_trees.tree_of(table, result_trees.in_order(table, found))


def _node(path: PathLike, group: zarr.Group) -> xr.Dataset | xr.DataTree | None:
    """What xarray wrote of a result, or of a tree of results; None where there is none in the group."""
    parts = [(name, _node(f"{path}/{name}", each)) for name, each in sorted(group.groups())]
    found = {name: part for name, part in parts if part is not None}
    if not is_provenance(group.attrs):
        return result_trees.tree_of(None, found) if found else None
    own = _opened(path, _checked(path, group))
    return result_trees.tree_of(own, result_trees.in_order(own, found)) if found else own


def _groups_in(folder: str) -> list[str]:
    """The results in a folder."""
    with suppress(FileNotFoundError):
        return [each for each in paths.groups_in(folder) if _is_result(each)]
    return []


def _is_result(path: str) -> bool:
    try:
        attrs = paths.open_group(path).attrs
        return "result_format" in attrs or is_provenance(attrs)
    except (FileNotFoundError, ValueError, EmbgeomError):
        return False


def _stem(path: str) -> str:
    return path.rpartition("/")[2].removesuffix(".zarr")


def open_unread(path: PathLike) -> xr.Dataset:
    """Open a result as `open_result` does, without reading a value of it yet."""
    return _opened(path, _result_group(path), loaded=False)


def _opened(path: PathLike, group: zarr.Group, *, loaded: bool = True) -> xr.Dataset:
    with paths.explained(f"read {path}", passing=()):
        consolidated = group.metadata.consolidated_metadata is not None
        stored = cast(
            xr.Dataset, xr.open_zarr(cast(Any, group.store), group=group.path or None, consolidated=consolidated)
        )
        order = stored.attrs.pop(_ORDER, [])
        names = [name for name in order if name in stored.variables] if isinstance(order, list) else []
        names += [name for name in stored.variables if name not in names]
        variables = {name: _in_memory(stored.variables[name]) if loaded else stored.variables[name] for name in names}
    attrs = other_formats.with_lists(stored.attrs)
    return result_names.with_strings(xr.Dataset(variables, attrs=attrs).set_coords(list(stored.coords)))


def _in_memory(variable: xr.Variable) -> xr.Variable:
    """A variable, loaded where it is small."""
    itemsize = _STRING if variable.dtype.kind == "T" else variable.dtype.itemsize
    return variable.load() if variable.size * itemsize <= tuning.LOADED_BYTES else variable


def _result_group(path: PathLike, there: paths.Contents | None = None, *, whole: bool = True) -> zarr.Group:
    """The zarr group of the result at `path`, the `whole` of which is read; InputError where there is none."""
    return _checked(path, _group(path, there, whole=whole))


def _group(path: PathLike, there: paths.Contents | None = None, *, whole: bool = True) -> zarr.Group:
    """The zarr group at `path`, as `_result_group`, of whatever it may be."""
    place, group = paths.locate(path), None
    try:
        with suppress(ValueError):
            group = paths.open_group(place, whole=whole, there=there)
        if group is None or _ORDER not in group.attrs:  # `to_zarr` leaves out chunks of nothing but the fill value
            group = paths.open_group(place, whole=whole, complete=False)
    except paths.Unfinished:
        raise InputError(f"{path} is unfinished: its command still runs, or was stopped: run that again") from None
    except (FileNotFoundError, ValueError) as error:
        nothing = isinstance(error, FileNotFoundError) and not paths.exists(place)
        missing = f"no result at {path}: name the folder that `out` wrote"
        raise InputError(missing if nothing else other_formats.why_no_result(path)) from None
    return group


def _checked(path: PathLike, group: zarr.Group) -> zarr.Group:
    """The same group; InputError where it is no result of this version."""
    check_format(f"{path} is a result", group.attrs, "result_format", RESULT_FORMAT)
    if not is_provenance(group.attrs):
        raise InputError(other_formats.why_no_result(path))
    return group


def check_format(what: str, found: Mapping[str, Any], name: str, known: int) -> None:
    """Refuse what another version of embgeom-dask has written, newer or older, by the version of its format.

    `found` holds that under `name`, and attributes of `provenance`; what holds neither is let pass.

    Raises
    ------
    InputError
        where the version is not `known`.
    """
    if found.get(name) == known or not (name in found or is_provenance(found)):
        return
    try:
        by = f"by embgeom-dask {json.loads(found['versions'])['embgeom-dask']}"
    except (KeyError, TypeError, ValueError):
        by = "by another embgeom-dask"
    own = version("embgeom-dask")
    raise InputError(
        f"{what} in format {found.get(name)!r:.20}, written {by}; this version, {own}, knows format {known}: "
        "use that version, or move it away and make it again"
    )


def is_provenance(attrs: object) -> bool:
    """Whether these are attributes that `provenance` gave, not those of something else."""
    try:
        known = cast(Mapping[str, Any], attrs)
        texts = [json.loads(identity(known)[name]) for name in ("settings", "versions")]
        return isinstance(known["fingerprint"], str) and all(isinstance(text, dict) for text in texts)
    except (KeyError, TypeError, ValueError):
        return False
