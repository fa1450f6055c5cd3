"""Tidy tables of results: one line a pair, a neighbor, a bin, a token or a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import xarray as xr

from embgeom_dask.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

_OF_A_TABLE = {
    "histogram": (
        "histogram_count",
        ("bin_left", "bin_right", "bin_center", "histogram_count", "histogram_cdf"),
    ),
    "within": ("within_count", ("radius", "within_count")),
    "degrees": ("within_degree", ("token_id", "token", "radius", "within_degree")),
    "quantiles": ("quantile_lower", ("quantile", "quantile_lower", "quantile_upper", "quantile_distance")),
    "centroid": ("centroid", ("hidden", "centroid")),
}
"""Of each plain table the variable that has its dimensions, and its columns."""

_PAIRS = {"farthest": "farthest", "nearest": "nearest", "pairs": "pair"}


def names(result: xr.Dataset) -> list[str]:
    """The names of the tables that a result has."""
    found = [name for name, stem in _PAIRS.items() if {f"{stem}_distance", f"{stem}_token_id"} <= set(result)]
    found += ["neighbors"] if "neighbor_distance" in result else []
    found += [name for name, (variable, _) in _OF_A_TABLE.items() if variable in result]
    command = result.attrs.get("command")
    found += [command] if command in ("survey", "duplicates") else []
    return sorted(found)


def frame(result: xr.Dataset, name: str) -> pd.DataFrame:
    """The table `name` of a result, with a column `model` first where it is of several models.

    Raises
    ------
    InputError
        where the result has no such table; it names those that there are.
    """
    if name not in names(result):
        there = ", ".join(names(result)) or "none"
        raise InputError(f"this result has no table {name!r}: it has {there}")
    if name in _PAIRS:
        return _pairs(result, _PAIRS[name])
    if name in _OF_A_TABLE:
        variable, columns = _OF_A_TABLE[name]
        return _tidy(result[variable], {each: result[each] for each in columns if each in result.variables})
    tables: dict[str, Callable[[xr.Dataset], pd.DataFrame]] = {
        "neighbors": _neighbors,
        "survey": _survey,
        "duplicates": _members,
    }
    return tables[name](result)


def _tidy(main: xr.DataArray, columns: dict[str, xr.DataArray]) -> pd.DataFrame:
    """A line for each value of `main`; every column has some of its dimensions."""
    import pandas as pd

    if "model" in main.dims and "model" in main.coords:
        columns = {"model": main["model"], **columns}
    found = {}
    for name, column in columns.items():
        variable = column.variable.set_dims(dict(zip(main.dims, main.shape, strict=True)))
        found[name] = variable.transpose(*main.dims).to_numpy().ravel()
    return pd.DataFrame(found)


def _without_missing(table: pd.DataFrame) -> pd.DataFrame:
    """The lines that have a distance: shorter lists end with NaN. Ids are integers again."""
    table = table[table["distance"].notna()].reset_index(drop=True)
    return table.astype({name: "int64" for name in table.columns if "token_id" in name})


def _pairs(result: xr.Dataset, stem: str) -> pd.DataFrame:
    distance = result[f"{stem}_distance"]
    columns = {"rank": result[stem]} if stem in distance.dims and stem != "pair" else {}
    columns["distance"] = distance
    for side, letter in enumerate("ab"):
        for what in ("token_id", "token"):
            if f"{stem}_{what}" in result.variables:
                columns[f"{what}_{letter}"] = result[f"{stem}_{what}"].isel(side=side)
    return _without_missing(_tidy(distance, columns))


def _neighbors(result: xr.Dataset) -> pd.DataFrame:
    columns = {name: result[name] for name in ("token_id", "token") if name in result.variables}
    columns["rank"] = result["neighbor"]
    columns |= {name: result[name] for name in ("neighbor_token_id", "neighbor_token") if name in result.variables}
    columns["distance"] = result["neighbor_distance"]
    return _without_missing(_tidy(result["neighbor_distance"], columns))


def _survey(result: xr.Dataset) -> pd.DataFrame:
    main = result["centroid_l2"]
    columns = {str(name): each for name, each in result.variables.items() if each.dims == main.dims and name != "model"}
    return _tidy(main, {name: result[name] for name in columns})


def _members(result: xr.Dataset) -> pd.DataFrame:
    """A line for each token that has identical others."""
    group = result["member_group"]
    of_group = result["group_model"].isel(group=group)
    columns = {
        "model": result["model"].isel(model=of_group) if result["model"].dims else result["model"],
        "group": group,
        "group_population": result["group_population"].isel(group=group),
        "token_id": result["member_token_id"],
    }
    columns |= {"token": result["member_token"]} if "member_token" in result.variables else {}
    return _tidy(group, columns)
