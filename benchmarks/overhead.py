"""What dask, journal and labels add to a scan that is saved: a markdown table of where its wall time goes.

    python -m benchmarks.overhead --data DIR

scans data a of `docs/benchmarks.md` in its `--full` size (made in DIR where it is not there yet) for 10 neighbors, with
one worker in this process. Work is planning (every row is read once), the panels (reading, products, passes over them,
recheck), their time divided by the threads, and naming the result: what a plain loop would have to do too. The rest of
the wall time is overhead: the local cluster's start and end, scheduling, transfer and waiting, commits to the journal,
merging where no panel runs meanwhile, labels and saving.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any
from unittest import mock

from benchmarks.data import prepare
from embgeom_dask.analyses import all_pairs, scan
from embgeom_dask.execution import runner
from embgeom_dask.execution.callbacks import PanelCallback
from embgeom_dask.execution.cluster import connect
from embgeom_dask.execution.grid import Panel
from embgeom_dask.execution.plan import Plan
from embgeom_dask.storage import result_tokens, results

ONCE = {"planning": (all_pairs, "make_plan"), "naming": (all_pairs, "_finalize")}
IN_THREADS = {"panels": ("started", "computed"), "journal": ("computed", "committed")}
ELSE = {"merging": (runner, "_merge"), "labels": (result_tokens, "with_tokens"), "saving": (results, "save")}


@dataclass
class Spent:
    """Seconds of wall time, and the seconds of every call of each part; those of `threads` threads run side by side."""

    wall: float
    threads: int
    parts: dict[str, list[float]]

    @property
    def work(self) -> float:
        """Seconds that a plain loop would take too, with as many threads."""
        return sum(map(sum, (self.parts[name] for name in ONCE))) + sum(self.parts["panels"]) / self.threads


def timed(spent: list[float], call: Callable[..., Any]) -> Callable[..., Any]:
    """The call, which adds its seconds to `spent`."""

    def run(*given: Any, **options: Any) -> Any:
        started = perf_counter()
        try:
            return call(*given, **options)
        finally:
            spent.append(perf_counter() - started)

    return run


def timed_panels(parts: dict[str, list[float]]) -> PanelCallback:
    """Add the seconds between two events of every panel to its part, for those of `IN_THREADS`."""
    when: dict[tuple[str, str], float] = {}

    def note(event: str, _: Plan, panel: Panel) -> None:
        when[event, panel.name] = perf_counter()
        for name, (first, last) in IN_THREADS.items():
            if event == last:
                parts[name].append(when[last, panel.name] - when[first, panel.name])

    return PanelCallback(note)


def measure(store: str, options: dict[str, Any]) -> Spent:
    """Scan a store on the cpu and save the result, its local cluster included."""
    parts: dict[str, list[float]] = {name: [] for name in (*ONCE, *IN_THREADS, *ELSE)}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as patches:
        for name, (owner, attribute) in (ONCE | ELSE).items():
            patches.enter_context(mock.patch.object(owner, attribute, timed(parts[name], getattr(owner, attribute))))
        patches.enter_context(timed_panels(parts))
        started = perf_counter()
        with connect() as client:
            scan.scan(store, **options, device="cpu", client=client, out=Path(folder, "result.zarr"))
            threads = sum(client.nthreads().values())
        return Spent(perf_counter() - started, threads, parts)


def main() -> None:
    """Scan, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the store")
    parser.add_argument("--rows", type=int, help="other than 151,936")
    given = parser.parse_args()
    store = prepare(given.data, "v", given.rows)
    scan.scan(store, tokens="0:3000", neighbors=10, device="cpu")
    spent = measure(store, {"neighbors": 10})
    print("| part | seconds | calls |\n| --- | --- | --- |")
    for name, part in spent.parts.items():
        beside = f", in {spent.threads} threads" if name in IN_THREADS else ""
        print(f"| {name} | {sum(part):.2f}{beside} | {len(part):,} |")
    print(f"| work | {spent.work:.2f} | |\n| wall | {spent.wall:.2f} | |")
    print(f"| **overhead** | {spent.wall - spent.work:.2f} | {100 * (spent.wall / spent.work - 1):.1f}% of the work |")


if __name__ == "__main__":
    main()
