"""The passes over a product tile: numba on the CPU, torch operations on other devices."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray

from embgeom_dask.kernels import numba_passes, torch_passes
from embgeom_dask.kernels.bounds import BoundedPairs, LinearBound, StripEnds
from embgeom_dask.kernels.counts import BinCounts, Bins, WithinCounts
from embgeom_dask.kernels.nearest import limits_of, nearest, tighten

Array = NDArray[Any]

__all__ = ["Bins", "bin_pairs", "count_within", "limits_of", "nearest", "select", "tighten"]


def select(
    product: torch.Tensor,
    terms: LinearBound,
    row_limit: Array,
    column_limit: Array,
    *,
    diagonal: bool,
    ends: StripEnds | None = None,
) -> BoundedPairs:
    """Find the pairs whose bound is at most the larger of their two limits, or NaN.

    Parameters
    ----------
    product : torch.Tensor, (m, n)
        int32, bfloat16, float32 or float64.
    terms : LinearBound
        The bound; its arrays and the limits have one dtype, float32 or float64.
    row_limit, column_limit : numpy.ndarray, (m,) and (n,)
        The limit of each row and of each column.
    diagonal : bool
        Whether the tile is on the diagonal of the pair matrix: only pairs with i < j.
    ends : StripEnds, optional
        Of `terms` as a lower bound, off the diagonal: a CPU reads no strip that they rule out.

    Returns
    -------
    BoundedPairs
        The pairs, ordered by i, then j, and their bounds in the dtype of the terms.
    """
    if product.device.type != "cpu":
        return torch_passes.select(product, terms, row_limit, column_limit, diagonal)
    return numba_passes.select(product, terms, row_limit, column_limit, diagonal, ends)


def bin_pairs(
    product: torch.Tensor,
    terms: tuple[LinearBound, LinearBound],
    weights: tuple[Array, Array],
    bins: Bins,
    *,
    diagonal: bool,
    ends: StripEnds | None = None,
) -> BinCounts:
    """Count the pairs in bins and sum their distances, except for pairs that the product cannot decide.

    Parameters
    ----------
    product : torch.Tensor of float64, (m, n)
    terms : tuple of LinearBound
        The lower and the upper bound of the values.
    weights : tuple of numpy.ndarray of int64, (m,) and (n,)
        How many tokens share each row, and each column.
    bins : Bins
        The bins, and the fixed point of the sums.
    diagonal : bool
        Whether the tile is on the diagonal of the pair matrix: only pairs with i < j.
    ends : StripEnds, optional
        Off the diagonal: on a CPU they are filled in.

    Returns
    -------
    BinCounts
        The counts, the sums, and the pairs left undecided.
    """
    if product.device.type != "cpu":
        return torch_passes.bin_pairs(product, terms, weights, bins, diagonal)
    return numba_passes.bin_pairs(product, terms, weights, bins, diagonal, ends)


def count_within(
    product: torch.Tensor,
    terms: tuple[LinearBound, LinearBound],
    weights: tuple[Array, Array],
    inside: Array,
    outside: Array,
    *,
    diagonal: bool,
    ends: StripEnds | None = None,
) -> WithinCounts:
    """Count the pairs within each of several radii, except for pairs that the product cannot decide for all radii.

    Parameters
    ----------
    product : torch.Tensor, (m, n)
        float32 or float64.
    terms : tuple of LinearBound
        The lower and the upper bound of the values.
    weights : tuple of numpy.ndarray of int64, (m,) and (n,)
        How many tokens share each row, and each column.
    inside, outside : numpy.ndarray, (r,)
        In the dtype of the terms, ascending. A pair with an upper bound of at most inside[k] is certainly within radius
        k; one with a lower bound above outside[k] is certainly not.
    diagonal : bool
        Whether the tile is on the diagonal of the pair matrix: only pairs with i < j.
    ends : StripEnds, optional
        Of `terms`, off the diagonal: a CPU reads no strip that they rule out.

    Returns
    -------
    WithinCounts
        The counts of rows and of columns, and the pairs left undecided.
    """
    if product.device.type != "cpu":
        return torch_passes.count_within(product, terms, weights, inside, outside, diagonal)
    return numba_passes.count_within(product, terms, weights, inside, outside, diagonal, ends)
