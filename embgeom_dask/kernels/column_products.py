"""X'X of rows X, to about 100 bits: products of integers that float64 sums without error, in whatever order.

A block of rows is divided into slices: X = 2^(e - 21) (Q_1 + 2^-21 Q_2 + 2^-42 Q_3 + ...), with a power of two 2^e for
each column above its largest value, and integers |Q_1| <= 2^21, |Q_2|, |Q_3|, ... <= 2^20 (Ozaki, Ogita, Oishi and
Rump, *Numer. Algorithms* 59, 2012). A sum of at most 2^10 products of two slices, over the pairs of slices of one order
of magnitude, is an integer below 2^53: no sum is rounded, so no thread, library or device changes a bit of it. The sums
of blocks are added with their rounding errors (Ogita, Rump and Oishi, *SIAM J. Sci. Comput.* 26, 2005), in their order.

The first slice holds most values of 8 or 11 bits, bfloat16 and float16, whole: few are not 0 in the others. These are
multiplied one by one, so that such rows take one product of matrices.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
import torch
from numpy.typing import NDArray

from embgeom_dask import tuning
from embgeom_dask.kernels.double_double import UNIT, two_product, two_sum
from embgeom_dask.kernels.numba_bfloat16 import as_numba, value
from embgeom_dask.kernels.parallel import share_out

Array = NDArray[Any]

BLOCK_ROWS = 1024
_BITS = 21
_SLICES = 5
"""Slices at most: what they leave of a value is below 2^-105 of its column's largest."""

_SPARSE = 64
"""Where one of so many values is left by the first slice, or fewer, they are multiplied one by one."""


class Sparse(NamedTuple):
    """The numbers of a slice that are not 0, by rows: those of row i are `first[i]` to `first[i + 1] - 1`.

    `first` (n + 1,) and `column` (m,) are int64, `number` (m,) float64.
    """

    first: Array
    column: Array
    number: Array


class ColumnProducts(NamedTuple):
    """Some columns of the upper triangle of X'X, as `total` + `rest` of float64, for stripes of columns.

    Stripe s holds columns `first[s]` to `first[s] + w - 1` as rows (w, d - first[s]), multiplied with the columns from
    `first[s]` on. In all of them an entry (i, j) errs by at most `error_of(n)` sqrt((X'X)_ii (X'X)_jj), n rows.
    """

    first: list[int]
    total: list[Array]
    rest: list[Array]

    @classmethod
    def none(cls, width: int, first: list[int]) -> ColumnProducts:
        """Return the products of no rows, of `width` columns, for the stripes that begin with the columns `first`."""
        shapes = [(min(tuning.STRIPE_COLUMNS, width - start), width - start) for start in first]
        return cls(first, [np.zeros(shape) for shape in shapes], [np.zeros(shape) for shape in shapes])

    def add(self, other: ColumnProducts) -> None:
        """Add the products of other rows in place; the order of additions decides the last bits of `rest`."""
        for mine, rest, theirs, other_rest in zip(self.total, self.rest, other.total, other.rest, strict=True):
            _add(mine, rest, theirs)
            rest += other_rest

    def add_rows(self, stored: Array) -> None:
        """Add the products of rows (n, d), of any float dtype, in place, `BLOCK_ROWS` at a time.

        Their values must be 0 or from 2^-400 to 2^400 in size.
        """
        for start in range(0, len(stored), BLOCK_ROWS):
            self._add_block(as_numba(stored[start : start + BLOCK_ROWS]))

    def _add_block(self, rows: Array) -> None:
        _, exponent = np.frexp(_largest(rows))
        slices = _slices(rows, exponent)
        unit = np.ldexp(1.0, exponent - _BITS)
        for start, total, rest in zip(self.first, self.total, self.rest, strict=True):
            for order in range(min(_SLICES, 2 * len(slices) - 1)):
                product = _product(slices, order, start, start + len(total), rows.shape[1])
                if product is not None:
                    scaled = np.ldexp(unit[start:], -_BITS * order)
                    _add_scaled(total, rest, product, unit[start : start + len(total)], scaled)


def stripes(width: int) -> list[int]:
    """The first columns of the stripes of `width` columns."""
    return list(range(0, width, tuning.STRIPE_COLUMNS))


def stripe_bytes(width: int, first: int) -> int:
    """The bytes that the products of the stripe take that begins with column `first`, of `width`."""
    return 16 * min(tuning.STRIPE_COLUMNS, width - first) * (width - first)


def error_of(rows: int) -> float:
    """How far an entry (i, j) of X'X of `rows` rows, or of that less the means, may be off.

    It is in units of sqrt((X'X)_ii (X'X)_jj). A row loses less than 2^-100 of the largest values of its columns in
    slices left out; a sum of n numbers with their rounding errors errs by (n u)^2 of the sum of their sizes.
    """
    additions = 2 * _SLICES * (2 + rows / BLOCK_ROWS)
    return rows * 2.0**-100 + (2 * additions**2 + 16) * UNIT**2


def _slices(rows: Array, exponent: Array) -> list[Array | Sparse]:
    """The slices of rows (n, d) until nothing is left: the first (n, d) float64, the others like it, or sparse."""
    whole, left = np.empty(rows.shape), np.empty(rows.shape)
    count = _first_slice(rows, np.ldexp(1.0, _BITS - exponent), whole, left)
    found: list[Array | Sparse] = [whole]
    if count * _SPARSE <= rows.size:
        row, column, number = _others_than_zero(left, count)
        while number.size and len(found) < _SLICES:
            number = number * 2.0**_BITS
            part = np.rint(number)
            some = part != 0
            found.append(Sparse(np.searchsorted(row[some], np.arange(len(rows) + 1)), column[some], part[some]))
            number -= part
            some = number != 0
            row, column, number = row[some], column[some], number[some]
        return found
    while len(found) < _SLICES and left.any():
        left *= 2.0**_BITS
        found.append(np.rint(left))
        left -= found[-1]
    return found


def _product(slices: list[Array | Sparse], order: int, start: int, stop: int, width: int) -> Array | None:
    """The sum of products Q_a'Q_b of columns start..stop-1 with those from `start` on, where a + b is `order`."""
    pairs = [
        (slices[a], slices[order - a]) for a in range(max(0, order + 1 - len(slices)), min(order + 1, len(slices)))
    ]
    if not pairs:
        return None
    dense: torch.Tensor | None = None
    for left, right in pairs:
        if not isinstance(left, Sparse) and not isinstance(right, Sparse):
            product = torch.from_numpy(left[:, start:stop]).T @ torch.from_numpy(right[:, start:])
            dense = product if dense is None else dense.add_(product)
    found = np.zeros((stop - start, width - start)) if dense is None else dense.numpy()
    for left, right in pairs:
        if isinstance(left, Sparse):
            if isinstance(right, Sparse):
                _sparse_by_sparse(left, right, start, stop, found)
                continue
            _sparse_by_dense(left, right, start, stop, found)
            turned = np.zeros(found.shape[::-1])  # of the same two slices, the other way round
            _dense_by_sparse(right, left, start, stop, turned)
            _add_turned(turned, found)
    return found


@numba.njit(nogil=True, cache=True)
def _largest(rows: Array) -> Array:  # pragma: no cover (compiled)
    """The largest size in each column."""
    found = np.zeros(rows.shape[1])
    for i in range(rows.shape[0]):
        for k in range(found.size):
            size = np.float64(abs(value(rows[i, k])))
            found[k] = size if size > found[k] else found[k]
    return found


@numba.njit(nogil=True, cache=True)
def _first_slice(rows: Array, scale: Array, whole: Array, left: Array) -> int:  # pragma: no cover (compiled)
    """Round rows times a power of two for each column to integers; return how many leave something."""
    count = 0
    for i in range(rows.shape[0]):
        for k in range(scale.size):
            number = np.float64(value(rows[i, k])) * scale[k]
            whole[i, k] = np.rint(number)
            left[i, k] = number - whole[i, k]
            count += left[i, k] != 0.0
    return count


@numba.njit(nogil=True, cache=True)
def _others_than_zero(left: Array, count: int) -> tuple[Array, Array, Array]:  # pragma: no cover (compiled)
    """The rows, columns and values of the `count` values that are not 0, row by row."""
    row, column, number = np.empty(count, np.int64), np.empty(count, np.int64), np.empty(count)
    place = 0
    for i in range(left.shape[0]):
        for k in range(left.shape[1]):
            if left[i, k] != 0.0:
                row[place], column[place], number[place] = i, k, left[i, k]
                place += 1
    return row, column, number


@numba.njit(nogil=True, cache=True)
def _sparse_by_dense(
    left: Sparse, right: Array, start: int, stop: int, out: Array
) -> None:  # pragma: no cover (compiled)
    for i in range(right.shape[0]):
        row = right[i, start:]
        for p in range(left.first[i], left.first[i + 1]):
            if start <= left.column[p] < stop:
                into, number = out[left.column[p] - start], left.number[p]
                for k in range(row.size):
                    into[k] += number * row[k]


@numba.njit(nogil=True, cache=True)
def _dense_by_sparse(
    left: Array, right: Sparse, start: int, stop: int, out: Array
) -> None:  # pragma: no cover (compiled)
    """Add the product to `out`, transposed."""
    for i in range(left.shape[0]):
        row = left[i, start:stop]
        for p in range(right.first[i], right.first[i + 1]):
            if right.column[p] >= start:
                into, number = out[right.column[p] - start], right.number[p]
                for k in range(row.size):
                    into[k] += number * row[k]


@numba.njit(nogil=True, cache=True)
def _add_turned(turned: Array, out: Array) -> None:  # pragma: no cover (compiled)
    """Add a matrix (n, m), transposed, to another one (m, n), in squares that fit the cache of a core."""
    for first in range(0, out.shape[0], 32):
        for start in range(0, out.shape[1], 32):
            for i in range(first, min(first + 32, out.shape[0])):
                for j in range(start, min(start + 32, out.shape[1])):
                    out[i, j] += turned[j, i]


@numba.njit(nogil=True, cache=True)
def _sparse_by_sparse(
    left: Sparse, right: Sparse, start: int, stop: int, out: Array
) -> None:  # pragma: no cover (compiled)
    for i in range(left.first.size - 1):
        for p in range(left.first[i], left.first[i + 1]):
            if start <= left.column[p] < stop:
                for q in range(right.first[i], right.first[i + 1]):
                    if right.column[q] >= start:
                        out[left.column[p] - start, right.column[q] - start] += left.number[p] * right.number[q]


def _add(total: Array, rest: Array, more: Array) -> None:
    def work(start: int, stop: int) -> None:
        _add_sums(total[start:stop], rest[start:stop], more[start:stop])

    share_out(work, len(total), 8)


def _add_scaled(total: Array, rest: Array, product: Array, left: Array, right: Array) -> None:
    def work(start: int, stop: int) -> None:
        _add_products(total[start:stop], rest[start:stop], product[start:stop], left[start:stop], right)

    share_out(work, len(total), 8)


@numba.njit(nogil=True, cache=True)
def _add_sums(total: Array, rest: Array, more: Array) -> None:  # pragma: no cover (compiled)
    for i in range(total.shape[0]):
        for j in range(total.shape[1]):
            total[i, j], lost = two_sum(total[i, j], more[i, j])
            rest[i, j] += lost


@numba.njit(nogil=True, cache=True)
def _add_products(
    total: Array, rest: Array, product: Array, left: Array, right: Array
) -> None:  # pragma: no cover (compiled)
    for i in range(total.shape[0]):
        if not product[i].any():
            continue
        for j in range(total.shape[1]):
            total[i, j], lost = two_sum(total[i, j], product[i, j] * left[i] * right[j])
            rest[i, j] += lost


def sample_covariance(groups: list[ColumnProducts], high: Array, low: Array, count: int) -> Array:
    """Return the covariance (d, d) float64 of `count` rows, divided by `count` - 1, from their products.

    These are in groups of stripes; they are not kept. `high` + `low` (d,) is the mean row. What cancels, cancels of
    sums of about 100 bits: see `error_of`.
    """
    found = np.empty((high.size, high.size))
    for group in groups:
        for start, total, rest in zip(group.first, group.total, group.rest, strict=True):
            _centre(total, rest, high[start:], low[start:], float(count))
            total /= count - 1
            found[start : start + len(total), start:] = total
            found[start:, start : start + len(total)] = total.T
    return found


@numba.njit(nogil=True, cache=True)
def _centre(total: Array, rest: Array, high: Array, low: Array, count: float) -> None:  # pragma: no cover (compiled)
    """Take `count` times the product of the means from each entry, whose nearest float64 is left in `total`."""
    for i in range(total.shape[0]):
        for j in range(total.shape[1]):
            mean, error = two_product(high[i], high[j])
            error += high[i] * low[j] + low[i] * high[j]
            all_of, rounded = two_product(mean, count)
            difference, lost = two_sum(total[i, j], -all_of)
            total[i, j] = difference + (lost + (rest[i, j] - (rounded + error * count)))
