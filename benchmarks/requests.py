"""What saving, resuming and reading at an object store ask of it: requests, and how many of them wait for each other.

python -m benchmarks.requests [--rows 600]

An S3 server, moto's, runs on this machine. Requests that are in flight at once wait together: the second column counts
the longest chain of requests of which each began after the one before it had ended.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import s3fs

import embgeom_dask as eg
from embgeom_dask.testing import make_store
from tests import s3


class Requests:
    """The requests made while `counting` was entered: what each asked for, when it began and ended."""

    def __init__(self) -> None:
        self.made: list[tuple[str, str, float, float]] = []

    def __len__(self) -> int:
        return len(self.made)

    def __str__(self) -> str:
        counts = Counter(name for name, *_ in self.made)
        return ", ".join(f"{count} {name}" for name, count in counts.most_common())

    def count(self, name: str) -> int:
        """How many were of that operation, like `list_objects_v2`."""
        return sum(each == name for each, *_ in self.made)

    @property
    def waits(self) -> int:
        """The most requests of which each began after the one before had ended."""
        found, last = 0, 0.0
        for *_, began, ended in sorted(self.made, key=lambda each: each[-1]):
            if began >= last:
                found, last = found + 1, ended
        return found


@contextmanager
def counting() -> Iterator[Requests]:
    """Count what this process asks of object stores by way of s3fs."""
    found, honest = Requests(), s3fs.S3FileSystem._call_s3

    async def call(self: Any, method: str, *args: Any, **more: Any) -> Any:
        began = perf_counter()
        try:
            return await honest(self, method, *args, **more)
        finally:
            found.made.append((method, str(more.get("Key", "")), began, perf_counter()))

    s3fs.S3FileSystem._call_s3 = call
    try:
        yield found
    finally:
        s3fs.S3FileSystem._call_s3 = honest


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=600)
    parser.add_argument("--verbose", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, s3.server(Path(folder)) as endpoint:
        os.environ |= {**s3.CREDENTIALS, "AWS_ENDPOINT_URL": endpoint}
        s3fs.S3FileSystem().mkdir("bench")
        print("| | requests | waits | of which |")
        print("| --- | --- | --- | --- |")
        for name, work in steps("s3://bench", given.rows):
            with counting() as found:
                work()
            print(f"| {name} | {len(found)} | {found.waits} | {found} |")
            if given.verbose:
                for method, key, began, ended in found.made:
                    print(f"    {began - found.made[0][2]:.3f} {ended - found.made[0][2]:.3f} {method} {key}")


def steps(bucket: str, rows: int) -> Iterator[tuple[str, Callable[[], Any]]]:
    """What is counted, in order, by name."""
    values = np.random.default_rng(0).normal(size=(rows, 16)).astype(np.float32)
    tokens = [f"token{each}" for each in range(rows)]
    store, out = f"{bucket}/m.zarr", f"{bucket}/scan.zarr"
    how: dict[str, Any] = {"farthest": 3, "nearest": 3, "histogram": 64, "neighbors": 3, "tile": 256}
    result = eg.scan(make_store(f"{tempfile.mkdtemp()}/m.zarr", values, tokens=tokens), **how)
    yield "write a store", lambda: make_store(store, values, tokens=tokens)
    yield "replace a store", lambda: make_store(store, values, tokens=tokens)
    yield "save a result", lambda: save(result, f"{bucket}/saved.zarr")
    yield "save the same again", lambda: save(result, f"{bucket}/saved.zarr")
    yield "replace a result", lambda: save(result, f"{bucket}/saved.zarr", replace=True)
    yield "open a result", lambda: eg.open_result(f"{bucket}/saved.zarr")
    yield "scan with a journal", lambda: eg.scan(store, out=out, **how)
    yield "the same scan again", lambda: eg.scan(store, out=out, **how)


def save(result: Any, path: str, *, replace: bool = False) -> None:
    """Save a result, as every command does at its end."""
    from embgeom_dask.storage import results

    results.save(result, path, replace=replace)


if __name__ == "__main__":
    main()
