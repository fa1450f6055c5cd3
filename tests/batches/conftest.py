from __future__ import annotations

import pytest


@pytest.fixture(scope="module", autouse=True)
def _one_local_cluster(one_local_cluster: None) -> None: ...
