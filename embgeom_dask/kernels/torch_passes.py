"""The passes over a product tile in torch operations, for cuda and mps devices.

A pass is one function of tensors, which torch.compile turns into few kernels on cuda. Its arguments are copied to the
device in one transfer a dtype, and its results come back in one, because each transfer costs a round trip.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from embgeom_dask import devices
from embgeom_dask.errors import EmbgeomWarning
from embgeom_dask.kernels.bins import Bins
from embgeom_dask.kernels.bounds import LinearBound

Array = NDArray[Any]
Tensor = torch.Tensor


def select(
    product: Tensor,
    terms: LinearBound,
    row_limit: Array,
    column_limit: Array,
    diagonal: bool,
) -> tuple[Array, Array, Array]:
    """See `embgeom_dask.kernels.passes.select`."""
    row, column, factors, limit, other_limit = _put(product.device, *_parts(terms), row_limit, column_limit)
    hit = _run(_hits, product, row, column, factors, limit, other_limit, diagonal)
    place = _places(hit)
    i, j = place // product.shape[1], place % product.shape[1]
    p = product.reshape(-1)[place].to(row.dtype)
    found, bound = _fetch(place, row[i] + column[j] + factors[0] * p + factors[1] * p.abs())
    return *np.divmod(found, product.shape[1]), bound


def _hits(
    product: Tensor, row: Tensor, column: Tensor, factors: Tensor, limit: Tensor, other_limit: Tensor, diagonal: bool
) -> Tensor:
    hit = ~(_bound(product, row, column, factors) > torch.maximum(limit[:, None], other_limit))
    return hit.triu(1) if diagonal else hit


def bin_pairs(
    product: Tensor,
    terms: tuple[LinearBound, LinearBound],
    weights: tuple[Array, Array],
    bins: Bins,
    diagonal: bool,
) -> tuple[Array, Array, Array, Array]:
    """See `embgeom_dask.kernels.passes.bin_pairs`."""
    numbers = np.array([bins.first, bins.per_unit, bins.digits, bins.least, bins.quantum])
    bounds = [part for bound in terms for part in _parts(bound)]
    given = *_put(product.device, *bounds, numbers, bins.lower, bins.upper), *_put(product.device, *weights)
    counts, sums, undecided = _run(_bin, product, *given, bins.root, len(bins.table) == 0, bins.half, diagonal)
    count, total, place = _fetch(counts, sums.reshape(-1), _places(undecided))
    return count, total.reshape(-1, 4), *np.divmod(place, product.shape[1])


def _bin(
    product: Tensor,
    low_row: Tensor,
    low_column: Tensor,
    low_factors: Tensor,
    high_row: Tensor,
    high_column: Tensor,
    high_factors: Tensor,
    numbers: Tensor,
    lower: Tensor,
    upper: Tensor,
    row_weight: Tensor,
    column_weight: Tensor,
    root: bool,
    equal: bool,
    half: int,
    diagonal: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    first, per_unit, digits, least, quantum = numbers.unbind()
    low, high = _bound(product, low_row, low_column, low_factors), _bound(product, high_row, high_column, high_factors)
    value = (0.5 * (low + high)).nan_to_num(0).clamp(min=0)
    distance = value.sqrt() if root else value
    if equal:
        index = ((distance - first) * per_unit + 1).clamp(0, lower.numel() - 1).long()
    else:
        index = torch.searchsorted(lower, value, right=True) - 1
    undecided = ~((value > digits * (high - low)) & (distance >= least) & (low >= lower[index]) & (high < upper[index]))
    weight = column_weight.expand(product.shape) * ~undecided
    if diagonal:
        undecided, weight = undecided.triu(1), weight.triu(1)
    counts = torch.zeros_like(lower, dtype=torch.int64)
    counts = counts.index_add(0, index.reshape(-1), (row_weight[:, None] * weight).reshape(-1))
    t = (distance * quantum).round().long()
    t_high, t_low = t >> half, t & ((1 << half) - 1)
    sums = torch.stack([(weight * part).sum(1) for part in (t, t_high * t_high, t_high * t_low, t_low * t_low)], 1)
    return counts, sums, undecided


def count_within(
    product: Tensor,
    terms: tuple[LinearBound, LinearBound],
    weights: tuple[Array, Array],
    inside: Array,
    outside: Array,
    diagonal: bool,
) -> tuple[Array, Array, Array, Array]:
    """See `embgeom_dask.kernels.passes.count_within`."""
    bounds = [part for bound in terms for part in _parts(bound)]
    given = *_put(product.device, *bounds, inside, outside), *_put(product.device, *weights)
    rows, columns, unsure = _run(_count, product, *given, diagonal)
    row_count, column_count, place = _fetch(rows.reshape(-1), columns.reshape(-1), _places(unsure))
    counts = row_count.reshape(inside.size, -1).T, column_count.reshape(inside.size, -1).T
    return *counts, *np.divmod(place, product.shape[1])


def _count(
    product: Tensor,
    low_row: Tensor,
    low_column: Tensor,
    low_factors: Tensor,
    high_row: Tensor,
    high_column: Tensor,
    high_factors: Tensor,
    inside: Tensor,
    outside: Tensor,
    row_weight: Tensor,
    column_weight: Tensor,
    diagonal: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    low, high = _bound(product, low_row, low_column, low_factors), _bound(product, high_row, high_column, high_factors)
    sure = torch.ones_like(low, dtype=torch.bool)
    for near, far in zip(inside.unbind(), outside.unbind(), strict=True):
        sure = sure & ((low > far) | (high <= near))
    counted = sure.triu(1) if diagonal else sure
    within = [counted & (high <= near) for near in inside.unbind()]
    rows = torch.stack([(near * column_weight).sum(1) for near in within])
    columns = torch.stack([(near * row_weight[:, None]).sum(0) for near in within])
    return rows, columns, (~sure).triu(1) if diagonal else ~sure


def bounds(product: Tensor, terms: LinearBound) -> Tensor:
    """Return the bound (m, n) of every pair of a product, on its device."""
    return _bound(product, *_put(product.device, *_parts(terms)))


def _bound(product: Tensor, row: Tensor, column: Tensor, factors: Tensor) -> Tensor:
    p = product.to(row.dtype)
    return row[:, None] + column + factors[0] * p + factors[1] * p.abs()


def _parts(terms: LinearBound) -> tuple[Array, Array, Array]:
    """Return the row and column terms of a bound, and its two factors (2,), in one dtype."""
    return terms.row, terms.column, np.array([terms.factor, terms.abs_factor], terms.row.dtype)


def _put(device: torch.device, *arrays: Array) -> tuple[Tensor, ...]:
    """Copy arrays (n,) of one dtype to the device, in one transfer."""
    joined = torch.from_numpy(np.concatenate(arrays)).to(device, non_blocking=device.type == "cuda")
    return torch.split(joined, [array.size for array in arrays])


def _places(mask: Tensor) -> Tensor:
    """Return the flat indices i * n + j where a mask (m, n) is true, (p,) int64, ascending."""
    return mask.reshape(-1).nonzero().reshape(-1)


def _fetch(*tensors: Tensor) -> list[Array]:
    """Copy tensors (n,) to the host in one transfer; those of the widest dtype must come first (alignment)."""
    joined = torch.cat([tensor.view(torch.uint8) for tensor in tensors]).cpu().numpy()
    ends = np.cumsum([tensor.nbytes for tensor in tensors])
    dtypes = [str(tensor.dtype).removeprefix("torch.") for tensor in tensors]
    return [part.view(dtype) for part, dtype in zip(np.split(joined, ends[:-1]), dtypes, strict=True)]


def _run(work: Callable[..., Any], product: Tensor, *given: Any) -> Any:
    """Run a pass, compiled if the device is cuda and torch.compile succeeds."""
    if product.device.type != "cuda" or work in _not_compiled:
        return work(product, *given)
    try:
        return compiled(work)(product, *given)
    except Exception as error:
        if devices.out_of_memory(error):
            raise
        _not_compiled.add(work)
        problem = " ".join(str(error).split())[:200]
        warnings.warn(f"torch.compile fails, so tiles take longer ({problem})", EmbgeomWarning, stacklevel=2)
        return work(product, *given)


@cache
def compiled(work: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """Return a pass compiled for tiles of any size."""
    return torch.compile(work, dynamic=True, fullgraph=True, **options)


_not_compiled: set[Callable[..., Any]] = set()
