"""The command that draws a saved result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

import embgeom_dask as eg
from embgeom_dask.cli.answers import print_answer
from embgeom_dask.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from embgeom_dask.reporting.plots import Plots

_KINDS = ("histogram", "cdf", "norms", "ranks", "heatmap", "skymap", "spectrum", "components", "series")


def plot(
    result: Annotated[str, typer.Argument(metavar="RESULT.zarr", help="What a command was given as --out.")],
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FILE", help="The file to write: .png, .svg or .pdf.")
    ],
    histogram: Annotated[bool, typer.Option("--histogram", help="Pairs at each distance, of a scan.")] = False,
    cdf: Annotated[bool, typer.Option("--cdf", help="The share of pairs up to each distance, with quantiles.")] = False,
    norms: Annotated[bool, typer.Option("--norms", help="The row norms, of tokens or of a survey.")] = False,
    ranks: Annotated[bool, typer.Option("--ranks", help="Values against their ranks.")] = False,
    heatmap: Annotated[bool, typer.Option("--heatmap", help="Distances as colours.")] = False,
    skymap: Annotated[bool, typer.Option("--skymap", help="Directions in three components, of a spectrum.")] = False,
    spectrum: Annotated[bool, typer.Option("--spectrum", help="Eigenvalues against their ranks.")] = False,
    components: Annotated[bool, typer.Option("--components", help="Components against the radius.")] = False,
    series: Annotated[bool, typer.Option("--series", help="A training over its steps, of series.")] = False,
    of: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Of --ranks: groups, farthest, nearest, neighbors, degrees, norms, centroid. "
            "Of --heatmap: neighbors, pairs. Of --spectrum: eigenvalues, cumulative. Of --components: count, largest. "
            "Of --series: norms, centroid, groups, changes; default: all.",
        ),
    ] = None,
    log: Annotated[bool, typer.Option("--log", help="With --histogram, --norms: count on a logarithmic axis.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that exists.")] = False,
) -> None:
    """Draw a saved result; a folder's models share axes."""
    asked = dict(
        zip(_KINDS, (histogram, cdf, norms, ranks, heatmap, skymap, spectrum, components, series), strict=True)
    )
    chosen = [kind for kind, wanted in asked.items() if wanted]
    if len(chosen) != 1:
        raise InputError(f"choose one plot: {', '.join(f'--{kind}' for kind in _KINDS)}")
    (kind,) = chosen
    settings: dict[str, Any] = {"log": True} if log else {}
    settings |= {"of": of} if of is not None else {}
    for name, kinds in (
        ("log", ("histogram", "norms")),
        ("of", ("ranks", "heatmap", "spectrum", "components", "series")),
    ):
        if name in settings and kind not in kinds:
            *most, last = (f"--{each}" for each in kinds)
            raise InputError(f"--{name} goes with {', '.join(most)} and {last}, not with --{kind}")

    def draw(plots: Plots, ax: Axes) -> None:
        getattr(plots, kind)(ax, **settings)

    found = eg.open_result(result)
    from embgeom_dask.reporting.plots import write
    from embgeom_dask.reporting.skymap import HEIGHT as skymap_height
    from embgeom_dask.reporting.skymap import PROJECTION
    from embgeom_dask.reporting.step_curves import HEIGHT as series_height

    height = skymap_height if skymap else series_height if series and of is None else None
    write(found, draw, output, overwrite=overwrite, projection=PROJECTION if skymap else None, height=height)
    print_answer(output)
