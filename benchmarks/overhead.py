"""What dask, journal and labels add to a scan that is saved: a markdown table of where its wall time goes.

    python -m benchmarks.overhead --data DIR

scans data a of `docs/benchmarks.md` in its `--full` size (made in DIR where it is not there yet) for 10 neighbors, with
one worker in this process. Work is planning (every row is read once), the panels (reading, products, passes over them,
recheck), merging what they found, and naming the result: what a plain loop would have to do too. Where parts of it
overlap they count once. The rest of the wall time is overhead: the local cluster's start and end, scheduling, transfer
and waiting, commits to the journal, labels and saving.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks.data import prepare
from embgeom_dask import execute, results, scans
from embgeom_dask.journal import Pass

Span = tuple[float, float]
WORK = {
    "planning": (scans, "make_plan"),
    "panels": (execute, "_compute"),
    "merging": (execute, "_merge"),
    "naming": (scans, "_finalize"),
}
OVERHEAD = {"journal": (Pass, "commit"), "labels": (results, "with_tokens"), "saving": (results, "save")}


def timed(spans: list[Span], call: Callable[..., Any]) -> Callable[..., Any]:
    """The call, which adds its start and end to `spans`."""

    def run(*given: Any, **options: Any) -> Any:
        started = perf_counter()
        try:
            return call(*given, **options)
        finally:
            spans.append((started, perf_counter()))

    return run


def covered(spans: list[Span]) -> float:
    """Seconds that lie in at least one of the spans."""
    total, end = 0.0, 0.0
    for start, stop in sorted(spans):
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total


def main() -> None:
    """Scan, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the store")
    parser.add_argument("--rows", type=int, help="other than 151,936")
    given = parser.parse_args()
    store = prepare(given.data, "full", given.rows)
    scans.scan(store, tokens="0:3000", neighbors=10, device="cpu")
    spans: dict[str, list[Span]] = {}
    for name, (owner, attribute) in (WORK | OVERHEAD).items():
        setattr(owner, attribute, timed(spans.setdefault(name, []), getattr(owner, attribute)))
    with tempfile.TemporaryDirectory() as folder:
        started = perf_counter()
        scans.scan(store, neighbors=10, device="cpu", out=Path(folder, "result.zarr"))
        wall = perf_counter() - started
    work = covered([span for name in WORK for span in spans[name]])
    print("| part | seconds | calls |\n| --- | --- | --- |")
    for name, part in spans.items():
        print(f"| {name} | {covered(part):.2f} | {len(part):,} |")
    print(f"| work, overlaps once | {work:.2f} | |\n| wall | {wall:.2f} | |")
    print(f"| **overhead** | {wall - work:.2f} | {100 * (wall / work - 1):.1f}% of the work |")


if __name__ == "__main__":
    main()
