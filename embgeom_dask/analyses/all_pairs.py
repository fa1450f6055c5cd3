"""The steps of every command that visits all pairs: plan, compare on the cluster, label, save."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np
import xarray as xr
from distributed import Client

from embgeom_dask.execution import known_workers, square_sums, workers
from embgeom_dask.execution.arrays import Given
from embgeom_dask.execution.cluster import ClientLike, connect
from embgeom_dask.execution.panel_result import PassResult
from embgeom_dask.execution.passes import run_pass
from embgeom_dask.execution.plan import Plan
from embgeom_dask.execution.planning import Resources, make_plan
from embgeom_dask.execution.resume import result_or_journal
from embgeom_dask.execution.spec import ScanSpec
from embgeom_dask.execution.worker_state import blocks_for, forget
from embgeom_dask.pairwise.blocks import BlockCache, BlockReader
from embgeom_dask.pairwise.left_out import AllValues
from embgeom_dask.progress import note
from embgeom_dask.reductions import Histogram
from embgeom_dask.statistics.quantiles import find as find_quantiles
from embgeom_dask.storage import paths, result_names, result_tokens, results
from embgeom_dask.storage.model_stores import Matrix
from embgeom_dask.storage.paths import PathLike

Complete = Callable[[Client, Plan, dict[str, Any]], dict[str, Any]]
"""What a command makes of the variables that its passes gave, on a cluster: token ids are numbers of rows."""


def compare_pairs(
    command: str,
    sides: Sequence[Given],
    spec: ScanSpec,
    resources: Resources,
    client: ClientLike | None,
    *,
    started: float,
    out: PathLike | None,
    settings: Mapping[str, Any] | None = None,
    made_of: Sequence[Matrix] | None = None,
    dry_run: bool = False,
    resume_command: str | None = None,
    complete: Complete | None = None,
    reshape: Callable[[xr.Dataset], xr.Dataset] | None = None,
) -> xr.Dataset:
    """Compare the rows of one side, or of two with each other, as `spec` asks, and return the labelled result.

    Parameters
    ----------
    command : str
        What the result is of: its attribute, with `settings`, by default those of `spec`.
    sides : one or two Given
    made_of : list of Matrix, optional
        The matrices that the result is of, where sides were made of others.
    started : float
        When the command began, by `perf_counter`.
    out : path, optional
        Where the result is saved and, until then, the journal is kept, from which the same command goes on.
    dry_run : bool
        Whether to stop before the first tile, with the plan in place of the result.
    resume_command : str, optional
        The command line that goes on, for `status` to say.
    complete : function, optional
        Given a client, the plan and the variables of the result, it returns those to be labelled and saved.
    reshape : function, optional
        What makes the result of the labelled dataset, before names for axes come to it.

    Raises
    ------
    InputError, EmbgeomError
        as `scan`.
    """
    matrices = [given.matrix for given in sides]
    asked = spec.as_dict() if settings is None else settings
    attrs = results.provenance(command, made_of or matrices, [], 0.0, asked)
    with result_or_journal(out, attrs, dry_run=dry_run) as (done, journal):
        if done is not None:
            return done
        if journal is not None:
            tile, element = journal.fix("tile", resources.tile), journal.fix("element", None)
            resources = replace(resources, tile=tile, element=element)
        with _cluster(client, resources.device, out, matrices) as cluster:
            rows, ids = [(given.matrix, given.rows) for given in sides], [given.ids for given in sides]
            plan = make_plan(cluster, rows, spec, resources, ids)
            plan = replace(plan, temporary=sum(given.nbytes for given in sides))
            for line in repr(plan.summary).splitlines():
                note(line)
            if dry_run:
                return xr.Dataset(attrs=attrs | {"plan": asdict(plan.summary)})
            if journal is not None:
                journal.begin(attrs, plan, resume_command)
                workers.check_seen(cluster, [paths.join(journal.url, "run.json")])
            blocks = blocks_for(cluster)
            run = partial(run_pass, cluster, blocks, journal=journal)
            with _forgotten(cluster, plan):
                found = run(plan, command)
                known = square_sums.check(cluster, plan, found, plan.exact(BlockReader(blocks)))
                variables = _finalize(plan, found, spec, run, blocks, known)
                if complete is not None:
                    variables = complete(cluster, plan, variables)
        attrs |= {"seconds": round(perf_counter() - started, 3)}
        dataset = _labelled(variables, plan, found, attrs, sides)
        dataset = dataset if reshape is None else reshape(dataset)
        dataset = result_names.complete(dataset, result_names.of_matrices(attrs))
        if journal is not None:
            results.save(dataset, journal.out)
            journal.finish()
        return dataset


@contextmanager
def _cluster(
    client: ClientLike | None,
    device: str,
    out: PathLike | None,
    matrices: Sequence[Matrix],
) -> Iterator[Client]:
    """A client of the cluster to use, whose workers see the matrices."""
    with connect(client, device, out) as cluster:
        workers.check_seen(cluster, [paths.join(each.store, each.name, "zarr.json") for each in matrices])
        yield cluster


@contextmanager
def _forgotten(cluster: Client, plan: Plan) -> Iterator[None]:
    """Enter the passes of a plan: workers drop its blocks at the end."""
    try:
        yield
    finally:
        if cluster.status == "running" and not isinstance(sys.exception(), KeyboardInterrupt):
            sides = (*plan.sides, *(plan.before.sides if plan.before is not None else ()))
            known_workers.run_where_used(cluster, forget, {side.key for side in sides})


def _labelled(
    variables: dict[str, Any],
    plan: Plan,
    found: PassResult,
    attrs: dict[str, Any],
    sides: Sequence[Given],
) -> xr.Dataset:
    """The variables of the result with token ids, strings, and what made them."""
    certificate = plan.certificate(found.products) | {f"{level}_pairs": n for level, n in found.counts.items()}
    attrs |= {"devices": sorted(found.devices), "certificate": json.dumps(certificate)}
    dataset = xr.Dataset(variables, attrs=attrs)
    if "token_id" in dataset.dims or ("pair" in dataset.dims and plan.symmetric):  # a graph has all rows compared
        dataset = dataset.assign_coords(token_id=plan.sides[0].rows.tokens)
    dataset = result_tokens.with_tokens(dataset, [given.stored_labels() for given in sides])
    return result_tokens.with_ids(dataset, [given.token_id for given in sides])


def _finalize(
    plan: Plan,
    found: PassResult,
    spec: ScanSpec,
    run: Callable[[Plan, str], PassResult],
    blocks: BlockCache,
    known: AllValues | None,
) -> dict[str, Any]:
    """Name the variables of the result. A histogram's extremes are pairs, exact like every other.

    `known` is what `square_sums.check` gives.

    Exact quantiles take more passes, which add to what `found` says of devices and counts.
    """

    def again(changed: Plan) -> PassResult:
        made = run(changed, "quantiles")
        found.devices |= made.devices
        found.counts.update(made.counts)
        found.products |= made.products
        return made

    exact, sides = plan.exact(BlockReader(blocks)), plan.rows
    variables: dict[str, Any] = {}
    for reduction in plan.reductions.values():
        variables |= reduction.finalize(found.state(reduction), sides, exact)
    histogram = plan.reductions.get("histogram")
    if isinstance(histogram, Histogram):
        pairs = variables["pair_count"][1].item()
        variables |= histogram.moments(found.state(histogram), pairs, exact, known)
    if spec.summed:
        for name, extreme in (("distance_max", "farthest"), ("distance_min", "nearest")):
            distance = variables[f"{extreme}_distance"][1]
            variables[name] = ((), distance[0] if distance.size else np.nan)
            if getattr(spec, extreme) is None:
                del variables[f"{extreme}_distance"], variables[f"{extreme}_token_id"]
        if spec.distinct and _any_identical(plan):
            variables["distance_min"] = ((), 0.0)
        least, most = (float(variables[f"distance_{end}"][1]) for end in ("min", "max"))
        variables["distance_mean"] = ((), np.clip(variables["distance_mean"][1], least, most))
        if least == most:  # all true ones round to this number, and what else is left is the error of the sums
            step = np.spacing(least) if least else 0.0
            variables["distance_std"] = ((), variables["distance_std"][1] * 0)
            for name, off in (("distance_mean_error", step / 2), ("distance_std_error", step)):
                variables[name] = ((), np.minimum(variables[name][1], off))
    if spec.moments_per_row:  # a mean of rounded distances, which may lie outside of those as they are
        dims, mean = variables["row_mean"]
        variables["row_mean"] = (dims, np.clip(mean, variables["row_min"][1], variables["row_max"][1]))
    if spec.quantiles:
        pairs, largest = variables["pair_count"][1].item(), float(variables["distance_max"][1])
        more = again if spec.exact_quantiles else None
        variables |= find_quantiles(plan, exact, found, spec.quantiles, pairs, largest, more)
    if spec.summed and not spec.binned:
        for name in ("histogram_count", "histogram_below", "histogram_above", "bin_edge"):
            del variables[name]
    names = ("left_out",) if plan.symmetric else ("left_out", "against_left_out")
    for name, rows in zip(names, (sides.first, sides.second), strict=False):
        if rows.left_out.size:
            variables[f"{name}_token_id"] = ((name,), rows.left_out)
    return variables


def _any_identical(plan: Plan) -> bool:
    """Whether two tokens that are compared have identical rows, where a reduction leaves their pairs out."""
    if plan.symmetric:
        return bool((plan.sides[0].rows.weights > 1).any())
    duplicates_of = (reduction.duplicate_of for reduction in plan.reductions.values())
    return any(duplicate_of is not None and (duplicate_of >= 0).any() for duplicate_of in duplicates_of)
