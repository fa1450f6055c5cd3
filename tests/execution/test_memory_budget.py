from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from time import sleep

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embgeom_dask.execution.memory_budget import MemoryBudget


@settings(max_examples=20)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=12))
def test_never_more_is_taken_than_there_is_but_by_one_alone(needs: list[int]) -> None:
    shared, now, seen = MemoryBudget(10), list[int](), list[list[int]]()

    def work(need: int) -> None:
        with shared.taking(need):
            now.append(need)
            seen.append([*now])
            sleep(0.001)
            now.remove(need)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, needs))
    assert len(seen) == len(needs)
    assert all(sum(each) <= 10 or len(each) == 1 for each in seen)


def test_what_fails_gives_its_part_back() -> None:
    shared = MemoryBudget(1)
    with pytest.raises(ZeroDivisionError), shared.taking(1):
        raise ZeroDivisionError
    with shared.taking(1):
        pass
