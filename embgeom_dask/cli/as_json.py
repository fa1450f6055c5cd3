"""Results as JSON for a program, under the same names."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import xarray as xr

_VALUES = 1 << 14


def to_json(dataset: xr.Dataset) -> dict[str, Any]:
    """Return `dataset` as `json_pieces` takes it: `attrs`, `dims` and each variable and coordinate by its name."""
    variables = {str(name): variable.to_numpy() for name, variable in dataset.variables.items()}
    return {"attrs": dataset.attrs, "dims": dict(dataset.sizes), **variables}


def json_pieces(value: Any) -> Iterator[str]:
    """Yield the JSON text of `value`, a piece at a time: a large result is never held as text or as lists.

    Arrays become nested lists, NaN and infinity null; floats keep every digit.
    """
    if isinstance(value, Mapping):
        yield "{"
        for place, (key, part) in enumerate(value.items()):
            yield f"{', ' if place else ''}{json.dumps(str(key))}: "
            yield from json_pieces(part)
        yield "}"
    elif isinstance(value, list | tuple):
        yield "["
        for place, part in enumerate(value):
            yield ", " if place else ""
            yield from json_pieces(part)
        yield "]"
    elif getattr(value, "ndim", 0) and value.size > _VALUES:  # an array: the help of a command needs no numpy
        step = max(1, _VALUES * len(value) // value.size)
        for start in range(0, len(value), step):
            yield ", " if start else "["
            yield json.dumps(_plain(value[start : start + step]), allow_nan=False)[1:-1]
        yield "]"
    else:
        yield json.dumps(_plain(value), allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if hasattr(value, "tolist"):  # of numpy
        return _plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value
