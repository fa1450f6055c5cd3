"""Scans as text for a person: one scan, the table of several, and the neighbors of a few tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from embgeom_dask.cli.text_tables import align, align_variables, cell, models_of, more_text, side_labels, whose
from embgeom_dask.reporting.display_names import display_names, with_display_names
from embgeom_dask.units import noun

if TYPE_CHECKING:
    import xarray as xr

_HISTOGRAM_LINES = 16
_PAIR_LINES = 20
_ROW_LINES = 50
_QUANTILES = ("quantile_lower", "quantile_upper", "quantile_distance")
_BAR = 40
_LEFT_OUT_ACROSS = 10
_VALUES_ACROSS = 10
_SPREAD = (np.nanmin, np.nanmedian, np.nanmean, np.nanmax)


def scan_text(dataset: xr.Dataset) -> str:
    """The parts of a scan that are there: pairs, neighbor distances, histogram."""
    named = [whose(dataset, side) for side in range(len(dataset.attrs["model"]))]
    sides = _sides(dataset)
    parts = ["\n".join([" against ".join(named), *_left_out(dataset, named)])]
    pairs = ("farthest", "nearest", "largest", "smallest")
    parts += [_pairs(dataset, name, sides) for name in pairs if f"{name}_token_id" in dataset]
    parts += [_by_rank(dataset, name, sides) for name in ("neighbor", "top", "bottom") if f"{name}_token_id" in dataset]
    if "row_mean" in dataset:
        parts.append(_row_moments(dataset))
    if "histogram_count" in dataset:
        parts.append(_histogram(dataset))
    elif "distance_mean" in dataset:
        parts.append(_moments(dataset))
    if "quantile" in dataset:
        columns = [name for name in ("quantile", *_QUANTILES) if name in dataset]
        parts.append(align_variables(dataset, columns))
    if "pair_distance" in dataset:
        parts.append(_pairs_within(dataset, sides))
    if "within_count" in dataset:
        parts.append(_within(dataset))
    return "\n\n".join(parts)


def scans_text(dataset: xr.Dataset) -> str:
    """The table of scans of many models, a line a model; of long histograms how many bins there are."""
    dataset = dataset.assign_coords(model=("model", models_of(dataset)))
    if "against" in dataset.coords:
        dataset["against"] = ("model", models_of(dataset, "against", "against_revision"))
    texts = [f"{str(name).removesuffix('token')}text" for name in dataset.variables if str(name).endswith("token")]
    dataset = with_display_names(dataset).drop_vars(["revision", "against_revision", *texts], errors="ignore")
    names = [name for name in ("model", "matrix", "against") if name in dataset.coords]
    of_models = [str(name) for name, variable in dataset.variables.items() if variable.dims[:1] == ("model",)]
    names += [name for name in of_models if name not in names]
    columns = [dataset[name].to_numpy().tolist() for name in names]
    table = align(names, zip(*([_several(each) for each in some] for some in columns), strict=True))
    long = any(isinstance(some[0], list) and len(some[0]) > _VALUES_ACROSS for some in columns if some)
    return table + "\n\n--json prints all values, to-csv of a saved result writes them" * long


def neighbors_text(dataset: xr.Dataset) -> str:
    """The neighbors of each token: a line each, under whose they are."""
    return f"{whose(dataset)}\n\n{_of_each_row(dataset, 'neighbor', ['', ''])}"


def _of_each_row(dataset: xr.Dataset, name: str, sides: Sequence[str]) -> str:
    """What each row has of each rank, as far as it has one: a line each."""
    from embgeom_dask.storage.result_names import measured

    what = measured(dataset, name)
    values, ids = (dataset[f"{name}_{part}"].to_numpy() for part in (what, "token_id"))
    names = display_names(dataset, f"{name}_token")
    tokens = zip(dataset["token_id"].to_numpy(), display_names(dataset), strict=True)
    rows = (
        [own, token, rank, values[place, rank - 1], ids[place, rank - 1], names[place, rank - 1]]
        for place, (own, token) in enumerate(tokens)
        for rank in range(1, dataset.sizes[name] + 1)
        if ids[place, rank - 1] >= 0  # else the row has fewer
    )
    mine, other = ([f"{side}{column}" for column in ("id", "token")] for side in sides)
    return align([*mine, name, what, *other], rows)


def _several(value: Any) -> Any:
    """The values of a cell that has several; of many how many they are."""
    if not isinstance(value, list):
        return value
    return " ".join(map(cell, value)) if len(value) <= _VALUES_ACROSS else f"{len(value)} values"


def _sides(dataset: xr.Dataset) -> list[str]:
    """What the columns of each side are called: the models, or the matrices of one; nothing where there is one side."""
    models, matrices = side_labels(dataset), dataset.attrs["matrix"]
    if len(models) == 1:
        return ["", ""]
    roles = [f"{matrix.removesuffix('_embedding')} " for matrix in matrices]
    if models[0] == models[1]:
        return roles
    return [f"{model} {role if len(set(roles)) > 1 else ''}" for model, role in zip(models, roles, strict=True)]


def _left_out(dataset: xr.Dataset, named: Sequence[str]) -> list[str]:
    """A line for each side that has rows without a distance."""
    lines = []
    for name, side in zip(("left_out_token_id", "against_left_out_token_id"), named, strict=False):
        if name in dataset:
            ids = dataset[name].to_numpy().tolist()
            first = ", ".join(map(str, ids[:_LEFT_OUT_ACROSS])) + (", ..." if len(ids) > _LEFT_OUT_ACROSS else "")
            of = f" of {side}" if len(named) > 1 else ""
            lines.append(f"left out{of}, rows of zeros: {len(ids)} (token ids {first})")
    return lines


def _pairs(dataset: xr.Dataset, name: str, sides: Sequence[str]) -> str:
    from embgeom_dask.storage.result_names import measured

    what = measured(dataset, name)
    columns = [
        *(dataset[f"{name}_{part}"].to_numpy() for part in (what, "token_id")),
        display_names(dataset, f"{name}_token"),
    ]
    rows = (
        [rank, distance, first, token, second, other]
        for rank, (distance, (first, second), (token, other)) in enumerate(zip(*columns, strict=True), start=1)
    )
    return align([name, what, *(f"{side}{column}" for side in sides for column in ("id", "token"))], rows)


def _by_rank(dataset: xr.Dataset, name: str, sides: Sequence[str]) -> str:
    """The spread of the distances or products of each rank over all rows; of a few rows, what each has."""
    from embgeom_dask.storage.result_names import measured

    if dataset.sizes["token_id"] * dataset.sizes[name] <= _ROW_LINES:
        return _of_each_row(dataset, name, sides)
    what = measured(dataset, name)
    values = dataset[f"{name}_{what}"].to_numpy()
    columns = [function(values, axis=0) for function in _SPREAD]
    header = [f"{sides[-1]}{name}", f"least {what}", "median", "mean", "greatest"]
    return align(header, ([rank, *values] for rank, values in enumerate(zip(*columns, strict=True), start=1)))


def _row_moments(dataset: xr.Dataset) -> str:
    """The spread of each moment of a row over all rows."""
    rows = []
    for name in ("row_min", "row_mean", "row_max", "row_std", "row_skew", "row_kurtosis"):
        values = dataset[name].to_numpy()[np.isfinite(dataset[name].to_numpy())]
        rows.append([name, *(function(values) if values.size else "" for function in _SPREAD)])
    return align(["of a row", "least", "median", "mean", "greatest"], rows)


def _moments(dataset: xr.Dataset) -> str:
    names = ["pair_count", "distance_mean", "distance_mean_error", "distance_std", "distance_std_error"]
    names += ["distance_min", "distance_max"]
    names += [name for name in ("histogram_below", "histogram_above") if dataset.get(name, 0)]
    return align(["distances", ""], ([name, dataset[name].item()] for name in names))


def _histogram(dataset: xr.Dataset) -> str:
    counts, edges = dataset["histogram_count"].to_numpy(), dataset["bin_edge"].to_numpy()
    filled = np.flatnonzero(counts)
    first, stop = (filled[0], filled[-1] + 1) if filled.size else (0, counts.size)
    step = -(-(stop - first) // _HISTOGRAM_LINES)
    starts = np.arange(first, stop, step)
    merged = np.add.reduceat(counts[:stop], starts)
    ends = edges[np.minimum(starts + step, counts.size)]
    bars = ("#" * round(_BAR * count / max(1, merged.max())) for count in merged.tolist())
    return "\n\n".join(
        (
            _moments(dataset),
            align(["from", "to", "pairs", ""], zip(edges[starts], ends, merged, bars, strict=True)),
        )
    )


def _pairs_within(dataset: xr.Dataset, sides: Sequence[str]) -> str:
    count = dataset.sizes["pair"]
    lines = [f"{count} {noun(count, 'pair')} within {dataset['pair_radius'].item():.9g}"]
    if count:
        lines.append(_pairs(dataset.isel(pair=slice(_PAIR_LINES)), "pair", sides))
    if (more := count - _PAIR_LINES) > 0:
        lines.append(more_text(more, "pair"))
    return "\n".join(lines)


def _within(dataset: xr.Dataset) -> str:
    degrees = dataset["within_degree"].to_numpy()
    columns = [function(degrees, axis=0) for function in (np.median, np.mean, np.max)]
    header = ["within", "pairs", "median of a token", "mean", "greatest"]
    return align(header, zip(dataset["radius"].to_numpy(), dataset["within_count"].to_numpy(), *columns, strict=True))
