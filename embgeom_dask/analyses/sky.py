"""Maps of the sky: latitude and longitude of tokens in three components, as the mean row sees them."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embgeom_dask.errors import InputError

Array = NDArray[np.float64]


def read_axes(sky: Sequence[int] | str | None, components: int) -> list[int]:
    """The components x, y and z of a map, counted from 1; none where no map is asked for.

    Raises
    ------
    InputError
        where they are not three different ones of the first `components`.
    """
    if sky is None:
        return []
    try:
        listed: Sequence[Any] = sky.split(",") if isinstance(sky, str) else sky
        axes = [int(axis) if isinstance(axis, str) else operator.index(axis) for axis in listed]
    except (TypeError, ValueError):
        axes = []
    if len(axes) != 3 or len(set(axes)) != 3 or min(axes) < 1:
        raise InputError(f"`sky` {sky}: give three different components, like 1,2,3")
    if max(axes) > components:
        raise InputError(f"`sky` {sky}: give `components` {max(axes)} or more, not {components}")
    return axes


def directions(x: Array, y: Array, z: Array) -> tuple[Array, Array, Array]:
    """The longitude, in radians, the sine of the latitude, and the distance of points (n,), as their origin sees them.

    The first two are NaN where the distance is 0.
    """
    distance = np.hypot(np.hypot(x, y), z)
    somewhere = distance > 0
    sine = np.divide(z, distance, out=np.full(z.size, np.nan), where=somewhere)
    return np.where(somewhere, np.arctan2(y, x), np.nan), np.clip(sine, -1, 1), distance


def sky_of(scores: Array, axes: Sequence[int]) -> dict[str, Any]:
    """The variables of a map, of scores (n, k) and its axes."""
    longitude, sine, distance = directions(*(scores[:, axis - 1] for axis in axes))
    return {
        "sky_latitude": ("token_id", np.degrees(np.arcsin(sine))),
        "sky_longitude": ("token_id", np.degrees(longitude)),
        "sky_distance": ("token_id", distance),
    }
