"""From distinct rows back to tokens: identical rows are at distance 0 and share every other distance."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embgeom_dask.pairwise.exact import Pairs
from embgeom_dask.pairwise.rows import DistinctRows, Sides

Array = NDArray[Any]


def expand_pairs(
    ordered: Pairs, rank: Array, sides: Sides, k: int, identical: bool, *, farthest: bool
) -> tuple[Array, Array]:
    """The best `k` pairs of tokens from the best k pairs of distinct rows, and pairs of `identical` rows or not.

    `ordered` are pairs with their keys and, as `distance`, what is reported of them. Returns token ids (pairs, 2) int64
    and distances (pairs,) float64, in order of rank and then of the ids; within one matrix the lower id comes first,
    and identical tokens are pairs at distance 0.
    """
    first, second = sides.first, sides.second
    zeros = _identical(first, k) if identical and sides.symmetric else np.empty((0, 2), np.int64)
    classes: list[tuple[float, Array]] = []
    equal = (ordered["high"] == 0) & ordered["exact"]  # a distance other than 0 may be reported as 0
    bounds = np.flatnonzero(np.concatenate([[True], np.diff(rank) != 0, [True]])) if rank.size else np.zeros(1, int)
    for start, stop in pairwise(bounds.tolist()):
        if sum(len(tied) for _, tied in classes) >= k:
            break
        pairs = zip(ordered["first"][start:stop].tolist(), ordered["second"][start:stop].tolist(), strict=True)
        tied = np.concatenate([_across(_group(first, a, k), _group(second, b, k), k) for a, b in pairs])
        tied = np.sort(tied, axis=1) if sides.symmetric else tied
        if equal[start]:
            tied, zeros = np.concatenate([tied, zeros]), zeros[:0]
        classes.append((float(ordered["distance"][start]), tied))
    classes.insert(len(classes) if farthest else 0, (0.0, zeros))
    tokens = np.concatenate([tied[lexical_order(*tied.T)] for _, tied in classes])
    return tokens[:k], np.concatenate([np.full(len(tied), value) for value, tied in classes])[:k]


def expand_neighbors(
    source: Array,
    target: Array,
    rank: Array,
    distance: Array,
    equal: Array,
    sides: Sides,
    k: int,
    duplicate_of: Array | None,
) -> tuple[Array, Array]:
    """The `k` nearest tokens of every token of the first side, from the k nearest distinct rows of every distinct row.

    `source` and `target` (p,) are positions, `rank` and `distance` (p,) those of the pairs, and `equal` (p,) bool says
    where the distance is 0 before it is rounded. Returns token ids and distances (tokens, k), tokens in ascending order
    of their id; k is at most the number of other tokens. Where `duplicate_of` is given, tokens with the same row are
    left out, and a token that has fewer than k others is given -1 and NaN for the rest.
    """
    first, second = sides.first, sides.second
    alike = (
        np.array(sides.symmetric)
        if duplicate_of is None
        else np.where(duplicate_of >= 0, second.weights[duplicate_of], 0)
    )
    others = np.broadcast_to(second.members.size - alike, first.token_id.shape)
    k = min(k, int(others.max()))
    size = second.weights[target]
    token = second.members[np.repeat(second.offsets[target], size) + _count_up(size)]
    source, rank, distance, equal = (np.repeat(column, size) for column in (source, rank, distance, equal))
    order = lexical_order(source, rank, token)
    source, token, distance, equal = source[order], token[order], distance[order], equal[order]
    start = np.searchsorted(source, np.arange(first.token_id.size + 1))
    position = np.repeat(np.arange(first.token_id.size), first.weights)
    place = np.argsort(np.argsort(first.members))
    out_token, out_distance = np.empty((place.size, k), np.int64), np.zeros((place.size, k))
    grouped = (first.weights > 1)[position] & (sides.symmetric and duplicate_of is None)
    plain = position[~grouped]
    there = np.arange(k) < others[plain][:, None]
    index = np.where(there, start[plain][:, None] + np.arange(k), 0)
    out_token[place[~grouped]] = np.where(there, token[index], -1)
    out_distance[place[~grouped]] = np.where(there, distance[index], np.nan)
    for member in np.flatnonzero(grouped).tolist():
        here = slice(start[position[member]], start[position[member] + 1])
        group = _group(first, position[member], k + 1)
        same = np.concatenate([group[group != first.members[member]], token[here][equal[here]]])
        same.sort()
        rest = ~equal[here]
        out_token[place[member]] = np.concatenate([same, token[here][rest]])[:k]
        out_distance[place[member], same.size :] = distance[here][rest][: max(0, k - same.size)]
    return out_token, out_distance


def lexical_order(*columns: Array) -> Array:
    """The order (p,) of rows of several columns of non-negative integers, the first of which counts most.

    Rows that are alike come in any order. One sort, several times as fast as `np.lexsort`, where the columns together
    fit 63 bits.
    """
    bits = [int(column.max(initial=0)).bit_length() for column in columns]
    if sum(bits) > 63:
        return np.lexsort(columns[::-1])
    key = np.zeros(columns[0].shape, np.int64)
    for column, width in zip(columns, bits, strict=True):
        key = key << width | column
    return np.argsort(key)


def expand_all(first: Array, second: Array, distance: Array, sides: Sides) -> tuple[Array, Array]:
    """All pairs of tokens of the pairs (p,) of distinct rows, and within one matrix all pairs of identical tokens.

    Returns token ids (pairs, 2) int64 and distances (pairs,) float64, ordered by the ids; within one matrix the lower
    id comes first.
    """
    rows, others = sides.first, sides.second
    height, width = rows.weights[first], others.weights[second]
    pair = np.repeat(np.arange(first.size), height * width)
    across, down = _count_up(height * width) % width[pair], _count_up(height * width) // width[pair]
    tokens = np.stack(
        [rows.members[rows.offsets[first[pair]] + down], others.members[others.offsets[second[pair]] + across]], axis=1
    )
    distance = distance[pair]
    if sides.symmetric:
        same = _identical(rows, int((rows.weights * (rows.weights - 1) // 2).sum()))
        tokens, distance = np.concatenate([np.sort(tokens, axis=1), same]), np.append(distance, np.zeros(len(same)))
    order = lexical_order(*tokens.T)
    return tokens[order], distance[order]


def _group(rows: DistinctRows, position: int, most: int) -> Array:
    return rows.members[rows.offsets[position] : rows.offsets[position + 1]][:most]


def _across(a: Array, b: Array, k: int) -> Array:
    """The pairs of the r-th member of `a` and the q-th of `b` that the first k can hold: those with r q <= k."""
    i, j = np.nonzero(np.outer(np.arange(1, a.size + 1), np.arange(1, b.size + 1)) <= k)
    return np.stack([a[i], b[j]], axis=1)


def _identical(rows: DistinctRows, k: int) -> Array:
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
    return pairs[lexical_order(*pairs.T)][:k]


def _count_up(sizes: Array) -> Array:
    """0, 1, ... restarting for each size."""
    ends = np.cumsum(sizes)
    starts: Array = np.repeat(ends - sizes, sizes)
    return np.arange(starts.size) - starts
