"""The connected components of the graph of tokens within a radius, at many radii in one pass."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from time import perf_counter
from typing import Any

import numpy as np
import xarray as xr
from distributed import Client

from embgeom_dask.analyses.all_pairs import compare_pairs
from embgeom_dask.analyses.diameters import diameters
from embgeom_dask.batches import many
from embgeom_dask.batches.batch import Part
from embgeom_dask.errors import InputError
from embgeom_dask.execution.arrays import Data
from embgeom_dask.execution.cluster import ClientLike
from embgeom_dask.execution.memory import parse_limit
from embgeom_dask.execution.monitor import interruptible
from embgeom_dask.execution.plan import Plan
from embgeom_dask.execution.planning import Resources
from embgeom_dask.execution.spec import Numbers, ScanSpec
from embgeom_dask.metrics import find_distance
from embgeom_dask.progress import showing
from embgeom_dask.selections.radii import check_one_store, parse_radii
from embgeom_dask.selections.selection import Selection
from embgeom_dask.selections.sides import sides_of
from embgeom_dask.storage import result_trees
from embgeom_dask.storage.model_stores import Role
from embgeom_dask.storage.paths import PathLike


def components(
    data: Data | Iterable[Data],
    radius: Numbers,
    role: Role | None = None,
    *,
    tokens: Selection = None,
    metric: str = "euclidean",
    diameter: bool = False,
    out: PathLike | None = None,
    device: str = "auto",
    memory_limit: str | int | None = None,
    part: str | None = None,
    client: ClientLike | None = None,
    progress: bool | None = None,
    resume_command: str | None = None,
) -> Any:
    """Find the connected components of a graph at several radii: its edges are the pairs of rows within the radius.

    The nodes of the graph are the distinct rows: identical rows are one node, which counts all of their tokens. An edge
    is a pair of nodes whose reported distance is at most the radius. One pass over the pairs answers for all radii. No
    pair is kept, so that the memory needed grows with the number of rows and not of pairs.

    Parameters
    ----------
    data : path, array, or list of these
        A store, or any array that `scan` takes.
    radius : float, list of float, or str
        Radii, as `scan` takes them for `within`: `"0.5,2^-14,2ulp@0.037"`, or `"2ulp"` with `tokens`.
    role : {"input", "output"}, optional
        The matrix of a store; by default output, or input if the store has no output matrix.
    tokens : selection
        Which rows to compare, as `scan` takes them; by default all.
    metric : {"euclidean", "cosine", "chebyshev", "cityblock"}
        The distance between two rows. Rows of zeros have no cosine distance and are left out.
    diameter : bool
        Whether to find also the farthest pair of each component.
    out : path, optional
        Where to save the result; of a list, a folder. If the same result is there already, it is opened instead of
        computed again; if it was interrupted, it is continued.
    device, memory_limit, part, client, progress, resume_command
        As `scan` takes them.

    Returns
    -------
    xarray.Dataset
        Distances float64, token ids, numbers and counts int64. A component is listed where it has two tokens or more:
        `connected_component` counts them from 0, those of the smallest radius first, of one radius those of most tokens
        first, then by lowest token id.

        - `token_to_component (token_id, radius)`: the component of the token, -1 where the token is alone; `degree
          (token_id, radius)`, the number of other distinct rows within the radius of its row.
        - `component_count (radius)`, the number of all components, those of one token included; `alone_count (radius)`,
          of tokens that are alone; `isolated_count (radius)`, of distinct rows without an edge; `edge_count (radius)`.
        - `component_radius`, `component_token_count`, `component_distinct_count`, `component_edge_count`,
          `component_token_id`, the lowest, and its string `component_token`; `component_density`, the edges as a share
          of the pairs of its rows, NaN where there is one row; all `(connected_component)`.
        - With `diameter` also `component_diameter (connected_component)`, the largest distance, and
          `component_diameter_token_id (connected_component, side)`.
        - `distinct_count ()` and `token_count ()`; the coordinates `token_id`, the rows compared, `token` and `text`;
          `left_out_token_id (left_out)`, where rows were left out.

    xarray.DataTree
        Returned for a list of stores: a node for each store, and in the root a table of the numbers that each store has
        one of, or one of for each radius.

    Raises
    ------
    InputError
        If a store, matrix, selection, metric or device does not exist, a row has NaN, infinity, or a float64 value
        below 2^-400 or above 2^400 in size, a radius is no number, or something else is at `out`.
    SomeFailed
        If some of several stores failed. It is raised after the others are done; its `results` are theirs.

    Examples
    --------
    >>> from embgeom_dask.testing import make_store
    >>> rows = np.array([[0, 0], [3, 4], [0, 1], [0, 1], [9, 4]], np.float32)
    >>> found = components(make_store("tiny.zarr", output=rows), [1, 5], diameter=True)
    >>> found["token_to_component"].sel(radius=1).values, found["token_to_component"].sel(radius=5).values
    (array([ 0, -1,  0,  0, -1]), array([ 1,  1,  1,  1, -1]))
    >>> found["component_count"].values, found["edge_count"].values, found["component_diameter"].values
    (array([3, 2]), array([1, 3]), array([1., 5.]))
    """
    find_distance(metric)
    if not parse_radii(radius=radius)["radius"]:
        raise InputError("`radius`: give one number at least")

    def one(each: Data, target: PathLike | None, active: ClientLike | None, sharing: int) -> xr.Dataset:
        resources = Resources(device, memory_limit=parse_limit(memory_limit), memory_share=1 / sharing)
        how: dict[str, Any] = {"out": target, "diameter": diameter, "resume_command": resume_command}
        return _components(each, radius, role, tokens, metric, resources, active, **how)

    given = many.each_of(data, "components")
    if many.is_one(data, part):
        with showing(progress):
            return one(given[0], out, client, 1)
    if len(given) > 1:
        check_one_store(radius=radius)
    how: dict[str, Any] = {"out": out, "device": device, "client": client, "resume_command": resume_command}
    how |= {"part": part, "asked": {"radius": radius, "tokens": tokens, "metric": metric, "diameter": diameter}}
    with showing(progress), interruptible() if out is not None else nullcontext():
        known = many.identify(given, role)
        names = Part.parse(part).of(many.node_names(given, known))
        found = many.on_each("components", given, one, table, role=role, known=known, **how)
    return result_trees.tree_of(table(found), {str(name): each for name, each in zip(names, found, strict=True)})


def table(found: Sequence[xr.Dataset]) -> xr.Dataset:
    """What results at the same radii have one of, or one for each radius, as a Dataset over `model`."""
    return many.table(found).assign_attrs(command="components")


def _components(
    data: Data,
    radius: Numbers,
    role: Role | None,
    tokens: Selection,
    metric: str,
    resources: Resources,
    client: ClientLike | None,
    *,
    out: PathLike | None,
    diameter: bool,
    resume_command: str | None,
) -> xr.Dataset:
    """Find the components of one model."""
    started = perf_counter()
    with sides_of(data, role, tokens, None, client) as sides:
        radii = (parse_radii(radius=radius) | parse_radii(sides, radius=radius))["radius"]
        spec = ScanSpec(metric, tokens=sides[0].selection, components=radii)
        settings = {("radius" if name == "components" else name): each for name, each in spec.as_dict().items()}
        return compare_pairs(
            "components",
            sides,
            spec,
            resources,
            client,
            started=started,
            out=out,
            settings=settings | ({"diameter": True} if diameter else {}),
            resume_command=resume_command,
            complete=_with_diameters if diameter else None,
        )


def _with_diameters(client: Client, plan: Plan, variables: dict[str, Any]) -> dict[str, Any]:
    """The variables, with the farthest pair of each component."""
    rows = plan.rows.first
    number = variables["token_to_component"][1][np.searchsorted(rows.tokens, rows.token_id)]
    distance, pair = diameters(client, plan, number)
    found: dict[str, Any] = {"component_diameter": (("connected_component",), distance)}
    found["component_diameter_token_id"] = (("connected_component", "side"), pair.reshape(-1, 2))
    return variables | found
