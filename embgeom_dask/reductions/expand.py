"""From distinct rows back to tokens: identical rows are at distance 0 and share every other distance.

The tokens of each distinct row are kept like a sparse matrix (CSR). Where tokens 0 and 3 have row 0, token 1 has row 1,
and tokens 2 and 4 have row 2:

    members = [0, 3, 1, 2, 4]     the tokens, row after row
    offsets = [0, 2, 3, 5]        those of row r are members[offsets[r]:offsets[r + 1]]
    weights = [2, 1, 2]           how many they are
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embgeom_dask.pairwise.exact import Pairs
from embgeom_dask.pairwise.rows import DistinctRows, Sides

Array = NDArray[Any]


def expand_pairs(
    ordered: Pairs, distance: Array, rank: Array, sides: Sides, k: int, identical: bool, *, farthest: bool
) -> tuple[Array, Array]:
    """The best `k` pairs of tokens, from the best k pairs of distinct rows.

    Parameters
    ----------
    ordered : pairs (p,) with their keys, best first
    distance : (p,) float64, as it is reported
    rank : (p,) int64, ascending; equal distances share one
    identical : whether tokens of one row are pairs too, at distance 0
    farthest : whether the best pairs are the farthest

    Returns
    -------
    token ids (pairs, 2) int64 and distances (pairs,) float64, in order of rank and then of the ids; within one matrix
    the lower id comes first
    """
    zeros = _identical_pairs(sides.first, k) if identical and sides.symmetric else np.empty((0, 2), np.int64)
    is_zero = (ordered.high == 0) & ordered.exact  # a distance other than 0 may be reported as 0
    ties: list[tuple[float, Array]] = []  # each distance with its pairs of tokens
    starts, count = np.flatnonzero(np.diff(rank, prepend=-1)).tolist(), 0
    for start, stop in pairwise([*starts, rank.size]):
        if count >= k:
            break
        tied = _tied_pairs(ordered.first[start:stop], ordered.second[start:stop], sides, k)
        if is_zero[start]:
            tied, zeros = np.concatenate([tied, zeros]), zeros[:0]
        ties.append((float(distance[start]), tied))
        count += len(tied)
    ties.insert(len(ties) if farthest else 0, (0.0, zeros))
    token_id = np.concatenate([tied[lexical_order(*tied.T)] for _, tied in ties])
    of_pairs = np.concatenate([np.full(len(tied), value) for value, tied in ties])
    return token_id[:k], of_pairs[:k]


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

    Parameters
    ----------
    source, target : (p,) int64, positions: `target` is among the nearest rows of `source`
    rank : (p,) int64, of the distance; equal distances share one
    distance : (p,) float64, as it is reported
    equal : (p,) bool, where the distance is 0 before it is rounded
    k : at most the number of other tokens
    duplicate_of : (rows,) int64, the position on the second side of the row identical to each, -1 where none is: tokens
        of one row are no neighbors. None: they are.

    Returns
    -------
    token ids int64 and distances float64, (tokens, k), tokens in ascending order of their id; where a token has fewer
    than k neighbors, -1 and NaN for the rest
    """
    first, second = sides.first, sides.second
    most = _most_neighbors(sides, duplicate_of)
    k = min(k, int(most.max()))
    token, pair = _tokens_of(second, target)
    order = lexical_order(source[pair], rank[pair], token)
    token, pair = token[order], pair[order]
    start = np.searchsorted(source[pair], np.arange(first.token_id.size + 1))  # row r's are token[start[r]:start[r+1]]

    row = np.repeat(np.arange(first.token_id.size), first.weights)  # of each of first.members
    line = np.searchsorted(first.tokens, first.members)  # of the result
    out_token, out_distance = np.empty((line.size, k), np.int64), np.zeros((line.size, k))
    shared = (first.weights > 1)[row] & (sides.symmetric and duplicate_of is None)
    alone = row[~shared]
    filled = np.arange(k) < most[alone][:, None]
    index = np.where(filled, start[alone][:, None] + np.arange(k), 0)
    out_token[line[~shared]] = np.where(filled, token[index], -1)
    out_distance[line[~shared]] = np.where(filled, distance[pair[index]], np.nan)
    for member in np.flatnonzero(shared).tolist():  # tokens of its own row are at distance 0, as others may be
        here = slice(start[row[member]], start[row[member] + 1])
        near, is_zero, own = token[here], equal[pair[here]], _group(first, row[member], k + 1)
        zeros = np.sort(np.concatenate([own[own != first.members[member]], near[is_zero]]))
        out_token[line[member]] = np.concatenate([zeros, near[~is_zero]])[:k]
        out_distance[line[member], zeros.size :] = distance[pair[here]][~is_zero][: max(0, k - zeros.size)]
    return out_token, out_distance


def expand_all(first: Array, second: Array, distance: Array, sides: Sides, *, identical: bool) -> tuple[Array, Array]:
    """All pairs of tokens of the pairs (p,) of distinct rows. If `identical`, also pairs of tokens that share one row.

    Returns token ids (pairs, 2) int64 and distances (pairs,) float64, ordered by the ids; within one matrix the lower
    id comes first.
    """
    mine, pair = _tokens_of(sides.first, first)
    other, index = _tokens_of(sides.second, second[pair])
    token_id, distance = np.stack([mine[index], other], axis=1), distance[pair[index]]
    if sides.symmetric:
        token_id = np.sort(token_id, axis=1)
    if sides.symmetric and identical:
        weights = sides.first.weights
        zeros = _identical_pairs(sides.first, int((weights * (weights - 1) // 2).sum()))
        token_id = np.concatenate([token_id, zeros])
        distance = np.append(distance, np.zeros(len(zeros)))
    order = lexical_order(*token_id.T)
    return token_id[order], distance[order]


def lexical_order(*columns: Array) -> Array:
    """The order (p,) of rows of several columns of non-negative integers, the first of which counts most.

    Rows that are alike come in any order.
    """
    widths = [int(column.max(initial=0)).bit_length() for column in columns]
    if sum(widths) > 63:
        return np.lexsort(columns[::-1])
    key = np.zeros(columns[0].shape, np.int64)  # the columns side by side in one integer: sorted several times as fast
    for column, width in zip(columns, widths, strict=True):
        key = key << width | column
    return np.argsort(key)


def token_lines(rows: DistinctRows) -> Array:
    """The row of each token, tokens in ascending order of their id: (tokens,) int64."""
    return np.repeat(np.arange(rows.token_id.size), rows.weights)[np.argsort(rows.members)]


def _tokens_of(rows: DistinctRows, positions: Array) -> tuple[Array, Array]:
    """The tokens of the rows at `positions` (p,), row after row, and for each the index of its row in `positions`.

    In the example above those of [2, 1, 2] are [2, 4, 1, 2, 4], with the indices [0, 0, 1, 2, 2].
    """
    sizes = rows.weights[positions]
    index = np.repeat(np.arange(positions.size), sizes)
    ends = np.cumsum(sizes)
    nth = np.arange(index.size) - (ends - sizes)[index]  # 0, 1, ... among the tokens of one row
    return rows.members[rows.offsets[positions[index]] + nth], index


def _group(rows: DistinctRows, position: int, most: int) -> Array:
    """The first `most` tokens of one row."""
    return rows.members[rows.offsets[position] : rows.offsets[position + 1]][:most]


def _most_neighbors(sides: Sides, duplicate_of: Array | None) -> Array:
    """How many neighbors the tokens of each row can have: (rows,) int64."""
    weights = sides.second.weights
    if duplicate_of is None:
        not_counted = np.array(int(sides.symmetric))  # a token itself
    else:
        not_counted = np.where(duplicate_of >= 0, weights[duplicate_of], 0)
    return np.broadcast_to(sides.second.members.size - not_counted, sides.first.token_id.shape)


def _tied_pairs(first: Array, second: Array, sides: Sides, k: int) -> Array:
    """The pairs of tokens of pairs of rows (p,) at one distance, but those that k others of one pair come before."""
    found = []
    for a, b in zip(first.tolist(), second.tolist(), strict=True):
        mine, other = _group(sides.first, a, k), _group(sides.second, b, k)
        # the r-th token of one row and the q-th of the other: r q - 1 pairs of lower ids come before them
        i, j = np.nonzero(np.outer(np.arange(1, mine.size + 1), np.arange(1, other.size + 1)) <= k)
        found.append(np.stack([mine[i], other[j]], axis=1))
    tied = np.concatenate(found)
    return np.sort(tied, axis=1) if sides.symmetric else tied


def _identical_pairs(rows: DistinctRows, k: int) -> Array:
    """The first `k` pairs of tokens of one row, in order of their ids."""
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
