"""Sections of a report about each model's matrix: survey, norms, tokens, sky map, spectrum, outliers."""

from __future__ import annotations

import numpy as np
import xarray as xr

from embgeom_dask.reporting import charts, sky_chart
from embgeom_dask.reporting.charts import Axis, Scale
from embgeom_dask.reporting.display_names import display_names
from embgeom_dask.reporting.markup import Column, cut, table
from embgeom_dask.reporting.model_results import strings
from embgeom_dask.reporting.parts import Parts, Section, array, for_each, legend, note, side_by_side
from embgeom_dask.reporting.report_contents import Gathered, Item

_NORM_BINS = 256
_CENTROID = ("l1", "l2", "linf", "mean", "std", "min", "max")
_NORM = ("mean", "median", "std", "min", "max")
_SCALES: tuple[tuple[Scale, float | None], ...] = (("linear", 0), ("log", None))
"""How counts are shown, and from where."""

_ENDS = 10
"""How many tokens are named at either end of an order."""


def survey(found: Gathered, parts: Parts) -> Section | None:
    """The numbers of each matrix, of `survey`."""
    del parts
    items = found.having("centroid_ratio")
    if not items:
        return None
    of = [each.result for each in items]
    size = [Column("matrix", "text"), Column("rows", "count"), Column("columns", "count"), Column("type", "text")]
    sizes = [
        [
            each.label,
            str(one["matrix"].values.item()),
            one["vocab_size"],
            one["hidden_size"],
            one["dtype"].values.item(),
        ]
        for each, one in zip(items, of, strict=True)
    ]
    norms = [[*row, *(one[f"norm_{name}"].values.item() for name in _NORM)] for row, one in zip(sizes, of, strict=True)]
    centroids = [
        [each.label, *(one[f"centroid_{name}"].values.item() for name in (*_CENTROID, "ratio"))]
        for each, one in zip(items, of, strict=True)
    ]
    model = Column("model", "text")
    body = (
        "<h3>Rows and their L2 norms</h3>"
        + table([model, *size, *(Column(name) for name in _NORM)], norms)
        + "<h3>The centroid: the mean row</h3>"
        + table(
            [model, *(Column(name) for name in ("L1", "L2", "L∞", *_CENTROID[3:])), Column("L2 / mean norm")], centroids
        )
        + note("A click on a heading sorts. Numbers have six digits; the pointer over one shows all of them.")
    )
    return Section("survey", "Survey", body)


def norms(found: Gathered, parts: Parts) -> Section | None:
    """Histograms of the L2 norms, linear and logarithmic."""
    items = found.having("norm_l2", "token_id")
    if not items:
        return None
    values = [each.result["norm_l2"].to_numpy() for each in items]
    filled = len(items) == 1
    edges = np.linspace(*_span(values), _NORM_BINS + 1)
    counts = [np.histogram(each, edges)[0] for each in values]
    largest = max(int(each.max(initial=1)) for each in counts)
    unit, name = charts.number_unit("tokens", largest) if filled else charts.Counted(1, "share of tokens")
    figures = []
    for scale, start in _SCALES:
        one = scale == "log" and filled
        plot = charts.new_figure(Axis("L2 norm"), Axis("tokens" if one else name, scale, start))
        drawn = []
        for each, norm, count in zip(items, values, counts, strict=True):
            heights = count / (norm.size if not filled else 1 if one else unit)
            drawn.append(charts.stairs(plot, each.label, each.color, edges, heights, {"count": count}, filled=filled))
        rows = [("model", "$name"), ("norm", "@left{%.6g}"), ("to", "@right{%.6g}"), ("tokens", "@count{0,0}")]
        charts.hover(plot, drawn, rows[filled:], line_policy="prev")
        figures.append(parts.figure(plot, "Linear" if scale == "linear" else "Logarithmic"))
    return Section(
        "norms",
        "Row norms",
        note(f"The L2 norms of all rows in {_NORM_BINS} equal bins.") + legend(items) + side_by_side(figures),
    )


def _span(values: list[np.ndarray]) -> tuple[float, float]:
    """From where to where the bins of several models go."""
    low = min(float(each.min()) for each in values if each.size)
    high = max(float(each.max()) for each in values if each.size)
    spare = 0.0 if high > low else abs(high) * 0.01 or 0.5
    return low - spare, high + spare


def tokens(found: Gathered, parts: Parts) -> Section | None:
    """The norm of each token against its distance from the centroid."""
    items = [each for each in found.having("norm_l2", "token_id") if "centroid_distance" in each.result]
    if not items:
        return None
    x_axis, y_axis = (
        Axis(name, "linear", *charts.axis_range([end for each in items for end in _ends(each.result[variable])]))
        for name, variable in (("distance from the centroid", "centroid_distance"), ("L2 norm", "norm_l2"))
    )
    figures = []
    for each in items:
        plot = charts.new_figure(x_axis, y_axis, height=420)
        # An empty source, which the page fills from packed data when the figure is looked at.
        points = plot.scatter(
            "x",
            "y",
            source=charts.source_of({"x": [], "y": [], "id": [], "token": []}),
            color=each.color,
            size=4,
            alpha=0.35,
            line_color=None,
            name=each.label,
        )
        plot.lod_threshold, plot.lod_factor = 20_000, 10
        rows = [
            ("token", "@token"),
            ("id", "@id"),
            ("norm", "@y{%.6g}"),
            ("distance", "@x{%.6g}"),
        ]
        charts.hover(plot, [points], rows, limit=8)
        title = each.label if len(items) > 1 else ""
        figures.append(parts.figure(plot, title, data=parts.packed(_of_tokens(each.result))))
    said = (
        "Each point is a token; the pointer over one names it. Axes are the same for all models. "
        "Wheel zoom is among the tools of the figure."
    )
    ends = f"<h3>The {_ENDS} tokens farthest from the centroid, and the {_ENDS} nearest to it</h3>"
    body = note(said) + _wide(figures) + ends + for_each(items, _ends_of)
    return Section("tokens", "Norm against distance from the centroid", body)


def _wide(figures: list[str]) -> str:
    return figures[0] if len(figures) == 1 else side_by_side(figures)


def _ends(values: xr.DataArray) -> tuple[float, float]:
    return float(values.min()), float(values.max())


def _of_tokens(result: xr.Dataset) -> dict[str, object]:
    """What the page knows of each token."""
    names = display_names(result) if "token" in result.variables else result["token_id"].to_numpy()
    return {
        "x": array(result["centroid_distance"].to_numpy()),
        "y": array(result["norm_l2"].to_numpy()),
        "id": array(result["token_id"].to_numpy().astype(np.int32)),
        "token": [cut(each) for each in names.tolist()],
    }


def _ends_of(item: Item) -> str:
    """The tokens farthest from the centroid and nearest to it."""
    one = item.result
    rank = one["centroid_distance_rank"].to_numpy()
    order = np.argsort(rank, kind="stable")
    places = [*order[:_ENDS], *order[_ENDS:][-_ENDS:]]
    names = strings(one, "token", rank.shape)
    ids, far, norm = (one[name].to_numpy() for name in ("token_id", "centroid_distance", "norm_l2"))
    norm_rank = one["norm_l2_rank"].to_numpy()
    rows = [[rank[at], ids[at], names[at], far[at], norm[at], norm_rank[at]] for at in places]
    columns = [
        *(Column("rank", "count"), Column("id", "id"), Column("token", "token")),
        *(Column("distance"), Column("L2 norm"), Column("its rank", "count")),
    ]
    return table(columns, rows)


def sky(found: Gathered, parts: Parts) -> Section | None:
    """Maps of the directions of tokens."""
    items = [each for each in found.items if sky_chart.has_sky(each.result)]
    if not items:
        return None
    figures = [
        parts.figure(sky_chart.draw(each.result), each.label if len(items) > 1 else "", dark=True) for each in items
    ]
    said = (
        "Directions in which tokens lie from the mean row, in three components of the spectrum: longitude atan2(y, x), "
        "latitude asin(z / r), Mollweide's projection. Each cell has the same part of the sky; colours are logarithmic."
    )
    return Section("sky", "Sky map", note(said) + _wide(figures))


def spectrum(found: Gathered, parts: Parts) -> Section | None:
    """Eigenvalues of the covariance, their sum, and the numbers that come of them."""
    items = found.having("eigenvalue", "eigenvalue_rank")
    if not items:
        return None
    figures = []
    for variable, axis in (
        ("eigenvalue", Axis("eigenvalue of the covariance", "log")),
        ("cumulative_share", Axis("share of the variance up to the rank", "linear", 0, 1.02)),
    ):
        plot = charts.new_figure(Axis("rank", "log"), axis)
        drawn = []
        for each in items:
            rank, value = each.result["eigenvalue_rank"].to_numpy(), each.result[variable].to_numpy()
            places = charts.thinned(rank)
            seen = value[places].astype(np.float64)
            seen = np.where(seen > 0, seen, np.nan) if axis.scale == "log" else seen
            share = each.result["eigenvalue_share"].to_numpy()[places]
            columns = {"x": rank[places], "y": seen, "share": share}
            drawn.append(charts.line(plot, each.label, each.color, columns))
        rows = [("model", "$name"), ("rank", "@x{0}"), (axis.name, "@y{%.6g}"), ("share", "@share{%.6g}")]
        charts.hover(plot, drawn, rows[len(items) == 1 :], line_policy="nearest")
        figures.append(parts.figure(plot))
    rows_of = [[each.label, *_of_spectrum(each.result)] for each in items]
    columns_of = [
        Column("model", "text"),
        *map(
            Column,
            ("participation ratio", "IsoScore", "mean cosine", "mean squared distance", "error of eigenvalues"),
        ),
        *(Column(f"for {share} %", "count") for share in (50, 90, 99)),
    ]
    said = "How many eigenvalues have 50, 90 and 99 % of the variance is in the last columns."
    body = legend(items) + side_by_side(figures) + table(columns_of, rows_of) + note(said)
    return Section("spectrum", "Spectrum", body)


def _of_spectrum(result: xr.Dataset) -> list[float]:
    """What a spectrum comes down to, and how many eigenvalues have 50, 90 and 99 % of the variance."""
    names = ("participation_ratio", "isoscore", "mean_cosine", "mean_square_distance", "eigenvalue_error")
    cumulative, rank = result["cumulative_share"].to_numpy(), result["eigenvalue_rank"].to_numpy()
    up_to = [rank[cumulative >= share] for share in (0.5, 0.9, 0.99)]  # none where the rest of them is not there
    return [*(result[name].values.item() for name in names), *(min(each, default=np.nan) for each in up_to)]


def outliers(found: Gathered, parts: Parts) -> Section | None:
    """What `outliers` says of selections."""
    del parts
    items = [
        each for each in found.of_command("outliers") if {"side": 2, "vertex": 3}.items() <= each.result.sizes.items()
    ]
    if not items:
        return None
    rows = []
    for each in items:
        one = each.result
        ids, names = one["farthest_token_id"].to_numpy(), display_names(one, "farthest_token")
        far, norm = one["centroid_distance"].to_numpy(), one["norm"].to_numpy()
        angle = one["angle_dot_product"].to_numpy()
        for at, side in enumerate("AB"):
            pair = [each.label, one["token_count"].values.item(), one["farthest_distance"].values.item()]
            rows.append([*pair, side, ids[at], names[at], norm[at], far[at], angle[at]])
    columns = [
        Column("model", "text"),
        Column("tokens", "count"),
        Column("farthest distance"),
        Column("side", "text"),
        Column("id", "id"),
        Column("token", "token"),
        Column("L2 norm"),
        Column("distance from the centroid"),
        Column("angle, degrees"),
    ]
    said = "The farthest pair of a selection, A and B, and the triangle that it makes with the centroid."
    return Section("outliers", "Outliers of a selection", note(said) + table(columns, rows))
