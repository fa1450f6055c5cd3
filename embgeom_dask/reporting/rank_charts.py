"""Rank plots of a report: what is largest, and how fast it falls."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from embgeom_dask.reporting import charts
from embgeom_dask.reporting.charts import Array, Axis, Scale
from embgeom_dask.reporting.parts import Parts
from embgeom_dask.reporting.report_contents import Gathered, Item, by_metric


class RankChart(NamedTuple):
    """A rank plot: its title, the variable that it shows along a dimension, and its axes; no `values` for distances."""

    title: str
    variable: str
    dimension: str
    ranks: str
    values: str = ""
    scale: Scale = "linear"


KINDS = (
    RankChart(
        "Groups of identical rows", "group_population", "group", "rank of the group", "tokens in the group", "log"
    ),
    RankChart("Farthest pairs", "farthest_distance", "farthest", "rank of the pair"),
    RankChart("Nearest pairs", "nearest_distance", "nearest", "rank of the pair"),
    RankChart(
        "Neighbors: median of all tokens, least to greatest", "neighbor_distance", "neighbor", "rank of the neighbor"
    ),
    RankChart(
        "Tokens within radii", "within_degree", "token_id", "rank of the token", "tokens within the radius", "log"
    ),
    RankChart("Row norms", "norm_l2", "token_id", "rank of the token", "L2 norm"),
    RankChart("Distances from the centroid", "centroid_distance", "token_id", "rank of the token", "distance"),
)


class RankLine(NamedTuple):
    """A line of a rank plot, with what is below and above it where it stands for many."""

    label: str
    color: str
    x: Array
    y: Array
    low: Array | None = None
    high: Array | None = None


def figures(found: Gathered, parts: Parts) -> list[str]:
    """A figure of each kind that there is, and of each metric."""
    drawn = []
    for kind in KINDS:
        items = of_kind(found, kind)
        several = {"": items} if kind.values and items else by_metric(items)
        for metric, of_metric in several.items():
            title = f"{kind.title}, {metric}" if len(several) > 1 else kind.title
            drawn.append(parts.figure(_figure(kind, of_metric, metric), title))
    return drawn


def of_kind(found: Gathered, kind: RankChart) -> list[Item]:
    """What has such a rank plot; not the neighbors of a few tokens, of `neighbors`, which are no ranks of all."""
    items = found.having(kind.variable, kind.dimension)
    return [
        each for each in items if each.result[kind.variable].size and each.result.attrs.get("command") != "neighbors"
    ]


def _figure(kind: RankChart, items: list[Item], metric: str) -> Any:
    lines = [line for each in items for line in _lines(kind, each)]
    of_tokens = kind.dimension == "token_id"
    name = kind.values or metric
    plot = charts.new_figure(
        Axis(kind.ranks, "log" if kind.scale == "log" or of_tokens else "linear"), Axis(name, kind.scale)
    )
    drawn = []
    for each in lines:
        if each.low is not None and each.high is not None:
            charts.band(plot, each.label, each.color, each.x, each.low, each.high)
        places = charts.thinned(each.x)
        value = each.y[places].astype(np.float64)
        value = np.where(value > 0, value, np.nan) if kind.scale == "log" else value
        columns = {"x": each.x[places], "y": value}
        drawn.append(charts.line(plot, each.label, each.color, columns, marked=each.x.size <= 100))
    rows = [("model", "$name"), ("rank", "@x{0,0}"), (kind.values or "distance", "@y{%.6g}")]
    charts.hover(plot, drawn, rows[len({each.label for each in lines}) == 1 :], line_policy="nearest")
    return plot


def _lines(kind: RankChart, item: Item) -> list[RankLine]:
    result, label, color = item.result, item.label, item.color
    if kind.variable == "within_degree":
        degree = np.atleast_2d(result["within_degree"].transpose(..., "token_id").to_numpy())
        radii = np.atleast_1d(result["radius"].to_numpy()).tolist()
        several = len(radii) > 1
        names = [f"{label}, radius {radius:g}" if several else label for radius in radii]
        return [_descending(name, color, values) for name, values in zip(names, degree, strict=True)]
    if kind.dimension == "neighbor":
        distance = np.atleast_2d(result["neighbor_distance"].transpose(..., "neighbor").to_numpy())
        there = np.ma.masked_invalid(distance)
        low, middle, high = (
            np.ma.filled(getattr(np.ma, how)(there, axis=0), np.nan) for how in ("min", "median", "max")
        )
        return [RankLine(label, color, result["neighbor"].to_numpy(), middle, low, high)]
    if kind.dimension in ("farthest", "nearest"):
        return [RankLine(label, color, result[kind.dimension].to_numpy(), result[kind.variable].to_numpy())]
    return [_descending(label, color, result[kind.variable].to_numpy())]


def _descending(label: str, color: str, values: Array) -> RankLine:
    return RankLine(label, color, np.arange(1, values.size + 1), np.sort(values)[::-1])
