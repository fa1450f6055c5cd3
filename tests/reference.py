"""Brute force, independent of the package: exact order and correctly rounded distances, both from integers."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, replace
from fractions import Fraction
from math import isqrt
from typing import Any

import ml_dtypes
import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

slow_examples = settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
)

DTYPES = {"bfloat16": ml_dtypes.bfloat16, "float16": np.float16, "float32": np.float32, "float64": np.float64}


def root(square: Fraction) -> float:
    """The float64 nearest to a square root: of a Fraction within 2^-400 of it, relative."""
    if square == 0:
        return 0.0
    size = square.numerator.bit_length() - square.denominator.bit_length()
    scale = Fraction(2) ** (2 * (400 - size // 2))
    return float(isqrt(int(square * scale)) / Fraction(2) ** (400 - size // 2))


def integers(values: np.ndarray) -> np.ndarray:
    """Float64 values as Python integers, in units of 2^-1074."""

    def scaled(value: float) -> int:
        numerator, denominator = value.as_integer_ratio()
        return numerator * (2**1074 // denominator)

    return np.array([scaled(value) for value in values.ravel().tolist()], dtype=object).reshape(values.shape)


@dataclass(frozen=True)
class Truth:
    """Pairs of ids, a number that grows with their distance without error, and the float64 nearest to the distance.

    `symmetric` says that either row is a neighbour of the other.
    """

    i: np.ndarray
    j: np.ndarray
    order: np.ndarray
    distance: np.ndarray
    symmetric: bool

    def best(self, k: int, *, farthest: bool) -> tuple[np.ndarray, np.ndarray]:
        """Ids (k, 2) and distances (k,) of the k farthest or nearest, ties by ids."""
        sign = -1 if farthest else 1
        keys = zip((sign * self.order).tolist(), self.i.tolist(), self.j.tolist(), strict=True)
        order = [p for _, p in sorted(zip(keys, range(self.i.size), strict=True))][:k]
        return np.stack([self.i[order], self.j[order]], axis=1), self.distance[order]

    def between_other_rows(self, rows: np.ndarray, against: np.ndarray | None = None) -> Truth:
        """The pairs whose rows, (ids, d), differ in some value."""
        values = rows.astype(np.float64), (rows if against is None else against).astype(np.float64)
        keep = (values[0][self.i] != values[1][self.j]).any(axis=1)
        return replace(self, i=self.i[keep], j=self.j[keep], order=self.order[keep], distance=self.distance[keep])

    def neighbors(self, token: int, k: int) -> tuple[list[int], list[float]]:
        """Ids and distances of the k nearest of a token."""
        found = []
        for mine, other in ((self.i, self.j), (self.j, self.i))[: 2 if self.symmetric else 1]:
            here = np.flatnonzero(mine == token)
            found += zip(self.order[here].tolist(), other[here].tolist(), self.distance[here].tolist(), strict=True)
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
    """Compare every pair of rows, or every row with every row of `against` (rows, ids); `ids` default to positions."""
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
    else:
        total = np.max if metric == "chebyshev" else np.sum
        order = [Fraction(total(np.abs(x[a] - y[b]))) for a, b in pairs]
        distance = [value.numerator / (1 << 1074) for value in order]
    return Truth(names[i], other_names[j], np.array(order, object), np.array(distance, float), against is None)


@st.composite
def matrices(draw: Any, max_rows: int = 40, max_width: int = 12) -> np.ndarray:
    """Rows that make inexact arithmetic fail: duplicates, zeros, near-ties, tight clusters, huge and tiny norms."""
    n, d = draw(st.integers(1, max_rows)), draw(st.integers(1, max_width))
    dtype = DTYPES[draw(st.sampled_from(sorted(DTYPES)))]
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["normal", "lattice", "one hot", "cluster"]))
    if kind == "normal":
        rows = rng.normal(size=(n, d))
    elif kind == "lattice":
        rows = rng.integers(-2, 3, size=(n, d)).astype(float)
    elif kind == "one hot":
        rows = np.eye(max(n, d))[:n, :d]
    else:
        direction = rng.normal(size=d)
        rows = 0.37 * direction / np.linalg.norm(direction) + 1e-3 * rng.normal(size=(n, d)) / np.sqrt(d)
    rows = rows.astype(dtype)
    some = rng.integers(0, n, size=(6, max(1, n // 5)))
    if draw(st.booleans()):
        rows[some[0]] = rows[some[1][0]]
    if draw(st.booleans()):
        rows[some[2]] = 0
        rows[some[2][0]] *= -1
    if draw(st.booleans()):
        above = np.nextafter(rows[some[3]], dtype(np.inf))
        rows[some[3]] = np.where((above != 0) & (rows[some[3]] == 0) & (dtype is np.float64), 0, above)
    large = {ml_dtypes.bfloat16: 2.0**120, np.float16: 2.0**12, np.float32: 2.0**120, np.float64: 2.0**300}[dtype]
    if draw(st.booleans()):
        rows[some[4][0]] = (rows[some[4][0]].astype(float) * large).astype(dtype)
    if draw(st.booleans()) and dtype is not np.float64:
        rows[some[5][0]] = float(ml_dtypes.finfo(dtype).smallest_subnormal) * rng.integers(0, 3, size=d)
    return rows
