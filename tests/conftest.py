from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import nullcontext

os.environ["HF_HUB_OFFLINE"] = "1"  # read when the hub's library is imported: no test asks the real hub

# What dask measures of itself fifty times a second was a twentieth of all tests: 2% of each process, idle or not. Read
# when it is imported, in any process.
os.environ.update(
    DASK_DISTRIBUTED__ADMIN__TICK__INTERVAL="1s",
    DASK_DISTRIBUTED__ADMIN__SYSTEM_MONITOR__INTERVAL="5s",
    DASK_DISTRIBUTED__ADMIN__SYSTEM_MONITOR__DISK="False",
    DASK_DISTRIBUTED__WORKER__MEMORY__MONITOR_INTERVAL="1s",
    DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED="False",
)

from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from tests.clusters import workers_of_one_thread

# A busy machine is no fault: neither of what is tested nor of what makes the examples.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=40)
settings.load_profile("tests")

if TYPE_CHECKING:
    from distributed import Client


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run the tests marked slow")
    parser.addoption("--kills", type=int, default=0, help="also run the tests marked cluster, with so many kills")
    parser.addoption("--seed", type=int, default=0, help="of the moments of the kills")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    try:
        import torch

        cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    except ImportError:  # tests of storage need none
        cuda = mps = False
    missing = {
        "cuda": "" if cuda else "no CUDA device on this machine",
        "mps": "" if mps else "no Apple mps device on this machine",
        "cluster": "" if config.getoption("--kills") else "runs with --kills 25",
        "slow": "" if config.getoption("--slow") else "runs with --slow",
    }
    for item in items:
        for marker, reason in missing.items():
            if reason and item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="module", autouse=True)
def _seldom_collected() -> None:
    """Python looks for garbage less often, and not at what is imported by now: 7% of the time without this."""
    gc.set_threshold(10_000, 20, 20)
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _unsynced() -> Iterator[None]:
    """No file of a test needs to outlive a power cut: nothing waits for the disk, but where a test looks at that."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """A client of one worker of one thread in this process; modules that need another have their own."""
    with workers_of_one_thread(1) as client:
        yield client


@pytest.fixture(scope="module")
def one_local_cluster() -> Iterator[None]:
    """What a module asks without a client is asked of one local cluster, not of a new one for each call."""
    from embgeom_dask.execution import cluster

    with cluster._local_cluster() as kept, pytest.MonkeyPatch.context() as patch:
        patch.setattr(cluster, "_local_cluster", lambda: nullcontext(kept))
        yield


@pytest.fixture(scope="session")
def workers() -> Iterator[Client]:
    """A client of two worker processes of one thread each, the same for all tests that only ask them."""
    with workers_of_one_thread(2, processes=True) as client:
        yield client
