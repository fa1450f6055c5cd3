"""X'X of rows X, to about 100 bits: products of integers that float64 sums without error, in whatever order.

A block of rows is divided into slices: X = 2^(e - 21) (Q_1 + 2^-21 Q_2 + 2^-42 Q_3 + ...), with a power of two 2^e for
each column above its largest value, and integers |Q_1| <= 2^21, |Q_2|, |Q_3|, ... <= 2^20 (Ozaki, Ogita, Oishi and
Rump, *Numer. Algorithms* 59, 2012). A sum of at most 2^10 products of two slices, over the pairs of slices of one order
of magnitude, is an integer below 2^53: no sum is rounded, so no thread, library or device changes a bit of it. The sums
of blocks are added with their rounding errors (Ogita, Rump and Oishi, *SIAM J. Sci. Comput.* 26, 2005), in their order.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numba
import numpy as np
import torch
from numpy.typing import NDArray

from embgeom_dask import tuning
from embgeom_dask.kernels.double_double import UNIT, two_product, two_sum
from embgeom_dask.kernels.numba_bfloat16 import as_float, as_numba
from embgeom_dask.kernels.parallel import share_out

Array = NDArray[Any]

BLOCK_ROWS = 1024
_BITS = 21
_SLICES = 5
"""Slices at most: what they leave of a value is below 2^-105 of its column's largest."""


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
            self._add_block(as_float(as_numba(stored[start : start + BLOCK_ROWS])))

    def _add_block(self, rows: Array) -> None:
        _, exponent = np.frexp(np.abs(rows).max(axis=0))
        slices = list(_slices(rows, exponent))
        unit = np.ldexp(1.0, exponent - _BITS)
        for start, total, rest in zip(self.first, self.total, self.rest, strict=True):
            for order in range(min(_SLICES, 2 * len(slices) - 1)):
                product = _product(slices, order, start, start + len(total))
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


def _slices(rows: Array, exponent: Array) -> Iterator[tuple[Array, Array]]:
    """Yield the slices (n, d) float64 of rows until nothing is left, each with the numbers of its rows not all 0."""
    left = np.ldexp(rows, _BITS - exponent)
    for _ in range(_SLICES):
        whole = np.rint(left)
        used = np.flatnonzero(whole.any(axis=1))
        yield whole, used
        left -= whole
        if not left.any():
            return
        left *= 2.0**_BITS


def _product(slices: list[tuple[Array, Array]], order: int, start: int, stop: int) -> Array | None:
    """The sum of products Q_a'Q_b of columns start..stop-1 with those from `start` on, where a + b is `order`."""
    found: torch.Tensor | None = None
    for a in range(max(0, order + 1 - len(slices)), min(order + 1, len(slices))):
        (left, used), (right, also) = slices[a], slices[order - a]
        both = min(used, also, key=len)
        if both.size < len(left):
            left, right = left[both], right[both]
        product = torch.from_numpy(left[:, start:stop]).T @ torch.from_numpy(right[:, start:])
        found = product if found is None else found.add_(product)
    return None if found is None else found.numpy()


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
