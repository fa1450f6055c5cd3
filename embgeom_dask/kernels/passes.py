"""The passes over a product tile: numba on the CPU, torch's own operations on every other device."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray

from embgeom_dask.kernels import numba_passes, torch_passes
from embgeom_dask.kernels.bins import Bins
from embgeom_dask.kernels.bounds import LinearBound
from embgeom_dask.kernels.nearest import limits_of, nearest, tighten

Array = NDArray[Any]

__all__ = ["Bins", "bin_pairs", "count_within", "limits_of", "nearest", "select", "tighten"]


def select(
    product: torch.Tensor, terms: LinearBound, row_limit: Array, column_limit: Array, *, diagonal: bool
) -> tuple[Array, Array, Array]:
    """Find the pairs whose bound is at most the larger of their two limits, or NaN.

    Parameters
    ----------
    product : (m, n) int32, bfloat16, float32 or float64
    terms : the bound; its arrays, `row_limit` (m,) and `column_limit` (n,) have one dtype, float32 or float64
    diagonal : the tile lies on the diagonal of the pair matrix: only pairs with i < j

    Returns
    -------
    i, j (p,) int64, ordered by i then j, and their bound (p,) of the dtype of the terms
    """
    work = numba_passes.select if product.device.type == "cpu" else torch_passes.select
    return work(product, terms, row_limit, column_limit, diagonal)


def bin_pairs(
    product: torch.Tensor,
    terms: tuple[LinearBound, LinearBound],
    weights: tuple[Array, Array],
    bins: Bins,
    *,
    diagonal: bool,
) -> tuple[Array, Array, Array, Array]:
    """Count the pairs in bins and sum their distances, but for those that the float64 product cannot decide.

    Parameters
    ----------
    product : (m, n) float64
    terms : lower and upper bound of the values
    weights : (m,) and (n,) int64, how many tokens share each row

    Returns
    -------
    counts (bins,) int64, sums (m, 4) int64 (per row, see `Bins`), and i, j (p,) int64 of the pairs left undecided
    """
    work = numba_passes.bin_pairs if product.device.type == "cpu" else torch_passes.bin_pairs
    return work(product, terms, weights, bins, diagonal)


def count_within(
    product: torch.Tensor,
    terms: tuple[LinearBound, LinearBound],
    weights: tuple[Array, Array],
    inside: Array,
    outside: Array,
    *,
    diagonal: bool,
) -> tuple[Array, Array, Array, Array]:
    """Count the pairs within each of several radii, but for those that the product cannot decide for all of them.

    Parameters
    ----------
    product : (m, n) float32 or float64
    terms : lower and upper bound of the values
    weights : (m,) and (n,) int64, how many tokens share each row
    inside, outside : (r,) of the product's dtype, ascending: a pair with an upper bound of at most inside[k] is within
        radius k for certain, one with a lower bound above outside[k] is not

    Returns
    -------
    row counts (m, r) and column counts (n, r) int64, weighed by the other side, and i, j (p,) int64 of the pairs left
    undecided, ordered by i then j
    """
    work = numba_passes.count_within if product.device.type == "cpu" else torch_passes.count_within
    return work(product, terms, weights, inside, outside, diagonal)
