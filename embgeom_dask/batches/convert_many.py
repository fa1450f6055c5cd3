"""Convert many checkpoints: one after the other in this process, or on the workers of a cluster."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from time import monotonic
from typing import Any

from distributed import Client

from embgeom_dask import tuning
from embgeom_dask.batches import batch
from embgeom_dask.checkpoints.convert import parse_shard
from embgeom_dask.errors import EmbgeomError, EmbgeomWarning, InputError
from embgeom_dask.execution.cluster import ClientLike, connect
from embgeom_dask.execution.convert_on_workers import convert_here, convert_on
from embgeom_dask.execution.monitor import Batch
from embgeom_dask.execution.workers import Ended
from embgeom_dask.progress import bar, note
from embgeom_dask.redaction import redact
from embgeom_dask.storage.paths import PathLike, explain


def convert_each(
    sources: Sequence[str],
    stores: PathLike = "stores",
    *,
    connections: int = 16,
    part: str | None = None,
    client: ClientLike | None = None,
    resume_command: str | None = None,
    **options: Any,
) -> tuple[dict[str, str], dict[str, str]]:
    """Convert checkpoints; a failure does not stop the others, and is tried once more at the end.

    Parameters
    ----------
    sources : sequence of str
        Checkpoints, as `convert` takes them.
    stores : path or URL
        The folder that the stores are written into. `status` of it tells how far this is.
    connections : int
        The most connections to the hub at a time, of all workers together.
    part : str, optional
        Convert one part of the checkpoints only, "2/8" the second of eight, where several commands share the folder.
    client : Client, Cluster or str, optional
        The cluster whose workers convert, each its own models: sources and `stores` are paths there. By default they
        are converted here, one after the other.
    resume_command : str, optional
        The command line that continues this call; `status` shows it.
    **options
        The other options of `convert`, the same for every checkpoint.

    Returns
    -------
    stores, failures : dict of str to str
        For each source its store, or the message of its failure.

    Raises
    ------
    InputError
        If `name` is given with several sources, `connections` is below 1, `shard` is no size, or `part` is none.
    """
    mine = batch.Part.parse(part)
    if options.get("name") and len(sources) > 1:
        raise InputError(f"`name` {options['name']} names one model: give one source with it, not {len(sources)}")
    if connections < 1:
        raise InputError(f"`connections` is {connections}: give 1 or more")
    parse_shard(options.get("shard"))
    if not sources:
        return {}, {}
    asked = {name: options.get(f"{name}_key") for name in ("input", "output")}
    how = {"role": options.get("role", "both"), "keys": asked, "overwrite": options.get("overwrite", False)}
    how |= {name: options.get(name) for name in ("tokenizer", "name", "shard")}
    progress = _Progress(os.fspath(stores), sources, resume_command, mine, how)
    if not (sources := mine.of(sources)):
        note(f"part {mine} of these models has none")
        with progress.kept():
            return {}, {}
    cluster = nullcontext(None) if client is None else connect(client, out=stores)
    # Here each model has a bar of its own: one of all of them around it would need more than one line of a log.
    shown = nullcontext(None) if client is None else bar(len(sources), "convert", "models")
    with progress.kept(), cluster as active, shown as advance:
        taken = None if active is None else Batch(active)
        for again in (False, True):
            some = list(progress.again) if again else sources
            for source, ended in _ends(active, some, os.fspath(stores), connections, how):
                if progress.note(source, ended, again=again) and advance and taken:
                    advance(1, taken.said())
    return progress.done, progress.failed


def _ends(
    client: Client | None, sources: Sequence[str], stores: str, connections: int, how: Mapping[str, Any]
) -> Iterator[tuple[str, Ended]]:
    """Convert each on the cluster, or here; yield it with how it ended."""
    if client is not None:
        yield from convert_on(client, sources, stores, connections, how)
        return
    for source in sources:
        try:
            ended = Ended(convert_here(source, stores, connections, how))
        except Exception as error:  # it is that model's alone
            ended = Ended(None, error)
        yield source, ended


class _Progress:
    """How far the conversion of `sources` is: `done` are their stores, `failed` why there is none, `again` the rest."""

    def __init__(
        self, stores: str, sources: Sequence[str], resume: str | None, part: batch.Part, how: Mapping[str, Any]
    ) -> None:
        self.done: dict[str, str] = {}
        self.failed: dict[str, str] = {}
        self.again: dict[str, str] = {}
        self._stores, self._sources, self._written = stores, sources, monotonic()
        self._mine = len(part.of(sources))
        asked = {name: each for name, each in how.items() if name != "overwrite"}
        self._record = batch.begin(stores, "convert", sources, [None] * len(sources), resume, part, asked)

    def note(self, source: str, ended: Ended, *, again: bool) -> bool:
        """Note how one ended; return whether that is all of it, or it is tried once more."""
        if ended.error is None:
            self.done[source], warned = ended.value
            for said in warned:
                warnings.warn(said, EmbgeomWarning, stacklevel=3)
        else:
            plain = isinstance(ended.error, EmbgeomError)
            said = str(ended.error) if plain else f"{type(ended.error).__name__}: {explain(ended.error)}"
            if not again and not isinstance(ended.error, InputError):
                self.again[source] = said
                return False
            self.failed[source] = said
        if monotonic() - self._written >= tuning.WORKERS_LOOK:
            self._write()
        return True

    @contextmanager
    def kept(self) -> Iterator[None]:
        """While entered, what is done is in the record; however this ends, all of it."""
        try:
            yield
        finally:
            self._write()

    def _write(self) -> None:
        stores = [self.done.get(source) for source in self._sources]
        failed = [f"{redact(source)}: {said}" for source, said in self.failed.items()]
        record = {**self._record, "results": batch.names(stores), "failed": failed}
        if len(self.done) + len(self.failed) < self._mine:
            batch.write(self._stores, record)
        else:
            batch.end(self._stores, record, failed)
        self._written = monotonic()
