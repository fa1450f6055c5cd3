"""Results of whole vocabularies as text for a person: tokens, spectrum."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from embgeom_dask.cli.text_tables import align, more_text, whose
from embgeom_dask.escaping import shown
from embgeom_dask.reporting.display_names import display_names
from embgeom_dask.units import rounded_up

if TYPE_CHECKING:
    import xarray as xr

_EIGENVALUES = 10
_ENDS = 5
_TOKEN_LINES = 10
_SHARES = (0.5, 0.9, 0.99)
_NUMBERS = (
    *("vocab_size", "hidden_size", "zero_count", "participation_ratio", "isoscore", "partition_isotropy"),
    *("mean_cosine", "mean_cosine_error", "mean_square_distance", "eigenvalue_error"),
)


def tokens_text(dataset: xr.Dataset) -> str:
    """The tokens farthest from the centroid and nearest to what was chosen, then the scripts."""
    counts = [[name, str(dataset[name].item())] for name in ("vocab_size", "group_count", "member_count")]
    flags = ("has_token", "is_added", "is_special")
    counts += [[name, str(np.count_nonzero(dataset[name]))] for name in flags if name in dataset]
    parts = [whose(dataset), align(["tokens", ""], counts)]
    order = np.argsort(dataset["centroid_distance_rank"].to_numpy())
    parts.append(_lines(dataset, order[:_TOKEN_LINES], "farthest from the centroid", "centroid_distance"))
    if "origin_distance" in dataset:
        nearest = np.argsort(dataset["origin_distance"].to_numpy(), kind="stable")[:_TOKEN_LINES]
        parts.append(_lines(dataset, nearest, f"nearest to {_origin(dataset)}", "origin_distance"))
    if "k_occurrence" in dataset:
        parts.append(_hubs(dataset))
    if "reachability" in dataset:
        parts.append(_by_name(dataset, "reachability"))
    parts += [_by_name(dataset, "script"), "--json prints all tokens, --out saves them"]
    return "\n\n".join(parts)


def _origin(dataset: xr.Dataset) -> str:
    """What the distances asked for are from."""
    kind = dataset["origin_kind"].item()
    if kind == "token":
        return shown(display_names(dataset, "origin_token").item() or dataset["origin_token_id"].item())
    if kind == "cluster":
        return f"the centre of the dense cluster of {dataset['cluster_count'].item()} tokens"
    return "the point given"


def _lines(dataset: xr.Dataset, rows: np.ndarray, title: str, distance: str) -> str:
    names = (distance, "norm_l2", "norm_l2_rank")
    columns = [dataset["token_id"].to_numpy()[rows], display_names(dataset, at=rows)]
    columns += [dataset[name].to_numpy()[rows] for name in names]
    listed = ([place, *row] for place, row in enumerate(zip(*columns, strict=True), start=1))
    return f"{title}\n{align(['', 'id', 'token', distance, 'norm_l2', 'its rank'], listed)}"


def _hubs(dataset: xr.Dataset) -> str:
    """What lists of neighbors say of all tokens, and the tokens that are in most of them."""
    names = ("neighbor_count", "neighbor_metric", "k_occurrence_skewness", "local_dimension_mean", "two_nn_dimension")
    facts = [[name, _number(dataset[name].item())] for name in names]
    order = np.argsort(-dataset["k_occurrence"].to_numpy(), kind="stable")[:_TOKEN_LINES]
    columns = ("k_occurrence", "neighbor_density", "local_dimension")
    ids, tokens = dataset["token_id"].to_numpy()[order], display_names(dataset, at=order)
    lines = zip(ids, tokens, *(dataset[name].to_numpy()[order] for name in columns), strict=True)
    hubs = align(["id", "token", "in lists", "density", "local dimension"], lines)
    return f"{align(['neighbors', ''], facts)}\n\nhubs\n{hubs}"


def _by_name(dataset: xr.Dataset, label: str) -> str:
    """How many tokens each script, say, has, most first, and where they lie."""
    names, place = np.unique(dataset[label].to_numpy().astype(np.str_), return_inverse=True)
    counts = np.bincount(place)
    rows = []
    for each in np.argsort(-counts, kind="stable"):
        medians = (np.median(dataset[name].to_numpy()[place == each]) for name in ("norm_l2", "centroid_distance"))
        rows.append([str(names[each]) or "(no token)", counts[each], *medians])
    return align([label, "tokens", "median norm_l2", "median centroid_distance"], rows)


def spectrum_text(dataset: xr.Dataset) -> str:
    """The numbers of a spectrum, its first eigenvalues, and the tokens at the ends of each component."""
    facts = [
        [name, (_bound if name.endswith("_error") else _number)(dataset[name].item())]
        for name in _NUMBERS
        if name in dataset
    ]
    up_to = dataset["cumulative_share"].to_numpy()
    for share in _SHARES:
        facts.append([f"eigenvalues for {share:.0%}", str(np.searchsorted(up_to, share) + 1)])
    parts = [whose(dataset), align(["spectrum", ""], facts)]
    names = ("eigenvalue_rank", "eigenvalue", "eigenvalue_share", "cumulative_share")
    first = (dataset[name].to_numpy()[:_EIGENVALUES].tolist() for name in names)
    parts.append(align(["", "eigenvalue", "share", "cumulative"], zip(*first, strict=True)))
    if "score" in dataset:
        parts.append(_components(dataset))
    outliers = dataset["outlier_dimension"].to_numpy()
    if outliers.size:
        variance = dataset["column_variance"].to_numpy()[outliers]
        rows = zip(outliers[:_EIGENVALUES], variance, variance / dataset["column_variance"].mean().item(), strict=False)
        parts.append(align(["outlier dimension", "variance", "of the mean"], rows))
        if (more := outliers.size - _EIGENVALUES) > 0:
            parts.append(more_text(more, "outlier dimension"))
    return "\n\n".join(parts)


def _number(value: float) -> str:
    return f"{value:.9g}" if isinstance(value, float) else str(value)


def _bound(value: float) -> str:
    """A bound of an error, rounded up to one digit: the others hang on the machine, and say nothing."""
    if not 1e-300 < value < np.inf:
        return _number(value)
    return f"{rounded_up(value, 1):.0e}"


def _components(dataset: xr.Dataset) -> str:
    """The tokens of the lowest and the highest scores of each component: by name, or by id where they have none."""
    ids = dataset["token_id"].to_numpy()
    rows = []
    for component, error, scores in zip(
        dataset["component"].to_numpy(),
        dataset["component_error"].to_numpy(),
        dataset["score"].to_numpy().T,
        strict=True,
    ):
        order = np.argsort(scores, kind="stable")
        ends = (order[:_ENDS], order[::-1][:_ENDS])
        named = [
            " ".join(np.where(display_names(dataset, at=end), display_names(dataset, at=end), ids[end].astype(str)))
            for end in ends
        ]
        rows.append([component, _bound(error), *named])
    return align(["component", "error", "lowest scores", "highest scores"], rows)
