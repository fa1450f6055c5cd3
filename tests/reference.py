"""Brute force, independent of the package: exact order from integers, distances from float64 differences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from hypothesis import strategies as st

DTYPES = {"bfloat16": ml_dtypes.bfloat16, "float16": np.float16, "float32": np.float32, "float64": np.float64}


def integers(values: np.ndarray) -> np.ndarray:
    """Float64 values as Python integers, in units of 2^-1074."""

    def scaled(value: float) -> int:
        numerator, denominator = value.as_integer_ratio()
        return numerator * (2**1074 // denominator)

    return np.array([scaled(value) for value in values.ravel().tolist()], dtype=object).reshape(values.shape)


@dataclass(frozen=True)
class Truth:
    """All pairs i < j of `ids`, with their exact squared distance (object integers) and float64 distance."""

    i: np.ndarray
    j: np.ndarray
    square: np.ndarray
    distance: np.ndarray

    def best(self, k: int, *, farthest: bool) -> tuple[np.ndarray, np.ndarray]:
        """Ids (k, 2) and distances (k,) of the k farthest or nearest, ties by ids."""
        sign = -1 if farthest else 1
        keys = zip((sign * self.square).tolist(), self.i.tolist(), self.j.tolist(), strict=True)
        order = [p for _, p in sorted(zip(keys, range(self.i.size), strict=True))][:k]
        return np.stack([self.i[order], self.j[order]], axis=1), self.distance[order]

    def neighbors(self, token: int, k: int) -> tuple[list[int], list[float]]:
        """Ids and distances of the k nearest of a token."""
        found = []
        for mine, other in ((self.i, self.j), (self.j, self.i)):
            here = np.flatnonzero(mine == token)
            found += zip(self.square[here].tolist(), other[here].tolist(), self.distance[here].tolist(), strict=True)
        found.sort()
        return [other for _, other, _ in found[:k]], [distance for _, _, distance in found[:k]]

    def counts(self, edges: np.ndarray) -> np.ndarray:
        """Pairs in each bin [edge, next edge), the last closed; compared as integers."""
        squares = integers(edges) ** 2
        bins = np.searchsorted(squares, self.square, side="right") - 1
        return np.bincount(np.minimum(bins, edges.size - 2).astype(int), minlength=edges.size - 1)


def truth(rows: np.ndarray, ids: np.ndarray | None = None) -> Truth:
    """Compare every pair of rows; `ids` (default: their positions) name them."""
    values = rows.astype(np.float64)
    i, j = np.triu_indices(len(values), 1)
    exact = integers(values)
    square = np.array([((exact[a] - exact[b]) ** 2).sum() for a, b in zip(i.tolist(), j.tolist(), strict=True)], object)
    distance = np.sqrt(((values[i] - values[j]) ** 2).sum(axis=1))
    names = np.arange(len(values)) if ids is None else ids
    return Truth(names[i], names[j], square, distance)


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
