"""One command over many models: a few at a time on one cluster, none waiting for another, each failing alone."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, nullcontext, suppress
from contextvars import copy_context
from functools import partial, wraps
from hashlib import sha256
from typing import Any, cast

import numpy as np
import xarray as xr
from distributed import Client

from embgeom_dask import tuning
from embgeom_dask.analyses import batch
from embgeom_dask.analyses.radii import check_one_store
from embgeom_dask.errors import EmbgeomError, InputError, SomeFailed
from embgeom_dask.execution.arrays import Data, is_array, name_of
from embgeom_dask.execution.cluster import ClientLike, connect
from embgeom_dask.execution.homes import Homes
from embgeom_dask.execution.monitor import Batch, interruptible
from embgeom_dask.progress import bar, showing
from embgeom_dask.reductions.histogram import bin_edges
from embgeom_dask.storage import model_stores, paths, result_names, results
from embgeom_dask.storage.model_stores import Role
from embgeom_dask.storage.paths import PathLike

_FIRST = ("farthest", "nearest", "largest", "smallest")  # of these a table has the first
_KEPT = {"side", "radius", "quantile"}
_WHOSE = {"model", "revision", "matrix", "against", "against_revision"}
Work = Callable[[Data, PathLike | None, Client, int], xr.Dataset]
"""What is done on each store: given it, where its result goes, a client, and how many at a time share a worker."""

One = Callable[[Data, Role | None, PathLike | None, ClientLike | None], xr.Dataset]
"""A command on one store or array: given it, the role, where its result goes, and a client."""

_FILL: dict[str, Any] = {"f": np.nan, "i": -1}


def is_one(data: object) -> bool:
    """Whether this is one store or array, and no list of them."""
    return isinstance(data, str | os.PathLike) or is_array(data)


def each_of(data: Data | Iterable[Data], what: str) -> list[Data]:
    """The stores or arrays given, one or many."""
    found = [cast(Data, data)] if is_one(data) else list(cast(Iterable[Data], data))
    if not found:
        raise InputError(f"{what} needs at least one store: embgeom list shows them")
    for each in found:
        if not is_one(each):
            raise InputError(
                f"{what} takes stores and arrays, and was given {each!r:.50}: give numbers in a numpy array"
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
) -> xr.Dataset:
    """Ask `one` of one store or array, or of each of a list of them: `together` makes one result of these."""
    given = each_of(data, what)
    if len(given) == 1:
        return one(given[0], role, out, client)

    def work(each: Data, target: PathLike | None, active: Client, _: int) -> xr.Dataset:
        return one(each, role, target, active)

    return together(on_each(what, given, work, together, role=role, out=out, client=client))


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
) -> list[xr.Dataset]:
    """Do `work(store, out, client, models that share a worker)` on each store and return what it gives, in order.

    Each store has workers of its own, its home: see `execution.homes`. One that fails is tried once more, after all
    others, unless what is wrong is what was given.

    `out` is the folder of the results, `<model>.zarr`; what `together` makes of them is saved in it as the table.

    Raises
    ------
    InputError
        where two stores are of one model and `out` is given, `out` is a result, or matrices are of different roles
        and `role` is not given.
    SomeFailed
        where stores failed, once all others are done; an error that all share is raised itself.
    """
    if role is None:
        _check_roles(stores)
    outs = _outs(node_names(stores, role) if out is not None else [None] * len(stores), out)
    if out is not None:
        batch.begin(out, what, [_called(each) for each in stores], outs, resume_command)
    found: dict[int, xr.Dataset] = {}
    failed: dict[int, Exception] = {}
    within = None if out is None else paths.join(os.fspath(out), results.TABLE)
    with connect(client, device, within) as active, bar(len(stores), what, "models") as advance:
        homes, taken = Homes(active, device), Batch(active)
        at_once = min(len(stores), tuning.MODELS_AT_ONCE, tuning.MODELS_A_WORKER * homes.size)
        sharing = -(-at_once // homes.size)

        def at_home(store: Data, target: PathLike | None) -> xr.Dataset:
            with homes.enter(), taken.enter():
                return work(store, target, active, sharing)

        for place, ended in _in_threads(at_once, [partial(at_home, *each) for each in zip(stores, outs, strict=True)]):
            if isinstance(ended, Exception):
                failed[place] = ended
            else:
                found[place] = ended
            advance(1, taken.said())
    given = [found[place] for place in sorted(found)]
    if len({str(error) for error in failed.values()}) == 1 and not found:
        raise next(iter(failed.values()))
    said = [f"{_called(stores[place])}: {paths.explain(failed[place])}" for place in sorted(failed)]
    if out is not None:
        made = together(given).assign_attrs({"failed": said} if said else {})
        results.save(made, paths.join(os.fspath(out), results.TABLE), replace=True)
    if said:
        raise SomeFailed(f"{len(said)} of {len(stores)} stores failed: {'; '.join(said)}", given)
    return given


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


def _check_roles(stores: Sequence[Data]) -> None:
    """Refuse to put matrices of different roles together unasked: the input of one model and the output of another."""
    named: dict[str, Data] = {}
    for store in stores:
        if not is_array(store):
            with suppress(EmbgeomError):  # a store that is broken fails by itself
                named.setdefault(model_stores.find_matrix(cast(PathLike, store)).name, store)
    if len(named) > 1:
        (first, one), (second, other) = sorted(named.items())
        raise InputError(
            f"by default {one} gives its {first.removesuffix('_embedding')} matrix and {other} its "
            f"{second.removesuffix('_embedding')} matrix: choose one `role` for all"
        )


def node_names(stores: Sequence[Data], role: Role | None) -> list[str | None]:
    """What the result of each store is called, `<organisation>--<name>`; None for a store that is broken.

    The revision is part of it where several of the stores are of that model.

    Raises
    ------
    InputError
        where two would have one name.
    """
    models: list[tuple[str, str] | None] = []
    for store in stores:
        try:
            models.append(name_of(store, role))
        except EmbgeomError:
            models.append(None)
    counts = Counter(each[0] for each in models if each is not None)
    taken = {results.TABLE.removesuffix(".zarr"): "the table of all models"}
    names: list[str | None] = []
    for store, each in zip(stores, models, strict=True):
        names.append(None)
        if each is not None:
            model, revision = each
            name = model_stores.file_name(model, revision if counts[model] > 1 else "").removesuffix(".zarr")
            if name in taken:
                raise InputError(
                    f"{_called(store)} and {taken[name]} would both be called {name}: scan them one by one"
                )
            names[-1], taken[name] = name, _called(store)
    return names


def _outs(names: Sequence[str | None], out: PathLike | None) -> list[PathLike | None]:
    """Where the result of each store goes; nowhere for a store that is broken."""
    if out is None:
        return [None] * len(names)
    if paths.exists(paths.locate(paths.join(os.fspath(out), "zarr.json"))):
        raise InputError(f"{out} is a result: with several stores `out` names a folder")
    return [None if name is None else paths.join(os.fspath(out), f"{name}.zarr") for name in names]


def _called(data: Data) -> str:
    return "the array given" if is_array(data) else str(data)


def for_each(scan: Callable[..., xr.Dataset]) -> Callable[..., Any]:
    """Let `scan` take a list of stores, too: a few are scanned at a time and share the cluster and its memory."""

    @wraps(scan)
    def scan_any(data: Data | Iterable[Data], **settings: Any) -> xr.Dataset | xr.DataTree:
        settings = {name: list(each) if isinstance(each, Iterator) else each for name, each in settings.items()}
        if is_one(data):
            return scan(data, **settings)
        common_edges = settings.pop("common_edges", False)
        return _scan_each(scan, each_of(data, "scan"), settings, common_edges=common_edges)

    return scan_any


def _scan_each(
    scan: Callable[..., xr.Dataset], stores: list[Data], settings: dict[str, Any], *, common_edges: bool = False
) -> xr.DataTree:
    how: dict[str, Any] = {name: settings.pop(name, None) for name in ("role", "client")}
    how |= {"device": settings.pop("device", "auto"), "out": settings.pop("out", None)}
    if len(stores) > 1:
        check_one_store(**{name: settings.get(name) for name in ("within", "pairs_within")})
    names = node_names(stores, how["role"])
    if settings.get("dry_run"):
        how["out"] = None
    with (
        showing(settings.pop("progress", None)),
        interruptible() if how["out"] else nullcontext(),
        _one_cluster(how) if common_edges else nullcontext(how) as how,
    ):
        if common_edges:
            settings = _with_common_edges(scan, stores, settings, how)
        again = settings.get("resume_command")
        found = on_each("scan", stores, _scanning(scan, settings, how), table, resume_command=again, **how)
    return results.tree_of(table(found), {str(name): each for name, each in zip(names, found, strict=True)})


@contextmanager
def _one_cluster(how: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The same settings with a client that is connected, for the two passes of common edges."""
    with connect(how["client"], how["device"], how["out"]) as active:
        yield how | {"client": active}


def _scanning(scan: Callable[..., xr.Dataset], settings: dict[str, Any], how: dict[str, Any]) -> Work:
    """What is done on each store."""

    def work(store: Data, target: PathLike | None, active: Client, sharing: int) -> xr.Dataset:
        shared = {"role": how["role"], "device": how["device"], "client": active, "memory_share": 1 / sharing}
        return scan(store, out=target, **shared, **settings)

    return work


def _with_common_edges(
    scan: Callable[..., xr.Dataset], stores: list[Data], settings: dict[str, Any], how: dict[str, Any]
) -> dict[str, Any]:
    """The settings with edges of bins in place of their number, up to the largest distance that any store can have."""
    if not settings.get("histogram"):
        raise InputError("`common_edges`: give the number of bins with `histogram`")
    planning, without = settings | {"dry_run": True}, how | {"out": None}
    plans = on_each("bins", stores, _scanning(scan, planning, without), table, **without)
    top = max(each.attrs["plan"]["last_edge"] for each in plans)
    edges = bin_edges(settings["histogram"], top, settings.get("histogram_scale", "linear"))
    return settings | {"histogram": None, "histogram_scale": "linear", "histogram_edges": edges.tolist()}


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
