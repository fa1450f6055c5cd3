"""The same passes in torch's own operations, for tiles on a cuda or mps device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from embgeom_dask.kernels.bins import Bins

if TYPE_CHECKING:
    from embgeom_dask.metrics.base import Terms

Array = NDArray[Any]


def select(
    product: torch.Tensor,
    terms: Terms,
    row_limit: Array,
    column_limit: Array,
    diagonal: bool,
) -> tuple[Array, Array, Array]:
    """See `embgeom_dask.kernels.select`."""
    value = _bound(product, terms)
    limits = (torch.from_numpy(limit).to(product.device) for limit in (row_limit[:, None], column_limit))
    hit = value <= torch.maximum(*limits)
    if diagonal:
        hit = hit.triu(1)
    i, j = hit.nonzero(as_tuple=True)
    return i.cpu().numpy(), j.cpu().numpy(), value[i, j].cpu().numpy()


def _bound(product: torch.Tensor, terms: Terms) -> torch.Tensor:
    row, column = (torch.from_numpy(part).to(product.device) for part in (terms.row, terms.column))
    product = product.to(row.dtype)
    value = row[:, None] + column + terms.factor * product
    return value + terms.bend * product.abs() if terms.bend else value


def bin_pairs(
    product: torch.Tensor,
    terms: tuple[Terms, Terms],
    weights: tuple[Array, Array],
    bins: Bins,
    diagonal: bool,
) -> tuple[Array, Array, Array, Array]:
    """See `embgeom_dask.kernels.bin_pairs`."""

    def put(array: Array) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(product.device)

    low, high = (_bound(product, bound) for bound in terms)
    value = (0.5 * (low + high)).clamp(min=0)
    distance = value.sqrt() if bins.root else value
    lower, upper = put(bins.lower), put(bins.upper)
    if len(bins.table):
        index = torch.searchsorted(lower, value, right=True) - 1
    else:
        index = ((distance - bins.first) * bins.per_unit + 1).clamp(0, bins.lower.size - 1).long()
    undecided = (value <= bins.digits * (high - low)) | (low < lower[index]) | (high >= upper[index])
    weight = put(weights[1]).expand(product.shape) * ~undecided
    if diagonal:
        undecided, weight = undecided.triu(1), weight.triu(1)
    counts = torch.zeros(bins.lower.size, dtype=torch.int64, device=product.device)
    counts.index_add_(0, index.ravel(), (put(weights[0])[:, None] * weight).ravel())
    t = (distance * bins.quantum).round().long()
    t_high, t_low = t >> bins.half, t & ((1 << bins.half) - 1)
    sums = torch.stack([(weight * part).sum(1) for part in (t, t_high * t_high, t_high * t_low, t_low * t_low)], 1)
    i, j = undecided.nonzero(as_tuple=True)
    return counts.cpu().numpy(), sums.cpu().numpy(), i.cpu().numpy(), j.cpu().numpy()


def count_within(
    product: torch.Tensor,
    terms: tuple[Terms, Terms],
    weights: tuple[Array, Array],
    inside: Array,
    outside: Array,
    diagonal: bool,
) -> tuple[Array, Array, Array, Array]:
    """See `embgeom_dask.kernels.count_within`."""
    low, high = (_bound(product, bound) for bound in terms)
    row_weight, column_weight = (torch.from_numpy(weight).to(product.device) for weight in weights)
    sure = torch.ones_like(product, dtype=torch.bool)
    for near, far in zip(inside.tolist(), outside.tolist(), strict=True):
        sure &= (low > far) | (high <= near)
    counted = sure.triu(1) if diagonal else sure
    rows, columns = [], []
    for near in inside.tolist():
        within = counted & (high <= near)
        rows.append((within * column_weight).sum(1))
        columns.append((within * row_weight[:, None]).sum(0))
    unsure = (~sure).triu(1) if diagonal else ~sure
    i, j = unsure.nonzero(as_tuple=True)
    row_count, column_count = (torch.stack(side, 1).cpu().numpy() for side in (rows, columns))
    return row_count, column_count, i.cpu().numpy(), j.cpu().numpy()
