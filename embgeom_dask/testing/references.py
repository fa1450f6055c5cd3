"""Brute force that shares no code with the package: exact order and correctly rounded distances, from integers.

It compares V rows of d columns in V^2 d steps of Python: made for matrices of some dozens of rows.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, replace
from fractions import Fraction
from math import isqrt

import numpy as np


def root(square: Fraction) -> float:
    """Return the float64 nearest to a square root.

    Parameters
    ----------
    square : Fraction
        What is not negative.

    Returns
    -------
    float
        Of a fraction within 2^-400 of the square root, relative.

    Examples
    --------
    >>> from fractions import Fraction
    >>> root(Fraction(9, 4))
    1.5
    """
    if square == 0:
        return 0.0
    size = square.numerator.bit_length() - square.denominator.bit_length()
    scale = Fraction(2) ** (2 * (400 - size // 2))
    return float(isqrt(int(square * scale)) / Fraction(2) ** (400 - size // 2))


def integers(values: np.ndarray) -> np.ndarray:
    """Return float64 values as Python integers, in units of 2^-1074.

    Parameters
    ----------
    values : numpy.ndarray of float64
        Finite, of any shape.

    Returns
    -------
    numpy.ndarray of object
        Of the same shape.

    Examples
    --------
    >>> integers(np.array([0.0, 1.0, -0.5])) // 2**1073
    array([0, 2, -1], dtype=object)
    """

    def scaled(value: float) -> int:
        numerator, denominator = value.as_integer_ratio()
        return numerator * (2**1074 // denominator)

    return np.array([scaled(value) for value in values.ravel().tolist()], dtype=object).reshape(values.shape)


@dataclass(frozen=True)
class Truth:
    """Every pair of rows with its true distance: what `truth` returns.

    Attributes
    ----------
    i, j : numpy.ndarray of int, (pairs,)
        Ids of the rows.
    order : numpy.ndarray of Fraction, (pairs,)
        A number that grows with the distance, without error; of `dot` with the product.
    distance : numpy.ndarray of float64, (pairs,)
        The float64 nearest to the distance; of `dot` to the product.
    symmetric : bool
        Whether either row is a neighbor of the other: a matrix is compared with itself.

    Examples
    --------
    >>> found = truth(np.array([[0.0], [1.0], [3.0]]))
    >>> found.best(1, farthest=True)
    (array([[0, 2]]), array([3.]))
    >>> found.neighbors(1, k=2)
    ([0, 2], [1.0, 2.0])
    >>> found.counts(np.array([0.0, 2.0, 4.0]))
    array([1, 2])
    """

    i: np.ndarray
    j: np.ndarray
    order: np.ndarray
    distance: np.ndarray
    symmetric: bool

    def best(self, k: int, *, farthest: bool) -> tuple[np.ndarray, np.ndarray]:
        """Ids (k, 2) and distances (k,) of the k farthest or nearest, ties by ids; large products are far."""
        sign = -1 if farthest else 1
        keys = zip((sign * self.order).tolist(), self.i.tolist(), self.j.tolist(), strict=True)
        order = [p for _, p in sorted(zip(keys, range(self.i.size), strict=True))][:k]
        return np.stack([self.i[order], self.j[order]], axis=1), self.distance[order]

    def between_other_rows(self, rows: np.ndarray, against: np.ndarray | None = None) -> Truth:
        """The pairs whose rows, (ids, d), differ in some value."""
        values = rows.astype(np.float64), (rows if against is None else against).astype(np.float64)
        keep = (values[0][self.i] != values[1][self.j]).any(axis=1)
        return replace(self, i=self.i[keep], j=self.j[keep], order=self.order[keep], distance=self.distance[keep])

    def neighbors(self, token: int, k: int, *, farthest: bool = False) -> tuple[list[int], list[float]]:
        """Ids and distances of the k nearest of a token, or of the farthest."""
        found: list[tuple[Fraction, int, float]] = []
        sign = -1 if farthest else 1
        for mine, other in ((self.i, self.j), (self.j, self.i))[: 2 if self.symmetric else 1]:
            here = np.flatnonzero(mine == token)
            columns = sign * self.order[here], other[here], self.distance[here]
            found += zip(*(column.tolist() for column in columns), strict=True)
        found.sort()
        return [other for _, other, _ in found[:k]], [distance for _, _, distance in found[:k]]

    def counts(self, edges: np.ndarray) -> np.ndarray:
        """Pairs in each bin [edge, next edge), the last closed, of the rounded distances."""
        bins = [min(bisect_right(edges.tolist(), value) - 1, edges.size - 2) for value in self.distance.tolist()]
        return np.bincount(np.array(bins, int), minlength=edges.size - 1)


def _cosine_order(dot: int, xx: int, yy: int) -> Fraction:
    return Fraction(-dot * abs(dot), xx * yy)


_BITS = 4096
"""Bits of a square root: so many that no number halfway between two of float64 lies between its floor and itself."""


def _root(square: Fraction, bits: int) -> tuple[int, bool]:
    """The square root of a number times 2^bits: its floor, and whether that is all."""
    scaled, rest = divmod(square.numerator << 2 * bits, square.denominator)
    root = isqrt(scaled)
    return root, rest == 0 and root * root == scaled


def _euclidean_distance(order: Fraction) -> float:
    """The square root of a square in units of 2^-2148; a number of Python's integers divided is rounded correctly."""
    root, whole = _root(order, 128)
    return (2 * root + (not whole)) / (1 << 129 + 1074)


def _cosine_distance(order: Fraction) -> float:
    """1 - cos from -cos |cos|."""
    root, whole = _root(abs(order), _BITS)
    cosine = 2 * root + (not whole)
    return ((2 << _BITS) + (cosine if order > 0 else -cosine)) / (2 << _BITS)


def truth(
    rows: np.ndarray,
    ids: np.ndarray | None = None,
    metric: str = "euclidean",
    against: tuple[np.ndarray, np.ndarray] | None = None,
) -> Truth:
    """Compare every pair of rows, or every row with every row of a second matrix.

    Parameters
    ----------
    rows : numpy.ndarray, (V, d)
        Finite, of any dtype that float64 holds.
    ids : numpy.ndarray of int, (V,), optional
        What the rows are called; their positions by default.
    metric : {"euclidean", "cosine", "chebyshev", "cityblock", "dot"}
        For cosine, no row may be of zeros.
    against : tuple of (rows, ids), optional
        The second matrix.

    Returns
    -------
    Truth
        The pairs: each of two rows once where there is no second matrix.

    Examples
    --------
    >>> rows = np.array([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]])
    >>> truth(rows).distance
    array([5.        , 1.        , 4.24264069])
    >>> truth(rows[:1], metric="cityblock", against=(rows, np.arange(3))).distance
    array([0., 7., 1.])
    """
    values = rows.astype(np.float64)
    names = np.arange(len(values)) if ids is None else ids
    if against is None:
        other, other_names = values, names
        i, j = np.triu_indices(len(values), 1)
    else:
        other, other_names = against[0].astype(np.float64), against[1]
        i, j = np.indices((len(values), len(other))).reshape(2, -1)
    x, y = integers(values), integers(other)
    pairs = list(zip(i.tolist(), j.tolist(), strict=True))
    if metric == "euclidean":
        order = [Fraction(((x[a] - y[b]) ** 2).sum()) for a, b in pairs]
        distance = [_euclidean_distance(value) for value in order]
    elif metric == "cosine":
        xx, yy = (x**2).sum(axis=1), (y**2).sum(axis=1)
        order = [_cosine_order((x[a] * y[b]).sum(), xx[a], yy[b]) for a, b in pairs]
        distance = [_cosine_distance(value) for value in order]
    elif metric == "dot":
        order = [Fraction((x[a] * y[b]).sum()) for a, b in pairs]
        distance = [value.numerator / (1 << 2148) for value in order]
    else:
        total = np.max if metric == "chebyshev" else np.sum
        order = [Fraction(total(np.abs(x[a] - y[b]))) for a, b in pairs]
        distance = [value.numerator / (1 << 1074) for value in order]
    return Truth(names[i], other_names[j], np.array(order, object), np.array(distance, float), against is None)
