from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from embgeom_dask.pairwise.exact import Pairs
from embgeom_dask.pairwise.rows import DistinctRows, Sides
from embgeom_dask.reductions.expand import expand_all, expand_neighbors, expand_pairs, lexical_order


def rows_of(*groups: list[int]) -> DistinctRows:
    """Distinct rows, each with the tokens that share it."""
    offsets = np.cumsum([0, *map(len, groups)])
    return DistinctRows(
        np.array([group[0] for group in groups]), np.concatenate(groups), offsets, np.zeros(0, np.int64)
    )


def random_case(seed: int) -> tuple[Sides, np.ndarray, list[tuple[int, int, float]]]:
    """Sides, the distance of any two rows, and all pairs of tokens with their distances, some of them tied or 0."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(2):
        row_of = rng.integers(0, rng.integers(1, 6), rng.integers(1, 12))
        groups = [np.flatnonzero(row_of == row).tolist() for row in dict.fromkeys(row_of.tolist())]
        rows.append(rows_of(*groups))
    symmetric = bool(seed % 2)
    sides = Sides(rows[0], rows[0] if symmetric else rows[1], symmetric)
    shape = sides.first.token_id.size, sides.second.token_id.size
    distance = rng.integers(1 if symmetric else 0, 4, shape).astype(float)
    if symmetric:
        distance = np.triu(distance, 1) + np.triu(distance, 1).T
    row_of = [
        dict(zip(side.members.tolist(), np.repeat(np.arange(side.token_id.size), side.weights).tolist(), strict=True))
        for side in (sides.first, sides.second)
    ]
    pairs = [
        (a, b, float(distance[row_of[0][a], row_of[1][b]]))
        for a, b in product(sorted(row_of[0]), sorted(row_of[1]))
        if not symmetric or a < b
    ]
    return sides, distance, pairs


def pairs_of_rows(sides: Sides, distance: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    first, second = np.triu_indices(len(distance), 1) if sides.symmetric else np.indices(distance.shape).reshape(2, -1)
    return first, second, distance[first, second]


@pytest.mark.parametrize("seed", range(60))
def test_all_pairs_of_rows_become_all_pairs_of_tokens(seed: int) -> None:
    sides, distance, pairs = random_case(seed)
    token_id, found = expand_all(*pairs_of_rows(sides, distance), sides, identical=True)
    assert [(a, b, value) for (a, b), value in zip(token_id.tolist(), found.tolist(), strict=True)] == pairs


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.parametrize("farthest", [False, True])
def test_the_best_pairs_of_rows_become_the_best_pairs_of_tokens(seed: int, farthest: bool) -> None:
    sides, distance, pairs = random_case(seed)
    first, second, value = pairs_of_rows(sides, distance)
    sign, k = -1 if farthest else 1, seed % 7 + 1
    order = np.lexsort((second, first, sign * value))[:k]
    first, second, value = first[order], second[order], value[order]
    _, rank = np.unique(sign * value, return_inverse=True)
    ordered = Pairs(first, second, value, np.zeros(value.size), np.ones(value.size, bool))
    token_id, found = expand_pairs(ordered, value, rank, sides, k, True, farthest=farthest)
    best = sorted(pairs, key=lambda pair: (sign * pair[2], *pair[:2]))[:k]
    assert [(a, b, value) for (a, b), value in zip(token_id.tolist(), found.tolist(), strict=True)] == best


@pytest.mark.parametrize("seed", range(60))
def test_the_nearest_rows_become_the_nearest_tokens(seed: int) -> None:
    sides, distance, pairs = random_case(seed)
    k, apart = seed % 7 + 1, ~np.eye(len(distance), dtype=bool) if sides.symmetric else np.ones(distance.shape, bool)
    source, target = np.nonzero(apart)
    order = np.lexsort((target, distance[source, target], source))
    place = np.arange(order.size) - np.searchsorted(source[order], source[order])
    source, target = source[order][place < k], target[order][place < k]
    value = distance[source, target]
    most = max(1, sides.second.members.size - sides.symmetric)
    token_id, found = expand_neighbors(source, target, value.astype(int), value, value == 0, sides, k, None)
    assert token_id.shape[1] <= most
    directed = pairs + [(b, a, value) for a, b, value in pairs] if sides.symmetric else pairs
    for token, ids, distances in zip(sides.first.tokens.tolist(), token_id.tolist(), found.tolist(), strict=True):
        near = sorted((value, other) for one, other, value in directed if one == token)[:k]
        assert [(value, other) for value, other in zip(distances, ids, strict=True)] == near


def test_columns_too_wide_for_one_integer_are_ordered_alike() -> None:
    rng = np.random.default_rng(0)
    narrow = [rng.integers(0, 4, 50) for _ in range(3)]
    wide = [column << 40 for column in narrow]
    for columns in (narrow, wide):
        ordered = np.stack(columns, axis=1)[lexical_order(*columns)].tolist()
        assert ordered == sorted(np.stack(columns, axis=1).tolist())
