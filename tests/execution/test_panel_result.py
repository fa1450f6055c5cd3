"""The bytes of a panel: what is written is read again, bit for bit, and nothing else is read."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from embgeom_dask.execution.panel_result import PanelResult, PanelStats
from embgeom_dask.pairwise.tables import NamedArrays
from embgeom_dask.reductions import Extreme, Histogram, Neighbors, OrderStatistics, PairsWithin, Within

REDUCTIONS: list[Any] = [Extreme, Histogram, Neighbors, OrderStatistics, PairsWithin, Within]
STATE_TYPES: dict[str, type[NamedArrays]] = {each.__name__.lower(): each.state_type for each in REDUCTIONS}

bits = st.integers(0, 2**64 - 1)


@st.composite
def states(draw: Any) -> dict[str, NamedArrays]:
    """Arrays of any bits and of 0 to 2 dimensions, of each type that there is."""
    found = {}
    for name, kind in STATE_TYPES.items():
        arrays = {}
        for field, dtype in kind.dtypes().items():
            shape = tuple(draw(st.lists(st.integers(0, 4), max_size=2)))
            words = np.array(draw(st.lists(bits, min_size=16, max_size=16)), np.uint64)[: int(np.prod(shape))]
            arrays[field] = (words.view(dtype) if dtype.itemsize == 8 else words % 2 == 0).reshape(shape)
        found[name] = kind(**arrays)
    return found


def panel(states: dict[str, NamedArrays]) -> PanelResult:
    work = PanelStats(0.5, 1.5, "tcp://a:1", 7, 8)
    return PanelResult(states, {"cpu"}, Counter(float64=3, rational=1), {"cpu int8"}, work)


@given(written=states())
def test_states_are_read_as_they_were_written(written: dict[str, NamedArrays]) -> None:
    given_panel = panel(written)
    read = PanelResult.from_bytes(given_panel.to_bytes(), STATE_TYPES)
    assert read is not None
    assert replace(read, states=written) == given_panel
    assert list(read.states) == list(written)
    for name, state in written.items():
        assert type(read.states[name]) is STATE_TYPES[name]
        for field, array in state.arrays().items():
            other = read.states[name].arrays()[field]
            assert (other.dtype, other.shape, other.tobytes()) == (array.dtype, array.shape, array.tobytes())


@dataclass(frozen=True, eq=False)
class Sums(NamedArrays):
    count: NDArray[np.int64]
    total: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Fewer(NamedArrays):
    count: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class More(Sums):
    square: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Renamed(NamedArrays):
    count: NDArray[np.int64]
    sum: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Retyped(NamedArrays):
    count: NDArray[np.int64]
    total: NDArray[np.float64]


@pytest.mark.parametrize(
    "state_types",
    [
        {"sums": Fewer},
        {"sums": More},
        {"sums": Renamed},
        {"sums": Retyped},
        {"other": Sums},
        {"sums": Sums, "more": Fewer},
        {},
    ],
)
def test_states_of_another_schema_are_not_read(state_types: dict[str, type[NamedArrays]]) -> None:
    stored = panel({"sums": Sums(np.arange(2), np.arange(3))}).to_bytes()
    assert PanelResult.from_bytes(stored, {"sums": Sums}) is not None
    assert PanelResult.from_bytes(stored, state_types) is None


@given(place=st.integers(0), change=st.integers(1, 255))
def test_damaged_bytes_are_not_read(place: int, change: int) -> None:
    stored = bytearray(panel({"sums": Sums(np.arange(2), np.arange(3))}).to_bytes())
    stored[place % len(stored)] ^= change
    assert PanelResult.from_bytes(bytes(stored), {"sums": Sums}) is None
    assert PanelResult.from_bytes(bytes(stored[: place % len(stored)]), {"sums": Sums}) is None
