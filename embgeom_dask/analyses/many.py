"""One command over many models: a few at a time on one cluster, none waiting for another, each failing alone."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import nullcontext
from contextvars import copy_context
from hashlib import sha256
from typing import Any, cast

import numpy as np
import xarray as xr
from distributed import Client

from embgeom_dask.analyses.scan import scan
from embgeom_dask.errors import EmbgeomError, InputError, SomeFailed
from embgeom_dask.execution.arrays import Data, is_array, name_of
from embgeom_dask.execution.cluster import ClientLike, connect
from embgeom_dask.execution.monitor import interruptible
from embgeom_dask.progress import bar, showing
from embgeom_dask.storage import model_stores, paths, result_names, results
from embgeom_dask.storage.model_stores import Role
from embgeom_dask.storage.paths import PathLike

TABLE = "table.zarr"
"""The table of all models in the folder of their results."""

_AT_ONCE = 4
"""Models at a time, where the cluster has that many threads."""

_FIRST = ("farthest", "nearest")  # of these a table has the first
_KEPT = {"side", "radius", "quantile"}
_WHOSE = {"model", "revision", "matrix", "against", "against_revision"}
_FILL: dict[str, Any] = {"f": np.nan, "i": -1}


def each_of(data: Data | Iterable[Data], what: str) -> list[Data]:
    """The stores or arrays given, one or many."""
    one = isinstance(data, str | os.PathLike) or is_array(data)
    found = [cast(Data, data)] if one else list(cast(Iterable[Data], data))
    if not found:
        raise InputError(f"{what} needs at least one store: embgeom list shows them")
    for each in found:
        if not isinstance(each, str | os.PathLike) and not is_array(each):
            raise InputError(
                f"{what} takes stores and arrays, and was given {each!r:.50}: give numbers in a numpy array"
            )
    return found


def on_each(
    what: str,
    stores: Sequence[Data],
    work: Callable[[Data, PathLike | None, Client, int], xr.Dataset],
    together: Callable[[Sequence[xr.Dataset]], xr.Dataset],
    *,
    role: Role | None = None,
    out: PathLike | None = None,
    device: str = "auto",
    client: ClientLike | None = None,
    scheduler: str | None = None,
) -> list[xr.Dataset]:
    """Do `work(store, out, client, models at a time)` on each store and return what it gives, in order.

    `out` is the folder of the results, `<model>.zarr`; what `together` makes of them is saved in it as the table.

    Raises
    ------
    InputError
        where two stores are of one model and `out` is given, or `out` is a result.
    SomeFailed
        where stores failed, once all others are done; an error that all share is raised itself.
    """
    outs = _outs(stores, role, out)
    found: dict[int, xr.Dataset] = {}
    failed: dict[int, Exception] = {}
    within = None if out is None else paths.join(os.fspath(out), TABLE)
    with connect(client, scheduler, device, within) as active, bar(len(stores), what, "models") as advance:
        at_once = max(1, min(len(stores), _AT_ONCE, sum(active.nthreads().values())))
        pool = ThreadPoolExecutor(at_once)
        try:
            waiting: dict[Future[xr.Dataset], int] = {
                pool.submit(copy_context().run, work, store, target, active, at_once): place
                for place, (store, target) in enumerate(zip(stores, outs, strict=True))
            }
            for done in as_completed(waiting):
                try:
                    found[waiting[done]] = done.result()
                except KeyboardInterrupt:  # no more panels: the others end with those they have in flight, too
                    pool.shutdown(cancel_futures=True)
                    raise
                except Exception as error:  # it is that store's alone
                    failed[waiting[done]] = error
                advance(1)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        pool.shutdown()
    given = [found[place] for place in sorted(found)]
    if len({str(error) for error in failed.values()}) == 1 and not found:
        raise next(iter(failed.values()))
    said = [f"{_called(stores[place])}: {paths.explain(failed[place])}" for place in sorted(failed)]
    if out is not None:
        results.save(together(given).assign_attrs(failed=said), paths.join(os.fspath(out), TABLE), replace=True)
    if said:
        raise SomeFailed(f"{len(said)} of {len(stores)} stores failed: {'; '.join(said)}", given)
    return given


def _outs(given: Sequence[Data], role: Role | None, out: PathLike | None) -> list[PathLike | None]:
    """Where the result of each store goes; nowhere for a store that is broken: it fails by itself.

    Its name is the model's, with the revision where several of the stores are of that model.
    """
    if out is None:
        return [None] * len(given)
    if not paths.is_free(paths.locate(paths.join(os.fspath(out), "zarr.json"))):
        raise InputError(f"{out} is a result: with several stores `out` names a folder")
    found: list[tuple[str, str] | None] = []
    for store in given:
        try:
            found.append(name_of(store, role))
        except EmbgeomError:
            found.append(None)
    counts = Counter(each[0] for each in found if each is not None)
    taken = {TABLE: "the table of all models"}
    outs: list[PathLike | None] = []
    for store, each in zip(given, found, strict=True):
        if each is None:
            outs.append(None)
            continue
        model, revision = each
        name, called = model_stores.file_name(model, revision if counts[model] > 1 else ""), _called(store)
        if name in taken:
            raise InputError(f"{called} and {taken[name]} would both be saved as {name}: give them another `out` each")
        taken[name] = called
        outs.append(paths.join(os.fspath(out), name))
    return outs


def _called(data: Data) -> str:
    return "the array given" if is_array(data) else str(data)


def scan_many(
    stores: Data | Iterable[Data],
    *,
    role: Role | None = None,
    out: PathLike | None = None,
    memory_limit: str | int | None = None,
    device: str = "auto",
    client: ClientLike | None = None,
    scheduler: str | None = None,
    progress: bool | None = None,
    **settings: Any,
) -> list[xr.Dataset]:
    """Scan one matrix of each store, with the same settings, and return the results in order.

    `settings` are those of `scan`. A few models are scanned at a time and share the cluster and its memory. `out` is a
    folder: the results are saved in it as `<organisation>--<name>.zarr`, each as soon as it is there, and `table` of
    them as `table.zarr`. A result that is there already is not computed again.

    Raises
    ------
    SomeFailed
        where stores failed, once all others are done; its `results` are theirs.
    InputError, EmbgeomError
        where all failed for the same reason.

    Examples
    --------
    >>> from embgeom_dask.testing import make_store
    >>> rows = np.array([[0, 0], [3, 4]], np.float32)
    >>> stores = [make_store(f"{size}.zarr", output=size * rows, model=f"org/{size}") for size in (1, 2)]
    >>> [float(found["farthest_distance"][0]) for found in scan_many(stores, farthest=1)]
    [5.0, 10.0]
    """

    def work(store: Data, target: PathLike | None, active: Client, at_once: int) -> xr.Dataset:
        return scan(
            store,
            role=role,
            out=target,
            memory_limit=memory_limit,
            memory_share=1 / at_once,
            device=device,
            client=active,
            **settings,
        )

    paths = each_of(stores, "scan")
    kept = None if settings.get("dry_run") else out
    how: dict[str, Any] = {"role": role, "out": kept, "device": device, "client": client, "scheduler": scheduler}
    with showing(progress), interruptible() if kept else nullcontext():
        return on_each("scan", paths, work, table, **how)


def table(scans: Sequence[xr.Dataset]) -> xr.Dataset:
    """What scans with the same settings have one of, as a Dataset over `model`.

    The first of the farthest and of the nearest pairs with their tokens, the moments, counts within radii, quantiles,
    and `pairs_within_count`; the coordinates `revision`, `matrix` and, of scans against another model, `against` and
    `against_revision`.
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
    return result_names.complete(xr.Dataset(columns, {**labels, **kept}, attrs=joined(scans, "scan")))


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
