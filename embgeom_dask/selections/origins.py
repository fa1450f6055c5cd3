"""The row that distances are measured from: that of a token."""

from __future__ import annotations

from typing import Any

from embgeom_dask.errors import InputError
from embgeom_dask.execution.arrays import Given
from embgeom_dask.selections.selection import in_order


def row_of(origin: int | str, given: Given) -> int:
    """The number of the row of the token from which distances are asked, by id or by name.

    Raises
    ------
    InputError
        where it is not one token with one row.
    """
    listed: Any = origin if isinstance(origin, str) else [origin]
    ids = in_order(listed, given.vocab_size, given.labels)
    if ids.size != 1:
        raise InputError(f"`origin` {origin}: give one token, not {ids.size}")
    rows = given.select(ids).rows
    if rows.size != 1:
        raise InputError(f"`origin` {origin}: {rows.size} rows of the array given are of token {ids[0]}")
    return int(rows[0])
