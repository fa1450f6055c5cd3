from __future__ import annotations

from collections.abc import Iterator

import matplotlib
import pytest
from matplotlib import pyplot


@pytest.fixture(scope="module", autouse=True)
def _one_local_cluster(one_local_cluster: None) -> None: ...


@pytest.fixture
def figures_closed() -> Iterator[None]:
    """Draw on no display, and close every figure in the end."""
    backend = matplotlib.get_backend()
    pyplot.switch_backend("agg")
    yield
    pyplot.close("all")
    pyplot.switch_backend(backend)
