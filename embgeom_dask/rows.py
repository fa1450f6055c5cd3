"""The rows that a scan compares: selected, finite, one of each group of identical rows."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from math import ceil, floor, log10
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embgeom_dask.errors import InputError
from embgeom_dask.stores import Matrix

Array = NDArray[Any]

# Squares of float64 values (and their double-double errors) stay clear of underflow and overflow inside this range.
_SMALLEST, _LARGEST = 2.0**-400, 2.0**400


@dataclass(frozen=True)
class RowFacts:
    """What one pass over some rows finds: `digest` (rows, 16) uint8 of the bits, `squared_norm` (rows,) float64 of
    the row minus the centre, `bad` (rows,) bool where a value is NaN, infinite or out of range."""

    digest: Array
    squared_norm: Array
    bad: Array


@dataclass(frozen=True)
class RowSet:
    """Distinct rows by position, and the tokens that have them.

    `token_id` (rows,) int64 ascending, the lowest id of each group; `members` (tokens,) int64, the groups one after
    the other, ids ascending; group g is `members[offsets[g]:offsets[g + 1]]`; `centre` (d,) float64 and `scale`, a
    power of two, bring the rows near the origin and into the unit ball.
    """

    token_id: Array
    members: Array
    offsets: Array
    centre: Array
    scale: float

    @property
    def weights(self) -> Array:
        """How many tokens share each row: (rows,) int64."""
        return np.diff(self.offsets)


def centre_of(rows: Array) -> Array:
    """The mean of the finite rows, (d,) float64."""
    values = rows.astype(np.float64)
    values = values[np.isfinite(values).all(axis=1)]
    return values.mean(axis=0) if len(values) else np.zeros(rows.shape[1])


def inspect(matrix: Matrix, token_id: Array, centre: Array) -> RowFacts:
    """Read the rows of `token_id` and say what a scan must know of them; runs on a worker."""
    rows = matrix.take(token_id)
    values = rows.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        size = np.abs(values)
        bad = np.asarray(~(size <= _LARGEST).all(axis=1))
        if rows.dtype == np.float64:
            bad |= ((size > 0) & (size < _SMALLEST)).any(axis=1)
        values -= centre
        squared_norm = np.einsum("ij,ij->i", values, values)
    bits = rows.view(f"u{rows.dtype.itemsize}")
    bits = np.where(bits == 1 << (8 * rows.dtype.itemsize - 1), 0, bits).astype(bits.dtype)  # -0 is 0
    digest = b"".join(blake2b(row, digest_size=16).digest() for row in bits)
    return RowFacts(np.frombuffer(digest, np.uint8).reshape(-1, 16), squared_norm, bad)


def row_set(matrix: Matrix, token_id: Array, facts: list[RowFacts], centre: Array) -> RowSet:
    """Group identical rows and choose the scale.

    Raises
    ------
    InputError
        where a row holds NaN, infinity, or a float64 value whose square cannot be held; it names the first ids.
    """
    bad = token_id[np.concatenate([part.bad for part in facts])]
    if bad.size:
        first = ", ".join(map(str, bad[:5].tolist())) + (", ..." if bad.size > 5 else "")
        raise InputError(
            f"{matrix.model}: {bad.size} of {token_id.size} rows of {matrix.name} hold NaN, infinity or a value beyond "
            f"2^+-400 (token ids {first}): leave them out with --tokens"
        )
    digest = np.ascontiguousarray(np.concatenate([part.digest for part in facts])).view("V16").ravel()
    _, first_of, group = np.unique(digest, return_index=True, return_inverse=True)
    order = np.lexsort((token_id, first_of[group]))
    sizes = np.bincount(group)[np.argsort(first_of)]
    norm = float(np.sqrt(max(part.squared_norm.max() for part in facts)))
    scale = float(2.0 ** -np.ceil(np.log2(norm * (1 + 1e-9)))) if norm > 0 else 1.0
    return RowSet(token_id[np.sort(first_of)], token_id[order], np.concatenate([[0], np.cumsum(sizes)]), centre, scale)


def distance_bound(facts: list[RowFacts]) -> float:
    """A bound of the largest distance: the two largest distances from the centre, added, rounded up to three digits.

    Where there is nothing to bound it is 1.
    """
    norms = np.sort(np.sqrt(np.concatenate([part.squared_norm for part in facts])))
    bound = float(norms[-2:].sum() * (1 + 1e-9))
    if not bound > 0:
        return 1.0
    exponent = floor(log10(bound)) - 2
    return float(f"{ceil(bound / 10.0**exponent)}e{exponent}")
