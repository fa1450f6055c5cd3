"""Figures of a report: bokeh's, drawn in the browser. No name of a model or token is in them but as plain data."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Scale = Literal["linear", "log"]
HEIGHT = 320
_INK, _GRID = "#444", "#e8e8e8"
_ROOM = 0.04
"""The part of an axis that is left free beside what is drawn."""

_UNITS = ((10**9, "billions"), (10**6, "millions"), (10**4, "thousands"))


class Axis(NamedTuple):
    """What an axis is called, how it is scaled, and from where to where it goes, or from where, if that is told."""

    name: str
    scale: Scale = "linear"
    start: float | None = None
    end: float | None = None


class Counted(NamedTuple):
    """How large numbers are written on an axis: divided by `unit`, with its name."""

    unit: int
    name: str


def number_unit(what: str, largest: float) -> Counted:
    """How to write numbers up to `largest` of `what`."""
    for unit, name in _UNITS:
        if largest >= unit:
            unit = 1000 if name == "thousands" else unit
            return Counted(unit, f"{what} ({name})")
    return Counted(1, what)


def bokeh(module: str) -> Any:
    """A module of bokeh, loaded when it is first used; its types know little of what it takes."""
    return importlib.import_module(f"bokeh.{module}")


def source_of(columns: dict[str, Any]) -> Any:
    """Columns as bokeh holds them."""
    return bokeh("models").ColumnDataSource(columns)


def new_figure(x: Axis, y: Axis, *, height: int = HEIGHT) -> Any:
    """An empty figure, as wide as its place."""
    plot = bokeh("plotting").figure(
        height=height,
        sizing_mode="stretch_width",
        x_axis_type=x.scale,
        y_axis_type=y.scale,
        x_axis_label=x.name,
        y_axis_label=y.name,
        output_backend="webgl",
        tools="pan,box_zoom,wheel_zoom,reset,save",
        active_drag="box_zoom",
        active_scroll=None,
        toolbar_location="above",
        outline_line_color=None,
        min_border_right=16,
        **{f"{name}_range": (told.start, told.end) for name, told in (("x", x), ("y", y)) if told.end is not None},
    )
    plot.toolbar.logo = None
    plot.toolbar.autohide = True
    for axis, grid, told in ((plot.xaxis[0], plot.xgrid[0], x), (plot.yaxis[0], plot.ygrid[0], y)):
        if told.scale == "linear":
            axis.formatter = bokeh("models").BasicTickFormatter(use_scientific=False)
        axis.axis_label_text_font_style = "normal"
        axis.axis_label_text_color = axis.major_label_text_color = _INK
        axis.axis_line_color = axis.major_tick_line_color = "#999"
        axis.minor_tick_line_color = None
        grid.grid_line_color = _GRID
    if y.start is not None:
        plot.y_range.start = y.start
    return plot


def hover(plot: Any, renderers: Sequence[Any], rows: Sequence[tuple[str, str]], **how: Any) -> None:
    """Say what is under the pointer: rows of a name and a template of bokeh's, numbers with six digits."""
    columns = [template[1:].partition("{")[0] for _, template in rows if template.endswith("%.6g}")]
    formatters: Any = {f"@{each}": "printf" for each in columns}
    plot.add_tools(bokeh("models").HoverTool(renderers=[*renderers], tooltips=[*rows], formatters=formatters, **how))


def stairs(
    plot: Any, label: str, color: str, edges: Array, heights: Array, columns: dict[str, Array], *, filled: bool
) -> Any:
    """Bins: bars that are filled, or their outline; `columns` (bins,) are for `hover`. Bars of 0 are not drawn."""
    log = isinstance(plot.y_scale, bokeh("models").LogScale)
    columns = {"left": edges[:-1], "right": edges[1:], **columns}
    if filled:
        there = heights > 0
        data = {name: values[there] for name, values in {**columns, "top": heights}.items()}
        bottom = heights[there].min(initial=1) / 2 if log else 0
        return plot.quad(
            left="left",
            right="right",
            top="top",
            bottom=bottom,
            source=source_of(data),
            color=color,
            line_width=0.5,
            name=label,
        )
    heights = np.where(heights > 0, heights, np.nan) if log else heights
    data = {name: np.repeat(values, 2) for name, values in columns.items()}
    data |= {"x": np.stack([edges[:-1], edges[1:]], axis=1).ravel(), "y": np.repeat(heights, 2)}
    return plot.line("x", "y", source=source_of(data), color=color, line_width=1.5, name=label)


def line(plot: Any, label: str, color: str, columns: dict[str, Array], *, marked: bool = False) -> Any:
    """A line of y against x, both of `columns`; with `marked` its points too."""
    source = source_of(columns)
    if marked:
        plot.scatter("x", "y", source=source, color=color, size=5, name=label)
    return plot.line("x", "y", source=source, color=color, line_width=1.5, name=label)


def band(plot: Any, label: str, color: str, x: Array, low: Array, high: Array) -> None:
    """What lies between two lines."""
    plot.varea(x=x, y1=low, y2=high, fill_color=color, fill_alpha=0.15, name=label)


def line_colors(count: int, color: str) -> list[str]:
    """The colours of so many lines: `color` for one, for several those of inferno that show on white."""
    if count == 1:
        return [color]
    palette = bokeh("palettes").Inferno256
    step = (0.8 - 0.1) / (count - 1)
    return [palette[round(255 * (0.1 + step * index))] for index in range(count)]


def add_legend(plot: Any, lines: Sequence[Any]) -> None:
    """Say which line is which, below the figure; a click hides one."""
    models = bokeh("models")
    items = [models.LegendItem(label={"value": each.name}, renderers=[each]) for each in lines]
    legend = models.Legend(items=items, orientation="horizontal", click_policy="hide", location="center")
    legend.border_line_color = None
    legend.ncols = 2
    legend.label_text_font_size = "8pt"
    legend.padding = legend.margin = 2
    legend.spacing = 8
    plot.add_layout(legend, "below")


def thinned(values: Array, most: int = 2000) -> Array:
    """Which of the places of a long line to draw, (n,): the first and the last, and closer together near the first."""
    if values.size <= most:
        return np.arange(values.size)
    return np.unique(np.rint(np.geomspace(1, values.size, most)).astype(np.int64)) - 1


def axis_range(values: Sequence[float], scale: Scale = "linear") -> tuple[float, float]:
    """From where to where an axis goes that shows all of `values`, with some room."""
    low, high = min(values), max(values)
    if scale == "log":
        spare = (high / low) ** _ROOM if high > low else 2.0
        return low / spare, high * spare
    spare = (high - low) * _ROOM or abs(high) * _ROOM or 1.0
    return low - spare, high + spare
