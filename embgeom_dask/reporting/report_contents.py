"""What a report shows: the given results, split by model, each with a name and a colour."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

import xarray as xr

from embgeom_dask.errors import InputError
from embgeom_dask.escaping import shown
from embgeom_dask.reporting import model_results
from embgeom_dask.reporting.charts import line_colors
from embgeom_dask.reporting.model_results import Result
from embgeom_dask.reporting.step_numbers import name_of
from embgeom_dask.storage import results

Given = Result | str | os.PathLike[str]

COLOR = "steelblue"

SHOWN = {"survey", "tokens", "spectrum", "duplicates", "scan", "neighbors", "outliers", "components"}
"""The commands whose results have sections: variables of others have the names of these, of other things."""


class Source(NamedTuple):
    """A result as it was given: what it is called, and what it holds."""

    name: str
    result: xr.Dataset


class Item(NamedTuple):
    """A result of one model: what plots and tables call it, its colour, and what the result is called."""

    label: str
    color: str
    result: xr.Dataset
    name: str


class Whose(NamedTuple):
    """Of which matrix a result is: `against` is the second side of a scan, or empty."""

    model: str
    revision: str
    matrix: str
    against: str = ""


class Gathered(NamedTuple):
    """All that a report shows: the results as given, and those of one model each."""

    sources: list[Source]
    items: list[Item]

    def having(self, name: str, dimension: str | None = None) -> list[Item]:
        """Those that have a variable, and that along a dimension, of the commands that have sections."""
        shown = [each for each in self.items if each.result.attrs.get("command", "scan") in SHOWN]
        return [each for each in shown if model_results.has(each.result, name, dimension)]

    def of_command(self, command: str) -> list[Item]:
        """Those that a command made."""
        return [each for each in self.items if each.result.attrs.get("command") == command]

    def models(self) -> list[str]:
        """The models, each once, as a command takes them."""
        names = (Whose(*whose(each.result)) for each in self.items if each.result.attrs.get("command") != "series")
        return [*dict.fromkeys(f"{each.model}@{each.revision}" if each.revision else each.model for each in names)]


def gather(given: Given | Iterable[Given]) -> Gathered:
    """Open what is given, split it by model, and name every part.

    Raises
    ------
    InputError
        where nothing is given, or a path holds no result.
    """
    one = isinstance(given, str | os.PathLike | xr.Dataset | xr.DataTree) or not isinstance(given, Iterable)
    several = [cast(Given, given)] if one else [*cast(Iterable[Given], given)]
    sources = [source for place, each in enumerate(several, start=1) for source in _sources(each, place)]
    if not sources:
        raise InputError("no results: name what commands were given as `out`")
    parts = [(source.name, part) for source in sources for part in model_results.split(source.result)]
    of = [whose(part) for _, part in parts]
    labels, colors = _labels(of), _colors(of)
    counts = Counter((part.attrs.get("command"), each) for (_, part), each in zip(parts, of, strict=True))
    items = []
    for (name, part), each in zip(parts, of, strict=True):
        alone = counts[part.attrs.get("command"), each] == 1
        items.append(Item(labels[each] if alone else f"{labels[each]} ({shown(name)})", colors[each], part, name))
    return Gathered(sources, items)


def _sources(given: Given, place: int) -> Iterator[Source]:
    if isinstance(given, str | os.PathLike):
        name = os.fspath(given).rstrip("/").rpartition("/")[2].removesuffix(".zarr")
        found = results.open_result(given)
    elif isinstance(given, xr.Dataset | xr.DataTree):
        name, found = f"result {place}", given
    else:
        raise InputError(f"result {place} is a {type(given).__name__}: give a result, or its path")
    if isinstance(found, xr.Dataset):
        yield Source(name, found)
        return
    nodes = [node for node in found.subtree if node.data_vars and not node.children]  # tables are of what is in them
    for node in nodes:
        yield Source(f"{name}{node.path}" if node is not found else name, node.to_dataset())


def by_metric(items: Sequence[Item]) -> dict[str, list[Item]]:
    """The results of each metric, by what an axis calls it: distances of two metrics share no axis."""
    found: dict[str, list[Item]] = {}
    for each in items:
        found.setdefault(model_results.metric_of(each.result), []).append(each)
    return found


def whose(result: xr.Dataset) -> Whose:
    """Whose a result of one model is; a scan against the same matrix is that of the matrix."""
    model, revision, matrix = (_scalar(result, name) for name in ("model", "revision", "matrix"))
    model = model or (name_of(result) if result.attrs.get("command") == "series" else "")
    if result.attrs.get("command") == "readout":  # directions are of no role
        matrix = ""
    other, other_revision = _scalar(result, "against"), _scalar(result, "against_revision")
    matrices = result.attrs.get("matrix", [])
    second = matrices[-1] if isinstance(matrices, list) and len(matrices) > 1 else matrix
    if not other or (other, other_revision, second) == (model, revision, matrix):
        return Whose(model, revision, matrix)
    told = f"{other}@{other_revision}" if other_revision else other
    return Whose(model, revision, matrix, f"{told}, {_role(second)}" if other == model else told)


def _scalar(result: xr.Dataset, name: str) -> str:
    return str(result[name].values) if name in result.coords and not result[name].dims else ""


def _role(matrix: str) -> str:
    return matrix.removesuffix("_embedding")


def _labels(of: Sequence[Whose]) -> dict[Whose, str]:
    """The shortest name of each that tells it from the others: no organisation where one model has that name."""
    models = {each.model for each in of}
    short = Counter(map(_without_organisation, models))
    revisions, matrices = _several(of, "revision"), _several(of, "matrix")
    found = {}
    for each in dict.fromkeys(of):
        last = _without_organisation(each.model)
        label = last if last and short[last] == 1 else each.model or "matrix"
        label += f"@{each.revision}" if each.revision and each.model in revisions else ""
        label += f", {_role(each.matrix)}" if each.matrix and (each.model in matrices or each.against) else ""
        label += f" against {_without_organisation(each.against)}" if each.against else ""
        found[each] = shown(label)
    return found


def _without_organisation(model: str) -> str:
    return model.partition("/")[2] or model


def _several(of: Iterable[Whose], what: str) -> set[str]:
    """The models of which there are several revisions, or matrices."""
    found = {(each.model, getattr(each, what)) for each in of}
    counts: Mapping[str, int] = Counter(model for model, _ in found)
    return {model for model, count in counts.items() if count > 1}


def _colors(of: Sequence[Whose]) -> dict[Any, str]:
    """The colour of each: the users' steelblue for one, shades of inferno for several."""
    known = [*dict.fromkeys(of)]
    return dict(zip(known, line_colors(len(known), COLOR), strict=True)) if known else {}
