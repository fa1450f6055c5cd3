"""The sky map: directions of rows in three components, as the sky is seen from the mean row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from embgeom_dask.errors import InputError
from embgeom_dask.reporting import model_results
from embgeom_dask.reporting.drawing import COLORS, DPI, set_title
from embgeom_dask.reporting.model_results import Result
from embgeom_dask.reporting.optional_libraries import load
from embgeom_dask.statistics.sky import directions

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PROJECTION = "mollweide"
HEIGHT = 4.3
"""The inches of a figure of the map, which is half as high as wide, with its title and colours."""

_CELLS = 180, 90
"""Of the map, along longitude and latitude. All have the same part of the sky."""


def skymap(result: Result, ax: Axes | None, *, components: Sequence[int]) -> Axes:
    """How many tokens lie in each direction; see the accessor."""
    load("matplotlib", "plot")
    one = model_results.one_model(result, "score", "has no scores: take the result of spectrum", "component")
    known = one["component"].to_numpy().tolist()
    if len(components) != 3 or len({*components}) != 3 or not {*components} <= {*known}:
        raise InputError(f"`components`: give three of those that the result has, 1 to {max(known, default=0)}")
    x, y, z = (np.atleast_1d(one["score"].sel(component=each).to_numpy()) for each in components)
    if ax is None:
        pyplot = load("matplotlib.pyplot", "plot")
        figure = pyplot.figure(figsize=(pyplot.rcParams["figure.figsize"][0], HEIGHT), dpi=DPI, layout="constrained")
        ax = figure.add_subplot(projection=PROJECTION)
    if ax.name != PROJECTION:
        raise InputError("a sky map is drawn on axes that were made with projection='mollweide'")
    longitude, sine, distance = directions(x, y, z)
    seen = distance > 0
    edges = np.linspace(-np.pi, np.pi, _CELLS[0] + 1), np.linspace(-1, 1, _CELLS[1] + 1)
    count, _, _ = np.histogram2d(longitude[seen], sine[seen], edges)
    kinds = load("matplotlib.colors", "plot")
    seen_colors = load("matplotlib", "plot").colormaps[COLORS](np.linspace(0.3, 1, 256))  # one token is no black
    colors, norm = kinds.ListedColormap(seen_colors), kinds.LogNorm(1, max(2, count.max()))
    cells = np.ma.masked_equal(count.T, 0)
    image = ax.pcolormesh(edges[0], np.arcsin(edges[1]), cells, cmap=colors, norm=norm, rasterized=True)
    ax.set_facecolor("black")
    ax.set_xticks([])
    ax.set_yticks([])
    assert ax.figure is not None
    bar = ax.figure.colorbar(image, ax=ax, orientation="horizontal", shrink=0.7)
    left_out = int(np.count_nonzero(~seen))
    bar.set_label("tokens in the direction" + (f" ({left_out:,} at the mean row have none)" if left_out else ""))
    set_title(ax, one)
    return ax
