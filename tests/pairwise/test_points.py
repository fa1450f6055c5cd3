"""Points that are made of stored rows for every product."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from embgeom_dask.kernels.shifting import shifted
from embgeom_dask.metrics import Workspace
from embgeom_dask.pairwise.blocks import Block
from embgeom_dask.pairwise.points import PointFormat

SHORTER = {
    "float32": (ml_dtypes.bfloat16, np.float16),
    "float64": (ml_dtypes.bfloat16, np.float16, np.float32),
}


def block_of(form: PointFormat, rows: np.ndarray) -> Block:
    return Block(np.arange(len(rows)), rows, *form.points(rows), np.zeros(len(rows)), point_format=form)


@pytest.mark.parametrize(("element", "dtype"), [(element, each) for element in SHORTER for each in SHORTER[element]])
@pytest.mark.parametrize("scale", [1.0, 2.0**-7])
def test_rows_without_a_centre_are_kept_as_stored_and_multiplied_as_the_same_points(
    element: str, dtype: Any, scale: float
) -> None:
    rng, form = np.random.default_rng(0), PointFormat("dot", element, np.zeros(48), scale)
    rows = (rng.normal(size=(70, 48)) * 2.0 ** rng.integers(-30, 6, (70, 48))).astype(dtype)
    block, workspace = block_of(form, rows), Workspace()
    assert block.points.data_ptr() == rows.ctypes.data
    assert block.nbytes == rows.nbytes + block.norms.nbytes + block.distance_from_centre.nbytes
    expected = shifted(rows, form.centre, scale, np.dtype(element))
    for part, points in ((block, expected), (block.take(slice(5, 40)), expected[5:40])):
        np.testing.assert_array_equal(part.multiplied(workspace, 0).numpy(), points)
        np.testing.assert_allclose(part.norms.norm, (points.astype(float) ** 2).sum(axis=1), rtol=1e-14)
    one, other = block.multiplied(workspace, 0), block.take(slice(3)).multiplied(workspace, 1)
    assert (one.numpy() == expected).all()
    assert (other.numpy() == expected[:3]).all()
    one[0, 0] = 7  # of the same points nothing is made again, of others it is, in the same memory
    assert block.multiplied(workspace, 0)[0, 0] == 7
    again = block_of(form, rows.copy()).multiplied(workspace, 0)
    assert again.data_ptr() == one.data_ptr()
    np.testing.assert_array_equal(again.numpy(), expected)
    np.testing.assert_array_equal(block.take(slice(2, 9)).multiplied(workspace, 0).numpy(), expected[2:9])
    np.testing.assert_array_equal(block.multiplied(workspace, 0).numpy(), expected)


def test_other_rows_become_points_at_once() -> None:
    rows = np.random.default_rng(0).normal(size=(9, 16)).astype(np.float32)
    for form in (
        PointFormat("dot", "float32", np.zeros(16), 1.0),
        PointFormat("euclidean", "float64", np.zeros(16), 1.0),
        PointFormat("cosine", "float64", np.zeros(16), 1.0),
    ):
        block = block_of(form, rows)
        assert str(block.points.dtype) == f"torch.{form.element}"
        assert block.multiplied(Workspace(), 0) is block.points
