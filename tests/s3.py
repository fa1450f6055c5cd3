"""A real S3 server on this machine, and dask processes that share no folder with each other."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import embgeom_dask

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "AKIATESTINGTESTING00",
    "AWS_SECRET_ACCESS_KEY": "verysecretverysecretverysecretverysecret",
    "AWS_DEFAULT_REGION": "us-east-1",
}


@contextmanager
def process(
    command: Sequence[str], folder: Path, announces: str, within: Sequence[str] = (), **more: str
) -> Iterator[str]:
    """Run a program in `folder` until left; yield what the group of `announces` matched in what it prints."""
    folder.mkdir(parents=True, exist_ok=True)
    more["DASK_DISTRIBUTED__LOGGING__DISTRIBUTED"] = "info"  # the command, once run in this process, silences it
    env = {**os.environ, **more, "PYTHONPATH": str(Path(embgeom_dask.__file__).parents[1]), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        [*within, *command], cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as running:
        printed = []
        try:
            assert running.stdout
            for line in running.stdout:
                printed.append(line)
                if found := re.search(announces, line):
                    threading.Thread(target=running.stdout.read, daemon=True).start()  # no full pipe blocks it
                    yield found[1]
                    return
            raise AssertionError("".join(printed))
        finally:
            running.terminate()


@contextmanager
def server(folder: Path, address: str = "127.0.0.1") -> Iterator[str]:
    """Run moto's S3 server; yield its address."""
    command = [sys.executable, "-m", "moto.server", "-H", address, "-p", "0"]
    with process(command, folder, r"Running on (http://\S+)") as endpoint:
        yield re.sub(r"\x1b.*", "", endpoint)


@contextmanager
def scheduler(folder: Path, host: str = "127.0.0.1", within: Sequence[str] = ()) -> Iterator[str]:
    """Run a dask scheduler; yield its address."""
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", host, "--port", "0", "--no-dashboard"]
    with process(command, folder, r"Scheduler at:\s+(tcp://\S+)", within) as address:
        yield address


@contextmanager
def worker(
    folder: Path, scheduler: str, endpoint: str, host: str = "127.0.0.1", within: Sequence[str] = ()
) -> Iterator[str]:
    """Run a dask worker of one thread; yield its address."""
    command = [sys.executable, "-m", "distributed.cli.dask_worker", scheduler, "--host", host, "--nthreads", "1"]
    command += ["--no-dashboard", "--no-nanny", "--local-directory", str(folder / "scratch")]
    env = {**CREDENTIALS, "AWS_ENDPOINT_URL": endpoint, "OMP_NUM_THREADS": "1"}
    with process(command, folder, r"Registered to:\s+(tcp://\S+)", within, **env) as address:
        yield address
