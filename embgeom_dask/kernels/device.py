"""The same passes in torch's own operations, for tiles on a cuda or mps device."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from embgeom_dask.kernels.bins import CLOSE, Bins

Array = NDArray[Any]


def select(
    product: torch.Tensor,
    row: Array,
    column: Array,
    factor: float,
    row_limit: Array,
    column_limit: Array,
    diagonal: bool,
) -> tuple[Array, Array, Array]:
    """See `embgeom_dask.kernels.select`."""

    def put(array: Array) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(product.device, product.dtype)

    value = put(row)[:, None] + put(column) + factor * product
    hit = value <= torch.maximum(put(row_limit)[:, None], put(column_limit))
    if diagonal:
        hit = hit.triu(1)
    i, j = hit.nonzero(as_tuple=True)
    return i.cpu().numpy(), j.cpu().numpy(), value[i, j].cpu().numpy()


def bin_pairs(
    product: torch.Tensor, row: Array, column: Array, weights: tuple[Array, Array], bins: Bins, diagonal: bool
) -> tuple[Array, Array, Array, Array]:
    """See `embgeom_dask.kernels.bin_pairs`."""

    def put(array: Array) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(product.device)

    base = put(row)[:, None] + put(column)
    squared = base - 2 * product
    distance = squared.clamp(min=0).sqrt()
    index = ((distance - bins.first) * bins.per_unit).long().clamp(0, bins.lower.size - 1)
    undecided = squared <= CLOSE * base
    undecided |= squared - bins.error * base < put(bins.lower)[index]
    undecided |= squared + bins.error * base >= put(bins.upper)[index]
    weight = put(weights[1]).expand(product.shape) * ~undecided
    if diagonal:
        undecided = undecided.triu(1)
        weight = weight.triu(1)
    counts = torch.zeros(bins.lower.size, dtype=torch.int64, device=product.device)
    counts.index_add_(0, index.ravel(), (put(weights[0])[:, None] * weight).ravel())
    t = (distance * bins.quantum).round().long()
    high, low = t >> bins.half, t & ((1 << bins.half) - 1)
    sums = torch.stack([(weight * part).sum(1) for part in (t, high * high, high * low, low * low)], 1)
    i, j = undecided.nonzero(as_tuple=True)
    return counts.cpu().numpy(), sums.cpu().numpy(), i.cpu().numpy(), j.cpu().numpy()
