"""The lines of a table of directions: the order that they come in, and the tokens that each writes most and least."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from embgeom_dask.reporting.display_names import display_names

if TYPE_CHECKING:
    import xarray as xr

MOMENTS = ("mean", "std", "skew", "kurtosis")
"""The moments of all products of a direction, less the prefix of their names."""


def has_lines(dataset: xr.Dataset) -> bool:
    """Whether a result of `readout`, or a part of one, has directions and tokens at both ends of them."""
    return all(dataset.sizes.get(name, 0) > 0 for name in ("direction", "top", "bottom"))


def by_kurtosis(dataset: xr.Dataset) -> xr.Dataset:
    """The result of `readout` with the directions of the largest kurtosis first; as it is without moments.

    Few products that are far out make a kurtosis large: these directions tell some tokens from all others.
    """
    if "row_kurtosis" not in dataset:
        return dataset
    return dataset.isel(direction=np.argsort(-dataset["row_kurtosis"].to_numpy(), kind="stable"))  # NaN comes last


def first_tokens(dataset: xr.Dataset, end: str, count: int) -> list[list[str]]:
    """What the first `count` tokens at an end, "top" or "bottom", of each direction are called; ids without a name."""
    first = (slice(None), slice(count))
    names, ids = display_names(dataset, f"{end}_token", first), dataset[f"{end}_token_id"].to_numpy()[first]
    found: list[list[str]] = np.where(names, names, ids.astype(str)).tolist()
    return found
