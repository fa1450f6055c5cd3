"""Convert checkpoints on the workers of a cluster: each worker fetches and writes whole models."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import Any

from distributed import Client

from embgeom_dask import tuning
from embgeom_dask.checkpoints.convert import convert_telling
from embgeom_dask.execution import known_workers, workers
from embgeom_dask.execution.task_titles import TaskTitle
from embgeom_dask.execution.workers import Ended
from embgeom_dask.storage import fill, paths, transactions

Converted = tuple[str, list[str]]
"""The path of a store, and what was to be warned of."""


def convert_here(source: str, stores: str, connections: int, options: Mapping[str, Any]) -> Converted:
    """Convert one checkpoint, with at most so many connections to the hub at a time.

    `options` are what `convert_telling` takes besides.
    """
    said = list[str]()
    with fill.reading_at_most(connections):
        return convert_telling(said.append, source, stores, **options), said


def convert_on(
    client: Client, sources: Sequence[str], stores: str, connections: int, options: Mapping[str, Any]
) -> Iterator[tuple[str, Ended]]:
    """Convert checkpoints on the workers of `client`; yield each with how it ended, as they do: with a `Converted`.

    At most `connections` to the hub are open at a time: a model takes as many as its worker may read chunks ahead, or
    one where there are more threads than that leaves models for. Paths are read and written by the workers.
    """
    folder = paths.locate(stores)
    if not paths.is_url(folder):
        with paths.explained(f"write {stores}"):
            transactions.make_folder(Path(folder))
        workers.check_seen(client, [folder])
    options = {**options, "tokenizer": _absolute(options["tokenizer"])}

    def threads() -> int:
        return max(1, sum(known_workers.all_workers(client).values()))

    each = max(1, min(tuning.CHUNKS_READ_AHEAD, connections // threads()))

    def arguments(source: str) -> tuple[Any, ...]:
        return _absolute(source), folder, each, options

    def window() -> int:
        return min(tuning.PANELS_AHEAD * threads(), max(1, connections // each))

    with closing(workers.completed(client, convert_here, sources, arguments, window, TaskTitle("convert"))) as batches:
        for source, ended in chain.from_iterable(batches):
            if ended.error is None:
                store, said = ended.value
                ended = Ended((paths.join(stores, _last(store)), said))
            yield source, ended


def _absolute(path: Any) -> Any:
    """A path as workers in other folders find it; ids of the hub, and None, as they are."""
    return os.path.abspath(path) if path is not None and Path(path).exists() else path  # noqa: PTH100


def _last(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]
