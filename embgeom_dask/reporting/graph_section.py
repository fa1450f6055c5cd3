"""The section of a report about connected components, against the radius."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from embgeom_dask.reporting import charts
from embgeom_dask.reporting.charts import Axis
from embgeom_dask.reporting.markup import Column, table
from embgeom_dask.reporting.model_results import largest_component, strings
from embgeom_dask.reporting.pair_sections import headed
from embgeom_dask.reporting.parts import Parts, Section, for_each, legend, side_by_side
from embgeom_dask.reporting.report_contents import Gathered, Item, by_metric

_LISTED = 5
"""How many components of each radius are listed."""


def components(found: Gathered, parts: Parts) -> Section | None:
    """How many components there are at each radius, and how large the largest is."""
    items = found.having("component_count", "radius")
    if not items:
        return None
    several, body = by_metric(items), ""
    for metric, of_metric in several.items():
        figures = [
            parts.figure(_figure(of_metric, f"radius, {metric}", log), title)
            for title, log in (("Components", True), ("Share of tokens in the largest component", False))
        ]
        radii = "<h3>At each radius</h3>" + for_each(of_metric, _radii)
        listed = f"<h3>The {_LISTED} largest components at each radius</h3>" + for_each(of_metric, _largest)
        body += headed(several, metric) + legend(of_metric) + side_by_side(figures) + radii + listed
    return Section("components", "Connected components", body)


def _figure(items: list[Item], radius: str, log: bool) -> Any:
    """The number of components, all of them and those of several tokens, or the share of the largest."""
    axis = Axis("components", "log") if log else Axis("share of tokens", "linear", -0.03, 1.03)
    plot, drawn = charts.new_figure(Axis(radius), axis), []
    for each in items:
        one = each.result
        count, x = one["component_count"].to_numpy(), one["radius"].to_numpy()
        y = count if log else largest_component(one) / float(one["token_count"])
        drawn.append(
            charts.line(plot, each.label, each.color, {"x": x, "y": y.astype(np.float64)}, marked=x.size < 100)
        )
    rows = [("model", "$name"), ("radius", "@x{%.6g}"), (axis.name, "@y{0,0}" if log else "@y{%.6g}")]
    charts.hover(plot, drawn, rows[len(items) == 1 :], line_policy="nearest")
    return plot


def _radii(item: Item) -> str:
    one = item.result
    names = ("radius", "component_count", "alone_count", "edge_count")
    rows = zip(*(one[name].to_numpy() for name in names), largest_component(one), strict=True)
    counts = ("components", "tokens alone", "pairs within", "tokens in the largest")
    return table([Column("radius"), *(Column(name, "count") for name in counts)], rows)


def _largest(item: Item) -> str:
    """The components of most tokens at each radius, each named by its lowest token."""
    one = item.result
    names = ("radius", "token_count", "edge_count", "density", "token_id")
    columns = [np.atleast_1d(one[f"component_{name}"].to_numpy()) for name in names]
    columns.append(np.atleast_1d(strings(one, "component_token", columns[0].shape)))
    order = np.lexsort((columns[4], -columns[1], columns[0]))  # a selection may have them in another order
    places = order[_first_of_each(columns[0][order])]
    rows = zip(*(each[places] for each in columns), strict=True)
    of = [Column("radius"), Column("tokens", "count"), Column("pairs within", "count"), Column("density")]
    return table([*of, Column("lowest id", "id"), Column("its token", "token")], rows)


def _first_of_each(radius: NDArray[np.float64]) -> NDArray[np.int64]:
    """The places of the first components of each radius, which come largest first."""
    _, first, inverse = np.unique(radius, return_index=True, return_inverse=True)
    return np.flatnonzero(np.arange(radius.size) - first[inverse] < _LISTED)
