"""Comparisons of vocabularies as text for a person."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from embgeom_dask.cli.text_tables import align, more_text, whose
from embgeom_dask.reporting.display_names import display_names

if TYPE_CHECKING:
    import xarray as xr

_TOKEN_LINES = 10
_PAIR_LINES = 20
_METRICS = ("euclidean", "cosine", "chebyshev", "cityblock")
_SIDES = ("vocab_size", "hidden_size", "unmatched_count")
_NUMBERS = (
    *("matched_count", "identical_count", "token_changed_count", "centroid_shift", "neighbors_kept_share"),
    *("csls_first_share", "cka", "cka_error", "column_cosine_mean", "column_moved_count", "column_negated_count"),
)


def compare_text(dataset: xr.Dataset) -> str:
    """Two models row by row, or the pairs of many that share something."""
    return _pairs_text(dataset) if "against" in dataset.dims else _rows_text(dataset)


def _rows_text(dataset: xr.Dataset) -> str:
    """The numbers of a comparison of two, its distances, and the rows that moved most."""
    sides = [whose(dataset, side) for side in (0, 1)]
    counts = [[name, *(_number(dataset[f"{prefix}{name}"].item()) for prefix in ("", "against_"))] for name in _SIDES]
    facts = [[name, _number(dataset[name].item())] for name in _NUMBERS if name in dataset]
    parts = [" against ".join(sides), align(["", "first", "second"], counts), align(["rows", ""], facts)]
    if "euclidean_distance" in dataset:
        parts += [_distances(dataset), _farthest(dataset)]
    if "shared_distance" in dataset:
        parts.append(_shared(dataset))
    if "score_correlation" in dataset:
        parts.append(_directions(dataset))
    return "\n\n".join(parts)


def _shared(dataset: xr.Dataset) -> str:
    """The nearest shared token of tokens that are not matched, and the second nearest."""
    some = slice(_TOKEN_LINES)
    columns = [dataset["unmatched_token_id"].to_numpy()[some], display_names(dataset, "unmatched_token", some)]
    header = ["id", "not matched"]
    for place in range(min(2, dataset.sizes["shared"])):
        columns.append(display_names(dataset, "shared_token", (some, place)))
        columns.append(dataset["shared_distance"].to_numpy()[some, place])
        header += ["nearest" if place == 0 else "then", "distance"]
    table = align(header, zip(*columns, strict=True))
    more = dataset.sizes["unmatched"] - _TOKEN_LINES
    return table if more <= 0 else f"{table}\n{more_text(more, 'token')}"


def _directions(dataset: xr.Dataset) -> str:
    """For each leading component of the first which of the second is most like it."""
    correlation = dataset["score_correlation"].to_numpy()
    best = np.nan_to_num(np.abs(correlation)).argmax(axis=1)
    shares = dataset["component_share"].to_numpy(), dataset["against_component_share"].to_numpy()[best]
    columns = [dataset["component"].to_numpy(), shares[0], best + 1, shares[1]]
    columns.append(np.take_along_axis(correlation, best[:, None], 1)[:, 0])
    header = ["component", "share", "most like", "its share", "correlation of scores"]
    return align(header, zip(*columns, strict=True))


def _number(value: Any) -> str:
    return f"{value:.9g}" if isinstance(value, float) else str(value)


def _distances(dataset: xr.Dataset) -> str:
    rows = []
    for name in _METRICS:
        values = dataset[f"{name}_distance"].to_numpy()
        values = values[~np.isnan(values)]
        if values.size:
            rows.append([name, *(float(of(values)) for of in (np.min, np.median, np.mean, np.max))])
    return align(["distance of rows", "least", "median", "mean", "greatest"], rows)


def _farthest(dataset: xr.Dataset) -> str:
    """The rows that are farthest from those that they are matched with."""
    distance = dataset["euclidean_distance"].to_numpy()
    first = np.argsort(-distance, kind="stable")[:_TOKEN_LINES]
    first = first[distance[first] > 0]
    if not first.size:
        return "all rows that are matched are identical"
    names = ("token_id", "token", "against_token_id", "against_token", "euclidean_distance", "cosine_distance")
    columns = (
        display_names(dataset, name, first) if name.endswith("token") else dataset[name].to_numpy()[first]
        for name in names
    )
    listed = [[place, *row] for place, row in enumerate(zip(*columns, strict=True), start=1)]
    header = ["", "id", "token", "id", "token", "euclidean", "cosine"]
    return f"farthest from the row matched\n{align(header, listed)}"


def _pairs_text(dataset: xr.Dataset) -> str:
    """A line for each two models that share something, those with most rows in common first."""
    models = _called(dataset)
    size = len(models)
    facts = [[each, *(dataset[name].to_numpy()[place] for name in ("matrix", "vocab_size", "hidden_size", "dtype"))]
             for place, each in enumerate(models)]  # fmt: skip
    names = [str(name) for name in dataset.data_vars if dataset[name].dims == ("model", "against")]
    values = {name: dataset[name].to_numpy() for name in names}
    rows = [
        [models[a], models[b], *(values[name][a, b] for name in names)] for a in range(size) for b in range(a + 1, size)
    ]
    rows = [row for row in rows if any(row[2:])]
    rows.sort(key=lambda row: [-int(value) for value in row[2:]])
    parts = [align(["model", "matrix", "rows", "columns", "type"], facts)]
    if not rows:
        return "\n\n".join([*parts, "no two of them share bytes, rows, columns or tokens"])
    header = ["model", "against", "same bytes", "rows of one id", "rows", "columns of one place", "columns", "tokens"]
    parts.append(align(header, rows[:_PAIR_LINES], keys=2))
    if (more := len(rows) - _PAIR_LINES) > 0:
        parts.append(more_text(more, "pair"))
    return "\n\n".join(parts)


def _called(dataset: xr.Dataset) -> list[str]:
    """The models, each with its revision where that is known, or its matrix where two are called the same."""
    from embgeom_dask.storage.model_stores import label

    named = (dataset[name].to_numpy().tolist() for name in ("model", "revision", "matrix"))
    told = [(label(model, revision), matrix) for model, revision, matrix in zip(*named, strict=True)]
    counts = Counter(name for name, _ in told)
    return [f"{name} {matrix}" if counts[name] > 1 else name for name, matrix in told]
