"""The command that says what this machine has, and what the workers of a cluster have and see."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from embgeom_dask.cli.answers import print_answer
from embgeom_dask.cli.options import Json, Scheduler
from embgeom_dask.cli.stores import find_store
from embgeom_dask.errors import InputError
from embgeom_dask.units import bytes_text


def doctor(
    store: Annotated[
        str | None, typer.Argument(metavar="STORE", help="A store that each worker tries to read: a path or URL.")
    ] = None,
    scheduler: Scheduler = None,
    as_json: Json = False,
) -> None:
    """Say which devices, memory and versions are here.

    With --scheduler each worker says what it is and has, and whether it can read STORE.
    """
    from embgeom_dask import devices

    if store is not None and scheduler is None:
        raise InputError("STORE is for workers to read: give `scheduler`, too")
    found = devices.describe()
    if scheduler is not None:
        from embgeom_dask.execution.worker_inspection import describe_workers

        seen = None if store is None else find_store(store, must_be_there=False)
        found["workers"] = describe_workers(scheduler, seen)
    print_answer(found if as_json else _text(found))


def _text(description: Mapping[str, Any]) -> str:
    from embgeom_dask.cli.text_tables import align

    found = (
        [each["device"], each["name"], bytes_text(each["memory_total"]), bytes_text(each["memory_free"])]
        for each in description["devices"]
    )
    facts = {name: description[name] for name in ("cores", "threads", "platform")} | dict(description["versions"])
    parts = [
        align(["device", "name", "memory", "free"], found),
        align(["this machine", ""], ([name, str(value)] for name, value in facts.items())),
    ]
    if "workers" in description:
        parts.append(_workers_text(description["workers"], description["versions"]))
    return "\n\n".join(parts)


def _workers_text(workers: Sequence[Mapping[str, Any]], here: Mapping[str, str]) -> str:
    """What each worker has, and what is wrong there or another version than that of this process."""
    from embgeom_dask.cli.text_tables import align

    if not workers:
        return "no worker is there"
    header = ("worker", "host", "threads", "free", "dask's limit", "devices")
    parts = [align(header, map(_row, workers))]
    if differing := [[each["worker"], said] for each in workers for said in _objections(each, here)]:
        parts.append(align(["worker", "what is wrong, or other than here"], differing))
    elif "sees" in workers[0]:
        parts.append("every worker can read the store")
    return "\n\n".join(parts)


def _row(worker: Mapping[str, Any]) -> list[Any]:
    if worker["problem"]:
        return [worker["worker"], "", worker["threads"], "", "", ""]
    kinds = Counter(each["device"].partition(":")[0] for each in worker["devices"])
    (free,) = (bytes_text(each["memory_free"]) for each in worker["devices"] if each["device"] == "cpu")
    limit = "none" if worker["memory_limit"] is None else bytes_text(worker["memory_limit"])
    had = ", ".join(f"{count} {kind}" if count > 1 else kind for kind, count in kinds.items())
    return [worker["worker"], worker["host"], worker["threads"], free, limit, had]


def _objections(worker: Mapping[str, Any], here: Mapping[str, str]) -> list[str]:
    if worker["problem"]:
        return [worker["problem"]]
    there = worker["versions"]
    said = [f"{name} {there.get(name)}, here {here.get(name)}" for name in here if there.get(name) != here[name]]
    return said + [f"cannot read the store: {worker['sees']}"] * bool(worker.get("sees"))
