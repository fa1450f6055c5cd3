"""The figures of `test_plots.py`: `python -m tests.reporting.figures` draws them anew, to be looked at."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

import embgeom_dask as eg
from embgeom_dask.testing import make_store

FOLDER = Path(__file__).with_name("figures")
TOKENS = ["NA", "$x$ _{", "\u202eabc", "ÄÖ", "\x1b[31m", *(f"w{i}" for i in range(145))]


class Results(NamedTuple):
    rows: dict[str, np.ndarray]
    one: xr.Dataset
    few: xr.Dataset
    tree: Any
    survey: xr.Dataset
    duplicates: xr.Dataset
    tokens: Any
    spectrum: xr.Dataset
    components: Any
    series: xr.Dataset


def results(folder: Path, **settings: Any) -> Results:
    """Results of two small models; of both, rows 7, 21 and 30 are row 3, and 8 is row 2."""
    rows = {}
    for seed, (name, size) in enumerate({"org/a": 150, "org/b_$x$": 120}.items()):
        made = np.random.default_rng(seed).normal(size=(size, 8)).astype(np.float32) * (seed + 1)
        made[[7, 21, 30]], made[8] = made[3], made[2]
        rows[name] = made
    stores = [
        make_store(folder / f"{place}.zarr", output=made, tokens=TOKENS[: len(made)], model=name)
        for place, (name, made) in enumerate(rows.items())
    ]
    kept = {"farthest": 20, "nearest": 20, "neighbors": 9, "histogram": 60, "quantiles": [0.1, 0.5, 0.9]}
    one = eg.scan(
        stores[0],
        pairs_within=3,
        exact_quantiles=True,
        within=[2, 3],
        out=folder / "scan.zarr",
        **kept,
        **settings,
    )
    few = eg.scan(stores[0], tokens="0:20", neighbors=4, pairs_within=3.5, **settings)
    tree = eg.scan(stores, within=[3], out=folder / "scans", **kept, **settings)
    survey = eg.survey(stores, out=folder / "surveys", **settings)
    duplicates, tokens = eg.duplicates(stores, **settings), eg.tokens(stores, out=folder / "tokens", **settings)
    spectrum = eg.spectrum(stores[0], out=folder / "spectrum.zarr", **settings)
    components = eg.components(stores, [1, 2, 2.5, 3, 4, 6], out=folder / "components", **settings)
    training = np.cumsum(np.random.default_rng(2).normal(size=(30, 60, 6)), axis=0).astype(np.float32)
    training[:12, 40:], training[20:, 5:9] = training[0, 40:], training[20, 5:9]  # some are born late, some die
    training[8:25, 21:24] = training[8:25, 20:21]  # four merge, and part again
    series = eg.series(training, out=folder / "series.zarr")
    return Results(rows, one, few, tree, survey, duplicates, tokens, spectrum, components, series)


FIGURES: dict[str, Callable[[Results, Any], object]] = {
    "histogram": lambda made, ax: made.one.embgeom.plot.histogram(ax),
    "histogram-log": lambda made, ax: made.one.embgeom.plot.histogram(ax, log=True),
    "histogram-models": lambda made, ax: made.tree.embgeom.plot.histogram(ax),
    "cdf": lambda made, ax: made.one.embgeom.plot.cdf(ax),
    "cdf-models": lambda made, ax: made.tree.embgeom.plot.cdf(ax),
    "norms": lambda made, ax: made.survey.embgeom.plot.norms(ax),
    "norms-tokens": lambda made, ax: made.tokens["org--a"].to_dataset().embgeom.plot.norms(ax),
    "norms-models": lambda made, ax: made.tokens.embgeom.plot.norms(ax, log=True),
    "ranks-centroid": lambda made, ax: made.tokens.embgeom.plot.ranks(ax, of="centroid"),
    "ranks-groups": lambda made, ax: made.duplicates.embgeom.plot.ranks(ax),
    "ranks-neighbors": lambda made, ax: made.tree.embgeom.plot.ranks(ax, of="neighbors"),
    "ranks-degrees": lambda made, ax: made.one.embgeom.plot.ranks(ax, of="degrees"),
    "heatmap-neighbors": lambda made, ax: made.one.embgeom.plot.heatmap(ax),
    "heatmap-pairs": lambda made, ax: made.few.embgeom.plot.heatmap(ax, of="pairs"),
    "spectrum": lambda made, ax: made.spectrum.embgeom.plot.spectrum(ax),
    "spectrum-cumulative": lambda made, ax: made.spectrum.embgeom.plot.spectrum(ax, of="cumulative"),
    "components": lambda made, ax: made.components.embgeom.plot.components(ax),
    "components-largest": lambda made, ax: made.components.embgeom.plot.components(ax, of="largest"),
    "series": lambda made, ax: made.series.embgeom.plot.series(ax),
    "series-changes": lambda made, ax: made.series.embgeom.plot.series(ax, of="changes"),
    "skymap": lambda made, ax: made.spectrum.embgeom.plot.skymap(ax),
}


def draw(name: str, made: Results, path: Path) -> None:
    """Draw a figure, small: 320 by 240 pixels."""
    figure = Figure(figsize=(6.4, 4.8), dpi=50, layout="constrained")
    FIGURES[name](made, figure.add_subplot(projection="mollweide" if name == "skymap" else None))
    figure.savefig(path, metadata={"Software": None})


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as fresh:
        made = results(Path(fresh))
        for name in FIGURES:
            draw(name, made, FOLDER / f"{name}.png")
