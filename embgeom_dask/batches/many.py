"""Run one command over many models: a few at a time on one cluster; one that fails does not stop the others."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextvars import copy_context
from functools import partial
from hashlib import sha256
from time import monotonic, sleep
from typing import Any, cast

import numpy as np
import xarray as xr
from distributed import Client

from embgeom_dask import tuning
from embgeom_dask.batches import batch
from embgeom_dask.errors import EmbgeomError, InputError, SomeFailed, parse_path
from embgeom_dask.execution.arrays import Data, Given, Identity, is_array, name_of
from embgeom_dask.execution.cluster import ClientLike, connect
from embgeom_dask.execution.journal import Journal
from embgeom_dask.execution.monitor import Batch
from embgeom_dask.execution.workers_of_models import WorkersOfModels
from embgeom_dask.progress import bar, note
from embgeom_dask.storage import model_stores, paths, result_names, results
from embgeom_dask.storage.model_stores import Matrix, Role
from embgeom_dask.storage.paths import PathLike

_FIRST = ("farthest", "nearest", "largest", "smallest")  # of these a table has the first
_KEPT = {"side", "radius", "quantile"}
_WHOSE = {"model", "revision", "matrix", "against", "against_revision"}
Work = Callable[[Data, PathLike | None, Client, int], xr.Dataset]
"""What is done on each store: given it, where its result goes, a client, and how many at a time share a worker."""

Known = Sequence[Identity | None]
"""The model, revision and matrix of each of several stores."""

One = Callable[[Data, Role | None, PathLike | None, ClientLike | None], xr.Dataset]
"""A command on one store or array: given it, the role, where its result goes, and a client."""

_LOOK = 0.5  # seconds between looks at what another command writes
_LOOKED_AT = 16  # stores at URLs at a time
_FILL: dict[str, Any] = {"f": np.nan, "i": -1}


def is_one(data: object, part: str | None = None) -> bool:
    """Whether this is one store or array, and no list of them; InputError where a `part` is asked for of one."""
    alone = isinstance(data, str | os.PathLike | Matrix | Given) or is_array(data)
    if alone and part is not None:
        raise InputError("`part` is of several stores: give a list of them")
    return alone


def each_of(data: Data | Iterable[Data], what: str) -> list[Data]:
    """The stores or arrays given, one or many."""
    if not is_one(data) and (not isinstance(data, Iterable) or isinstance(data, Mapping)):
        raise InputError(
            f"{what} takes stores and arrays, and was given a {type(data).__name__}: give one of these, or a list"
        )
    found = [cast(Data, data)] if is_one(data) else list(cast(Iterable[Data], data))
    if not found:
        raise InputError(f"{what} needs at least one store: embgeom list shows them")
    for each in found:
        if not is_one(each):
            raise InputError(
                f"{what} takes stores and arrays, and was given a {type(each).__name__}: give numbers in a numpy array"
            )
    return found


def one_or_together(
    what: str,
    data: Data | Iterable[Data],
    one: One,
    together: Callable[[Sequence[xr.Dataset]], xr.Dataset],
    *,
    role: Role | None,
    out: PathLike | None,
    client: ClientLike | None,
    part: str | None = None,
) -> xr.Dataset:
    """Ask `one` of one store or array, or of each of a list of them: `together` makes one result of these."""
    given = each_of(data, what)
    if is_one(data, part) or (len(given) == 1 and part is None):
        return one(given[0], role, out, client)

    def work(each: Data, target: PathLike | None, active: Client, _: int) -> xr.Dataset:
        return one(each, role, target, active)

    return together(on_each(what, given, work, together, role=role, out=out, client=client, part=part))


def on_each(
    what: str,
    stores: Sequence[Data],
    work: Work,
    together: Callable[[Sequence[xr.Dataset]], xr.Dataset],
    *,
    role: Role | None = None,
    out: PathLike | None = None,
    device: str = "auto",
    client: ClientLike | None = None,
    resume_command: str | None = None,
    part: str | None = None,
    asked: Mapping[str, Any] | None = None,
    known: Known | None = None,
    saved: Sequence[batch.Saved] = (),
) -> list[xr.Dataset]:
    """Do `work(store, out, client, models that share a worker)` on each store and return what it gives, in order.

    Each store has a worker of its own, its home: see `execution.workers_of_models`. A store that fails is tried once
    more after all others, unless the error is about what was given.

    `out` is the folder of the results, `<model>.zarr`; what `together` makes of them is saved in it as the table. Of
    several commands each does its `part` of the stores, "2/8"; the last to end saves the table of all of them. `asked`
    are the settings, which all parts share; `known` what `identify` said of the stores. Where the work itself saves
    several results of each store, `saved` says what and where in place of `out`.

    Raises
    ------
    InputError
        where two stores are of one model and `out` is given, `out` is a result, or `part` is none.
    SomeFailed
        where stores failed, once all others are done; an error that all share is raised itself.
    """
    mine = batch.Part.parse(part)
    saved = saved if out is None else [batch.Saved(what, out, together, asked or {})]
    if known is None and saved:
        known = identify(stores, role)
    names = node_names(stores, known or ()) if saved else [None] * len(stores)
    outs, called = _outs(names, out), [_called(each) for each in stores]
    records = [
        batch.begin(
            each.out, each.command, called, _outs(names, each.out), resume_command, mine, {"role": role, **each.asked}
        )
        for each in saved
    ]
    given = [(stores[place], outs[place]) for place in mine.places(len(stores))]
    if given:
        found, failed = _on_cluster(what, given, work, out, device, client)
    else:
        note(f"part {mine} of these models has none")
        found, failed = [], []
    said = [f"{_called(store)}: {paths.explain(error)}" for store, error in failed]
    shared = failed[0][1] if not found and len({str(error) for _, error in failed}) == 1 else None
    for each, record in zip(saved, records, strict=True):
        if mine.count == 1 and shared is None:
            _save_table(each.out, each.together([each.of(one) for one in found]), said)
        batch.end(each.out, record, said)
        if mine.count > 1:
            _save_whole(each.out, each.together, mine)
    if shared is not None:
        raise shared
    if said:
        raise SomeFailed(f"{len(said)} of {len(given)} stores failed: {'; '.join(said)}", found)
    return found


def _on_cluster(
    what: str,
    given: Sequence[tuple[Data, PathLike | None]],
    work: Work,
    out: PathLike | None,
    device: str,
    client: ClientLike | None,
) -> tuple[list[xr.Dataset], list[tuple[Data, Exception]]]:
    """Do the work on each store whose result goes where it says; return what it gave, and what failed and why."""
    found: dict[int, xr.Dataset] = {}
    failed: dict[int, Exception] = {}
    within = None if out is None else paths.join(os.fspath(out), results.TABLE)
    with connect(client, device, within) as active, bar(len(given), what, "models") as advance:
        homes, taken = WorkersOfModels(active, device), Batch(active)
        at_once = min(len(given), tuning.MODELS_AT_ONCE, tuning.MODELS_A_WORKER * homes.size)
        sharing = -(-at_once // homes.size)

        def at_home(store: Data, target: PathLike | None) -> xr.Dataset:
            with homes.enter(), taken.enter():
                made = work(store, target, active, sharing)
            return made if target is None or made.nbytes <= tuning.HELD_BYTES else results.open_unread(target)

        for place, ended in _in_threads(at_once, [partial(at_home, *each) for each in given]):
            if isinstance(ended, Exception):
                failed[place] = ended
            else:
                found[place] = ended
            advance(1, taken.said())
    why = [(given[place][0], failed[place]) for place in sorted(failed)]
    return [found[place] for place in sorted(found)], why


def _save_table(out: PathLike, made: xr.Dataset, failed: Sequence[str]) -> None:
    """Save the table of all models in the folder of their results."""
    made = made.assign_attrs({"failed": list(failed)} if failed else {})
    results.save(made, paths.join(os.fspath(out), results.TABLE), replace=True)


def _save_whole(out: PathLike, together: Callable[[Sequence[xr.Dataset]], xr.Dataset], mine: batch.Part) -> None:
    """Save the table of all models once all parts have ended. Of those that end at a time one does."""
    done, failed = batch.whole(out) or ([], [])
    if not done:
        return
    made = together([results.open_unread(paths.join(os.fspath(out), name)) for name in done]).load()
    table = paths.join(os.fspath(out), results.TABLE)
    made = made.assign_attrs({"failed": failed} if failed else {})
    with Journal(table).claimed(made.attrs) as alone:
        until = monotonic() + (0 if alone else tuning.OUTAGE)  # of another that writes it, unless it has died
        while not (there := _is_there(table, made)) and monotonic() < until:
            sleep(_LOOK)
        if not there:
            _save_table(out, made, failed)
    note(f"all {mine.count} parts have ended: {table} is of all of them")


def _is_there(table: str, made: xr.Dataset) -> bool:
    """Whether this table is there already."""
    try:
        there = results.open_unread(table).attrs
    except EmbgeomError:
        return False
    return all(there.get(name) == made.attrs.get(name) for name in ("fingerprint", "failed"))


def _in_threads(at_once: int, work: Sequence[Callable[[], xr.Dataset]]) -> Iterator[tuple[int, xr.Dataset | Exception]]:
    """Do each `work`, so many at once; yield the place of each and what it gave or raised, as they end.

    Those that fail are done once more at the end, but for an InputError.
    """
    pool = ThreadPoolExecutor(at_once)
    again: list[int] = []
    try:
        for places in (range(len(work)), again):
            waiting = {pool.submit(copy_context().run, work[place]): place for place in places}
            for done in as_completed(waiting):
                place = waiting[done]
                try:
                    yield place, done.result()
                except KeyboardInterrupt:  # no more panels: the others end with those they have in flight, too
                    pool.shutdown(cancel_futures=True)
                    raise
                except Exception as error:  # it is that store's alone
                    if places is again or isinstance(error, InputError):
                        yield place, error
                    else:
                        again.append(place)
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()


def identify(stores: Sequence[Data], role: Role | None) -> Known:
    """What `name_of` says of each store; None of one that is broken.

    Of stores at URLs some are looked at side by side, since each answer takes long.
    """

    def look(store: Data) -> Identity | None:
        try:
            return name_of(store, role)
        except EmbgeomError:  # it fails by itself
            return None

    far = any(not is_array(each) and paths.is_url(cast(PathLike, each)) for each in stores)
    pool = ThreadPoolExecutor(_LOOKED_AT if far else 1)
    try:
        return list(pool.map(look, stores))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def node_names(stores: Sequence[Data], known: Known) -> list[str | None]:
    """What the result of each store is called, `<organisation>--<name>`; None for a store that is broken.

    `known` is what `identify` said of them. The revision is part of it where several of the stores are of that model,
    and the role, `<organisation>--<name>-input`, where both matrices of one are asked for.

    Raises
    ------
    InputError
        where two would have one name.
    """
    counts = Counter(each.model for each in known if each is not None)
    taken = {results.TABLE.removesuffix(".zarr"): "the table of all models"}
    names: list[str | None] = []
    for store, each in zip(stores, known, strict=True):
        names.append(None)
        if each is not None:
            model, revision, matrix = each
            name = model_stores.file_name(model, revision if counts[model] > 1 else "").removesuffix(".zarr")
            if len({other.matrix for other in known if other is not None and other[:2] == each[:2]}) > 1:
                name += f"-{matrix.removesuffix('_embedding')}"
            if name in taken:
                raise InputError(
                    f"{_called(store)} and {taken[name]} would both be called {name}: give each to a command of its own"
                )
            names[-1], taken[name] = name, _called(store)
    return names


def _outs(names: Sequence[str | None], out: PathLike | None) -> list[PathLike | None]:
    """Where the result of each store goes; nowhere for a store that is broken."""
    if out is None:
        return [None] * len(names)
    if paths.exists(paths.locate(paths.join(parse_path("out", out), "zarr.json"))):
        raise InputError(f"{out} is a result: with several stores `out` names a folder")
    return [None if name is None else paths.join(os.fspath(out), f"{name}.zarr") for name in names]


def _called(data: Data) -> str:
    return "the array given" if is_array(data) else str(data)


def table(scans: Sequence[xr.Dataset]) -> xr.Dataset:
    """What scans with the same settings have one of, as a Dataset over `model`.

    The first of the farthest, nearest, largest and smallest pairs with their tokens, the moments, counts within radii,
    quantiles, and `pairs_within_count`; where all have the same bins, these; the coordinates `revision`, `matrix` and,
    of scans against another model, `against` and `against_revision`.
    """
    columns: dict[str, Any] = {}
    for name, variable in scans[0].variables.items() if scans else ():
        dims = variable.dims
        if name in _WHOSE or name in dims:
            continue
        if dims[:1] in [(first,) for first in _FIRST]:
            columns[str(name)] = (("model", *dims[1:]), np.stack([_first(each[name]) for each in scans]))
        elif set(dims) <= _KEPT:
            columns[str(name)] = (("model", *dims), np.stack([each[name].to_numpy() for each in scans]))
    edges = [each["bin_edge"].to_numpy() for each in scans if "bin_edge" in each]
    if edges and len(edges) == len(scans) and all(np.array_equal(each, edges[0]) for each in edges):
        columns["histogram_count"] = (("model", "bin"), np.stack([each["histogram_count"] for each in scans]))
        columns["bin_edge"] = ("edge", edges[0])
    if scans and "pair" in scans[0].dims:
        columns["pairs_within_count"] = ("model", np.array([each.sizes["pair"] for each in scans]))
    sides = {"model": ("model", 0), "revision": ("revision", 0), "matrix": ("matrix", 0)}
    if any(len(each.attrs["model"]) > 1 for each in scans):
        sides |= {"against": ("model", -1), "against_revision": ("revision", -1)}
    labels = {
        label: ("model", np.array([each.attrs[name][side] for each in scans], np.str_))
        for label, (name, side) in sides.items()
    }
    kept = {name: scans[0].coords[name] for name in ("radius", "quantile") if scans and name in scans[0].coords}
    dataset = xr.Dataset(columns, {**labels, **kept}, attrs=joined(scans, "scan"))
    return result_names.complete(dataset.set_coords([name for name in columns if name in scans[0].coords]))


def _first(values: xr.DataArray) -> Any:
    """The first along the first dimension; NaN, -1 or no text where there is none."""
    if len(values):
        return values.to_numpy()[0]
    return np.full(values.shape[1:], _FILL.get(values.dtype.kind, ""), values.dtype)


def joined(found: Sequence[xr.Dataset], command: str) -> dict[str, Any]:
    """The attributes of what is made of several results."""
    names = ("model", "revision", "matrix", "sha256", "labels_sha256")
    every = {name: [value for each in found for value in each.attrs[name]] for name in names}
    settings = found[0].attrs["settings"] if found else "{}"
    made = results.provenance(command, [], [used for each in found for used in each.attrs["devices"]], 0.0)
    prints = "".join(each.attrs["fingerprint"] for each in found)
    return {
        **made,
        **every,
        "settings": settings,
        "seconds": round(sum(each.attrs["seconds"] for each in found), 3),
        "fingerprint": sha256(prints.encode()).hexdigest(),
    }
