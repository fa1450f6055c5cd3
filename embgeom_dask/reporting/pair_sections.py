"""Sections of a report about pairs of tokens: distances, farthest and nearest, groups, ranks, neighbors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from embgeom_dask.reporting import charts, model_results
from embgeom_dask.reporting.charts import Axis, Scale
from embgeom_dask.reporting.markup import Column, cut, table, text
from embgeom_dask.reporting.parts import Parts, Section, array, for_each, legend, note, side_by_side
from embgeom_dask.reporting.report_contents import Gathered, Item, by_metric, whose
from embgeom_dask.units import noun

_MODEL = Column("model", "text")
_MEMBERS = 20
"""The most tokens of a group of identical rows that are named."""


def headed(several: dict[str, list[Item]], metric: str, level: int = 3) -> str:
    """A heading for each metric, where there are several."""
    return f"<h{level}>{text(metric.capitalize())}</h{level}>" if len(several) > 1 else ""


def distances(found: Gathered, parts: Parts) -> Section | None:
    """Histograms of all distances, their shares up to each, moments and quantiles."""
    items = [each for each in found.having("pair_count") if "distance_mean" in each.result]
    if not items:
        return None
    several = by_metric(items)
    body = ""
    for metric, of_metric in several.items():
        binned = [each for each in of_metric if model_results.has(each.result, "histogram_count", "bin")]
        binned = [each for each in binned if each.result["pair_count"] > 0]
        body += headed(several, metric)
        if binned:
            figures = [parts.figure(_histogram(binned, metric, scale), title) for scale, title in _SCALES]
            figures.append(parts.figure(_cdf(binned, metric), "Share of pairs up to the distance"))
            quantiles = _quantiles(of_metric)
            beside, below = (quantiles, "") if len(of_metric) == 1 else ("", quantiles)
            figures.append(f"<div>{_moments(of_metric)}{beside}</div>")
            body += legend(binned) + side_by_side(figures) + below
        else:
            body += _moments(of_metric)
    return Section("distances", "Distances of all pairs", body)


_SCALES: tuple[tuple[Scale, str], ...] = (("linear", "Linear"), ("log", "Logarithmic"))


def _histogram(items: Sequence[Item], metric: str, scale: Scale) -> Any:
    """Pairs in each bin; of several models shares, since their bins and vocabularies differ."""
    filled = len(items) == 1
    several = [model_results.bins_of(each.result) for each in items]
    largest = max(int(bins.pairs.max(initial=1)) for bins in several)
    counted = charts.number_unit("pairs", largest) if filled and scale == "linear" else charts.Counted(1, "pairs")
    name = counted.name if filled else "share of pairs per unit of distance"
    x, start = _distance_axis(items, metric), 0 if scale == "linear" else None
    plot = charts.new_figure(x, Axis(name, scale, start))
    drawn = []
    for each, (edges, count, _) in zip(items, several, strict=True):
        heights = count / counted.unit if filled else count / float(each.result["pair_count"]) / np.diff(edges)
        drawn.append(charts.stairs(plot, each.label, each.color, edges, heights, {"count": count}, filled=filled))
    rows = [("model", "$name"), ("from", "@left{%.6g}"), ("to", "@right{%.6g}"), ("pairs", "@count{0,0}")]
    charts.hover(plot, drawn, rows[filled:], line_policy="prev")
    return plot


def _distance_axis(items: Sequence[Item], metric: str) -> Axis:
    """The axis of distances: from the least to the greatest distance that there is."""
    ends = [float(each.result[f"distance_{end}"]) for each in items for end in ("min", "max")]
    ends = [end for end in ends if np.isfinite(end)]
    scale: Scale = "log" if {model_results.scale_of(each.result) for each in items} == {"log"} else "linear"
    if scale == "log":
        ends = [end for end in ends if end > 0]
    return Axis(metric, scale, *charts.axis_range(ends, scale)) if ends else Axis(metric, scale)


def _cdf(items: Sequence[Item], metric: str) -> Any:
    """The share of pairs up to each edge, with quantiles: points where they are known, else from edge to edge."""
    plot = charts.new_figure(_distance_axis(items, metric), Axis("share of pairs", "linear", -0.03, 1.03))
    drawn, marked = [], []
    for each in items:
        one = each.result
        edges, _, share = model_results.bins_of(one)
        drawn.append(charts.line(plot, each.label, each.color, {"x": edges, "y": share}))
        if "quantile_lower" in one:
            marked += _mark_quantiles(plot, each)
    several = len(items) > 1
    rows = [("model", "$name"), ("distance", "@x{%.6g}"), ("share of pairs", "@y{%.6g}")]
    charts.hover(plot, drawn, rows[not several :], line_policy="nearest")
    rows = [("model", "$name"), ("quantile", "@y"), ("from", "@left{%.9g}"), ("to", "@right{%.9g}")]
    charts.hover(plot, marked, rows[not several :])
    return plot


def _mark_quantiles(plot: Any, item: Item) -> list[Any]:
    one = item.result
    lower, upper = (one[f"quantile_{side}"].to_numpy() for side in ("lower", "upper"))
    if "quantile_distance" in one:
        lower = upper = one["quantile_distance"].to_numpy()
    data = {"left": lower, "right": upper, "x": lower + (upper - lower) / 2, "y": one["quantile"].to_numpy()}
    source = charts.source_of(data)
    how = {"source": source, "color": item.color, "name": item.label}
    plot.segment("left", "y", "right", "y", line_width=3, **how)
    return [plot.scatter("x", "y", size=7, **how)]


def _moments(items: Sequence[Item]) -> str:
    names = ("distance_mean", "distance_std", "distance_min", "distance_max")
    rows = [
        [each.label, each.result["pair_count"], *(each.result[name].values.item() for name in names)] for each in items
    ]
    columns = [_MODEL, Column("pairs", "count"), *map(Column, ("mean", "std", "min", "max"))]
    return "<h4>All pairs</h4>" + table(columns, rows)


def _quantiles(items: Sequence[Item]) -> str:
    """A line a quantile, its distance, or between which distances it lies for certain."""
    rows = []
    for each in (each for each in items if "quantile_lower" in each.result):
        one = each.result
        exact = "quantile_distance" in one
        ends = ["quantile_distance"] * 2 if exact else ["quantile_lower", "quantile_upper"]
        for share, *between in zip(one["quantile"].to_numpy(), *(one[end].to_numpy() for end in ends), strict=True):
            rows.append([each.label, share, *between])
    if not rows:
        return ""
    columns = [_MODEL, Column("share of pairs"), Column("quantile, at least"), Column("at most")]
    return "<h4>Quantiles</h4>" + table(columns, sorted(rows, key=lambda row: row[1]))


_EXTREMES = {
    **{name: f"{name}_distance" for name in ("farthest", "nearest")},
    **{name: f"{name}_product" for name in ("largest", "smallest")},
}
"""The pairs at the ends, and the variable of what they are ordered by."""


def extremes(found: Gathered, parts: Parts) -> Section | None:
    """The farthest and the nearest pairs, with tokens; those of the largest and the smallest product."""
    del parts
    body = ""
    for name, variable in _EXTREMES.items():
        items = [each for each in found.having(variable, name) if each.result.sizes.get("side") == 2]
        several = by_metric(items)
        for metric, of_metric in several.items():
            metric_said = f", {metric}" if len(several) > 1 else ""
            body += f"<h3>{name.capitalize()} pairs{text(metric_said)}</h3>"
            body += for_each(of_metric, lambda item, name=name, variable=variable: _pairs(item, name, variable))  # type: ignore[misc]
    return Section("pairs", "Pairs at the ends", body) if body else None


def _pairs(item: Item, name: str, variable: str) -> str:
    one = item.result.transpose(name, "side", ...)
    ids = one[f"{name}_token_id"].to_numpy()
    tokens = model_results.strings(one, f"{name}_token", ids.shape)
    rows = [
        [rank, value, first, token, second, other]
        for rank, value, (first, second), (token, other) in zip(
            one[name].to_numpy(), one[variable].to_numpy(), ids, tokens, strict=True
        )
        if np.isfinite(value)
    ]
    columns = [
        Column("rank", "count"),
        Column(variable.rpartition("_")[2]),
        Column("id", "id"),
        Column("token", "token"),
    ]
    rest = f"<code>embgeom to-csv RESULT.zarr {name} -o pairs.csv</code> writes all."
    return table([*columns, *columns[2:]], rows, rest=rest)


def duplicates(found: Gathered, parts: Parts) -> Section | None:
    """Groups of identical rows: how many, and which tokens."""
    del parts
    items = found.having("unique_count")
    if not items:
        return None
    counts = ("vocab_size", "unique_count", "removed_count", "group_count", "member_count")
    names = ("rows", "different rows", "rows less different rows", "groups", "tokens in groups")
    rows = [[each.label, *(each.result[name].values.item() for name in counts)] for each in items]
    body = table([_MODEL, *(Column(name, "count") for name in names)], rows)
    groups = [row for each in items if {"group", "member"} <= set(each.result.dims) for row in _groups(each)]
    if groups:
        columns = [
            *(_MODEL, Column("group", "id"), Column("tokens in it", "count")),
            *(Column("first ids", "text"), Column("first tokens", "tokens")),
        ]
        body += "<h3>Groups of identical rows, largest first</h3>" + table(
            columns, groups, rest="<code>embgeom to-csv RESULT.zarr members -o members.csv</code> writes all."
        )
    else:
        body += note("No two rows are identical." if len(items) == 1 else "No two rows of any model are identical.")
    return Section("duplicates", "Identical rows", body)


def _groups(item: Item) -> list[list[Any]]:
    """A line for each group, the largest first, with the first of its tokens."""
    one = item.result
    population = one["group_population"].to_numpy()
    of, ids = one["member_group"].to_numpy(), one["member_token_id"].to_numpy()
    tokens = model_results.strings(one, "member_token", ids.shape)
    numbers = one["group"].to_numpy()
    order, rows = np.argsort(of, kind="stable"), []
    first, end = (np.searchsorted(of, numbers, side, order) for side in ("left", "right"))
    for place in np.argsort(-population, kind="stable").tolist():
        members = order[first[place] : min(end[place], first[place] + _MEMBERS)]
        more = "" if population[place] <= _MEMBERS else ", …"
        listed = ", ".join(map(str, ids[members].tolist())) + more
        rows.append([item.label, numbers[place], population[place], listed, tokens[members].tolist()])
    return rows


def neighbors(found: Gathered, parts: Parts) -> Section | None:
    """A field to type a token in, which shows its neighbors."""
    items = [each for each in found.having("neighbor_distance", "neighbor") if "token_id" in each.result.dims]
    if not items:
        return None
    options = []
    for each in items:
        count = each.result.sizes["token_id"]
        said = f"{each.label}, {model_results.metric_of(each.result)}, {count:,} {noun(count, 'token')}"
        options.append(f'<option value="{parts.packed(_of_neighbors(each.result))}">{text(said)}</option>')
    body = (
        '<div class="search" id="search"><label>Token <input type="search" autocomplete="off" spellcheck="false" '
        'placeholder="a token, or its id"></label>'
        f"<label>of <select>{''.join(options)}</select></label>"
        '<div class="matches" aria-live="polite"></div><div class="answer" aria-live="polite"></div></div>'
    )
    return Section("neighbors", "Neighbors of a token", body)


def _of_neighbors(result: xr.Dataset) -> dict[str, Any]:
    """What the search looks in: tokens, their neighbors, and the distances with six digits, which float32 keeps."""
    result = result.transpose("token_id", "neighbor", ...)
    ids, distance = result["neighbor_token_id"].to_numpy(), result["neighbor_distance"].to_numpy()
    own = result["token_id"].to_numpy()
    names = model_results.strings(result, "token", own.shape)
    texts = result["text"].to_numpy() if "text" in result.variables else np.full(own.shape, "")
    of_neighbors = model_results.strings(result, "neighbor_token", ids.shape)
    known, first = np.unique(ids, return_index=True)
    if same := not whose(result).against:
        others = ~np.isin(known, own)  # the names of the rest are there already
        known, first = known[others], first[others]
    six_digits = np.array([float(f"{value:.6g}") for value in distance.ravel().tolist()], np.float32)
    return {
        "ranks": distance.shape[1],
        "id": array(own.astype(np.int32)),
        "token": [cut(each) for each in names.tolist()],
        "text": [cut(each) for each in texts.tolist()],
        "neighbor": array(ids.astype(np.int32).ravel()),
        "distance": array(six_digits),
        "other_id": array(known.astype(np.int32)),
        "other_token": [cut(each) for each in of_neighbors.ravel()[first].tolist()],
        "same": same,
    }


def ranks(found: Gathered, parts: Parts) -> Section | None:
    """Values against their ranks: sizes of groups, distances, neighbors, degrees, norms."""
    from embgeom_dask.reporting import rank_charts

    figures = rank_charts.figures(found, parts)
    if not figures:
        return None
    drawn = [each for kind in rank_charts.KINDS for each in rank_charts.of_kind(found, kind)]
    return Section("ranks", "Values against their ranks", legend(drawn) + side_by_side(figures))
