from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

NAMESPACES = ["unshare", "--map-root-user", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]


@pytest.mark.slow
def test_hosts_that_share_only_the_network_scan_a_bucket(tmp_path: Path) -> None:
    """Network, names and processes are gone with the process that holds their namespaces, however it ends."""
    if missing := [command for command in ("ip", "mount", "unshare") if not shutil.which(command)]:
        pytest.skip(f"no {', '.join(missing)} on this machine")
    tried = subprocess.run([*NAMESPACES, "ip", "link", "add", "x", "type", "bridge"], capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(f"no network namespaces on this machine: {tried.stderr.strip()}")
    hosts = [*NAMESPACES, sys.executable, "-m", "tests.cluster.hosts", str(tmp_path)]
    done = subprocess.run(hosts, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "the same\n"), done.stderr
