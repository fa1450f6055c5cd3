"""Results as figures: `result.embgeom.plot`, and files of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from embgeom_dask.errors import InputError, parse_path
from embgeom_dask.reporting import curves, drawing, skymap, step_curves
from embgeom_dask.reporting.model_results import Result
from embgeom_dask.reporting.optional_libraries import load
from embgeom_dask.storage import replacement

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ENDINGS = (".pdf", ".png", ".svg")
"""The formats of figures, by the ending of their files."""

_UNDATED = {".pdf": {"CreationDate": None}, ".png": {}, ".svg": {"Date": None}}
"""Of each format the metadata that leaves out when it was written: one result is one file, byte for byte."""


class Plots:
    """A result, or a tree of those of several models, as plots of matplotlib.

    Each draws on the axes given, or on those of a new figure of 200 dpi, and returns them. Several models share axes
    and have a legend. `pip install 'embgeom-dask[plot]'` brings matplotlib.
    """

    def __init__(self, result: Result) -> None:
        self._result = result

    def histogram(self, ax: Axes | None = None, *, log: bool = False, density: bool | None = None) -> Axes:
        """Draw how many pairs are at which distance: the bins of `scan`.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Where to draw; by default a new figure.
        log : bool
            Whether the axis of pairs is logarithmic.
        density : bool, optional
            Whether to divide counts by the number of pairs and by the width of the bin, so that models and bins
            compare; by default where there are several models.

        Returns
        -------
        matplotlib.axes.Axes

        Raises
        ------
        InputError
            If the result has no histogram, or matplotlib is not installed.
        """
        return drawing.histogram(self._result, ax, log=log, density=density)

    def cdf(self, ax: Axes | None = None) -> Axes:
        """Draw the share of pairs up to each distance, exact at the edges of bins, with the quantiles of the result.

        A quantile is a point where it is known (`exact_quantiles`), else a bar from edge to edge of where it lies.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Where to draw; by default a new figure.

        Returns
        -------
        matplotlib.axes.Axes

        Raises
        ------
        InputError
            If the result has no histogram, or matplotlib is not installed.
        """
        return drawing.cdf(self._result, ax)

    def norms(self, ax: Axes | None = None, *, log: bool = False) -> Axes:
        """Draw the L2 norms of rows: of `tokens` a histogram, of `survey` the spread for each model.

        The spread is the least, the greatest, the mean, the standard deviation and the median. The histogram has 256
        equal bins from the least to the greatest norm of all models.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Where to draw; by default a new figure.
        log : bool
            Whether the axis of tokens is logarithmic, in a histogram.

        Returns
        -------
        matplotlib.axes.Axes

        Raises
        ------
        InputError
            If the result has no norms, or matplotlib is not installed.
        """
        return drawing.norms(self._result, ax, log=log)

    def ranks(
        self,
        ax: Axes | None = None,
        *,
        of: Literal["groups", "farthest", "nearest", "neighbors", "degrees", "norms", "centroid"] | None = None,
    ) -> Axes:
        """Draw values against their ranks.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Where to draw; by default a new figure.
        of : str, optional
            `groups`, the sizes of groups of identical rows, largest first; `farthest` or `nearest`, the distances of
            those pairs; `neighbors`, the median over all tokens of the distance of the k-th neighbor, with least and
            greatest as a band; `degrees`, how many tokens lie within each radius of a token, most first; `norms` and
            `centroid`, the L2 norms and the distances from the centroid of `tokens`, largest first. By default the
            first of these that the result has.

        Returns
        -------
        matplotlib.axes.Axes

        Raises
        ------
        InputError
            If the result has none of these, or not the one asked for, or matplotlib is not installed.
        """
        return drawing.ranks(self._result, ax, of=of)

    def heatmap(self, ax: Axes | None = None, *, of: Literal["neighbors", "pairs"] | None = None) -> Axes:
        """Draw distances as colours, of one model.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Where to draw; by default a new figure.
        of : str, optional
            `neighbors`, a line for each token, from the nearest to the k-th neighbor; `pairs`, the distance of each
            pair of the tokens that are in a pair within the radius, grey where it is larger than the radius. By default
            the first of these that the result has.

        Returns
        -------
        matplotlib.axes.Axes

        Raises
        ------
        InputError
            If the result has none of these, or not the one asked for, is of several models, or has pairs of more than
            4,096 tokens, or matplotlib is not installed.
        """
        return drawing.heatmap(self._result, ax, of=of)

    def skymap(self, ax: Axes | None = None, *, components: Sequence[int] = (1, 2, 3)) -> Axes:
        """Draw in which directions the tokens lie from the mean row, in three components, of one model.

        With the scores x, y, z of a token, its longitude is atan2(y, x) and its latitude asin(z / r), r the length of
        (x, y, z). Cells have the same part of the sky each, so that colours compare. The projection is Mollweide's.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Where to draw, made with `projection="mollweide"`; by default a new figure.
        components : sequence of int
            Three components of `spectrum`, from 1.

        Returns
        -------
        matplotlib.axes.Axes

        Raises
        ------
        InputError
            If the result has no scores or not those components, is of several models, the axes have another
            projection, or matplotlib is not installed.
        """
        return skymap.skymap(self._result, ax, components=components)

    def spectrum(self, ax: Axes | None = None, *, of: Literal["eigenvalues", "cumulative"] = "eigenvalues") -> Axes:
        """Draw the eigenvalues of the covariance against their ranks.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Where to draw; by default a new figure.
        of : str
            `eigenvalues`, on logarithmic axes, or `cumulative`, the share of the variance up to each rank.

        Returns
        -------
        matplotlib.axes.Axes

        Raises
        ------
        InputError
            If the result has no eigenvalues, or matplotlib is not installed.
        """
        return curves.spectrum(self._result, ax, of=of)

    def components(self, ax: Axes | None = None, *, of: Literal["count", "largest"] = "count") -> Axes:
        """Draw the connected components of tokens against the radius.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Where to draw; by default a new figure.
        of : str
            `count`, how many components there are, on a logarithmic axis where the most are ten times the fewest, or
            `largest`, the share of the tokens in the component of most.

        Returns
        -------
        matplotlib.axes.Axes

        Raises
        ------
        InputError
            If the result has no components, or matplotlib is not installed.
        """
        return curves.components(self._result, ax, of=of)

    def series(
        self, ax: Axes | None = None, *, of: Literal["norms", "centroid", "groups", "changes"] | None = None
    ) -> Axes:
        """Draw how a training goes over its steps, of one result of `series`.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Where to draw; by default a new figure.
        of : str, optional
            `norms`, the mean L2 norm of rows, with least and greatest as a band; `centroid`, how far the mean row is
            from the origin; `groups`, how many groups of identical rows there are, and tokens in them; `changes`, how
            many rows are others than at the step before, how many change for the first time (are born) and for the
            last (die; not known of the last step), and how many tokens join a group and leave one. Counts are
            logarithmic above 1. By default all four, one above the other in the place of the axes.

        Returns
        -------
        matplotlib.axes.Axes

        Raises
        ------
        InputError
            If the result is none of `series`, or matplotlib is not installed.
        """
        return step_curves.series(self._result, ax, of=of)


def write(
    result: Result,
    draw: Callable[[Plots, Axes], object],
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    projection: str | None = None,
    height: float | None = None,
) -> None:
    """Write a figure of 200 dpi, in the format that the file's name ends with: png, svg or pdf.

    `draw` is given the plots of the result and the axes, which have the `projection`; `height` is in inches.

    Raises
    ------
    InputError
        where the name has another ending, the result lacks what is drawn, or a file is there and `overwrite` is not
        given.
    EmbgeomError
        where it cannot be written; nothing is left behind.
    """
    ending = Path(parse_path("path", path)).suffix.lower()
    if ending not in ENDINGS:
        raise InputError(f"{path} ends with no format of figures: {', '.join(ENDINGS)}")
    matplotlib = load("matplotlib", "plot")
    figure = load("matplotlib.figure", "plot").Figure(dpi=drawing.DPI, layout="constrained")
    if height is not None:
        figure.set_figheight(height)
    with (
        matplotlib.rc_context({"svg.hashsalt": "embgeom"}),
        replacement.new_file(path, overwrite=overwrite) as file,
    ):
        draw(Plots(result), figure.add_subplot(projection=projection))
        figure.savefig(file, format=ending[1:], dpi=drawing.DPI, metadata=_UNDATED[ending])
