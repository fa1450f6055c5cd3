"""The models in a result that a plot shows, each with its name; checks that they have what the plot needs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from embgeom_dask.errors import InputError
from embgeom_dask.reporting.display_names import display_names

Result = xr.Dataset | xr.DataTree


class ModelResult(NamedTuple):
    """A result of one model, and what a legend calls it."""

    label: str
    result: xr.Dataset


def of_models(result: Result, name: str, missing: str, dimension: str | None = None) -> list[ModelResult]:
    """The models of a result or of a tree of them, each with the variable `name`, and that along `dimension`.

    Raises
    ------
    InputError
        where the result, or a node of the tree, has no `name`: it says `missing`; or has one for each of several steps.
    """
    if isinstance(result, xr.Dataset):
        _check(result, name, "this result", missing, dimension)
        return _labelled([(None, each) for each in _split(result, name)])
    nodes = [node for node in result.subtree if node.data_vars and not node.children]
    if not nodes:
        raise InputError(f"this tree of results {missing}")
    having = next((node for node in nodes if _is_there(node, name, dimension)), None)
    if having is not None:  # of results of several commands, those of one
        nodes = [node for node in nodes if node.attrs.get("command") == having.attrs.get("command")]
    for node in nodes:
        _check(node, name, str(node.path), missing, dimension)
    found = [(str(node.name or ""), node.to_dataset()) for node in nodes]
    return _labelled([(path, each) for path, dataset in found for each in _split(dataset, name)])


def one_model(result: Result, name: str, missing: str, dimension: str | None = None) -> xr.Dataset:
    """The one model of a result; InputError where there are several, or it has no `name`."""
    found = of_models(result, name, missing, dimension)
    if len(found) > 1:
        labels = ", ".join(each.label for each in found)
        raise InputError(f"this plot is of one model, and the result is of {len(found)} ({labels}): choose one of them")
    return found[0].result


def has(result: Result, name: str, dimension: str | None = None) -> bool:
    """Whether a result, or any node of a tree, has a variable, and that along `dimension`."""
    nodes: Sequence[Any] = [result] if isinstance(result, xr.Dataset) else [*result.subtree]
    return any(_is_there(node, name, dimension) for node in nodes)


class HistogramBins(NamedTuple):
    """The bins of a histogram, from the least distance: n + 1 edges, the pairs in each bin, and their share up to each
    edge."""

    edges: NDArray[np.float64]
    pairs: NDArray[Any]
    share: NDArray[np.float64]


def bins_of(result: xr.Dataset) -> HistogramBins:
    """The bins that a result of one model has: all of them, or those between two distances.

    Raises
    ------
    InputError
        where some are missing between others.
    """
    ordered = result.sortby("bin")
    left, right = (ordered[f"bin_{side}"].to_numpy() for side in ("left", "right"))
    if (left[1:] != right[:-1]).any():
        raise InputError("bins between others are missing in this result: take all of them, or those of a slice")
    count, share = ordered["histogram_count"].to_numpy(), ordered["histogram_cdf"].to_numpy()
    pairs = int(result["pair_count"])
    below = [(np.rint(share[:1] * pairs) - count[:1]) / pairs if pairs else share[:1]]
    return HistogramBins(np.concatenate([left[:1], right]), count, np.concatenate([*below, share]))


def largest_component(result: xr.Dataset) -> NDArray[np.int64]:
    """At each radius, (radius,), the tokens of the component of most; one where every token is alone."""
    radius = result["radius"].to_numpy()
    found = np.full(radius.size, min(1, int(result["token_count"])))
    order = np.argsort(radius, kind="stable")
    there = np.isin(result["component_radius"], radius)  # a selection of radii keeps the components of all
    place = order[np.searchsorted(radius, result["component_radius"].to_numpy()[there], sorter=order)]
    np.maximum.at(found, place, result["component_token_count"].to_numpy()[there])
    return found


def strings(result: xr.Dataset, name: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """What the tokens of a result are called whose pieces are `name`; empty strings of a shape where it has none."""
    return display_names(result, name) if name in result.variables else np.full(shape, "", np.object_)


def metric_of(result: xr.Dataset) -> str:
    """The metric of a scan, as in "euclidean distance"; "distance" where the result does not say."""
    try:
        return f"{json.loads(result.attrs['settings'])['metric']} distance"
    except (KeyError, TypeError, ValueError):
        return "distance"


def scale_of(result: xr.Dataset) -> str:
    """The scale on which the bins of a histogram are equal: `linear` or `log`."""
    try:
        return "log" if json.loads(result.attrs["settings"])["histogram_scale"] == "log" else "linear"
    except (KeyError, TypeError, ValueError):
        return "linear"


def title_of(result: xr.Dataset) -> str:
    """Whose a result is: the model, its matrix, and what it is compared against."""
    said = {name: str(result[name].values) for name in ("model", "matrix", "against") if _is_scalar(result, name)}
    title = ", ".join(said[name] for name in ("model", "matrix") if said.get(name))
    return f"{title} against {said['against']}" if "against" in said else title


def _is_there(result: Any, name: str, dimension: str | None) -> bool:
    return name in result.data_vars and dimension in (None, *result[name].dims)


def _check(result: Any, name: str, where: str, missing: str, dimension: str | None) -> None:
    if not _is_there(result, name, dimension):
        raise InputError(f"{where} {missing}")
    if "step" in result[name].dims:
        raise InputError(f"{where} is of several steps, and a plot is of one: choose it in Python, result.isel(step=0)")


def split(result: xr.Dataset) -> list[xr.Dataset]:
    """A result of each model of a table of several, with its own groups of identical rows and bins."""
    several = "model" in result.dims
    grouped = "group_model" in result and {"group", "member"} <= set(result.dims)
    owner = group_models(result) if grouped else None
    found = []
    for place in range(result.sizes["model"] if several else 1):
        chosen: dict[str, Any] = {"model": place} if several else {}
        if owner is not None:
            groups = result["group"].to_numpy()[owner == place]
            chosen |= {"group": owner == place, "member": np.isin(result["member_group"], groups)}
        part = result.isel(chosen)
        if several and "histogram_count" in part and part["histogram_count"].dims == ("bin",):
            part = part.dropna("bin", subset=["histogram_count"])  # `xarray.concat` gives each model the bins of all
        found.append(part)
    return found


def group_models(result: xr.Dataset) -> NDArray[np.int64]:
    """The place along `model` of the model of each group of identical rows, (group,); -1 where it is not there.

    `group_model` counts the models that the command was given, which the attributes list, and not those selected.

    Raises
    ------
    InputError
        where it cannot be told.
    """
    number = np.atleast_1d(result["group_model"].to_numpy())
    names = ("model", "revision", "matrix")
    there = list(zip(*(np.atleast_1d(result[name].to_numpy()).tolist() for name in names), strict=True))
    given = list(zip(*(np.atleast_1d(result.attrs.get(name, [])).tolist() for name in names), strict=True))
    alone = len(given) <= 1 == len(there) and not number.any()
    if number.ndim == 1 and (there == given or alone):
        return number
    places = {whose: place for place, whose in enumerate(there)}
    if number.ndim > 1 or len({*given}) < len(given) or not {*there} <= {*given}:
        raise InputError(
            "this result does not tell which model each of its groups is of: take it as duplicates gave it"
        )
    found: NDArray[np.int64] = np.array([places.get(whose, -1) for whose in given])[number]
    return found


def _split(result: xr.Dataset, name: str) -> list[xr.Dataset]:
    """The models of a table that the variable `name` is of."""
    return split(result) if "model" in result[name].dims or "group_model" in result else [result]


def _labelled(found: Sequence[tuple[str | None, xr.Dataset]]) -> list[ModelResult]:
    """Each by its model, and its revision or the name of its node where models share a name."""
    models = [str(each["model"].values) if _is_scalar(each, "model") else path or "" for path, each in found]
    counts = Counter(models)
    results = []
    for model, (path, each) in zip(models, found, strict=True):
        other = str(each["revision"].values) if _is_scalar(each, "revision") else ""
        told = f"{model}@{other}" if other else path or model
        results.append(ModelResult(told if counts[model] > 1 else model, each))
    return results


def _is_scalar(result: xr.Dataset, name: str) -> bool:
    return name in result.coords and not result[name].dims
