"""Plots of a training: its norms, centroid, identical rows and changes over steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from embgeom_dask.errors import InputError
from embgeom_dask.escaping import shown
from embgeom_dask.reporting import drawing, step_numbers
from embgeom_dask.reporting.drawing import Line
from embgeom_dask.reporting.model_results import Result
from embgeom_dask.reporting.optional_libraries import load
from embgeom_dask.reporting.step_numbers import KINDS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HEIGHT = 8.0
"""The inches of a figure of all pictures, one above the other."""

_GAP = 0.04
"""The part of the height that is left free between two of them."""

_STROKES = (("o", "-"), ("^", "-"), ("v", "-"), ("s", "--"), ("D", ":"))
"""Markers and strokes of the lines of a picture: what lies on a line of the same numbers leaves that to be seen."""

_MARKED = 100
"""The most steps that have markers: those of more would run together."""


def series(result: Result, ax: Axes | None, *, of: str | None) -> Axes:
    """One picture of a training, or all; see the accessor."""
    load("matplotlib", "plot")
    if of is not None and of not in KINDS:
        raise InputError(f"`of` is one of {', '.join(KINDS)}, not {of!r}")
    found = step_numbers.of_series(result)
    if of is not None:
        ax = drawing.new_axes(ax)
        _draw(ax, found, of)
        ax.set_xlabel("step")
    else:
        ax = drawing.new_axes(ax, HEIGHT)
        _draw_all(ax, found)
    ax.set_title(shown(step_numbers.name_of(found)), parse_math=False, fontsize="medium", wrap=True)
    return ax


def _draw_all(ax: Axes, found: xr.Dataset) -> None:
    """All pictures in the place of the axes, one above the other, with the same steps."""
    ax.set_axis_off()
    height = (1 + _GAP) / len(KINDS) - _GAP
    below = None
    for place, kind in enumerate(reversed(KINDS)):
        inner = ax.inset_axes((0, place * (height + _GAP), 1, height), sharex=below)
        _draw(inner, found, kind)
        inner.set_ylabel(KINDS[kind].axis.replace(" of ", "\nof "))  # in two lines: there is little height
        if below is None:
            inner.set_xlabel("step")
            below = inner
        else:
            inner.tick_params(labelbottom=False)


def _draw(ax: Axes, found: xr.Dataset, of: str) -> None:
    kind, step = KINDS[of], found["step"].to_numpy()
    lines = [Line(label, step, step_numbers.values(found, name)) for label, name in kind.lines.items()]
    few = step.size <= _MARKED
    for line, color, (marker, stroke) in zip(lines, step_numbers.COLORS, _STROKES, strict=False):
        marked = few & (line.y > 0) if kind.counts else np.full(step.size, few)  # markers of 0 would hide each other
        ax.plot(line.x, line.y, stroke, color=color, label=line.label, marker=marker, markersize=3.5, markevery=marked)
    if kind.band is not None:
        low, high = (step_numbers.values(found, name) for name in kind.band)
        label = "least to greatest"
        ax.fill_between(step, low, high, color=drawing.COLOR, alpha=0.2, linewidth=0, label=label)
    if kind.counts:
        ax.set_yscale("symlog", linthresh=1)
        ax.set_ylim(bottom=0)
    ax.set_ylabel(kind.axis)
    if len(lines) > 1 or kind.band is not None:  # beside the axes: lines of counts go everywhere
        ax.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
