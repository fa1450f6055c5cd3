from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from distributed import Client

import embgeom_dask as eg
from embgeom_dask.kernels.parallel import share_out
from embgeom_dask.testing import make_store


@pytest.fixture
def threads() -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(8)
    yield 8
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
def test_parts_that_share_out_their_own_work_end() -> None:
    def inner(start: int, stop: int) -> int:
        return sum(range(start, stop))

    def outer(start: int, stop: int) -> int:
        torch.set_num_threads(8)
        return sum(share_out(inner, stop)) - sum(share_out(inner, start))

    assert sum(share_out(outer, 64 * 8)) == sum(range(64 * 8))


def test_cosine_ends_on_a_worker_of_one_thread(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(600, 64)).astype(np.float32)
    store = make_store(tmp_path / "m.zarr", output=rows)
    with Client(processes=False, n_workers=1, threads_per_worker=1, dashboard_address=":0") as client:
        found = eg.scan(store, metric="cosine", nearest=300, client=client)
    unit = rows.astype(float) / np.linalg.norm(rows.astype(float), axis=1, keepdims=True)
    i, j = np.triu_indices(600, 1)
    expected = np.sort(1 - (unit[i] * unit[j]).sum(1))[:300]
    np.testing.assert_allclose(found["nearest_distance"], expected, rtol=1e-9)
