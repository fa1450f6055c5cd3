"""Scan a list of stores with the same settings, on request with the same bins."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import wraps
from inspect import signature
from typing import Any

import xarray as xr
from distributed import Client

from embgeom_dask.batches.batch import Part
from embgeom_dask.batches.many import Work, each_of, identify, is_one, node_names, on_each, table
from embgeom_dask.errors import InputError
from embgeom_dask.execution.arrays import Data
from embgeom_dask.execution.cluster import connect
from embgeom_dask.execution.monitor import interruptible
from embgeom_dask.progress import showing
from embgeom_dask.reductions.histogram import bin_edges
from embgeom_dask.selections.radii import check_one_store
from embgeom_dask.storage import result_trees
from embgeom_dask.storage.paths import PathLike

_DECIDE_NOTHING = {"data", "role", "out", "device", "tile", "memory_limit", "memory_share", "dry_run", "client"}
_DECIDE_NOTHING |= {"progress", "resume_command", "part", "common_edges", "max_pairs"}


def for_each(scan: Callable[..., xr.Dataset]) -> Callable[..., Any]:
    """Let `scan` take a list of stores, too: a few are scanned at a time and share the cluster and its memory."""

    @wraps(scan)
    def scan_any(data: Data | Iterable[Data], **settings: Any) -> xr.Dataset | xr.DataTree:
        settings = {name: list(each) if isinstance(each, Iterator) else each for name, each in settings.items()}
        if is_one(data, settings.get("part")):
            return scan(data, **settings)
        common_edges = settings.pop("common_edges", False)
        return _scan_each(scan, each_of(data, "scan"), settings, common_edges=common_edges)

    return scan_any


def _scan_each(
    scan: Callable[..., xr.Dataset], stores: list[Data], settings: dict[str, Any], *, common_edges: bool = False
) -> xr.DataTree:
    how: dict[str, Any] = {name: settings.pop(name, None) for name in ("role", "client")}
    how |= {"device": settings.pop("device", "auto"), "out": settings.pop("out", None)}
    part = settings.pop("part", None)
    if len(stores) > 1:
        check_one_store(**{name: settings.get(name) for name in ("within", "pairs_within")})
    if part is not None and common_edges:
        raise InputError("`common_edges` needs all stores at once, not a `part`: give `histogram_edges`")
    known = identify(stores, how["role"])
    names = Part.parse(part).of(node_names(stores, known))
    if settings.get("dry_run"):
        how["out"] = None
    with (
        showing(settings.pop("progress", None)),
        interruptible() if how["out"] else nullcontext(),
        _one_cluster(how) if common_edges else nullcontext(how) as how,
    ):
        if common_edges:
            settings = _with_common_edges(scan, stores, settings, how)
        shared: dict[str, Any] = {"resume_command": settings.get("resume_command"), "part": part, "known": known}
        shared["asked"] = _asked(scan, settings)
        found = on_each("scan", stores, _scanning(scan, settings, how), table, **shared, **how)
    return result_trees.tree_of(table(found), {str(name): each for name, each in zip(names, found, strict=True)})


def _asked(scan: Callable[..., xr.Dataset], settings: Mapping[str, Any]) -> dict[str, Any]:
    """What decides the results of a scan, given or by default."""
    defaults = {name: each.default for name, each in signature(scan).parameters.items()}
    return {name: value for name, value in (defaults | dict(settings)).items() if name not in _DECIDE_NOTHING}


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
