"""Names for axes and coordinates for dimensions of results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from embgeom_dask.private_apis import variable_of

_RANKED = (
    *("farthest", "nearest", "neighbor", "largest", "smallest", "top", "bottom", "pair", "left_out"),
    *("against_left_out", "eigenvalue_rank", "component", "outlier", "unmatched", "cluster", "iteration", "gap"),
    *("against_unmatched", "shared", "against_component"),
)
_NUMBERED = ("hidden", "against_hidden", "edge", "group", "member", "connected_component")

LONG_NAMES = {
    "farthest_distance": "distance of the farthest pairs",
    "farthest_token_id": "token ids of the farthest pairs",
    "nearest_distance": "distance of the nearest pairs",
    "nearest_token_id": "token ids of the nearest pairs",
    "neighbor_distance": "distance of the nearest tokens",
    "neighbor_token_id": "ids of the nearest tokens",
    "largest_product": "largest products",
    "largest_token_id": "token ids of the pairs of the largest products",
    "smallest_product": "smallest products",
    "smallest_token_id": "token ids of the pairs of the smallest products",
    "top_product": "largest products of the row",
    "top_token_id": "ids of the tokens of the largest products",
    "bottom_product": "smallest products of the row",
    "bottom_token_id": "ids of the tokens of the smallest products",
    "row_mean": "mean of the row",
    "row_std": "standard deviation of the row",
    "row_skew": "skewness of the row",
    "row_kurtosis": "kurtosis of the row",
    "row_min": "smallest of the row",
    "row_max": "largest of the row",
    "row_step": "step that the row is rounded to for its moments",
    "row_count": "others of each row",
    "histogram_count": "pairs in the bin",
    "histogram_below": "pairs below the bins",
    "histogram_above": "pairs above the bins",
    "histogram_cdf": "share of pairs up to the bin's right edge",
    "bin": "distance",
    "bin_edge": "distance",
    "bin_left": "distance at the bin's left edge",
    "bin_right": "distance at the bin's right edge",
    "bin_center": "distance at the bin's centre",
    "edge": "number of the edge",
    "side": "side of the pair",
    "pair": "number of the pair, in order of the ids",
    "pair_count": "pairs",
    "pair_distance": "distance of the pair",
    "pair_token_id": "token ids of the pair",
    "pair_radius": "largest distance of the pairs",
    "pairs_within_count": "pairs within the radius",
    "distance_mean": "mean distance of all pairs",
    "distance_mean_error": "what the mean distance is off at most",
    "distance_std_error": "what the standard deviation is off at most",
    "distance_std": "standard deviation of the distances",
    "distance_min": "smallest distance",
    "distance_max": "largest distance",
    "within_count": "pairs within the radius",
    "within_degree": "tokens within the radius",
    "radius": "radius",
    "quantile": "quantile",
    "quantile_lower": "edge below the quantile of the distances",
    "quantile_upper": "edge above the quantile of the distances",
    "quantile_distance": "quantile of the distances",
    "token_id": "token id",
    "neighbor": "rank of the neighbor",
    "farthest": "rank of the pair, farthest first",
    "nearest": "rank of the pair, nearest first",
    "direction": "direction",
    "label": "label",
    "largest": "rank of the pair, largest product first",
    "smallest": "rank of the pair, smallest product first",
    "top": "rank of the token, largest product first",
    "bottom": "rank of the token, smallest product first",
    "hidden": "column",
    "centroid": "mean row",
    "centroid_l1": "L1 norm of the centroid",
    "centroid_l2": "L2 norm of the centroid",
    "centroid_linf": "largest absolute component of the centroid",
    "centroid_mean": "mean of the centroid's components",
    "centroid_std": "standard deviation of the centroid's components",
    "centroid_min": "smallest component of the centroid",
    "centroid_max": "largest component of the centroid",
    "centroid_norm": "L2 norm of the centroid",
    "centroid_ratio": "L2 norm of the centroid / mean L2 norm of the rows",
    "centroid_distance": "distance from the centroid",
    "norm": "L2 norm",
    "norm_mean": "mean L2 norm of the rows",
    "norm_median": "median L2 norm of the rows",
    "norm_std": "standard deviation of the rows' L2 norms",
    "norm_min": "smallest L2 norm of a row",
    "norm_max": "largest L2 norm of a row",
    "norm_ratio": "L2 norm / L2 norm of the centroid",
    "centroid_distance_mean": "mean distance from the centroid",
    "centroid_distance_median": "median distance from the centroid",
    "centroid_distance_min": "smallest distance from the centroid",
    "centroid_distance_max": "largest distance from the centroid",
    "outlier_token_id": "id of the token that is farther from the centroid",
    "token_count": "tokens",
    "left_out_token_id": "ids of the tokens left out",
    "against_left_out_token_id": "ids of the tokens left out of the second matrix",
    "vocab_size": "rows",
    "hidden_size": "columns",
    "dtype": "stored type",
    "has_token": "whether the row has a token",
    "is_added": "whether the token was added to the vocabulary",
    "is_special": "whether the token is special",
    "reachability": "whether the token's text is encoded to it",
    "tied": "whether input and output matrix are one",
    "unique_count": "different rows",
    "removed_count": "rows less different rows",
    "group_count": "groups of identical rows",
    "member_count": "tokens in groups",
    "group": "group of identical rows",
    "member": "number of the token in groups",
    "group_population": "tokens in the group",
    "group_model": "number of the group's model",
    "member_token_id": "ids of the tokens in groups",
    "member_group": "group of the token",
    "token_to_group": "group of the token",
    "segment_length": "length of the side",
    "norm_l1": "L1 norm",
    "norm_l1_rank": "rank of the L1 norm, largest first",
    "norm_l2": "L2 norm",
    "norm_l2_rank": "rank of the L2 norm, largest first",
    "norm_linf": "largest absolute value",
    "norm_linf_rank": "rank of the largest absolute value, largest first",
    "centroid_distance_rank": "rank of the distance from the centroid, largest first",
    "origin_distance": "distance from the token or point chosen",
    "origin_distance_rank": "rank of the distance from the token or point chosen, largest first",
    "origin_token_id": "id of the token chosen",
    "origin_kind": "what distances are from",
    "origin_point": "point that distances are from",
    "script": "script",
    "neighbor_density": "1 / mean distance of the neighbors",
    "k_occurrence": "lists of neighbors that the token is in",
    "k_occurrence_skewness": "skewness of how many lists of neighbors tokens are in",
    "local_dimension": "local intrinsic dimension",
    "local_dimension_mean": "harmonic mean of the local intrinsic dimensions",
    "two_nn_dimension": "intrinsic dimension by the two nearest neighbors",
    "two_nn_count": "tokens whose nearest neighbor is not at 0",
    "neighbor_count": "neighbors of a token",
    "neighbor_metric": "metric of the neighbors",
    "connected_component": "connected component",
    "token_to_component": "connected component of the token",
    "degree": "distinct rows within the radius",
    "in_cluster": "whether the token is in the cluster",
    "is_candidate": "whether the token is among those that refining began with",
    "cluster": "rank of the token, nearest to the centroid first",
    "cluster_distance": "distance from the centroid of the cluster",
    "cluster_token_id": "token ids of the cluster",
    "cluster_count": "tokens in the cluster",
    "cluster_radius": "largest distance in the cluster from its centroid",
    "next_distance": "smallest distance outside the cluster from its centroid",
    "contrast": "largest ratio of the distances that 2 k and k tokens reach to",
    "stands_apart": "whether the contrast is 2 or more",
    "is_stable": "whether the tokens of the last two steps are the same",
    "iteration": "step",
    "iteration_kind": "what the step does",
    "iteration_count": "tokens taken",
    "iteration_radius": "largest distance of those taken",
    "iteration_next_distance": "smallest distance of the others",
    "iteration_contrast": "contrast about the centre of the step",
    "iteration_shift": "distance of the next centre",
    "gap": "rank of the gap, largest first",
    "gap_width": "width of the gap",
    "gap_start": "distance where the gap begins",
    "gap_end": "distance where the gap ends",
    "gap_token_count": "tokens inside the gap",
    "component_count": "connected components",
    "alone_count": "tokens alone",
    "isolated_count": "distinct rows without an edge",
    "edge_count": "pairs of distinct rows within the radius",
    "distinct_count": "distinct rows",
    "component_radius": "radius",
    "component_token_count": "tokens of the connected component",
    "component_distinct_count": "distinct rows of the connected component",
    "component_edge_count": "edges of the connected component",
    "component_density": "edges / pairs of rows of the connected component",
    "component_token_id": "lowest token id of the connected component",
    "component_diameter": "diameter of the connected component",
    "component_diameter_token_id": "token ids of the diameter",
    "eigenvalue_rank": "rank of the eigenvalue, largest first",
    "eigenvalue": "eigenvalue of the covariance",
    "eigenvalue_share": "share of the variance",
    "cumulative_share": "share of the variance up to this eigenvalue",
    "eigenvalue_error": "largest error of an eigenvalue",
    "component": "rank of the component, largest variance first",
    "component_vector": "component",
    "component_error": "sine of the angle to the true component, at most",
    "score": "product of the component with the row less the mean row",
    "sky_latitude": "latitude",
    "sky_ranked_latitude": "latitude by rank",
    "sky_longitude": "longitude",
    "sky_distance": "distance from the mean row in three components",
    "participation_ratio": "participation ratio",
    "isoscore": "IsoScore",
    "partition_isotropy": "isotropy of the partition function",
    "mean_cosine": "mean cosine of all pairs",
    "mean_cosine_error": "largest error of the mean cosine",
    "mean_square_distance": "mean squared distance of all pairs",
    "zero_count": "rows of zeros",
    "column_variance": "variance of the column",
    "outlier": "rank of the outlier dimension, largest variance first",
    "outlier_dimension": "column of far more than the mean variance",
    "euclidean_distance": "euclidean distance from the row matched",
    "cosine_distance": "cosine distance from the row matched",
    "chebyshev_distance": "chebyshev distance from the row matched",
    "cityblock_distance": "cityblock distance from the row matched",
    "changed_value_count": "values that differ from the row matched",
    "identical_count": "rows identical to the row matched",
    "against_norm_l2": "L2 norm of the row matched",
    "against_token_id": "id of the token matched",
    "token_changed": "whether the two tokens are called differently",
    "token_changed_count": "ids whose tokens are called differently",
    "matched_count": "rows that are matched",
    "unmatched_count": "rows that are not matched",
    "against_unmatched_count": "rows of the second matrix that are not matched",
    "unmatched_token_id": "ids of the tokens that are not matched",
    "against_unmatched_token_id": "ids of the tokens of the second matrix that are not matched",
    "against_vocab_size": "rows of the second matrix",
    "against_hidden_size": "columns of the second matrix",
    "against_centroid": "mean row of the second matrix",
    "centroid_shift": "distance between the mean rows",
    "neighbors_kept": "nearest tokens that are the same in both",
    "neighbors_kept_share": "share of nearest tokens that are the same in both",
    "csls": "cross-domain similarity local scaling",
    "near": "rank of the token of the second matrix, largest CSLS first",
    "near_csls": "cross-domain similarity local scaling",
    "near_token_id": "ids of the tokens of the second matrix of largest CSLS",
    "csls_first_share": "share of rows whose match is of largest CSLS",
    "near_cosine_mean": "mean cosine with the nearest rows of the second matrix",
    "against_near_cosine_mean": "mean cosine of the row matched with the nearest rows of the first matrix",
    "shared": "rank of the shared token",
    "shared_distance": "cosine distance of the nearest tokens that are matched",
    "shared_token_id": "ids of the nearest tokens that are matched",
    "column_match": "column of the second matrix",
    "column_cosine": "cosine with the column of the second matrix",
    "column_cosine_mean": "mean size of the cosines of columns",
    "column_moved_count": "columns that are at another place",
    "column_negated_count": "columns of the other sign",
    "cka": "linear CKA",
    "cka_error": "largest error of the linear CKA",
    "against_component": "rank of the component of the second matrix, largest variance first",
    "score_correlation": "correlation of the scores of two components",
    "component_cosine": "cosine of two components",
    "component_share": "share of the variance",
    "against_component_share": "share of the second matrix's variance",
    "same_bytes": "whether the matrices have the same bytes",
    "identical_row_count": "token ids with the same row in both",
    "shared_row_count": "different rows that both have",
    "identical_column_count": "columns that are the same in both",
    "shared_column_count": "different columns that both have",
    "shared_token_count": "different tokens that both have",
    "unused_cosine_distance": "cosine distance from the mean of the unused rows",
    "unused_centered_distance": "cosine distance from the mean of the unused rows, less the mean row",
    "unused_component_distance": "cosine distance from the mean of the unused rows, without the first component",
    "unused_euclidean_distance": "euclidean distance from the mean of the unused rows",
    "input_norm": "L2 norm of the row of the input matrix",
    "indicator_rank": "rank of the indicator, lowest first",
    "candidate": "whether the indicator is at most the threshold",
    "category": "kind of token",
    "unused": "whether the token is one of the unused",
    "unused_mean": "mean of the unused rows",
    "unused_rule": "what tells the unused tokens",
    "unused_count": "unused tokens",
    "indicator": "indicator that tokens are ranked by",
    "threshold": "threshold of the indicator",
    "candidate_count": "candidates",
    "indicator_mean": "mean of the indicator",
    "indicator_std": "standard deviation of the indicator",
    "step_min": "least step",
    "step_max": "largest step",
    "step_extent": "steps from the least to the largest value",
    "value_min": "least value",
    "value_max": "largest value",
    "exponent_min": "least biased exponent",
    "exponent_max": "largest biased exponent",
    "column_ulp": "unit in the last place of the value of largest size",
    "both_signs": "whether there are values on either side of 0",
    "both_signs_count": "columns with values on either side of 0",
    "exponent": "biased exponent",
    "exponent_count": "values of the exponent",
    "negative_value_count": "values below 0",
    "extent_max": "most steps in a column from the least to the largest value",
    "exponent_distance": "largest difference of exponents from the token chosen",
    "exponent_within_count": "tokens whose exponents are near those of the token chosen",
    "pair_chebyshev_steps": "most steps of the pair in a column",
    "pair_cityblock_steps": "steps of the pair in all columns",
    "step": "step of the training",
    "changed_count": "rows that differ from the step before",
    "joined_count": "tokens that join a group of identical rows",
    "left_count": "tokens that leave a group of identical rows",
    "first_change_step": "first step at which the row differs from the first",
    "last_change_step": "last step at which the row changes",
    "change_count": "steps at which the row changes",
    "grouped_step_count": "steps at which the token is in a group of identical rows",
    "angle_law_of_cosines": "angle by the law of cosines",
    "angle_dot_product": "angle by the dot product",
}
NAMES = {
    "iteration_kind",
    "neighbor_metric",
    "origin_kind",
    "model",
    "revision",
    "matrix",
    "against",
    "against_revision",
    "side",
    "segment",
    "vertex",
    "dtype",
    "indicator",
    "unused_rule",
}
"""Variables of a few short strings: numpy's, which xarray plots. Tokens are Python's: a long one costs no other."""

_UNITS = {
    "sky_latitude": "degrees",
    "sky_ranked_latitude": "degrees",
    "sky_longitude": "degrees",
    "angle_law_of_cosines": "degrees",
    "angle_dot_product": "degrees",
}


def measured(result: xr.Dataset, stem: str) -> str:
    """What a result tells of the pairs called `stem`, the end of the variable's name: their products or distances."""
    return "product" if f"{stem}_product" in result else "distance"


def complete(dataset: xr.Dataset, scalars: Mapping[str, str] | None = None) -> xr.Dataset:
    """Give a result a coordinate along each dimension, the share of pairs up to each bin, and names for axes.

    Ranks count from 1, `side` is A and B, and `bin` is the centre of each bin, with `bin_left`, `bin_right` and
    `bin_center`: the mean of its edges. `scalars` are coordinates that the whole result has, like its model.
    """
    coordinates: dict[str, Any] = dict(scalars or {})
    for name in _RANKED:
        coordinates |= {name: np.arange(1, dataset.sizes[name] + 1)} if name in dataset.dims else {}
    for name in _NUMBERED:
        coordinates |= {name: np.arange(dataset.sizes[name])} if name in dataset.dims else {}
    if "side" in dataset.dims:
        coordinates["side"] = ["A", "B"]
    if "bin" in dataset.dims:
        edges = dataset["bin_edge"].to_numpy()
        left, right = edges[:-1], edges[1:]
        center = left + (right - left) / 2
        coordinates |= {"bin": center} | {
            name: ("bin", values) for name, values in (("bin_left", left), ("bin_right", right), ("bin_center", center))
        }
        up_to = dataset["histogram_below"] + dataset["histogram_count"].cumsum("bin")
        dataset = dataset.assign(histogram_cdf=(up_to / dataset["pair_count"]).transpose(..., "bin").drop_attrs())
    dataset = with_strings(dataset.assign_coords(coordinates))
    for each, variable in dataset.variables.items():
        name = str(each)
        variable.attrs |= {"long_name": LONG_NAMES[name]} if name in LONG_NAMES else {}
        variable.attrs |= {"units": _UNITS[name]} if name in _UNITS else {}
    return dataset


def with_strings(dataset: xr.Dataset) -> xr.Dataset:
    """The same with the strings that pandas, netCDF, plots and `xarray.concat` take: see `NAMES`."""
    found = {}
    for name, variable in dataset.variables.items():
        if variable.dtype.kind in "TUO":
            strings = variable.data.astype(np.object_, copy=False)  # of numpy, or of dask where it was not read
            strings = strings.astype(np.str_) if name in NAMES else strings
            found[name] = variable_of(variable.dims, strings, variable.attrs)
            found[name].encoding["dtype"] = np.object_  # zarr has no stable type for numpy's
    return dataset.assign(found)


def of_matrices(attrs: Mapping[str, Any]) -> dict[str, str]:
    """The coordinates that say whose a result is: model, revision and matrix, and of a second side `against_...`."""
    found = {name: attrs[name][0] for name in ("model", "revision", "matrix")}
    if len(attrs["model"]) > 1:
        found |= {"against": attrs["model"][1], "against_revision": attrs["revision"][1]}
    return found
