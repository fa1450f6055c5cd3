"""Put the strings and the ids of tokens into results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import xarray as xr

from embgeom_dask import private_apis

_OF_SECOND = ("neighbor_token_id", "top_token_id", "bottom_token_id", "against_left_out_token_id")


def with_tokens(dataset: xr.Dataset, labels: Sequence[Mapping[str, np.ndarray]]) -> xr.Dataset:
    """Give every `<name>_token_id` its strings, the coordinates `<name>_token` and `<name>_text`; id -1 has none.

    `labels` are those of a matrix, or of two: then the second names side 1 of pairs, neighbors, and what was left out
    of it.
    """
    found: dict[str, Any] = {}
    for what in ("token", "text"):
        strings = [each[what] for each in labels]
        for name, array in _token_ids(dataset).items():
            each = _looked_up(name, array, strings)
            if (array.to_numpy() < 0).any():
                each = np.where(array.to_numpy() >= 0, each, "")
            each = np.asarray(each, np.object_)
            found[f"{name.removesuffix('token_id')}{what}"] = private_apis.variable_of(array.dims, each)
    return dataset.assign_coords(found)


def with_ids(dataset: xr.Dataset, ids: Sequence[np.ndarray | None]) -> xr.Dataset:
    """Put the ids that the caller knows rows by in place of their numbers; -1 stays.

    `ids` holds for each matrix, as for `with_tokens`, those of its rows, (rows,) int64; None where they are numbers.
    """
    if all(each is None for each in ids):
        return dataset
    found: dict[str, Any] = {}
    for name, array in _token_ids(dataset).items():
        numbers = array.to_numpy()
        largest = int(numbers.max(initial=-1))
        tables = [np.arange(largest + 1) if each is None else each for each in ids]
        found[name] = (array.dims, np.where(numbers >= 0, _looked_up(name, array, tables), -1))
    return dataset.assign(found)


def _token_ids(dataset: xr.Dataset) -> dict[str, xr.Variable]:
    named = {str(name): array for name, array in dataset.variables.items()}
    return {name: array for name, array in named.items() if name.endswith("token_id") and array.dtype == np.int64}


def _looked_up(name: str, numbers: xr.Variable, tables: Sequence[np.ndarray]) -> np.ndarray:
    """What `tables`, one a matrix, hold for the rows of a variable."""
    rows = numbers.to_numpy()
    if "side" in numbers.dims:
        return np.stack([tables[0][rows[..., 0]], tables[-1][rows[..., 1]]], axis=-1)
    return cast(np.ndarray, tables[-1 if name in _OF_SECOND else 0][rows])
