"""Labelled results: where they come from, how they are saved and opened."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any, cast

import numpy as np
import xarray as xr

from embgeom_dask import places, stores, versions
from embgeom_dask.errors import InputError
from embgeom_dask.places import Place
from embgeom_dask.stores import Matrix

_OF_SECOND = ("neighbor_token_id", "against_left_out_token_id")


def fingerprint(command: str, matrices: Sequence[Matrix], settings: Mapping[str, Any]) -> str:
    """The sha256 of what decides a result: command, matrices (model, revision, name, bytes), settings, version."""
    decides = {
        "command": command,
        "matrices": [[matrix.model, matrix.revision, matrix.name, matrix.sha256] for matrix in matrices],
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
        "model": [matrix.model for matrix in matrices],
        "revision": [matrix.revision for matrix in matrices],
        "matrix": [matrix.name for matrix in matrices],
        "sha256": [matrix.sha256 for matrix in matrices],
        "settings": json.dumps(settings, sort_keys=True),
        "versions": json.dumps(versions.installed()),
        "devices": sorted(set(devices)),
        "seconds": round(seconds, 3),
        "fingerprint": fingerprint(command, matrices, settings),
    }


def existing(path: Place, attrs: Mapping[str, Any]) -> xr.Dataset | None:
    """The result at `path` if the same command made it from the same input and settings; None if nothing is there.

    `attrs` are those of `provenance`.

    Raises
    ------
    InputError
        where something else is at `path`; it names what differs, with both values.
    """
    if places.is_free(places.locate(path)):
        return None
    there = open_result(path)
    if there.attrs["fingerprint"] == attrs["fingerprint"]:
        return there
    reason = differences(there.attrs, attrs)
    raise InputError(f"{path} holds a result from other settings ({reason}): choose another --out, or remove it")


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """What differs between the attributes of two results, with both values."""
    differing = [
        f"{name} is {there.get(name)!r} there and {here[name]!r} here"
        for name in ("command", "model", "revision", "matrix", "sha256")
        if there.get(name) != here[name]
    ]
    old, new = json.loads(there["settings"]), json.loads(here["settings"])
    differing += [
        f"{name} is {old.get(name)!r} there and {new.get(name)!r} here"
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    ]
    if not differing:
        versions = [json.loads(attrs["versions"])["embgeom-dask"] for attrs in (there, here)]
        differing = [f"embgeom-dask is {versions[0]} there and {versions[1]} here"]
    return "; ".join(differing)


def save(dataset: xr.Dataset, path: Place, *, replace: bool = False) -> None:
    """Write a result to zarr at `path`: aside first, then moved into place; the same result there is replaced.

    With `replace` any result there is.

    Raises
    ------
    InputError
        where something else is at `path`.
    """
    if not replace:
        existing(path, dataset.attrs)
    elif not places.is_free(places.locate(path)):
        open_result(path)
    with places.replacing(places.locate(path), overwrite=True) as place:
        dataset.drop_attrs(deep=False).to_zarr(
            places.writer(place), mode="a", zarr_format=3, consolidated=False, write_empty_chunks=True
        )
        places.finish(place, dataset.attrs)


def open_result(path: Place) -> xr.Dataset:
    """Open a saved result; its arrays are loaded when used.

    Raises
    ------
    InputError
        where there is no result at `path`.
    """
    place = places.locate(path)
    try:
        group = places.open_group(place)
    except FileNotFoundError:
        raise InputError(f"no result at {path}: name the folder that --out wrote") from None
    except ValueError:
        raise InputError(f"{path} is not a result of embgeom") from None
    if "fingerprint" not in group.attrs:
        raise InputError(f"{path} is not a result of embgeom")
    return cast(xr.Dataset, xr.open_zarr(cast(Any, group.store), consolidated=True))


def with_tokens(dataset: xr.Dataset, matrices: Sequence[Matrix]) -> xr.Dataset:
    """Give every `<name>_token_id` its strings, as the coordinate `<name>_token` of the same dims; id -1 has none.

    Of two matrices the second names side 1 of pairs, neighbours, and what was left out of it.
    """
    tokens = [stores.labels(matrix.store)["token"].to_numpy() for matrix in matrices]
    found = {}
    for name, array in dataset.variables.items():
        if str(name).endswith("token_id") and array.dtype == np.int64:
            ids = array.to_numpy()
            if "side" in array.dims:
                strings = np.stack([tokens[0][ids[..., 0]], tokens[-1][ids[..., 1]]], axis=-1)
            else:
                strings = tokens[-1 if name in _OF_SECOND else 0][ids]
            if (ids < 0).any():
                strings = np.where(ids >= 0, strings, "")
            found[str(name).removesuffix("_id")] = (array.dims, np.asarray(strings, tokens[0].dtype))
    return dataset.assign_coords(found)
