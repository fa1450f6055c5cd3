"""Results as text for a person."""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from embgeom_dask.escaping import shown
from embgeom_dask.reporting.called import called, with_called
from embgeom_dask.units import bytes_text

if TYPE_CHECKING:
    import xarray as xr

_HISTOGRAM_LINES = 16
_PAIR_LINES = 20
_QUANTILES = ("quantile_lower", "quantile_upper", "quantile_distance")
_BAR = 40
_MODELS_ACROSS = 4
_GROUP_LINES = 20
_MEMBERS_ACROSS = 5
_LEFT_OUT_ACROSS = 10
_VALUES_ACROSS = 10
_GAP = 2
_SPREAD = (np.nanmin, np.nanmedian, np.nanmean, np.nanmax)
_ENDLESS = 1 << 20
"""Columns of what is no terminal: a file or a pipe gets every table whole."""


def align(header: Sequence[str], rows: Iterable[Sequence[Any]], width: int | None = None, keys: int = 1) -> str:
    """Return lines of aligned columns: text to the left, numbers (nine significant digits) to the right.

    Columns that do not fit `width` follow in further tables, each with the first `keys` columns again, under the words
    "more columns"; text that does not fit its column goes on below. The default is the width of the terminal, and none
    where there is none.
    """
    rows = [list(row) for row in rows]
    if width is None:
        terminal = sys.stdout is not None and sys.stdout.isatty()
        width = shutil.get_terminal_size().columns if terminal else _ENDLESS
    right = [all(_is_number(row[column]) for row in rows) for column in range(len(header))]
    cells = [[shown(name), *(_cell(row[column]) for row in rows)] for column, name in enumerate(header)]
    widths = [max(map(cell_len, column)) for column in cells]
    if sum(widths) + _GAP * (len(widths) - 1) > width:
        most = [width // 2] + [width // 3] * (len(widths) - 1)  # half for what names the row
        widths = [wide if number else min(wide, top) for wide, number, top in zip(widths, right, most, strict=True)]
    tables: list[list[int]] = [[]]
    for column in range(len(header)):
        together = [*tables[-1], column]
        if len(tables[-1]) > keys and sum(widths[each] + _GAP for each in together) - _GAP > width:
            together = [*range(keys), column]
            tables.append(together)
        tables[-1] = together
    drawn = [_draw([(cells[each], right[each]) for each in some], width) for some in tables]
    return "\n\nmore columns:\n".join(drawn)


def _draw(columns: Sequence[tuple[list[str], bool]], width: int) -> str:
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0))
    for (name, *_), right in columns:
        table.add_column(Text(name), justify="right" if right else "left", overflow="fold", no_wrap=right)
    for row in zip(*(cells[1:] for cells, _ in columns), strict=True):
        table.add_row(*map(Text, row))
    drawn = io.StringIO()
    Console(file=drawn, width=width, color_system=None, legacy_windows=False, emoji=False).print(table)
    return "\n".join(line.rstrip() for line in drawn.getvalue().splitlines())


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool | np.bool_)


def _cell(value: Any) -> str:
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, float | np.floating):
        return f"{value:.9g}"
    return shown(value)


def list_text(rows: Sequence[tuple[Any, ...]], broken: Sequence[str]) -> str:
    """The stores of `listing.describe`, a line each, then what is wrong with those that are broken."""
    from embgeom_dask.storage.listing import COLUMNS

    series = any(steps for *_, steps, _ in rows)
    names = [name for name in COLUMNS if series or name != "steps"]
    lines = ([*facts, *([steps or ""] if series else []), bytes_text(nbytes)] for *facts, steps, nbytes in rows)
    table = align(names, lines)
    return "\n".join([table, *(f"broken: {_cell(said)}" for said in broken)])


def neighbors_text(dataset: xr.Dataset) -> str:
    """The neighbours of each token: a line each, under whose they are."""
    distances, ids = (dataset[f"neighbor_{part}"].to_numpy() for part in ("distance", "token_id"))
    names = called(dataset, "neighbor_token")
    tokens = zip(dataset["token_id"].to_numpy(), called(dataset), strict=True)
    rows = (
        [own, token, rank, distances[place, rank - 1], ids[place, rank - 1], names[place, rank - 1]]
        for place, (own, token) in enumerate(tokens)
        for rank in range(1, dataset.sizes["neighbor"] + 1)
    )
    return f"{whose(dataset)}\n\n{align(['id', 'token', 'neighbor', 'distance', 'id', 'token'], rows)}"


def result_text(dataset: xr.Dataset) -> str:
    """A saved result of any command, or the table of many, as that command printed it."""
    from embgeom_dask.cli import compare_text, graphs_text, lattice_text, one_pass_text, readout_text, unused_text
    from embgeom_dask.cli.series_text import series_text

    command = dataset.attrs["command"]
    if "model" in dataset.dims and command not in ("survey", "duplicates", "compare"):
        return scans_text(dataset)
    texts = {
        "survey": survey_text,
        "duplicates": duplicates_text,
        "scan": scan_text,
        "tokens": one_pass_text.tokens_text,
        "spectrum": one_pass_text.spectrum_text,
        "compare": compare_text.compare_text,
        "undertrained": unused_text.undertrained_text,
        "lattice": lattice_text.lattice_text,
        "series": series_text,
        "neighbors": neighbors_text,
        "outliers": outliers_text,
        "components": graphs_text.components_text,
        "readout": readout_text.readout_text,
        "cluster": graphs_text.cluster_text,
    }
    return texts[command](dataset)


def survey_text(dataset: xr.Dataset) -> str:
    """The numbers of a survey: a column a model, or a line a model where they are many."""
    from embgeom_dask.analyses.survey import table

    frame = table(dataset.assign_coords(model=("model", _models(dataset)))).drop("revision")
    if len(frame.columns) > _MODELS_ACROSS:
        frame = frame.T
    return align(["model", *map(str, frame.columns)], frame.itertuples())


def _models(dataset: xr.Dataset, model: str = "model", revision: str = "revision") -> list[str]:
    """The models of a result, each with its revision where that is known."""
    from embgeom_dask.storage.model_stores import label

    return [label(*each) for each in zip(dataset[model].to_numpy(), dataset[revision].to_numpy(), strict=True)]


def duplicates_text(dataset: xr.Dataset) -> str:
    """The counts of each model, then the largest groups with their first members."""
    counts = ("vocab_size", "unique_count", "removed_count", "group_count", "member_count")
    dataset = dataset.assign_coords(model=("model", _models(dataset)))
    parts = [_together(dataset, ("model", "matrix", *counts))]
    groups = dataset.sizes["group"]
    if groups:
        parts.append(_groups(dataset))
    if groups > _GROUP_LINES:
        more = groups - _GROUP_LINES
        parts.append(f"{more} more group{'' if more == 1 else 's'}: --json prints all, --out saves them")
    return "\n\n".join(parts)


def _groups(dataset: xr.Dataset) -> str:
    models = dataset["model"].to_numpy()[dataset["group_model"].to_numpy()]
    population = dataset["group_population"].to_numpy()
    first = np.cumsum(population) - population
    members = dataset["member_token_id"].to_numpy()
    rows = []
    for group in np.argsort(-population, kind="stable")[:_GROUP_LINES]:
        shown = slice(first[group], first[group] + min(population[group], _MEMBERS_ACROSS))
        tokens = called(dataset, "member_token", shown)
        more = ["..."] if population[group] > _MEMBERS_ACROSS else []
        cells = [", ".join([*map(str, members[shown]), *more]), " ".join([*filter(None, tokens), *more])]
        rows.append([models[group], population[group], *cells])
    return align(["model", "population", "ids", "tokens"], rows)


def scan_text(dataset: xr.Dataset) -> str:
    """The parts of a scan that are there: pairs, neighbor distances, histogram."""
    named = [whose(dataset, side) for side in range(len(dataset.attrs["model"]))]
    sides = _sides(dataset)
    parts = ["\n".join([" against ".join(named), *_left_out(dataset, named)])]
    pairs = ("farthest", "nearest", "largest", "smallest")
    parts += [_pairs(dataset, name, sides) for name in pairs if f"{name}_token_id" in dataset]
    parts += [
        _by_rank(dataset, name, sides[-1]) for name in ("neighbor", "top", "bottom") if f"{name}_token_id" in dataset
    ]
    if "row_mean" in dataset:
        parts.append(_row_moments(dataset))
    if "histogram_count" in dataset:
        parts.append(_histogram(dataset))
    elif "distance_mean" in dataset:
        parts.append(_moments(dataset))
    if "quantile" in dataset:
        columns = [name for name in ("quantile", *_QUANTILES) if name in dataset]
        parts.append(_together(dataset, columns))
    if "pair_distance" in dataset:
        parts.append(_edges(dataset, sides))
    if "within_count" in dataset:
        parts.append(_within(dataset))
    return "\n\n".join(parts)


def whose(dataset: xr.Dataset, side: int = 0) -> str:
    """Whose a result is, or a side of it: the model, with its revision where that is known, and the matrix."""
    return shown(f"{_labels(dataset)[side]}, {dataset.attrs['matrix'][side]}")


def _labels(dataset: xr.Dataset) -> list[str]:
    """The model of each side of a scan, with its revision where that is known."""
    from embgeom_dask.storage.model_stores import label

    return [label(*side) for side in zip(dataset.attrs["model"], dataset.attrs["revision"], strict=True)]


def scans_text(dataset: xr.Dataset) -> str:
    """The table of scans of many models, a line a model; of long histograms how many bins there are."""
    dataset = dataset.assign_coords(model=("model", _models(dataset)))
    if "against" in dataset.coords:
        dataset["against"] = ("model", _models(dataset, "against", "against_revision"))
    texts = [f"{str(name).removesuffix('token')}text" for name in dataset.variables if str(name).endswith("token")]
    dataset = with_called(dataset).drop_vars(["revision", "against_revision", *texts], errors="ignore")
    names = [name for name in ("model", "matrix", "against") if name in dataset.coords]
    of_models = [str(name) for name, variable in dataset.variables.items() if variable.dims[:1] == ("model",)]
    names += [name for name in of_models if name not in names]
    columns = [dataset[name].to_numpy().tolist() for name in names]
    table = align(names, zip(*([_several(each) for each in some] for some in columns), strict=True))
    long = any(isinstance(some[0], list) and len(some[0]) > _VALUES_ACROSS for some in columns if some)
    return table + "\n\n--json prints all values, to-csv of a saved result writes them" * long


def _several(value: Any) -> Any:
    """The values of a cell that has several; of many how many they are."""
    if not isinstance(value, list):
        return value
    return " ".join(map(_cell, value)) if len(value) <= _VALUES_ACROSS else f"{len(value)} values"


def _sides(dataset: xr.Dataset) -> list[str]:
    """What the columns of each side are called: the models, or the matrices of one; nothing where there is one side."""
    models, matrices = _labels(dataset), dataset.attrs["matrix"]
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
    columns = [*(dataset[f"{name}_{part}"].to_numpy() for part in (what, "token_id")), called(dataset, f"{name}_token")]
    rows = (
        [rank, distance, first, token, second, other]
        for rank, (distance, (first, second), (token, other)) in enumerate(zip(*columns, strict=True), start=1)
    )
    return align([name, what, *(f"{side}{column}" for side in sides for column in ("id", "token"))], rows)


def _by_rank(dataset: xr.Dataset, name: str, side: str) -> str:
    """The spread of the distances or products of each rank over all rows."""
    from embgeom_dask.storage.result_names import measured

    what = measured(dataset, name)
    values = dataset[f"{name}_{what}"].to_numpy()
    columns = [function(values, axis=0) for function in _SPREAD]
    header = [f"{side}{name}", f"least {what}", "median", "mean", "greatest"]
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


def _edges(dataset: xr.Dataset, sides: Sequence[str]) -> str:
    count = dataset.sizes["pair"]
    lines = [f"{count} pairs within {dataset['pair_radius'].item():.9g}"]
    if count:
        lines.append(_pairs(dataset.isel(pair=slice(_PAIR_LINES)), "pair", sides))
    if count > _PAIR_LINES:
        lines.append(f"{count - _PAIR_LINES} more pairs: --json prints all, --out saves them")
    return "\n".join(lines)


def _within(dataset: xr.Dataset) -> str:
    degrees = dataset["within_degree"].to_numpy()
    columns = [function(degrees, axis=0) for function in (np.median, np.mean, np.max)]
    header = ["within", "pairs", "median of a token", "mean", "greatest"]
    return align(header, zip(dataset["radius"].to_numpy(), dataset["within_count"].to_numpy(), *columns, strict=True))


def outliers_text(dataset: xr.Dataset) -> str:
    """The farthest pair of a selection, its triangle with the centroid, and the spread of the selection."""
    dataset = with_called(dataset)
    sides = ("side", "farthest_token_id", "farthest_token", "norm", "centroid_distance", "norm_ratio")
    corners = ("vertex", "angle_law_of_cosines", "angle_dot_product")
    spreads = ("min", "max", "median", "mean")
    facts = ("token_count", "farthest_distance", "centroid_norm", "outlier_token_id", "outlier_token")
    return "\n\n".join(
        (
            whose(dataset),
            align(["selection", ""], ([name, str(_cell(dataset[name].item()))] for name in facts)),
            _together(dataset, sides),
            _together(dataset, ("segment", "segment_length")),
            _together(dataset, corners),
            align(
                ["over the selection", *spreads],
                (
                    [name, *(dataset[f"{name}_{how}"].item() for how in spreads)]
                    for name in ("norm", "centroid_distance")
                ),
            ),
        )
    )


def _together(dataset: xr.Dataset, names: Sequence[str]) -> str:
    return align(names, zip(*(dataset[name].to_numpy().tolist() for name in names), strict=True))
