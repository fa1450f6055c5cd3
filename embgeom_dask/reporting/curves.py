"""Plots of what changes with a rank or a radius: eigenvalues of a spectrum, connected components."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import xarray as xr
from numpy.typing import NDArray

from embgeom_dask.errors import InputError
from embgeom_dask.reporting import drawing, model_results
from embgeom_dask.reporting.drawing import Line
from embgeom_dask.reporting.model_results import Result
from embgeom_dask.reporting.optional_libraries import load

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SPECTRUM = {
    "eigenvalues": ("eigenvalue", "eigenvalue of the covariance"),
    "cumulative": ("cumulative_share", "share of the variance up to the rank"),
}
_COMPONENTS = {"count": "components", "largest": "share of tokens in the largest component"}


def spectrum(result: Result, ax: Axes | None, *, of: str) -> Axes:
    """Eigenvalues, or their cumulative share; see the accessor."""
    load("matplotlib", "plot")
    _check(of, _SPECTRUM)
    variable, name = _SPECTRUM[of]
    found = model_results.of_models(result, variable, "has no eigenvalues: take the result of spectrum")
    ax = drawing.new_axes(ax)
    lines = [Line(label, *(each[axis].to_numpy() for axis in ("eigenvalue_rank", variable))) for label, each in found]
    drawing.draw_lines(ax, lines)
    ax.set_xscale("log")
    if of == "eigenvalues":
        drawing.log_scale(ax, "y", [line.y for line in lines])
    else:
        ax.set_ylim(0, 1.02)
    ax.set_xlabel("rank of the eigenvalue")
    ax.set_ylabel(name)
    drawing.name_models(ax, found)
    return ax


def components(result: Result, ax: Axes | None, *, of: str) -> Axes:
    """The number of components at each radius, or the largest; see the accessor."""
    load("matplotlib", "plot")
    _check(of, _COMPONENTS)
    missing = "has no components: take the result of components"
    found = model_results.of_models(result, "component_count", missing, "radius")
    ax = drawing.new_axes(ax)
    lines = [Line(label, each["radius"].to_numpy(), _of_radii(each, of)) for label, each in found]
    drawing.draw_lines(ax, lines)
    if of == "largest":
        ax.set_ylim(-0.02, 1.02)
    elif max(line.y.max() for line in lines) >= 10 * min(line.y.min() for line in lines):
        ax.set_yscale("log")  # within a decade its labels are powers with a factor, which read badly
    metrics = {model_results.metric_of(each) for _, each in found}
    ax.set_xlabel(f"radius, {metrics.pop()}" if len(metrics) == 1 else "radius")
    ax.set_ylabel(_COMPONENTS[of])
    drawing.name_models(ax, found)
    return ax


def _of_radii(result: xr.Dataset, of: str) -> NDArray[Any]:
    if of == "count":
        return result["component_count"].to_numpy()
    return model_results.largest_component(result) / float(result["token_count"])


def _check(of: str, known: Iterable[str]) -> None:
    if of not in known:
        raise InputError(f"`of` is one of {', '.join(known)}, not {of!r}")
