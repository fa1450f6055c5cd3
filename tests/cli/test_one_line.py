"""A command that fails says so in one line, however the local cluster closes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from embgeom_dask import devices
from embgeom_dask.testing import make_store

SLOW_TO_CLOSE = """
import atexit, logging, sys, warnings
import distributed
from embgeom_dask.cli import app

def too_long(close):
    def closed(self, *given, **more):
        close(self, *given, **more)
        raise TimeoutError
    return closed

distributed.Client.close = too_long(distributed.Client.close)
distributed.LocalCluster.close = too_long(distributed.LocalCluster.close)
atexit.register(lambda: logging.getLogger("asyncio").error("exception was never retrieved: TimeoutError"))
atexit.register(lambda: warnings.warn("coroutine was never awaited", RuntimeWarning))
sys.argv = ["embgeom", *sys.argv[1:]]
app.run()
"""


@pytest.mark.parametrize("fails", [True, False])
def test_a_cluster_that_takes_long_to_close_says_nothing(fails: bool, tmp_path: Path) -> None:
    missing = next(kind for kind in ("mps", "cuda") if kind not in map(str, devices.available()))
    store = make_store(tmp_path / "m.zarr", output=np.eye(4, 3, dtype=np.float32))
    command = ["scan", store, "--nearest", "1", *(["--device", missing] if fails else [])]
    done = subprocess.run([sys.executable, "-c", SLOW_TO_CLOSE, *command], capture_output=True, text=True, check=False)
    assert done.returncode == (2 if fails else 0), done.stderr
    cluster, *said = done.stderr.splitlines()
    assert cluster.startswith("dask cluster: local")
    if fails:
        (error,) = said
        assert error.startswith(f"error: no device '{missing}' here: choose auto or one of")
    assert "TimeoutError" not in done.stderr
    assert "Warning" not in done.stderr
