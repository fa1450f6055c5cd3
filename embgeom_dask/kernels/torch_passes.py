"""The passes over a product tile in torch operations, for cuda and mps devices.

A pass is one function of tensors, which torch.compile turns into few kernels on cuda. Its arguments are copied to the
device in one transfer a dtype, and its results come back in one, because each transfer costs a round trip.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from embgeom_dask import devices, tuning
from embgeom_dask.errors import EmbgeomWarning
from embgeom_dask.kernels.bounds import BoundedPairs, LinearBound
from embgeom_dask.kernels.counts import BinCounts, Bins, WithinCounts

Array = NDArray[Any]
Tensor = torch.Tensor


class _DeviceBound(NamedTuple):
    """A `LinearBound` on a device, with its two factors in one tensor (2,)."""

    row: Tensor
    column: Tensor
    factors: Tensor


class _DeviceBins(NamedTuple):
    """`Bins` on a device, without the table.

    Attributes
    ----------
    numbers : torch.Tensor of float64, (6,)
        `first`, `per_unit`, `digits`, `least`, `quantum` and `error_quantum`.
    lower, upper : torch.Tensor of float64, (bins,)
    root : bool
    equal : bool
        Whether the table is empty: cell c is bin c + 1.
    settled : bool
    half : int
    """

    numbers: Tensor
    lower: Tensor
    upper: Tensor
    root: bool
    equal: bool
    settled: bool
    half: int


def select(
    product: Tensor,
    terms: LinearBound,
    row_limit: Array,
    column_limit: Array,
    diagonal: bool,
) -> BoundedPairs:
    """See `embgeom_dask.kernels.passes.select`."""
    *parts, limit, other_limit = _put(product.device, *_parts(terms), row_limit, column_limit)
    row, column, factors = bound = _DeviceBound(*parts)
    flat = _flat_indices(run_on_device(_hits, product, bound, limit, other_limit, diagonal))
    i, j = flat // product.shape[1], flat % product.shape[1]
    p = product.reshape(-1)[flat].to(row.dtype)
    found, least = _fetch(flat, row[i] + column[j] + factors[0] * p + factors[1] * p.abs())
    return BoundedPairs(*np.divmod(found, product.shape[1]), least)


def _hits(product: Tensor, bound: _DeviceBound, row_limit: Tensor, column_limit: Tensor, diagonal: bool) -> Tensor:
    hit = ~(_evaluate(product, bound) > torch.maximum(row_limit[:, None], column_limit))
    return hit.triu(1) if diagonal else hit


def bin_pairs(
    product: Tensor,
    terms: tuple[LinearBound, LinearBound],
    weights: tuple[Array, Array],
    bins: Bins,
    diagonal: bool,
) -> BinCounts:
    """See `embgeom_dask.kernels.passes.bin_pairs`."""
    scalars = np.array([bins.first, bins.per_unit, bins.digits, bins.least, bins.quantum, bins.error_quantum])
    low, high = map(_parts, terms)
    *parts, numbers, lower, upper = _put(product.device, *low, *high, scalars, bins.lower, bins.upper)
    bounds = _DeviceBound(*parts[:3]), _DeviceBound(*parts[3:])
    equal = len(bins.table) == 0
    there = _DeviceBins(numbers, lower, upper, bins.root, equal, bins.settled, bins.half)
    found = run_on_device(_bin, product, bounds, there, _put(product.device, *weights), diagonal)
    counts, sums, undecided, enough = found
    left = _flat_indices(undecided)
    count, total, flat, summed = _fetch(counts, sums.reshape(-1), left, enough.reshape(-1)[left])
    return BinCounts(count, total.reshape(-1, 6), *np.divmod(flat, product.shape[1]), summed)


def _bin(
    product: Tensor,
    terms: tuple[_DeviceBound, _DeviceBound],
    bins: _DeviceBins,
    weights: tuple[Tensor, Tensor],
    diagonal: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    first, per_unit, digits, least, quantum, error_quantum = bins.numbers.unbind()
    lower, upper, half, (row_weight, column_weight) = bins.lower, bins.upper, bins.half, weights
    low, high = _evaluate(product, terms[0]), _evaluate(product, terms[1])
    value = (0.5 * (low + high)).nan_to_num(0).clamp(min=0)
    distance = value.sqrt() if bins.root else value
    if bins.equal:
        index = ((distance - first) * per_unit + 1).clamp(0, lower.numel() - 1).long()
    else:
        index = torch.searchsorted(lower, value, right=True) - 1
    enough = (value > digits * (high - low)) & (distance >= least)
    off = 0.25 * (high - low) / distance if bins.root else 0.5 * (high - low)
    if bins.settled:
        enough = enough & ((low * quantum).round() == (high * quantum).round())
        off = torch.zeros_like(off)
    undecided = ~(enough & (low >= lower[index]) & (high < upper[index]))
    weight, summed = (column_weight.expand(product.shape) * mask for mask in (~undecided, enough))
    if diagonal:
        undecided, weight, summed = undecided.triu(1), weight.triu(1), summed.triu(1)
    counts = torch.zeros_like(lower, dtype=torch.int64)
    counts = counts.index_add(0, index.reshape(-1), (row_weight[:, None] * weight).reshape(-1))
    t, e = (distance * quantum).round().long(), (off.where(enough, 0) * error_quantum).long() + 1
    t_high, t_low = t >> half, t & ((1 << half) - 1)
    parts = (t, t_high * t_high, t_high * t_low, t_low * t_low, e, e * e)
    sums = torch.stack([(summed * part).sum(1) for part in parts], 1)
    return counts, sums, undecided, enough


def count_within(
    product: Tensor,
    terms: tuple[LinearBound, LinearBound],
    weights: tuple[Array, Array],
    inside: Array,
    outside: Array,
    diagonal: bool,
) -> WithinCounts:
    """See `embgeom_dask.kernels.passes.count_within`."""
    low, high = map(_parts, terms)
    *parts, near, far = _put(product.device, *low, *high, inside, outside)
    bounds = _DeviceBound(*parts[:3]), _DeviceBound(*parts[3:])
    rows, columns, unsure = run_on_device(_count, product, bounds, near, far, _put(product.device, *weights), diagonal)
    row_count, column_count, flat = _fetch(rows.reshape(-1), columns.reshape(-1), _flat_indices(unsure))
    counts = row_count.reshape(inside.size, -1).T, column_count.reshape(inside.size, -1).T
    return WithinCounts(*counts, *np.divmod(flat, product.shape[1]))


def _count(
    product: Tensor,
    terms: tuple[_DeviceBound, _DeviceBound],
    inside: Tensor,
    outside: Tensor,
    weights: tuple[Tensor, Tensor],
    diagonal: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    row_weight, column_weight = weights
    low, high = _evaluate(product, terms[0]), _evaluate(product, terms[1])
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
    return _evaluate(product, _DeviceBound(*_put(product.device, *_parts(terms))))


def _evaluate(product: Tensor, bound: _DeviceBound) -> Tensor:
    p = product.to(bound.row.dtype)
    return bound.row[:, None] + bound.column + bound.factors[0] * p + bound.factors[1] * p.abs()


def _parts(terms: LinearBound) -> tuple[Array, Array, Array]:
    """Return the row and column terms of a bound, and its two factors (2,), in one dtype."""
    return terms.row, terms.column, np.array([terms.factor, terms.abs_factor], terms.row.dtype)


def _put(device: torch.device, *arrays: Array) -> tuple[Tensor, ...]:
    """Copy arrays (n,) of one dtype to the device, in one transfer."""
    joined = torch.from_numpy(np.concatenate(arrays)).to(device, non_blocking=device.type == "cuda")
    return torch.split(joined, [array.size for array in arrays])


def _flat_indices(mask: Tensor) -> Tensor:
    """Return the flat indices i * n + j where a mask (m, n) is true, (p,) int64, ascending."""
    return mask.reshape(-1).nonzero().reshape(-1)


def _fetch(*tensors: Tensor) -> list[Array]:
    """Copy tensors (n,) to the host in one transfer; those of the widest dtype must come first (alignment)."""
    joined = torch.cat([tensor.view(torch.uint8) for tensor in tensors]).cpu().numpy()
    ends = np.cumsum([tensor.nbytes for tensor in tensors])
    dtypes = [str(tensor.dtype).removeprefix("torch.") for tensor in tensors]
    return [part.view(dtype) for part, dtype in zip(np.split(joined, ends[:-1]), dtypes, strict=True)]


def run_on_device(work: Callable[..., Any], product: Tensor, *given: Any) -> Any:
    """Run a pass, compiled if the device is of those that `tuning` names and torch.compile succeeds."""
    if product.device.type not in tuning.COMPILED_DEVICES or work in _not_compiled:
        return work(product, *given)
    try:
        return compiled(work, backend=tuning.COMPILER)(product, *given)
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
