from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from embgeom_dask.testing import make_store
from tests.cluster.processes import Processes

ROWS = 2100


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    started = Processes(tmp_path)
    yield started
    started.stop()


def cloud() -> np.ndarray:
    return np.random.default_rng(1).integers(-3, 4, (ROWS, 8)).astype(np.float32)


@pytest.fixture
def store(tmp_path: Path) -> str:
    return make_store(tmp_path / "m.zarr", cloud())
