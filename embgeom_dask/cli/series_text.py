"""A series of steps as text for a person."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from embgeom_dask.cli.text import align
from embgeom_dask.escaping import shown

if TYPE_CHECKING:
    import xarray as xr

_LINES = 20
_NAMES = ("norm_mean", "centroid_l2", "unique_count", "member_count", "changed_count", "joined_count", "left_count")


def series_text(dataset: xr.Dataset) -> str:
    """A line for some of the steps, evenly spread, and when rows change."""
    steps, tokens = dataset.sizes["step"], dataset.sizes["token_id"]
    chosen = np.unique(np.linspace(0, steps - 1, min(steps, _LINES)).round().astype(int))
    numbers = dataset["step"].to_numpy()
    columns = (dataset[name].to_numpy()[chosen] for name in _NAMES)
    header = ["step", "norm_mean", "centroid_l2", "unique", "in groups", "changed", "joined", "left"]
    first, last = (dataset[f"{name}_change_step"].to_numpy() for name in ("first", "last"))
    facts = [["steps", str(steps)], ["rows", str(tokens)], ["rows that never change", str(np.count_nonzero(first < 0))]]
    facts.append(["rows that change in the last step", str(np.count_nonzero(last == numbers[-1]) if steps > 1 else 0)])
    whose = shown(dataset.attrs["model"][0])
    return "\n\n".join(
        [whose, align(["series", ""], facts), align(header, zip(numbers[chosen], *columns, strict=True))]
    )
