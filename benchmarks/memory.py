"""Peak memory of scans of a store three times larger than the limit, each in a process of its own: a markdown table.

    python -m benchmarks.memory --data DIR

makes data m of `docs/benchmarks.md` in DIR where it is not there yet (6 GB as bfloat16), row block by row block. The
peak is the largest resident set of the process (`VmHWM`, Linux), or the largest sum over it and its children seen every
20 ms, whichever is more: numpy, torch and the compiled passes count, the page cache does not.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path
from time import perf_counter, sleep

import psutil

from benchmarks.data import prepare

LIMIT = "2GiB"
JOBS = {
    "chebyshev farthest 1, all rows": ["--metric", "chebyshev", "--farthest", "1"],
    "neighbors 10, nearest 100 of 2,000 rows against all": [
        *("--tokens", "0:2000", "--neighbors", "10", "--nearest", "100", "--against", "{store}:output"),
    ],
    "farthest 100 of 65,536 rows": ["--tokens", "0:65536", "--farthest", "100"],
}


def held(process: psutil.Process) -> int:
    """Bytes that the process and its children hold, or that the process held at most."""
    together = sum(each.memory_info().rss for each in (process, *process.children(recursive=True)))
    status = Path(f"/proc/{process.pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return max(together, int(found[1]) << 10 if found else 0)


def measure(command: list[str]) -> tuple[float, int, str]:
    """Seconds and peak bytes of a command, and what it said on stderr."""
    started, peak = perf_counter(), 0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as running:
        process = psutil.Process(running.pid)
        while running.poll() is None:
            try:
                peak = max(peak, held(process))
            except (psutil.Error, OSError):  # it, or a child, has just ended
                continue
            sleep(0.02)
        said = running.stderr.read() if running.stderr else ""
    if running.returncode:
        sys.exit(f"{' '.join(command)}: {said}")
    return perf_counter() - started, peak, said


def main() -> None:
    """Measure every job and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the store")
    parser.add_argument("--rows", type=int, help="fewer rows, for a trial")
    given = parser.parse_args()
    store = prepare(given.data, "m", given.rows)
    print("| scan | seconds | limit | projected | peak | within |\n| --- | --- | --- | --- | --- | --- |")
    for name, options in JOBS.items():
        scan = [
            sys.executable,
            "-c",
            "import sys; from embgeom_dask.cli.app import main; sys.exit(main())",
            "scan",
            store,
        ]
        wanted = [option.format(store=store) for option in options]
        seconds, peak, said = measure([*scan, *wanted, "--memory-limit", LIMIT, "--device", "cpu"])
        projected = re.search(r"memory: (.*?) projected", said)
        cells = name, f"{seconds:.0f}", "2 GiB", projected[1] if projected else "?", f"{peak / 2**30:.2f} GiB"
        print(f"| {' | '.join(cells)} | {'yes' if peak <= 2 << 30 else 'no'} |", flush=True)


if __name__ == "__main__":
    main()
