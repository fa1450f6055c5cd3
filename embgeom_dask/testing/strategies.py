"""Hypothesis strategies of matrices that make inexact arithmetic fail."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

DTYPES: dict[str, Any] = {
    "bfloat16": ml_dtypes.bfloat16,
    "float16": np.float16,
    "float32": np.float32,
    "float64": np.float64,
}
"""The dtypes of stored matrices, by name."""

LARGE = {"bfloat16": 100, "float16": 7, "float32": 100, "float64": 390}
"""The powers of two up to which, and down to which, `hostile` scales, by dtype."""

slow_examples = settings(
    max_examples=6,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
)
"""Settings of a test whose every example is a scan."""


def _smallest(dtype: Any) -> float:
    """Its smallest subnormal number."""
    return float(np.nextafter(dtype(0), dtype(1)))


@st.composite
def matrices(draw: Any, max_rows: int = 40, max_width: int = 12) -> np.ndarray:
    """Draw rows that make inexact arithmetic fail: duplicates, zeros, near-ties, tight clusters, huge and tiny norms.

    Parameters
    ----------
    max_rows, max_width : int
        The most rows and columns.

    Returns
    -------
    strategy of numpy.ndarray, (rows, columns)
        Of any of `DTYPES`.

    Examples
    --------
    >>> from hypothesis import given
    >>> @given(rows=matrices(max_rows=5))
    ... def check(rows):
    ...     assert 1 <= len(rows) <= 5 and np.isfinite(rows.astype(float)).all()
    >>> check()
    """
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
        rows[some[5][0]] = _smallest(dtype) * rng.integers(0, 3, size=d)
    return rows


@st.composite
def hostile(draw: Any) -> np.ndarray:
    """Draw rows, none of zeros, whose sums cancel, overflow 53 bits, or lie at the ends of what is taken.

    Returns
    -------
    strategy of numpy.ndarray, (2 to 8, 1 to 130)
        Of any of `DTYPES`.

    Examples
    --------
    >>> from hypothesis import given
    >>> @given(rows=hostile())
    ... def check(rows):
    ...     assert rows.astype(float).any(axis=1).all()
    >>> check()
    """
    name = draw(st.sampled_from(sorted(DTYPES)))
    dtype, rng = DTYPES[name], np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, d = draw(st.integers(2, 8)), draw(st.sampled_from([1, 2, 7, 64, 65, 130]))
    kind = draw(st.sampled_from(["near", "smallest", "one huge", "other lengths", "other columns"]))
    rows = rng.normal(size=(n, d)).astype(dtype)
    if kind == "near":
        rows[:] = rows[0]
        for row in rows[1:]:
            some = rng.integers(0, d, rng.integers(0, 3))
            row[some] = np.nextafter(row[some], dtype(9))
        rows[n // 2 :] *= dtype(2.0 ** rng.integers(-6, 6))  # nearly parallel to the others
    elif kind == "smallest":
        least = 2.0**-400 if name == "float64" else _smallest(dtype)
        rows = (rng.integers(-3, 4, (n, d)) * least).astype(dtype)
    elif kind == "one huge":
        rows[0, 0] = 2.0 ** LARGE[name]
        rows[1] = rows[0]
        rows[1, -1] = np.nextafter(rows[1, -1], dtype(9))
    else:
        shape = (n, 1) if kind == "other lengths" else (n, d)
        rows = (rows.astype(float) * 2.0 ** rng.integers(-LARGE[name], LARGE[name], shape)).astype(dtype)
    rows[~rows.astype(float).any(axis=1), 0] = 1
    return rows
