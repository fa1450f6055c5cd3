"""A series of steps as text for a person."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from embgeom_dask.cli.text_tables import align
from embgeom_dask.escaping import shown

if TYPE_CHECKING:
    import xarray as xr

_LINES = 20
_COLUMNS: dict[str, dict[str, str | None]] = {
    "series": {
        **{"norm_mean": "norm_mean", "centroid_l2": "centroid_l2", "unique_count": "unique"},
        **{"member_count": "in groups", "changed_count": "changed", "joined_count": "joined", "left_count": "left"},
    },
    "survey": dict.fromkeys(("norm_mean", "norm_median", "norm_std", "centroid_l2", "centroid_ratio")),
    "tokens": dict.fromkeys(("group_count", "member_count")),
    "duplicates": dict.fromkeys(("unique_count", "removed_count", "group_count", "member_count")),
    "outliers": dict.fromkeys(("farthest_distance", "outlier_token_id", "norm_max", "centroid_norm", "token_count")),
    "spectrum": dict.fromkeys(("participation_ratio", "isoscore", "mean_cosine", "mean_square_distance")),
}
"""What is told of every step in a line, and what its column is called where it is called otherwise."""


def series_text(dataset: xr.Dataset) -> str:
    """A line for some of the steps, evenly spread, and when rows change; or what was found at these steps."""
    steps, asked = dataset.sizes["step"], dataset.attrs.get("analysis", "series")
    chosen = np.unique(np.linspace(0, steps - 1, min(steps, _LINES)).round().astype(int))
    numbers, columns = dataset["step"].to_numpy(), _COLUMNS[asked]
    values = (dataset[name].to_numpy()[chosen] for name in columns)
    header = ["step", *(called or name for name, called in columns.items())]
    lines = align(header, zip(numbers[chosen], *values, strict=True))
    whose = shown(dataset.attrs["model"][0])
    if asked != "series":
        return f"{whose}, {asked}\n\n{lines}"
    first, last = (dataset[f"{name}_change_step"].to_numpy() for name in ("first", "last"))
    facts = [["steps", str(steps)], ["rows", str(first.size)], ["rows that never change", str(np.sum(first < 0))]]
    facts.append(["rows that change in the last step", str(np.sum(last == numbers[-1]) if steps > 1 else 0)])
    return "\n\n".join([whose, align(["series", ""], facts), lines])
