"""Radii that are given in units in the last place of the compared rows, like `2ulp`, as numbers."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from embgeom_dask.errors import InputError, shorten
from embgeom_dask.execution.arrays import Given
from embgeom_dask.execution.map_rows import parts_of
from embgeom_dask.execution.spec import (
    Numbers,
    counts_ulps,
    parse_number,
    parse_numbers,
    unit_in_last_place,
)
from embgeom_dask.progress import note

_UNKNOWN = Fraction(2) ** -1060
"""A unit in the last place of rows that are not known yet."""


def parse_radii(sides: Sequence[Given] | None = None, **given: Numbers | None) -> dict[str, Any]:
    """Read radii as `ScanSpec` takes them, by their parameters: several each, and one of `pairs_within`.

    `2ulp` counts in the unit in the last place that the largest absolute value of the rows selected has in their stored
    type; of two matrices it is the one with fewer bits. While `sides`, the rows compared, are not given, some tiny
    number stands for that unit; with them only those radii are returned that count in it, and a note says how
    large it is.

    Raises
    ------
    InputError
        where they are no radii, or count in units of a whole stored matrix: its largest value says little of others.
    """
    counting = {name: each for name, each in given.items() if counts_ulps(each)}
    if sides is not None:
        given = counting
    if not given:
        return {}
    unit = _unit(next(iter(given)), sides) if sides is not None else _UNKNOWN
    read: dict[str, Any] = {"pairs_within": parse_number}
    return {
        name: read.get(name, parse_numbers)(name, each, ulp=unit if name in counting else None)
        for name, each in given.items()
    }


def check_one_store(**given: Numbers | None) -> None:
    """Refuse radii that would be other ones for each of several stores."""
    for name, each in given.items():
        if counts_ulps(each):
            raise InputError(
                f"`{name}` {shorten(each)}: of several stores each would have another radius; say at which value, "
                "2ulp@0.037"
            )


def _unit(name: str, sides: Sequence[Given]) -> Fraction:
    """The unit in the last place of the largest absolute value of the rows selected."""
    selected = [given for given in sides if given.nbytes or given.rows.size < given.matrix.vocab_size]
    if not selected:
        raise InputError(
            f"`{name}`: the values of a whole matrix have many units in the last place; select rows with `tokens`, or "
            "say at which value, 2ulp@0.037"
        )
    dtype = max((given.matrix.dtype for given in sides), key=lambda each: unit_in_last_place(1.0, each))
    largest = max(map(_largest, selected))
    unit = unit_in_last_place(largest, dtype)
    note(f"1ulp is {float(unit)!r}, for the rows' largest absolute value {largest:.6g} in {dtype}")
    return unit


def _largest(given: Given) -> float:
    """The largest absolute value of some rows, read a part at a time; NaN and infinity are for the scan to refuse."""
    largest = 0.0
    for part in parts_of(given.matrix, given.rows):
        values = np.abs(given.matrix.take(part).astype(np.float64))
        largest = max(largest, float(values.max(initial=0.0, where=np.isfinite(values))))
    return largest
