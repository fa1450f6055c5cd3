"""The rows that a scan compares: selected, finite, one of each group of identical rows."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from math import ceil
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from embgeom_dask import devices
from embgeom_dask.errors import InputError
from embgeom_dask.kernels.parallel import share_out
from embgeom_dask.kernels.row_checks import FAR, LARGEST, NOT_FINITE, SMALLEST, unfit
from embgeom_dask.kernels.row_norms import norms
from embgeom_dask.metrics import METRICS, Metric
from embgeom_dask.storage.model_stores import Matrix
from embgeom_dask.units import rounded_up

Array = NDArray[Any]

_NONE = np.zeros(0, np.int64)
_PIECE = 1 << 20
"""Bytes of rows whose -0 is made 0 together."""


@dataclass(frozen=True)
class RowSummary:
    """What `inspect` finds in some rows.

    `digest` (rows, 16) uint8 of the bits; `distance_from_centre` (rows,) float64, by the metric; `unfit`
    (rows,) uint8, what keeps a row from being compared; and `zero` (rows,) bool, where all values are 0. `far_id`
    (n,) int64 are the tokens of the rows that are farthest from the centre, and `far` (n, d) these rows as stored.
    """

    digest: Array
    distance_from_centre: Array
    unfit: Array
    zero: Array
    far_id: Array
    far: Array


@dataclass(frozen=True)
class DistinctRows:
    """Distinct rows by position, and the tokens that have them.

    `token_id` (rows,) int64 ascending, the lowest id of each group; `members` (tokens,) int64, the groups one after
    the other, ids ascending; group g is `members[offsets[g]:offsets[g + 1]]`. `left_out` (n,) int64 are the tokens
    that have no distance in this metric.
    """

    token_id: Array
    members: Array
    offsets: Array
    left_out: Array

    @property
    def weights(self) -> Array:
        """How many tokens share each row: (rows,) int64."""
        return np.diff(self.offsets)

    @property
    def tokens(self) -> Array:
        """The tokens that are compared, ascending: (tokens,) int64."""
        return np.sort(self.members)


@dataclass(frozen=True)
class Sides:
    """The distinct rows of either side of the pair matrix.

    `symmetric`: a matrix is compared with itself. Then `first` and `second` hold the same rows, each pair of rows
    counts once, and tokens that share a row are pairs too.
    """

    first: DistinctRows
    second: DistinctRows
    symmetric: bool


def centre_of(rows: Array) -> Array:
    """The mean of the rows that can be compared, (d,) float64."""
    values = rows[unfit(rows) == 0].astype(np.float64)
    return values.mean(axis=0) if len(values) else np.zeros(rows.shape[1])


def inspect(matrix: Matrix, token_id: Array, centre: Array, metric: str, dtype: str, far: float = 0.0) -> RowSummary:
    """Read the rows of `token_id` and return what a scan must know of them; runs on a worker.

    Digests are of the rows as `dtype`, which holds all their values. `far` is the share of rows, the farthest from the
    centre, that are returned themselves.
    """
    with devices.session(torch.device("cpu")):
        rows = matrix.take(token_id)
        l1, l2_squared, linf = norms(rows, centre).T
        alike = rows if matrix.dtype == dtype else rows.astype(dtype)
        names = digest(alike)
        zero = (names == digest(np.zeros_like(alike[:1]))).all(axis=1)
        away = METRICS[metric].distance_from_centre(l1, l2_squared, linf)
        farthest = np.sort(np.argsort(-away)[: ceil(far * away.size)])
        return RowSummary(names, away, unfit(rows), zero, token_id[farthest], rows[farthest])


def half_sha256(data: Any) -> bytes:
    """The first 16 bytes of the SHA-256 of some bytes, which processors have instructions for."""
    return sha256(data).digest()[:16]


def digest(rows: Array) -> Array:
    """Return a digest of the bits of each row (n, d), with -0 taken as 0: (n, 16) uint8.

    Nobody can find two rows of one digest, so rows of one digest are identical.
    """
    words, zero = rows.view(f"u{rows.dtype.itemsize}"), 1 << (8 * rows.dtype.itemsize - 1)
    step = max(1, _PIECE // (rows.shape[1] * rows.dtype.itemsize))

    def named(start: int, stop: int) -> bytes:
        pieces = (words[first : min(first + step, stop)] for first in range(start, stop, step))
        alike = (np.multiply(piece, piece != zero, order="C") for piece in pieces)
        return b"".join(half_sha256(row) for piece in alike for row in piece)

    found = share_out(named, len(words))
    return np.frombuffer(b"".join(found), np.uint8).reshape(-1, 16)


def check_fit(matrix: Matrix, token_id: Array, found: Array) -> None:
    """Refuse rows that cannot be computed with; `found` (n,) is what `unfit` returned for the rows of `token_id` (n,).

    Raises
    ------
    InputError
        where a row holds NaN or infinity, or a float64 value whose square cannot be held; it names the first ids.
    """
    for reason, held in (
        (NOT_FINITE, "NaN or infinity"),
        (FAR, f"values that float64 cannot square, other than 0 under {SMALLEST:.1e} or over {LARGEST:.1e}"),
    ):
        bad = token_id[found == reason]
        if bad.size:
            first = ", ".join(map(str, bad[:5].tolist())) + (", ..." if bad.size > 5 else "")
            raise InputError(
                f"{matrix.model}: {bad.size} of {token_id.size} rows of {matrix.name} hold {held} (token ids {first}): "
                "leave them out with `tokens` where the command has it, or mend the checkpoint and convert it again"
            )


def group(token_id: Array, digests: Array, left_out: Array = _NONE) -> DistinctRows:
    """Group the rows that have the same digest (n, 16); `token_id` (n,) int64 are their tokens, ascending."""
    _, first, number = np.unique(digests.view("V16").ravel(), return_index=True, return_inverse=True)
    sizes = np.bincount(number)[np.argsort(first)]
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    return DistinctRows(token_id[np.sort(first)], token_id[np.argsort(first[number], kind="stable")], offsets, left_out)


def distinct_rows(
    matrix: Matrix, token_id: Array, facts: RowSummary, *, zeros: bool, apart: bool = False
) -> DistinctRows:
    """Group identical rows, unless they stay `apart`; rows of zeros are left out unless `zeros`.

    Raises
    ------
    InputError
        where a row cannot be compared: see `check_fit`.
    """
    check_fit(matrix, token_id, facts.unfit)
    keep = np.ones(token_id.size, np.bool_) if zeros else ~facts.zero
    if apart:
        return DistinctRows(token_id[keep], token_id[keep], np.arange(keep.sum() + 1), token_id[~keep])
    return group(token_id[keep], facts.digest[keep], token_id[~keep])


def duplicates_of(first: Array, second: Array) -> Array:
    """The index in `second` (m, 16) of each digest of `first` (n, 16): (n,) int64, -1 where it is not there.

    The digests of either are all different.
    """
    duplicate_of = np.full(len(first), -1)
    _, here, there = np.intersect1d(first.view("V16"), second.view("V16"), assume_unique=True, return_indices=True)
    duplicate_of[here] = there
    return duplicate_of


def join(parts: list[RowSummary]) -> RowSummary:
    """The facts of several parts, one after the other."""
    return RowSummary(
        *(
            np.concatenate([getattr(part, field) for part in parts])
            for field in ("digest", "distance_from_centre", "unfit", "zero", "far_id", "far")
        )
    )


def distance_bound(metric: Metric, largest: list[float]) -> float:
    """A bound of every distance, rounded up to three digits, or 1 where all are 0.

    `largest` are the two largest distances from the centre.
    """
    bound = metric.bound(sum(largest) * (1 + 1e-9))
    return rounded_up(bound, 3) if bound > 0 else 1.0
