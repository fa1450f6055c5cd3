"""The sky map of a report: how many tokens lie in each direction, in Mollweide's projection, on black."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from embgeom_dask.reporting.charts import bokeh, source_of
from embgeom_dask.statistics.sky import directions

Array = NDArray[np.float64]

_CELLS = 360, 180
"""Of the map, across and down: the projection keeps areas, so that all have the same part of the sky."""

_STEPS = 30
"""Newton's steps: few are needed but near the poles, where three roots fall together."""

_BLACK, _LIGHT = "#000000", "#c8c8c8"


def has_sky(result: xr.Dataset) -> bool:
    """Whether there are latitudes and longitudes, or scores in three components, of the tokens of one step."""
    if "step" in result.dims or "token_id" not in result.dims:
        return False
    return "sky_latitude" in result or ("score" in result and result.sizes.get("component", 0) >= 3)


def projected(longitude: Array, sine: Array) -> tuple[Array, Array]:
    """Mollweide's x, from -2 to 2, and y, from -1 to 1, of longitudes in radians and sines of latitudes (n,).

    The angle t with 2 t + sin 2t = pi sin(latitude) gives x = 2 longitude / pi cos t and y = sin t.
    """
    target = np.pi * sine
    double = 2 * np.arcsin(np.clip(sine, -1, 1))  # 2 t, to begin with
    for _ in range(_STEPS):
        slope = 1 + np.cos(double)
        steep = slope > 1e-12
        double = double - np.divide(double + np.sin(double) - target, slope, out=np.zeros_like(double), where=steep)
        double = np.clip(double, -np.pi, np.pi)
    return 2 / np.pi * longitude * np.cos(double / 2), np.sin(double / 2)


def of_result(result: xr.Dataset) -> tuple[Array, Array, list[int]]:
    """Longitudes, sines of latitudes, NaN at the mean row, and the three components."""
    if "sky_latitude" in result:
        latitude, longitude = (np.radians(result[f"sky_{name}"].to_numpy()) for name in ("latitude", "longitude"))
        return longitude, np.sin(latitude), _axes(result)
    scores = result["score"].transpose("component", "token_id").to_numpy()
    longitude, sine, _ = directions(*scores[:3])
    return longitude, sine, result["component"].to_numpy()[:3].tolist()


def _axes(result: xr.Dataset) -> list[int]:
    return list(json.loads(result.attrs.get("settings", "{}")).get("sky", []))


def counts(longitude: Array, sine: Array) -> NDArray[np.int64]:
    """Tokens in each cell (down, across), from the south-west; those without a direction are in none."""
    somewhere = np.isfinite(longitude) & np.isfinite(sine)
    x, y = projected(longitude[somewhere], sine[somewhere])
    found, _, _ = np.histogram2d(y, x, (_CELLS[1], _CELLS[0]), ((-1, 1), (-2, 2)))
    return found.astype(np.int64)


def draw(result: xr.Dataset) -> Any:
    """The map of one model."""
    models = bokeh("models")
    longitude, sine, axes = of_result(result)
    cells = counts(longitude, sine)
    plot = bokeh("plotting").figure(
        width=900,
        height=530,
        sizing_mode="scale_width",
        match_aspect=True,
        tools="pan,box_zoom,wheel_zoom,reset,save",
        active_scroll=None,
        toolbar_location="above",
        background_fill_color=_BLACK,
        border_fill_color=_BLACK,
        outline_line_color=None,
    )
    plot.toolbar.logo, plot.toolbar.autohide = None, True
    plot.axis.visible = plot.grid.visible = False
    colors = models.LogColorMapper(
        palette=bokeh("palettes").Inferno256[77:],  # one token is no black
        low=1,
        high=max(2, int(cells.max())),
        low_color="rgba(0, 0, 0, 0)",
        nan_color="rgba(0, 0, 0, 0)",
    )
    source = source_of({"image": [cells.astype(np.int32)]})
    image = plot.image(image="image", x=-2, y=-1, dw=4, dh=2, color_mapper=colors, source=source, name="cells")
    lines = _graticule()
    plot.multi_line(*lines, color=_LIGHT, alpha=0.25, line_width=0.7)
    turn = np.linspace(0, 2 * np.pi, 361)
    plot.line(2 * np.cos(turn), np.sin(turn), color=_LIGHT, alpha=0.7)
    plot.add_tools(models.HoverTool(renderers=[image], tooltips=[("tokens", "@image")]))
    hidden = int(np.count_nonzero(~np.isfinite(longitude)))
    said = "tokens in the direction" + (f", components {', '.join(map(str, axes))}" if axes else "")
    bar = models.ColorBar(
        color_mapper=colors,
        ticker=models.LogTicker(),
        formatter=models.NumeralTickFormatter(format="0,0"),
        orientation="horizontal",
        height=10,
        title=said + (f" ({hidden:,} at the mean row have none)" if hidden else ""),
        title_text_color=_LIGHT,
        title_text_font_style="normal",
        major_label_text_color=_LIGHT,
        major_tick_line_color=_LIGHT,
        background_fill_color=_BLACK,
    )
    plot.add_layout(bar, "below")
    return plot


def _graticule() -> tuple[list[Array], list[Array]]:
    """Meridians and parallels, 30 degrees apart."""
    along, across = np.linspace(-1, 1, 91), np.linspace(-np.pi, np.pi, 91)
    lines = [projected(np.full(along.size, np.radians(each)), along) for each in range(-150, 180, 30)]
    lines += [projected(across, np.full(across.size, np.sin(np.radians(each)))) for each in range(-60, 90, 30)]
    return [x for x, _ in lines], [y for _, y in lines]
