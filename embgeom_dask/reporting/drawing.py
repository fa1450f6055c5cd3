"""Draw the numbers of a result on axes of matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from embgeom_dask.errors import InputError
from embgeom_dask.escaping import shown
from embgeom_dask.reporting import model_results
from embgeom_dask.reporting.display_names import display_names
from embgeom_dask.reporting.model_results import HistogramBins, ModelResult, Result
from embgeom_dask.reporting.optional_libraries import load
from embgeom_dask.units import noun

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOR = "steelblue"
COLORS = "inferno"
DPI = 200
_LINE = 0.4
"""The inches of a model where each has a line of its own."""

_NAMED_TICKS = 40
"""The most tokens that an axis names by their strings; more than that cannot be read."""

_PIXELS = 1000
"""About the lines of pixels of a figure: where there are more lines of numbers, each pixel is the mean of several."""

_MATRIX_TOKENS = 4096
"""The most tokens whose distances a heat map shows: (tokens, tokens) float64, 128 MiB."""

_NO_HISTOGRAM = "has no histogram: give scan `histogram`"
_NO_NORMS = "has no norms: take the result of tokens or of survey"
_NORM_BINS = 256


class RankPlot(NamedTuple):
    """A rank plot: the variable that it shows, along a dimension, and the names of the axes; None for a distance."""

    variable: str
    dimension: str
    ranks: str
    values: str | None = None
    log: bool = False


_RANKED = {
    "groups": RankPlot("group_population", "group", "rank of the group", "tokens in the group", log=True),
    "farthest": RankPlot("farthest_distance", "farthest", "rank of the pair"),
    "nearest": RankPlot("nearest_distance", "nearest", "rank of the pair"),
    "neighbors": RankPlot("neighbor_distance", "neighbor", "rank of the neighbor"),
    "degrees": RankPlot("within_degree", "token_id", "rank of the token", "tokens within the radius", log=True),
    "norms": RankPlot("norm_l2", "token_id", "rank of the token", "L2 norm"),
    "centroid": RankPlot("centroid_distance", "token_id", "rank of the token", "distance from the centroid"),
}
_NO_RANKS = (
    "has nothing that is ranked: give scan `farthest`, `nearest`, `neighbors` or `within`, "
    "or take the result of duplicates or tokens"
)
_MAPPED = {
    "neighbors": RankPlot("neighbor_distance", "neighbor", "rank of the neighbor"),
    "pairs": RankPlot("pair_distance", "pair", "token"),
}
_NO_MAP = "has nothing for a heat map: give scan `neighbors` or `pairs_within`"


class Line(NamedTuple):
    """A line to draw: `label`, and y (n,) against x (n,)."""

    label: str
    x: NDArray[Any]
    y: NDArray[Any]


def new_axes(ax: Axes | None, least: float = 0) -> Axes:
    """The axes given, or those of a new figure of pyplot, of at `least` so many inches of height."""
    if ax is not None:
        return ax
    pyplot = load("matplotlib.pyplot", "plot")
    width, height = pyplot.rcParams["figure.figsize"]
    figure = pyplot.figure(figsize=(width, max(height, least)), dpi=DPI, layout="constrained")
    return figure.add_subplot()  # type: ignore[no-any-return]


def histogram(result: Result, ax: Axes | None, *, log: bool, density: bool | None) -> Axes:
    """Pairs in each bin; see the accessor."""
    load("matplotlib", "plot")
    found = model_results.of_models(result, "histogram_count", _NO_HISTOGRAM, "bin")
    density = len(found) > 1 if density is None else density
    ax = new_axes(ax)
    for (label, each), color in zip(found, colors(len(found)), strict=True):
        edges, count, _ = _filled_bins(each)
        height = count / float(each["pair_count"]) / np.diff(edges) if density else count
        ax.stairs(height, edges, fill=len(found) == 1, color=color, label=shown(label))
    ax.set_ylabel("share of pairs per unit of distance" if density else "pairs")
    _finish_distances(ax, found)
    if log:
        log_scale(ax, "y", [each["histogram_count"].to_numpy() for _, each in found], nonpositive="clip")
    elif ax.get_yscale() == "linear":
        ax.set_ylim(bottom=0)
    return ax


def log_scale(ax: Axes, axis: str, drawn: Sequence[NDArray[Any]], nonpositive: str = "mask") -> None:
    """Make an axis logarithmic, unless nothing that is drawn is positive: then it has no logarithm to show."""
    if any((values > 0).any() for values in drawn):
        getattr(ax, f"set_{axis}scale")("log", nonpositive=nonpositive)


def _filled_bins(result: xr.Dataset) -> HistogramBins:
    """The bins from the first to the last that hold pairs: beyond the farthest pair there is nothing to see."""
    edges, count, share = model_results.bins_of(result)
    filled = np.flatnonzero(count)
    first, end = (filled[0], filled[-1] + 1) if filled.size else (0, count.size)
    return HistogramBins(edges[first : end + 1], count[first:end], share[first : end + 1])


def cdf(result: Result, ax: Axes | None) -> Axes:
    """The share of pairs up to each distance; see the accessor."""
    load("matplotlib", "plot")
    found = model_results.of_models(result, "histogram_cdf", _NO_HISTOGRAM, "bin")
    ax = new_axes(ax)
    for (label, each), color in zip(found, colors(len(found)), strict=True):
        edges, _, share = _filled_bins(each)
        ax.plot(edges, share, color=color, label=shown(label))
        if "quantile_lower" in each:
            _mark_quantiles(ax, each, color)
    ax.set_ylabel("share of pairs up to the distance")
    ax.set_ylim(0, 1.02)
    _finish_distances(ax, found)
    return ax


def _mark_quantiles(ax: Axes, result: xr.Dataset, color: Any) -> None:
    """The quantiles: points where they are known, else between which distances each of them lies."""
    share = result["quantile"].to_numpy()
    if "quantile_distance" in result:
        ax.plot(result["quantile_distance"].to_numpy(), share, "o", color=color, markersize=4)
    else:
        lower, upper = result["quantile_lower"].to_numpy(), result["quantile_upper"].to_numpy()
        ax.hlines(share, lower, upper, colors=[color], linewidths=4)


def _finish_distances(ax: Axes, found: Sequence[ModelResult]) -> None:
    """Name the axis of distances, and say how many pairs lie outside the bins."""
    outside = sum(int(each[name]) for _, each in found for name in ("histogram_below", "histogram_above"))
    left_out = f" ({outside:,} {noun(outside, 'pair')} outside the bins)" if outside else ""
    metrics = {model_results.metric_of(each) for _, each in found}
    ax.set_xlabel((metrics.pop() if len(metrics) == 1 else "distance") + left_out)
    if {model_results.scale_of(each) for _, each in found} == {"log"}:
        ax.set_xscale("log")
    name_models(ax, found)


def norms(result: Result, ax: Axes | None, *, log: bool) -> Axes:
    """The L2 norms of all rows, or of a survey their spread; see the accessor."""
    load("matplotlib", "plot")
    if model_results.has(result, "norm_l2", "token_id"):
        return _norms_of_rows(result, ax, log=log)
    found = model_results.of_models(result, "norm_std", _NO_NORMS)
    if log:
        raise InputError("`log` counts tokens: this result has the spread of norms alone, that of tokens has all")
    ax = new_axes(ax, 1 + len(found) * _LINE)
    low, high, mean, deviation, median = (
        np.array([float(each[f"norm_{name}"]) for _, each in found]) for name in ("min", "max", "mean", "std", "median")
    )
    place = np.arange(len(found))
    ax.hlines(place, low, high, colors=COLOR, linewidths=1.5, label="smallest to largest")
    ax.hlines(place, mean - deviation, mean + deviation, colors=COLOR, linewidths=7, alpha=0.5, label="mean ± std")
    ax.plot(mean, place, "o", color=COLOR, label="mean")
    ax.plot(median, place, "|", color="black", markersize=12, label="median")
    ax.set_yticks([])
    for at, (label, _) in zip(place, found, strict=True):
        where: dict[str, Any] = {"xycoords": ax.get_yaxis_transform(), "xytext": (0, 7), "textcoords": "offset points"}
        ax.annotate(shown(label), (0.01, at), **where, parse_math=False, fontsize="small")
    ax.set_ylim(len(found) - 0.5, -0.5)
    ax.set_xlabel("L2 norm of rows")
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=4, frameon=False, fontsize="small")
    return ax


def _norms_of_rows(result: Result, ax: Axes | None, *, log: bool) -> Axes:
    found = model_results.of_models(result, "norm_l2", _NO_NORMS, "token_id")
    ax = new_axes(ax)
    all_norms = [each["norm_l2"].to_numpy() for _, each in found]
    ends = min(norm.min() for norm in all_norms), max(norm.max() for norm in all_norms)
    edges = np.histogram_bin_edges(all_norms[0], _NORM_BINS, ends)
    several = len(found) > 1
    for (label, _), norm, color in zip(found, all_norms, colors(len(found)), strict=True):
        count = np.histogram(norm, edges)[0]
        height = count / norm.size if several else count
        ax.stairs(height, edges, fill=not several, color=color, label=shown(label))
    ax.set_xlabel("L2 norm")
    ax.set_ylabel("share of tokens" if several else "tokens")
    ax.set_yscale("log" if log else "linear")
    name_models(ax, found)
    return ax


def ranks(result: Result, ax: Axes | None, *, of: str | None) -> Axes:
    """Values against their ranks; see the accessor."""
    load("matplotlib", "plot")
    of = _chosen(result, of, _RANKED, _NO_RANKS)
    kind = _RANKED[of]
    found = model_results.of_models(result, kind.variable, f"has no {of}", kind.dimension)
    lines = [line for each in found for line in _ranked(each, of)]
    ax = new_axes(ax)
    draw_lines(ax, lines)
    values = kind.values or model_results.metric_of(found[0].result)
    if of == "neighbors":
        for (_, each), color in zip(found, colors(len(found)), strict=True):
            low, high = (_over_tokens(_neighbor_distances(each), how) for how in ("min", "max"))
            ax.fill_between(each["neighbor"].to_numpy(), low, high, color=color, alpha=0.2, linewidth=0)
        values = f"{values}: median, smallest to largest"
    if kind.log:
        for axis in "xy":
            log_scale(ax, axis, [line.y for line in lines])
    else:
        ax.xaxis.set_major_locator(load("matplotlib.ticker", "plot").MaxNLocator(integer=True))
    ax.set_xlabel(kind.ranks)
    ax.set_ylabel(values)
    name_models(ax, found, lines)
    return ax


def draw_lines(ax: Axes, lines: Sequence[Line]) -> None:
    """Draw lines in the users' colours, with their points where these can be told apart."""
    for line, color in zip(lines, colors(len(lines)), strict=True):
        ax.plot(line.x, line.y, ".-" if line.x.size <= _PIXELS else "-", color=color, label=shown(line.label))


def _ranked(each: ModelResult, of: str) -> list[Line]:
    """The lines of a rank plot of one model."""
    label, result = each
    if of in ("groups", "norms", "centroid"):
        return [_descending(label, result[_RANKED[of].variable].to_numpy())]
    if of == "degrees":
        radii = np.atleast_1d(result["radius"].to_numpy()).tolist()
        degree = np.atleast_2d(result["within_degree"].transpose(..., "token_id").to_numpy())
        named = [f"{label}, radius {radius:g}" if label else f"radius {radius:g}" for radius in radii]
        return [_descending(name, values) for name, values in zip(named, degree, strict=True)]
    if of == "neighbors":
        return [Line(label, result["neighbor"].to_numpy(), _over_tokens(_neighbor_distances(result), "median"))]
    return [Line(label, result[of].to_numpy(), result[f"{of}_distance"].to_numpy())]


def _neighbor_distances(result: xr.Dataset) -> NDArray[np.float64]:
    """Distances of neighbors, (tokens, ranks); of one token, too, or of those along a dimension of another name."""
    return np.atleast_2d(result["neighbor_distance"].transpose(..., "neighbor").to_numpy())


def _over_tokens(distance: NDArray[np.float64], how: str) -> NDArray[np.float64]:
    """The least, median or greatest distance at each rank; a list that is short has no part in it."""
    there = np.ma.masked_invalid(distance)
    return cast(NDArray[np.float64], getattr(np.ma, how)(there, axis=0).filled(np.nan))


def _descending(label: str, values: NDArray[Any]) -> Line:
    return Line(label, np.arange(1, values.size + 1), np.sort(values)[::-1])


def heatmap(result: Result, ax: Axes | None, *, of: str | None) -> Axes:
    """Distances as colours; see the accessor."""
    load("matplotlib", "plot")
    of = _chosen(result, of, _MAPPED, _NO_MAP)
    kind = _MAPPED[of]
    one = model_results.one_model(result, kind.variable, f"has no {of}", kind.dimension)
    if of == "neighbors":
        down, across, values = _neighbor_cells(one)
    else:
        down, across, values = _pair_cells(one)
    if not values.size:
        raise InputError(f"there is nothing to draw: the result has 0 {of}")
    ax = new_axes(ax)
    colors = load("matplotlib", "plot").colormaps[COLORS].with_extremes(bad="lightgrey")
    smooth = "antialiased" if max(values.shape) > _PIXELS else "nearest"
    image = ax.imshow(values, cmap=colors, aspect="auto" if of == "neighbors" else "equal", interpolation=smooth)
    for axis, ticks in ((ax.yaxis, down), (ax.xaxis, across)):
        ticks.put_on(axis)
    ax.set_ylabel("token")
    ax.set_xlabel(kind.ranks)
    bar = ax.get_figure(root=True).colorbar(image, ax=ax)  # type: ignore[union-attr]
    bar.set_label(model_results.metric_of(one))
    set_title(ax, one)
    return ax


class Ticks(NamedTuple):
    """The places of an axis: the number of each, (n,) int64, and its string where there are few."""

    numbers: NDArray[np.int64]
    names: list[str] | None

    def put_on(self, axis: Any) -> None:
        """Name the places: all of them where there are strings, else those that matplotlib chooses."""
        if self.names is not None:
            how = {"rotation": 90 if axis.axis_name == "x" else 0, "fontsize": "small", "parse_math": False}
            axis.set_ticks(range(len(self.names)), self.names, **how)
            return
        ticker = load("matplotlib.ticker", "plot")
        axis.set_major_locator(ticker.MaxNLocator(integer=True))
        axis.set_major_formatter(ticker.FuncFormatter(self._number))

    def _number(self, place: float, _: int | None = None) -> str:
        at = round(place)
        return str(self.numbers[at]) if at == place and 0 <= at < self.numbers.size else ""


def _neighbor_cells(result: xr.Dataset) -> tuple[Ticks, Ticks, NDArray[Any]]:
    """Tokens down, ranks across."""
    ids = np.atleast_1d(result["token_id"].to_numpy())
    names = dict(zip(ids.tolist(), display_names(result).ravel().tolist(), strict=True)) if "token" in result else {}
    return _ticks(ids, names), Ticks(result["neighbor"].to_numpy(), None), _neighbor_distances(result)


def _pair_cells(result: xr.Dataset) -> tuple[Ticks, Ticks, NDArray[Any]]:
    """Tokens of pairs down and across: all of them on both where pairs are of one matrix."""
    pair = result["pair_token_id"].transpose("pair", "side").to_numpy()
    token = display_names(result.transpose("pair", "side", ...), "pair_token") if "pair_token" in result else None
    against = "against" in result.coords
    sides = [pair[:, 0], pair[:, 1]] if against else [pair.ravel()] * 2
    ids = [np.unique(side) for side in sides]
    if (most := max(map(len, ids))) > _MATRIX_TOKENS:
        raise InputError(f"a heat map shows up to {_MATRIX_TOKENS:,} tokens, the pairs are of {most:,}: scan `tokens`")
    values = np.full((ids[0].size, ids[1].size), np.nan)
    row, column = (np.searchsorted(known, pair[:, side]) for side, known in enumerate(ids))
    values[row, column] = result["pair_distance"].to_numpy()
    if not against:
        values[column, row] = values[row, column]
        np.fill_diagonal(values, 0)
    ticks = []
    for side, known in enumerate(ids):
        of_side = slice(side, side + 1) if against else slice(None)
        names = {} if token is None else dict(zip(pair[:, of_side].flat, token[:, of_side].flat, strict=True))
        ticks.append(_ticks(known, names))
    return ticks[0], ticks[1], values


def _ticks(ids: NDArray[np.int64], names: dict[int, str]) -> Ticks:
    if ids.size > _NAMED_TICKS:
        return Ticks(ids, None)
    return Ticks(ids, [shown(names.get(int(each), each)) for each in ids])


def _chosen(result: Result, of: str | None, known: dict[str, RankPlot], none: str) -> str:
    """What to draw: what is asked for, or the first that there is."""
    there = [name for name, kind in known.items() if model_results.has(result, kind.variable, kind.dimension)]
    if of is not None and of not in known:
        raise InputError(f"`of` is one of {', '.join(known)}, not {of!r}")
    if not there or of not in (None, *there):
        said = f"has no {of}: it has {', '.join(there)}" if there else none
        raise InputError(f"this result {said}")
    return of or there[0]


def colors(count: int) -> list[Any]:
    """The users' colours: steelblue for one, of several the range of inferno that shows on white."""
    if count == 1:
        return [COLOR]
    return [*load("matplotlib", "plot").colormaps[COLORS](np.linspace(0.1, 0.8, count))]


def name_models(ax: Axes, found: Sequence[ModelResult], lines: Sequence[Line] = ()) -> None:
    """Say whose the numbers are: a legend for several, a title for one."""
    if len(found) == 1:
        set_title(ax, found[0].result)
    if max(len(found), len(lines)) > 1:
        for text in ax.legend().get_texts():
            text.set_parse_math(False)


def set_title(ax: Axes, result: xr.Dataset) -> None:
    """Say whose numbers these are."""
    ax.set_title(shown(model_results.title_of(result)), parse_math=False, fontsize="medium", wrap=True)
