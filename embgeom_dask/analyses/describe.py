"""Several questions that take rows one by one, in one run that reads a store once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, cast

import xarray as xr
from distributed import Client

from embgeom_dask.analyses import duplicates, survey
from embgeom_dask.analyses.over_steps import ANALYSES, check_each
from embgeom_dask.analyses.spectrum import rows_of_part
from embgeom_dask.batches import batch, many, trees
from embgeom_dask.errors import InputError, SomeFailed, parse_path
from embgeom_dask.execution.arrays import Data, Given, given_rows
from embgeom_dask.execution.cluster import ClientLike, connect
from embgeom_dask.execution.kept_rows import keeping
from embgeom_dask.execution.map_rows import rows_of_pass
from embgeom_dask.execution.memory import parse_limit
from embgeom_dask.progress import showing
from embgeom_dask.storage import paths, result_trees
from embgeom_dask.storage.model_stores import Role
from embgeom_dask.storage.paths import PathLike

EACH = ("survey", "tokens", "duplicates", "spectrum")
"""What is asked by default."""

_ONE_DATASET = {"survey": survey.together, "duplicates": duplicates.together}
"""What makes one Dataset of the results of several models; those of other questions are a tree."""

Settings = Mapping[str, Mapping[str, Any]]


def describe(
    data: Data | Iterable[Data],
    each: str | Sequence[str] | Settings = EACH,
    role: Role | None = None,
    *,
    out: PathLike | None = None,
    memory_limit: str | int | None = None,
    client: ClientLike | None = None,
    progress: bool | None = None,
    part: str | None = None,
    resume_command: str | None = None,
) -> xr.DataTree:
    """Answer several questions about a matrix in one run that reads its store once.

    Workers keep the rows that they read, as stored, until the last question is answered. Each task goes to the worker
    that has its rows. A worker keeps rows in half of the memory that it may take. Rows that do not fit are read again
    by every pass; a note says so. No result depends on it.

    Parameters
    ----------
    data : path, array, or list of these
        A store, or any array that `scan` takes.
    each : str, list of str, or mapping
        The questions: "survey", "tokens", "duplicates", "spectrum" or "outliers". A mapping gives each its settings, as
        keywords of the function of that name: `{"survey": {}, "spectrum": {"components": 0}}`. Passes over pairs, as
        outliers need, read their rows themselves.
    role : {"input", "output"}, optional
        The matrix of a store; by default output, or input if the store has no output matrix.
    out : path, optional
        A folder to save the results in, each as its own function saves it: `survey.zarr` and so on. With several stores
        these are folders, `survey` and so on, with a result for each model and the table of all. Results that are there
        already are opened instead of computed again. `open_result` of the folder gives what this function returns, and
        `status` says how many stores are done.
    memory_limit : str or int, optional
        The memory that the process of a worker may hold, "2GiB" or bytes; beyond it no more rows are kept. By default
        it is what the process holds already and 60% of the memory that is free.
    client : Client, cluster or str, optional
        A dask client, a cluster, or the address of a scheduler. By default the active client, or else a local cluster.
    progress : bool, optional
        Whether to show a progress bar, and the address of dask's dashboard; by default only in a notebook.
    part : str, optional
        Which part of a list of stores to do, where several commands share the list and the folder `out`: "2/8" is the
        second of eight parts. By default all.
    resume_command : str, optional
        The command line that continues this call; `status` shows it.

    Returns
    -------
    xarray.DataTree
        A node for each question, with the result of the function of that name. Of a list of stores the node is what
        that function gives of a list: `survey` and `duplicates` a Dataset over models, the others a table of all, with
        a node for each model.

    Raises
    ------
    InputError
        If something else is asked, if `out` is a result, or as the functions themselves.
    EmbgeomError
        If a store cannot be read.
    SomeFailed
        If some of several stores failed, after the others are done; its `results` hold the tree of those of the others.

    Examples
    --------
    >>> from embgeom_dask.testing import make_store
    >>> found = describe(make_store("tiny.zarr", output=np.array([[3, 4], [6, 8]], np.float32)), ["survey", "tokens"])
    >>> found["survey/norm_mean"].values, found["tokens/norm_l2"].values
    (array([7.5]), array([ 5., 10.]))
    """
    asked, limit = check_each(each), parse_limit(memory_limit)
    if not asked:
        raise InputError(f"`each` names nothing: choose of {', '.join(ANALYSES)}")
    folder = None if out is None else parse_path("out", out)
    if folder is not None and paths.exists(paths.locate(paths.join(folder, "zarr.json"))):
        raise InputError(f"{folder} is a result: `out` names a folder for several")
    with showing(progress):
        if not many.is_one(data, part):
            how: dict[str, Any] = {"client": client, "part": part, "resume_command": resume_command}
            return _of_many(many.each_of(data, "describe"), asked, role, folder, limit, how)
        outs = {name: None if folder is None else paths.join(folder, f"{name}.zarr") for name in asked}
        one = cast(Data, data)
        with given_rows(one, role, client, whole=True) as given, connect(client, out=folder) as active:
            return result_trees.tree_of(None, _of_one(given, one, asked, role, outs, active, limit, 1))


def _of_one(
    given: Given,
    data: Data,
    asked: Settings,
    role: Role | None,
    outs: Mapping[str, str | None],
    client: Client,
    limit: int | None,
    sharing: int,
) -> dict[str, xr.Dataset]:
    """The result of each question, of one model, of `sharing` that are on a worker at a time."""
    matrix = given.matrix
    rows = rows_of_part(matrix) if "spectrum" in asked else rows_of_pass(client, matrix)
    found = {}
    with keeping(client, matrix, rows, memory_limit=limit, sharing=sharing):
        for name, settings in asked.items():
            source = data if name == "outliers" else given  # of some rows of a store, outliers takes them as they are
            found[name] = ANALYSES[name](source, role=role, out=outs[name], client=client, **settings)
    return found


def _of_many(
    given: Sequence[Data],
    asked: Settings,
    role: Role | None,
    out: str | None,
    limit: int | None,
    how: Mapping[str, Any],
) -> xr.DataTree:
    """The results of several models, each question's as its own function gives them; `how` are those of `on_each`."""
    known = many.identify(given, role)
    names = {id(each): str(name) for each, name in zip(given, many.node_names(given, known), strict=True)}

    def work(each: Data, _: PathLike | None, active: Client, sharing: int) -> Any:
        name = names[id(each)]
        outs = {one: None if out is None else paths.join(out, one, f"{name}.zarr") for one in asked}
        with given_rows(each, role, active, whole=True) as rows:
            tree = result_trees.tree_of(None, _of_one(rows, each, asked, role, outs, active, limit, sharing))
        tree.name = name
        return tree

    def together(found: Sequence[Any]) -> xr.DataTree:
        return _together(asked, {str(each.name): each for each in found})

    saved = [
        batch.Saved(one, paths.join(out, one), partial(_table, one), settings, partial(_result_of, one))
        for one, settings in asked.items()
        if out is not None
    ]
    try:
        return together(many.on_each("describe", given, work, _no_table, role=role, known=known, saved=saved, **how))
    except SomeFailed as failed:
        others: list[Any] = [together(failed.results)] if failed.results else []
        raise SomeFailed(str(failed), others) from failed


def _together(asked: Settings, found: Mapping[str, xr.DataTree]) -> xr.DataTree:
    """A node for each question, with its results of all models."""
    nodes: dict[str, xr.Dataset] = {}
    for name in asked:
        each = {model: _result_of(name, tree) for model, tree in found.items()}
        table = nodes[f"/{name}"] = _table(name, [*each.values()])
        if name not in _ONE_DATASET:
            nodes[f"/{name}"] = table.drop_indexes(list(table.xindexes))
            nodes |= {f"/{name}/{model}": one for model, one in each.items()}
    return xr.DataTree.from_dict(nodes)


def _table(name: str, found: Sequence[xr.Dataset]) -> xr.Dataset:
    """The table of one question's results."""
    return _ONE_DATASET[name](found) if name in _ONE_DATASET else trees.table(name, found)


def _result_of(name: str, tree: Any) -> xr.Dataset:
    """The result of one question, of those of a model."""
    found: xr.Dataset = tree[name].to_dataset()
    return found


def _no_table(_: Sequence[xr.Dataset]) -> xr.Dataset:
    """Each question has its own table."""
    return xr.Dataset()
