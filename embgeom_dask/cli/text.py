"""Any result as text for a person; here are also the texts of survey, duplicates, outliers and list."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from embgeom_dask.cli.compare_text import compare_text
from embgeom_dask.cli.graphs_text import cluster_text, components_text
from embgeom_dask.cli.lattice_text import lattice_text
from embgeom_dask.cli.one_pass_text import spectrum_text, tokens_text
from embgeom_dask.cli.readout_text import readout_text
from embgeom_dask.cli.scan_text import neighbors_text, scan_text, scans_text
from embgeom_dask.cli.series_text import series_text
from embgeom_dask.cli.text_tables import align, align_variables, cell, models_of, more_text, whose
from embgeom_dask.cli.unused_text import undertrained_text
from embgeom_dask.reporting.display_names import display_names, with_display_names
from embgeom_dask.units import bytes_text

if TYPE_CHECKING:
    import xarray as xr

_MODELS_ACROSS = 4
_GROUP_LINES = 20
_MEMBERS_ACROSS = 5


def result_text(dataset: xr.Dataset) -> str:
    """A saved result of any command, or the table of many, as that command printed it."""
    command = dataset.attrs["command"]
    if "model" in dataset.dims and command not in ("survey", "duplicates", "compare"):
        return scans_text(dataset)
    texts = {
        "survey": survey_text,
        "duplicates": duplicates_text,
        "scan": scan_text,
        "tokens": tokens_text,
        "spectrum": spectrum_text,
        "compare": compare_text,
        "undertrained": undertrained_text,
        "lattice": lattice_text,
        "series": series_text,
        "neighbors": neighbors_text,
        "outliers": outliers_text,
        "components": components_text,
        "readout": readout_text,
        "cluster": cluster_text,
    }
    return texts[command](dataset)


def list_text(rows: Sequence[tuple[Any, ...]], broken: Sequence[str]) -> str:
    """The stores of `listing.describe`, a line each, then what is wrong with those that are broken."""
    from embgeom_dask.storage.listing import COLUMNS

    series = any(steps for *_, steps, _ in rows)
    names = [name for name in COLUMNS if series or name != "steps"]
    lines = ([*facts, *([steps or ""] if series else []), bytes_text(nbytes)] for *facts, steps, nbytes in rows)
    table = align(names, lines)
    return "\n".join([table, *(f"broken: {cell(said)}" for said in broken)])


def survey_text(dataset: xr.Dataset) -> str:
    """The numbers of a survey: a column a model, or a line a model where they are many."""
    from embgeom_dask.analyses.survey import table

    frame = table(dataset.assign_coords(model=("model", models_of(dataset)))).drop("revision")
    frame = frame.loc[["matrix", *frame.index.drop("matrix")]]
    keys = 1
    if len(frame.columns) > _MODELS_ACROSS:
        frame = frame.T
        keys += frame["matrix"].nunique() > 1
    return align(["model", *map(str, frame.columns)], frame.itertuples(), keys=keys)


def duplicates_text(dataset: xr.Dataset) -> str:
    """The counts of each model, then the largest groups with their first members."""
    counts = ("vocab_size", "unique_count", "removed_count", "group_count", "member_count")
    dataset = dataset.assign_coords(model=("model", models_of(dataset)))
    parts = [align_variables(dataset, ("model", "matrix", *counts))]
    groups = dataset.sizes["group"]
    if groups:
        parts.append(_groups(dataset))
    if groups > _GROUP_LINES:
        more = groups - _GROUP_LINES
        parts.append(more_text(more, "group"))
    return "\n\n".join(parts)


def _groups(dataset: xr.Dataset) -> str:
    names = ["model", "matrix"] if len(set(dataset["matrix"].to_numpy().tolist())) > 1 else ["model"]
    whose_group = [dataset[name].to_numpy()[dataset["group_model"].to_numpy()] for name in names]
    population = dataset["group_population"].to_numpy()
    first = np.cumsum(population) - population
    members = dataset["member_token_id"].to_numpy()
    rows = []
    for group in np.argsort(-population, kind="stable")[:_GROUP_LINES]:
        shown = slice(first[group], first[group] + min(population[group], _MEMBERS_ACROSS))
        tokens = display_names(dataset, "member_token", shown)
        more = ["..."] if population[group] > _MEMBERS_ACROSS else []
        cells = [", ".join([*map(str, members[shown]), *more]), " ".join([*filter(None, tokens), *more])]
        rows.append([*(owner[group] for owner in whose_group), population[group], *cells])
    return align([*names, "population", "ids", "tokens"], rows)


def outliers_text(dataset: xr.Dataset) -> str:
    """The farthest pair of a selection, its triangle with the centroid, and the spread of the selection."""
    dataset = with_display_names(dataset)
    sides = ("side", "farthest_token_id", "farthest_token", "norm", "centroid_distance", "norm_ratio")
    corners = ("vertex", "angle_law_of_cosines", "angle_dot_product")
    spreads = ("min", "max", "median", "mean")
    facts = ("token_count", "farthest_distance", "centroid_norm", "outlier_token_id", "outlier_token")
    return "\n\n".join(
        (
            whose(dataset),
            align(["selection", ""], ([name, str(cell(dataset[name].item()))] for name in facts)),
            align_variables(dataset, sides),
            "triangle of A, B and C, the centroid, with angles in degrees\n"
            + align_variables(dataset, ("segment", "segment_length")),
            align_variables(dataset, corners),
            align(
                ["over the selection", *spreads],
                (
                    [name, *(dataset[f"{name}_{how}"].item() for how in spreads)]
                    for name in ("norm", "centroid_distance")
                ),
            ),
        )
    )
