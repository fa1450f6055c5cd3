from __future__ import annotations

from dataclasses import dataclass
from itertools import chain

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from embgeom_dask.pairwise.exact import Pairs
from embgeom_dask.pairwise.tables import NamedArrays, Table


@dataclass(frozen=True, eq=False)
class Marked(Table):
    place: NDArray[np.int64]
    mark: NDArray[np.bool_]


def marked(places: list[int]) -> Marked:
    return Marked(np.array(places, np.int64), np.array(places, np.int64) % 3 == 0)


@given(parts=st.lists(st.lists(st.integers(-9, 9)), min_size=1), seed=st.integers(0, 99))
def test_tables_are_appended_and_taken_like_lists(parts: list[list[int]], seed: int) -> None:
    table, whole = Marked.concat([marked(part) for part in parts]), [*chain.from_iterable(parts)]
    assert table.size == len(whole)
    index = np.random.default_rng(seed).permutation(len(whole))[: len(whole) // 2]
    for taken, expected in (
        (table, whole),
        (table.take(index), [whole[place] for place in index]),
        (table.take(table.mark), [place for place in whole if place % 3 == 0]),
        (table.take(slice(1, 3)), whole[1:3]),
        (Marked.concat([Marked.empty(), table]), whole),
    ):
        assert taken.place.tolist() == expected
        assert taken.mark.tolist() == [place % 3 == 0 for place in expected]
        assert {name: array.dtype for name, array in taken.arrays().items()} == Marked.dtypes()
        assert taken.nbytes == 9 * len(expected)


def test_each_class_has_its_own_schema() -> None:
    @dataclass(frozen=True, eq=False)
    class Other(NamedArrays):
        first: NDArray[np.float32]

    assert [str(dtype) for dtype in Pairs.dtypes().values()] == ["int64", "int64", "float64", "float64", "bool"]
    assert Other.dtypes() == {"first": np.dtype(np.float32)}
    assert list(Marked.dtypes()) == ["place", "mark"]
