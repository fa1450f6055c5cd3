"""Maps of the sky: the directions of tokens from the mean row in three components, as latitude and longitude."""

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


def ranked_latitude(sine: Array) -> Array:
    """The latitude (n,), in radians, that each point has by the rank of the sine of its own.

    It is asin((2 r - 1) / n - 1) for the rank r from 1 of n points, equal ones in their order: zones of the same area
    hold as many points. NaN where the sine is.
    """
    found = np.full(sine.size, np.nan)
    order = np.argsort(sine, kind="stable")[: np.count_nonzero(~np.isnan(sine))]
    found[order] = np.arcsin((2 * np.arange(1, order.size + 1) - 1) / max(1, order.size) - 1)
    return found


def sky_of(scores: Array, axes: Sequence[int], *, by_rank: bool) -> dict[str, Any]:
    """The variables of a map, of scores (n, k) and its axes; `by_rank` adds latitudes by rank."""
    longitude, sine, distance = directions(*(scores[:, axis - 1] for axis in axes))
    found: dict[str, Any] = {
        "sky_latitude": ("token_id", np.degrees(np.arcsin(sine))),
        "sky_longitude": ("token_id", np.degrees(longitude)),
        "sky_distance": ("token_id", distance),
    }
    return found | ({"sky_ranked_latitude": ("token_id", np.degrees(ranked_latitude(sine)))} if by_rank else {})
