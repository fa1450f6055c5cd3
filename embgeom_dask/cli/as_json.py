"""Results as JSON for a program, under the same names."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import xarray as xr


def to_json(dataset: xr.Dataset) -> dict[str, Any]:
    """Return `dataset` as plain JSON values: `attrs`, `dims` and each variable and coordinate by its name.

    Arrays become nested lists, NaN and infinity null; floats keep every digit.
    """
    variables = {str(name): variable.to_numpy().tolist() for name, variable in dataset.variables.items()}
    plain: dict[str, Any] = _plain({"attrs": dataset.attrs, "dims": dict(dataset.sizes), **variables})
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if hasattr(value, "tolist"):  # of numpy
        return _plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value
