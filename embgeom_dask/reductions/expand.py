"""From distinct rows back to tokens: identical rows are at distance 0 and share every other distance."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from embgeom_dask.exact import Pairs
from embgeom_dask.rows import RowSet

Array = NDArray[Any]


def expand_pairs(ordered: Pairs, rank: Array, rows: RowSet, k: int, *, zeros_first: bool) -> tuple[Array, Array]:
    """The best `k` pairs of tokens from the best k pairs of distinct rows.

    Returns token ids (pairs, 2) int64, lower id first, and squared distances (pairs,) float64, in order of rank and
    then of the ids; pairs of identical tokens come first with `zeros_first`, else last.
    """
    tokens: list[Array] = []
    squared: list[Array] = []
    count = 0
    bounds = np.flatnonzero(np.concatenate([[True], np.diff(rank) != 0, [True]])) if rank.size else np.zeros(1, int)
    for start, stop in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        if count >= k:
            break
        pairs = ordered["first"][start:stop].tolist(), ordered["second"][start:stop].tolist()
        tied = np.concatenate([_across(_group(rows, a, k), _group(rows, b, k), k) for a, b in zip(*pairs, strict=True)])
        tokens.append(tied[np.lexsort((tied[:, 1], tied[:, 0]))])
        squared.append(np.full(len(tied), ordered["high"][start]))
        count += len(tied)
    zeros = _identical(rows, k)
    at = 0 if zeros_first else len(tokens)
    tokens.insert(at, zeros)
    squared.insert(at, np.zeros(len(zeros)))
    return np.concatenate(tokens)[:k], np.concatenate(squared)[:k]


def expand_neighbors(
    source: Array, target: Array, rank: Array, squared: Array, rows: RowSet, k: int
) -> tuple[Array, Array]:
    """The `k` nearest tokens of every token, from the k nearest distinct rows of every distinct row.

    `source`, `target` (positions), `rank` and `squared` (p,) are sorted by source. Returns token ids and squared
    distances (tokens, min(k, tokens - 1)), tokens in ascending order of their id.
    """
    k = min(k, rows.members.size - 1)
    size = rows.weights[target]
    token = rows.members[np.repeat(rows.offsets[target], size) + _count_up(size)]
    source, rank, squared = np.repeat(source, size), np.repeat(rank, size), np.repeat(squared, size)
    order = np.lexsort((token, rank, source))
    source, token, squared = source[order], token[order], squared[order]
    start = np.searchsorted(source, np.arange(rows.token_id.size + 1))
    out_token = np.empty((rows.members.size, k), np.int64)
    out_squared = np.zeros((rows.members.size, k))
    place = np.argsort(np.argsort(rows.members))
    alone = rows.weights == 1
    nearest = start[:-1][alone][:, None] + np.arange(k)
    out_token[place[rows.offsets[:-1][alone]]] = token[nearest]
    out_squared[place[rows.offsets[:-1][alone]]] = squared[nearest]
    for position in np.flatnonzero(~alone).tolist():
        group = rows.members[rows.offsets[position] : rows.offsets[position + 1]]
        here = slice(start[position], start[position] + k)
        for member in range(group.size):
            same = np.delete(group[: k + 1], member)[:k] if member <= k else group[:k]
            row = place[rows.offsets[position] + member]
            out_token[row] = np.concatenate([same, token[here]])[:k]
            out_squared[row, same.size :] = squared[here][: k - same.size]
    return out_token, out_squared


def _group(rows: RowSet, position: int, most: int) -> Array:
    return rows.members[rows.offsets[position] : rows.offsets[position + 1]][:most]


def _across(a: Array, b: Array, k: int) -> Array:
    """The pairs of the r-th member of `a` and the q-th of `b` that the first k can hold: those with r q <= k."""
    i, j = np.nonzero(np.outer(np.arange(1, a.size + 1), np.arange(1, b.size + 1)) <= k)
    return np.sort(np.stack([a[i], b[j]], axis=1), axis=1)


def _identical(rows: RowSet, k: int) -> Array:
    """The first `k` pairs of identical tokens, in order of their ids."""
    found = [np.empty((0, 2), np.int64)]
    for position in np.flatnonzero(rows.weights > 1).tolist():
        group, count = _group(rows, position, k + 1), 0
        for i in range(group.size - 1):
            rest = group[i + 1 :][: k - count]
            found.append(np.stack([np.full(rest.size, group[i]), rest], axis=1))
            count += rest.size
            if count >= k:
                break
    pairs = np.concatenate(found)
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))][:k]


def _count_up(sizes: Array) -> Array:
    """0, 1, ... restarting for each size."""
    ends = np.cumsum(sizes)
    starts: Array = np.repeat(ends - sizes, sizes)
    return np.arange(starts.size) - starts
