"""A scheduler, workers and the command as processes of their own, and what they did."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from re import fullmatch

import psutil

from embgeom_dask.storage import paths

AUDIT = Path(__file__).with_name("audit.py")
PATIENCE = 90.0  # seconds after which a test gives up waiting


def wait_for(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < deadline, "nothing happens"
        time.sleep(0.002)


def _hear_interrupts() -> None:
    """What a shell starts in the background does not, nor what that starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Processes:
    """Processes by name: `scheduler`, `worker-0`, `worker-1`, ..., `client`. Their output is kept in `folder`."""

    def __init__(self, folder: Path, workers: int = 2, **environment: str) -> None:
        self.folder, self.workers = folder, [f"worker-{i}" for i in range(workers)]
        with closing(socket.create_server(("127.0.0.1", 0))) as server:
            self.address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        self.audit = folder / "audit.log"
        self.audit.touch()
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._environment = {
            "AUDIT": str(self.audit),
            "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "30s",
            **environment,
        }

    def start(self, name: str, command: Sequence[str], **more: str) -> None:
        with Path(self.folder, f"{name}.err").open("wb") as err, Path(self.folder, f"{name}.out").open("wb") as out:
            self._running[name] = subprocess.Popen(
                command,
                stdout=out,
                stderr=err,
                env={**os.environ, **self._environment, **more},
                cwd=self.folder,
                start_new_session=True,
                preexec_fn=_hear_interrupts,
            )

    def start_cluster(self, *options: str) -> None:
        """Start what does not run of the scheduler and the workers."""
        port = self.address.rpartition(":")[2]
        module = [sys.executable, "-m"]
        if not self.runs("scheduler"):
            where = ["--host", "127.0.0.1", "--port", port, "--no-dashboard"]
            self.start("scheduler", [*module, "distributed.cli.dask_scheduler", *where])
        for name in self.workers:
            if not self.runs(name):
                how = ["--nthreads", "1", "--no-dashboard", "--host", "127.0.0.1", "--preload", str(AUDIT)]
                how += options or ["--no-nanny"]
                self.start(name, [*module, "distributed.cli.dask_worker", self.address, *how])

    def start_client(self, *arguments: str) -> None:
        code = "from embgeom_dask.cli.app import run; run()"
        self.start("client", [sys.executable, "-c", code, *arguments, "--scheduler", self.address])

    def runs(self, name: str) -> bool:
        return name in self._running and self._running[name].poll() is None

    def wait(self, name: str) -> int:
        return self._running[name].wait(PATIENCE)

    def kill(self, *names: str, number: int = signal.SIGKILL) -> None:
        for name in names:
            if self.runs(name):
                os.killpg(self._running[name].pid, number)
        for name in names:
            if name in self._running and number == signal.SIGKILL:
                self._running[name].wait(PATIENCE)

    def left(self, name: str) -> bool:
        """Whether any process runs that `name` has started, itself among them."""
        group = self._running[name].pid
        for each in psutil.process_iter():
            with suppress(psutil.NoSuchProcess, ProcessLookupError):
                if os.getpgid(each.pid) == group and each.status() != psutil.STATUS_ZOMBIE:
                    return True
        return False

    def free(self) -> None:
        """Let a panel go on that is stuck."""
        Path(f"{self.audit}.free").touch()

    def stop(self) -> None:
        self.kill(*self._running)

    def said(self, name: str) -> str:
        return Path(self.folder, f"{name}.err").read_text()

    def events(self) -> list[tuple[str, str]]:
        """What workers did, in order: (`started`, `computed` or `committed`, panel); whole lines alone count."""
        whole, _, _ = self.audit.read_text().rpartition("\n")
        return [(what, panel) for what, panel in (line.split() for line in whole.splitlines())]


def committed(out: str | Path) -> set[str]:
    """The panels in the journal of `out`."""
    fs, path = paths.filesystem(f"{out}.journal")
    names = (file.rpartition("/")[2] for file in fs.find(path))
    return {name for name in names if fullmatch(r"\d+-\d+-\d+", name)}
