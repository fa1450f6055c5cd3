"""Tidy tables of results: one line a pair, a neighbor, a bin, a token or a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from embgeom_dask.errors import InputError
from embgeom_dask.reporting.model_results import group_models
from embgeom_dask.storage.result_names import measured

if TYPE_CHECKING:
    import pandas as pd

_OF_A_TOKEN = (
    *("token_id", "token", "text", "has_token", "is_added", "is_special", "reachability", "script", "token_to_group"),
    *("norm_l1", "norm_l1_rank", "norm_l2", "norm_l2_rank", "norm_linf", "norm_linf_rank"),
    *("centroid_distance", "centroid_distance_rank", "origin_distance", "origin_distance_rank"),
    *("neighbor_density", "k_occurrence", "local_dimension"),
)

_OF_A_ROW = (
    *("token_id", "token", "text", "against_token_id", "against_token", "token_changed", "changed_value_count"),
    *("euclidean_distance", "cosine_distance", "chebyshev_distance", "cityblock_distance"),
    *("norm_l2", "against_norm_l2", "neighbors_kept", "csls", "near_cosine_mean", "against_near_cosine_mean"),
)

_OF_TWO_MODELS = (
    *("model", "revision", "matrix", "against", "against_revision", "same_bytes", "identical_row_count"),
    *("shared_row_count", "identical_column_count", "shared_column_count", "shared_token_count"),
)

_OF_A_COMPONENT = (
    *("connected_component", "component_radius", "component_token_count", "component_distinct_count"),
    *("component_edge_count", "component_density", "component_diameter", "component_token_id", "component_token"),
)

_OF_INDICATORS = (
    *("token_id", "token", "text", "category", "reachability", "unused", "indicator_rank", "candidate", "input_norm"),
    *("unused_cosine_distance", "unused_centered_distance", "unused_component_distance", "unused_euclidean_distance"),
)
_OF_A_COLUMN = (
    *("hidden", "step_min", "step_max", "step_extent", "value_min", "value_max", "exponent_min", "exponent_max"),
    *("column_ulp", "both_signs"),
)
_OF_STEPS = ("pair_chebyshev_steps", "pair_cityblock_steps")
_OF_A_BIRTH = (*("token_id", "token", "first_change_step", "last_change_step", "change_count", "grouped_step_count"),)
_OF_SHARED = ("shared_token_id", "shared_token", "shared_distance")
_OF_DIRECTIONS = (
    *("component", "against_component", "score_correlation", "component_cosine", "component_share"),
    "against_component_share",
)

_ROW_MOMENTS = ("row_mean", "row_std", "row_skew", "row_kurtosis", "row_min", "row_max")

_OF_A_DIAMETER = (
    *("connected_component", "side", "component_diameter"),
    *("component_diameter_token_id", "component_diameter_token"),
)

_OF_AN_ITERATION = (
    *("iteration", "iteration_kind", "iteration_count", "iteration_radius", "iteration_next_distance"),
    *("iteration_contrast", "iteration_shift"),
)

_OF_A_TABLE = {
    "row_moments": ("row_mean", ("token_id", "token", "direction", "label", *_ROW_MOMENTS, "row_step")),
    "histogram": (
        "histogram_count",
        ("bin_left", "bin_right", "bin_center", "histogram_count", "histogram_cdf"),
    ),
    "within": ("within_count", ("radius", "within_count")),
    "degrees": ("within_degree", ("token_id", "token", "radius", "within_degree")),
    "quantiles": ("quantile_lower", ("quantile", "quantile_lower", "quantile_upper", "quantile_distance")),
    "centroid": ("centroid", ("step", "hidden", "centroid")),
    "token_to_group": ("token_to_group", ("token_id", "token_to_group")),
    "left_out": ("left_out_token_id", ("left_out_token_id", "left_out_token")),
    "against_left_out": ("against_left_out_token_id", ("against_left_out_token_id", "against_left_out_token")),
    "segments": ("segment_length", ("segment", "segment_length")),
    "vertices": ("angle_dot_product", ("vertex", "angle_law_of_cosines", "angle_dot_product")),
    "sides": (
        "norm_ratio",
        ("side", "farthest_token_id", "farthest_token", "norm", "centroid_distance", "norm_ratio"),
    ),
    "tokens": ("norm_l2_rank", _OF_A_TOKEN),
    "rows": ("against_norm_l2", _OF_A_ROW),
    "unmatched": ("unmatched_token_id", ("unmatched_token_id", "unmatched_token")),
    "against_unmatched": ("against_unmatched_token_id", ("against_unmatched_token_id", "against_unmatched_token")),
    "against_centroid": ("against_centroid", ("against_hidden", "hidden", "against_centroid")),
    "models": ("same_bytes", _OF_TWO_MODELS),
    "lattice_columns": ("step_extent", _OF_A_COLUMN),
    "exponents": ("exponent_count", ("exponent", "exponent_count")),
    "exponent_distances": ("exponent_distance", ("token_id", "token", "exponent_distance")),
    "lattice_pairs": ("pair_chebyshev_steps", ("pair", *_OF_STEPS)),
    "births": ("first_change_step", _OF_A_BIRTH),
    "indicators": ("indicator_rank", _OF_INDICATORS),
    "unused_mean": ("unused_mean", ("hidden", "unused_mean")),
    "shared": ("shared_distance", ("unmatched_token_id", "unmatched_token", "shared", *_OF_SHARED)),
    "near": ("near_csls", ("token_id", "token", "near", "near_token_id", "near_token", "near_csls")),
    "origin_point": ("origin_point", ("hidden", "origin_point")),
    "column_matches": ("column_match", ("hidden", "column_match", "column_cosine")),
    "component_pairs": ("score_correlation", _OF_DIRECTIONS),
    "eigenvalues": ("eigenvalue", ("eigenvalue_rank", "eigenvalue", "eigenvalue_share", "cumulative_share")),
    "components": ("component_vector", ("component", "hidden", "component_vector")),
    "component_error": ("component_error", ("component", "component_error")),
    "scores": ("score", ("token_id", "token", "component", "score")),
    "sky": (
        "sky_latitude",
        ("token_id", "token", "sky_latitude", "sky_longitude", "sky_distance", "sky_ranked_latitude"),
    ),
    "columns": ("column_variance", ("hidden", "centroid", "column_variance")),
    "outlier_dimensions": ("outlier_dimension", ("outlier", "outlier_dimension")),
    "connected_components": ("component_density", _OF_A_COMPONENT),
    "token_to_component": (
        "token_to_component",
        ("token_id", "token", "radius", "token_to_component", "degree"),
    ),
    "diameters": ("component_diameter_token_id", _OF_A_DIAMETER),
    "in_cluster": ("in_cluster", ("token_id", "token", "in_cluster", "is_candidate", "cluster_distance")),
    "cluster_tokens": ("cluster_token_id", ("cluster", "cluster_token_id", "cluster_token")),
    "iterations": ("iteration_count", _OF_AN_ITERATION),
    "gaps": ("gap_width", ("gap", "gap_width", "gap_start", "gap_end", "gap_token_count")),
    "radii": ("component_count", ("radius", "component_count", "alone_count", "isolated_count", "edge_count")),
}
"""Of each plain table the variable that has its dimensions, and its columns."""

_PAIRS = {
    **{"farthest": "farthest", "nearest": "nearest", "pairs": "pair"},
    **{"largest": "largest", "smallest": "smallest"},
}
_BY_RANK = {"neighbors": "neighbor", "top": "top", "bottom": "bottom"}
_OF_GROUPS = ("groups", "members")
_WHOSE = ("model", "revision", "matrix", "against", "against_revision")


def names(result: xr.Dataset) -> list[str]:
    """The names of the tables that a result has."""
    found = [
        name
        for name, stem in (_PAIRS | _BY_RANK).items()
        if {f"{stem}_{measured(result, stem)}", f"{stem}_token_id"} <= set(result)
    ]
    found += [name for name, (variable, _) in _OF_A_TABLE.items() if variable in result]
    found += [*_OF_GROUPS] if {"member_group", "group_model"} <= set(result.variables) else []
    command = result.attrs.get("command")
    if command is not None and _numbers(result):
        found.append("steps" if "step" in result.dims else "numbers" if command in _OF_A_TABLE else command)
    return sorted(set(found))


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
    if name in _BY_RANK:
        return _by_rank(result, _BY_RANK[name])
    if name in _OF_GROUPS:
        return _of_groups(result, name)
    if name in _OF_A_TABLE:
        variable, columns = _OF_A_TABLE[name]
    else:
        columns = tuple(_numbers(result))
        variable, columns = columns[0], (*(each for each in _WHOSE if each in result.coords), *columns)
    columns = ("step", *columns) if "step" in result[variable].dims and "step" not in columns else columns
    found = {each: result[each] for each in columns if each in result.variables}
    along = set(result[variable].dims)
    return _tidy(result[variable], {each: column for each, column in found.items() if along >= set(column.dims)})


def frame_with_texts(result: xr.Dataset, name: str) -> pd.DataFrame:
    """The table `name`, and after each column of tokens' pieces one of their texts: `text` after `token`, `text_a`.

    Raises
    ------
    InputError
        as `frame`.
    """
    table, texts = frame(result, name), {}
    for each, variable in result.variables.items():
        piece, text = str(each), result.variables.get(f"{str(each).removesuffix('token')}text")
        if (piece == "token" or piece.endswith("_token")) and text is not None and text.dims == variable.dims:
            texts[piece] = text
    of_texts = frame(result.assign(texts), name)
    for column in ("token", "token_a", "token_b", *texts):
        beside = column.replace("token", "text")
        if texts and column in table and beside not in table:
            table.insert([*table].index(column) + 1, beside, of_texts[column])
    return table


def frame_of_all(results: Sequence[xr.Dataset], name: str) -> pd.DataFrame:
    """The tables `name` of those results that have it, one below the other, with a column `model` first.

    Raises
    ------
    InputError
        where none has such a table; it names those that there are.
    """
    import pandas as pd

    found = []
    for result in results:
        if name in names(result):
            table = frame(result, name)
            if "model" not in table:
                table.insert(0, "model", str(result["model"].values.item()))
            found.append(table)
    if not found:
        there = ", ".join(sorted({each for result in results for each in names(result)})) or "none"
        raise InputError(f"these results have no table {name!r}: they have {there}")
    return pd.concat(found, ignore_index=True)


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
    if "distance" in table:
        table = table[table["distance"].notna()].reset_index(drop=True)
    return table.astype({name: "int64" for name in table.columns if "token_id" in name})


def _pairs(result: xr.Dataset, stem: str) -> pd.DataFrame:
    if result.sizes.get("side") != 2:
        raise InputError("this result has one side of its pairs: take both")
    what = measured(result, stem)
    distance = result[f"{stem}_{what}"]
    columns = {"rank": result[stem]} if stem in distance.dims and stem != "pair" else {}
    columns[what] = distance
    for side, letter in enumerate("ab"):
        for what in ("token_id", "token"):
            if f"{stem}_{what}" in result.variables:
                columns[f"{what}_{letter}"] = result[f"{stem}_{what}"].isel(side=side)
    return _without_missing(_tidy(distance, columns))


def _by_rank(result: xr.Dataset, stem: str) -> pd.DataFrame:
    whose = ("token_id", "token", "direction", "label")
    columns = {name: result[name] for name in whose if name in result.variables}
    columns["rank"] = result[stem]
    columns |= {name: result[name] for name in (f"{stem}_token_id", f"{stem}_token") if name in result.variables}
    what = measured(result, stem)
    columns[what] = result[f"{stem}_{what}"]
    return _without_missing(_tidy(result[f"{stem}_{what}"], columns))


def _numbers(result: xr.Dataset) -> list[str]:
    """What a result has one of, or one for each model or step."""
    dims = {"model", "step"} & set(result.dims)
    whose = {*_WHOSE, "step"}
    return [str(name) for name, each in result.variables.items() if set(each.dims) == dims and name not in whose]


def _of_groups(result: xr.Dataset, name: str) -> pd.DataFrame:
    """A line for each group of identical rows, or for each token in one."""
    import pandas as pd

    models, groups, population = (
        np.atleast_1d(result[each].to_numpy()) for each in ("model", "group", "group_population")
    )
    owner = group_models(result)
    found = pd.DataFrame({"model": models[owner], "group": groups, "group_population": population})[owner >= 0]
    if name == "members":
        columns = {"group": "member_group", "token_id": "member_token_id", "token": "member_token"}
        there = {column: each for column, each in columns.items() if each in result.variables}
        members = pd.DataFrame({column: np.atleast_1d(result[each].to_numpy()) for column, each in there.items()})
        found = members.merge(found, on="group")[[*found.columns, *members.columns.drop("group")]]
    return found.reset_index(drop=True)
