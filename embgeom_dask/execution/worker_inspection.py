"""Ask the workers of a cluster what they are and what they see, before any scan: for `embgeom doctor`."""

from __future__ import annotations

import platform
from typing import Any

from distributed import Worker

from embgeom_dask import devices, private_apis
from embgeom_dask.errors import EmbgeomError
from embgeom_dask.execution.cluster import reach
from embgeom_dask.storage import model_stores, paths


def describe_workers(address: str, store: str | None = None) -> list[dict[str, Any]]:
    """Ask every worker of the scheduler at an address.

    Parameters
    ----------
    address : str
        The address of a scheduler.
    store : path or URL, optional
        A store of which each worker reads a row, by the same path.

    Returns
    -------
    list of dict
        Of each worker, by address: `worker`, the address; `host`; `threads`; `memory_limit`, dask's own in bytes, None
        where it has none; `problem`, None or why it can do nothing here. Where it can, what `devices.describe` says of
        its process, and with a store `sees`: "" where its rows can be read, or why not.

    Raises
    ------
    InputError
        where no scheduler answers at the address.
    """
    url = None if store is None else paths.locate(store)
    here = None if url is None else _digest(url)
    with reach(address) as client:
        threads = client.nthreads()
        answers = client.run(_describe, url, on_error="return") if threads else {}
    found = []
    for worker in sorted(answers):
        answer = answers[worker]
        failed = isinstance(answer, BaseException)
        said: dict[str, Any] = {"problem": f"{type(answer).__name__}: {paths.explain(answer)}"} if failed else answer
        if here is not None and said.get("sha256", here) != here:
            said["sees"] = "another store than this process"
        said.pop("sha256", None)
        found.append({"worker": worker} | said | {"threads": threads.get(worker, 0)})
    return found


def _describe(url: str | None, dask_worker: Worker) -> dict[str, Any]:
    """What this worker is; it runs there."""
    limit = private_apis.memory_limit(dask_worker) or None
    found = {"host": platform.node(), "memory_limit": limit, "problem": None} | devices.describe()
    if url is not None:
        try:
            matrix = model_stores.find_matrix(url)
            matrix.read(0, min(1, matrix.vocab_size))
            found |= {"sees": "", "sha256": matrix.sha256}
        except Exception as error:  # file systems raise what they like
            found["sees"] = paths.explain(error)
    return found


def _digest(url: str) -> str | None:
    """The digest of the matrix of a store; None where this process sees none, as it may."""
    try:
        return model_stores.find_matrix(url).sha256
    except (EmbgeomError, OSError):
        return None
