"""Results of several stores as a tree: a node for each model, and in the root a table of their numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from embgeom_dask.batches import batch, many
from embgeom_dask.execution.arrays import Data
from embgeom_dask.execution.cluster import ClientLike
from embgeom_dask.storage import result_names, result_trees
from embgeom_dask.storage.model_stores import Role
from embgeom_dask.storage.paths import PathLike

One = Callable[[Data, PathLike | None, ClientLike | None, int], xr.Dataset]
"""A command on one store or array: given it, where its result goes, a client, and how many share a worker."""


def one_or_tree(
    what: str,
    data: Data | Iterable[Data],
    one: One,
    *,
    role: Role | None,
    out: PathLike | None,
    client: ClientLike | None,
    part: str | None = None,
    asked: Mapping[str, Any] | None = None,
) -> xr.Dataset | xr.DataTree:
    """Ask `one` of one store or array, or of each of a list of them: then its results are a tree.

    `part` and `asked` are those of `many.on_each`.

    Raises
    ------
    InputError, SomeFailed
        as `many.on_each`.
    """
    if many.is_one(data, part):
        return one(many.each_of(data, what)[0], out, client, 1)
    given = many.each_of(data, what)
    known = many.identify(given, role)
    names = batch.Part.parse(part).of(many.node_names(given, known))

    def together(found: Sequence[xr.Dataset]) -> xr.Dataset:
        return table(what, found)

    how: dict[str, Any] = {"role": role, "out": out, "client": client, "part": part, "asked": asked, "known": known}
    found = many.on_each(what, given, one, together, **how)
    return result_trees.tree_of(together(found), {str(name): each for name, each in zip(names, found, strict=True)})


def table(command: str, found: Sequence[xr.Dataset]) -> xr.Dataset:
    """The numbers that each of several results has one of, as a Dataset over `model`."""
    columns = {}
    for name, variable in found[0].variables.items() if found else ():
        if not variable.dims and name not in ("model", "revision", "matrix"):
            columns[str(name)] = ("model", np.array([each[name].item() for each in found]))
    labels = {
        name: ("model", np.array([each.attrs[name][0] for each in found], np.str_))
        for name in ("model", "revision", "matrix")
    }
    return result_names.complete(xr.Dataset(columns, labels, attrs=many.joined(found, command)))
