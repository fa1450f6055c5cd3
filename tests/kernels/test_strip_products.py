"""Sums over the products of a strip of rows against integers."""

from __future__ import annotations

import numpy as np
import pytest

from embgeom_dask.kernels import strip_products
from embgeom_dask.kernels.strip_products import pair_sums


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("size", [1, 70])
@pytest.mark.parametrize("parts", [1, 2])
def test_sums_of_products_are_those_of_integers(
    whole: bool, size: int, parts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strip_products, "_ROWS", 33)
    monkeypatch.setattr(strip_products, "_WHOLE", 20)
    rng = np.random.default_rng(size)
    digits = [[rng.integers(-128, 128, (size, 48)).astype(np.int8) for _ in range(4)] for _ in range(parts)]
    share = 2.0 ** rng.integers(-3, 3, size)
    found = pair_sums(digits, share, whole=whole)
    products = [sum(part[k].astype(int) @ part[k].astype(int).T for part in digits) for k in range(4)]
    both = np.outer(share, share)
    np.testing.assert_allclose(found.length, [share @ np.diag(each) for each in products], rtol=1e-15)
    np.testing.assert_allclose(found.square, [(both * each**2).sum() for each in products], rtol=1e-14)
    h, m, low, r = products
    crossed = [(both * h * r).sum(), (both * m * low).sum()]
    np.testing.assert_allclose(found.crossed, crossed, rtol=1e-9)
    fewer = pair_sums([[digit[:5] for digit in part] for part in digits], share[:5], whole=not whole)
    more = pair_sums([[digit[:5] for digit in part] for part in digits], share[:5], whole=whole)
    assert all((a == b).all() for a, b in zip(fewer, more, strict=True))


def test_products_of_rows_too_wide_for_32_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strip_products, "_SHORT", 16)
    digits = [[np.full((3, 16), -128, np.int8)] * 4] * 2
    assert pair_sums(digits, np.ones(3), whole=True).square.tolist() == [9 * (32 * 128**2) ** 2] * 4
