"""Forests of rows joined by pairs: for each of several ascending radii, the components of the graph of pairs within.

`parent` (radii, rows) int64 holds the forest of each radius: the root of a tree is its lowest row, and its own parent.
What a pair joins at one radius it joins at every larger one.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@numba.njit(nogil=True, cache=True)
def _root(parent: Array, row: int) -> int:  # pragma: no cover (compiled)
    """Return the root of a row in one forest (rows,), and bring the rows on the way nearer to it."""
    while parent[row] != row:
        parent[row] = parent[parent[row]]
        row = parent[row]
    return row


@numba.njit(nogil=True, cache=True)
def join(parent: Array, first: Array, second: Array, radius: Array) -> None:  # pragma: no cover (compiled)
    """Join the rows `first` and `second` (p,) at each radius from `radius` (p,), its number, on; changes `parent`."""
    for p in range(first.size):
        for k in range(radius[p], parent.shape[0]):
            a, b = _root(parent[k], first[p]), _root(parent[k], second[p])
            if a == b:  # and so at every larger radius
                break
            parent[k, max(a, b)] = min(a, b)


@numba.njit(nogil=True, cache=True)
def roots(parent: Array) -> Array:  # pragma: no cover (compiled)
    """Return the lowest row of the component of each row at each radius, (radii, rows) int64."""
    found = parent.copy()
    for k in range(found.shape[0]):
        for row in range(found.shape[1]):  # a parent is lower: its own is its root already
            found[k, row] = found[k, found[k, row]]
    return found


def links(parent: Array) -> tuple[Array, Array, Array]:
    """Return the fewest links that make these forests again, by `join`: rows, roots and radii, (n,) int64 each.

    A row that is the lowest of its component at one radius, and not at the next, is linked there to the lowest of that
    one: so at most once, and links depend on nothing but the components.
    """
    lowest = roots(parent)
    rows = np.arange(parent.shape[1])
    found = []
    for k, now in enumerate(lowest):
        before = lowest[k - 1] if k else rows
        (joined,) = np.nonzero((before == rows) & (now != rows))
        found.append((joined, now[joined], np.full(joined.size, k)))
    first, second, radius = (np.concatenate(part) for part in zip(*found, strict=True))
    return first, second, radius
