"""The pass over a product tile that adds up powers of the distances of every row, in integers."""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
import torch
from numpy.typing import NDArray

from embgeom_dask.kernels.bounds import LinearBound
from embgeom_dask.kernels.numba_bfloat16 import as_numba, value
from embgeom_dask.kernels.parallel import share_out

Array = NDArray[Any]

BITS = 28
"""A distance is summed as an integer t of at most 2^28 in size."""

SUMS = 7
"""t, t^2 = a 2^28 + b, t a, t b, a^2, a b, b^2: of these parts come the sums of t^3 and t^4."""

_STRIP = 64
_MASK, _LOW = (1 << BITS) - 1, (1 << 32) - 1


class Undecided(NamedTuple):
    """Pairs of a tile whose integer its product does not tell.

    Attributes
    ----------
    i, j : numpy.ndarray of int64, (p,)
        The pairs, by their row and their column in the tile.
    """

    i: Array
    j: Array


def add_powers(
    product: torch.Tensor,
    terms: tuple[LinearBound, LinearBound],
    quantum: Array,
    weights: Array,
    sums: Array,
    *,
    root: bool,
    above: bool | None,
) -> Undecided:
    """Add the powers of t = rint(distance quantum) of the pairs of a tile to the sums of its rows.

    A distance is taken as t where both bounds of its value give the same t: then the reported distance does, too, since
    no step from a value to t changes the order. So t is the same whatever made the product.

    Parameters
    ----------
    product : torch.Tensor, (m, n)
    terms : tuple of LinearBound
        The lower and the upper bound of the values.
    quantum : numpy.ndarray of float64, (m,)
        The steps in one unit of the points' distance, of each row: a power of two.
    weights : numpy.ndarray of int64, (n,)
        How often each column counts.
    sums : numpy.ndarray of int64, (m, SUMS, 2)
        To which is added: each sum is 2^32 times its first number plus its second.
    root : bool
        Whether a distance is the square root of a value.
    above : bool, optional
        Of a tile on the diagonal of the pair matrix: only columns after (True) or before (False) the row.
    """
    p = as_numba(product.cpu())
    low, high = (bound.in_one_dtype() for bound in terms)
    side = 0 if above is None else 1 if above else -1

    def work(start: int, stop: int) -> Undecided:
        room = (stop - start) * p.shape[1]
        i, j = np.empty(room, np.int32), np.empty(room, np.int32)
        count = _add_powers(p, low, high, quantum, weights, root, side, start, stop, sums, i, j)
        return Undecided(i[:count].astype(np.int64), j[:count].astype(np.int64))

    found = share_out(work, len(p))
    return Undecided(*(np.concatenate(part) for part in zip(*found, strict=True)))


def transposed(
    product: torch.Tensor, terms: tuple[LinearBound, LinearBound]
) -> tuple[torch.Tensor, tuple[LinearBound, LinearBound]]:
    """Return the product and the bounds of the same tile with rows and columns changed over."""
    low, high = (bound._replace(row=bound.column, column=bound.row) for bound in terms)
    return product.T.contiguous(), (low, high)


@numba.njit(nogil=True, cache=True)
def add_numbers(sums: Array, row: Array, number: Array, weight: Array) -> None:  # pragma: no cover (compiled)
    """Add the powers of integers `number` (p,), `weight` (p,) times each, to the sums of `row` (p,)."""
    for p in range(row.size):
        _add_one(sums[row[p]], number[p], weight[p])


@numba.njit(nogil=True, cache=True)
def _add(sums: Array, k: int, part: Any, weight: int) -> None:  # pragma: no cover (compiled)
    sums[k, 0] += (part >> 32) * weight
    sums[k, 1] += (part & _LOW) * weight


@numba.njit(nogil=True, cache=True)
def _add_one(sums: Array, t: Any, weight: int) -> None:  # pragma: no cover (compiled)
    square = t * t
    a, b = square >> BITS, square & _MASK
    _add(sums, 0, t, weight)
    _add(sums, 1, square, weight)
    _add(sums, 2, t * a, weight)
    _add(sums, 3, t * b, weight)
    _add(sums, 4, a * a, weight)
    _add(sums, 5, a * b, weight)
    _add(sums, 6, b * b, weight)


@numba.njit(nogil=True, cache=True)
def _add_powers(
    product: Array,
    low: LinearBound,
    high: LinearBound,
    quantum: Array,
    weights: Array,
    root: bool,
    side: int,
    start: int,
    stop: int,
    sums: Array,
    out_i: Array,
    out_j: Array,
) -> int:  # pragma: no cover (compiled)
    count, width = 0, product.shape[1]
    for i in range(start, stop):
        first, last = (i + 1, width) if side > 0 else (0, min(i, width)) if side < 0 else (0, width)
        steps = quantum[i]
        for strip in range(first, last, _STRIP):
            one = two = ta = tb = aa = ab = bb = np.int64(0)
            for j in range(strip, min(strip + _STRIP, last)):
                p = value(product[i, j])
                least = np.float64(low.row[i] + low.column[j] + low.factor * p + low.abs_factor * abs(p))
                most = np.float64(high.row[i] + high.column[j] + high.factor * p + high.abs_factor * abs(p))
                if root:
                    least, most = np.sqrt(max(least, 0.0)), np.sqrt(max(most, 0.0))
                near, far = np.rint(least * steps), np.rint(most * steps)
                if not (near == far and abs(near) <= 2.0**BITS):
                    out_i[count], out_j[count] = i, j
                    count += 1
                    continue
                t = np.int64(near)
                if weights[j] != 1:
                    _add_one(sums[i], t, weights[j])
                    continue
                square = t * t
                a, b = square >> BITS, square & _MASK
                one += t
                two += square
                ta += t * a
                tb += t * b
                aa += a * a
                ab += a * b
                bb += b * b
            for k, part in enumerate((one, two, ta, tb, aa, ab, bb)):
                _add(sums[i], k, part, 1)
    return count
