"""What directions write, as text for a person."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from embgeom_dask.cli.text_tables import ALL, align, whose
from embgeom_dask.escaping import shown
from embgeom_dask.reporting.direction_lines import MOMENTS, by_kurtosis, first_tokens
from embgeom_dask.reporting.display_names import with_display_names
from embgeom_dask.units import noun

if TYPE_CHECKING:
    import xarray as xr

_TABLES = 3
"""So many directions have a table each; more have a line each."""

_LINES, _TOKENS, _TOKENS_OF_LINE = 20, 20, 5


def readout_text(dataset: xr.Dataset) -> str:
    """The tokens at both ends of a few directions, largest product first, then smallest; of many, a line each."""
    count, ranks = dataset.sizes["direction"], dataset.sizes["top"]
    parts = [f"{shown(dataset['model'].item())} against {whose(dataset, 1)}"]
    few = count <= _TABLES
    parts += [_direction(dataset, place) for place in range(count)] if few else [_directions(dataset)]
    more = []
    of_each = _TOKENS if few else _TOKENS_OF_LINE
    for left, what, of in ((0 if few else count - _LINES, "direction", ""), (ranks - of_each, "token", " of each")):
        if left > 0:
            more.append(f"{left:,} more {noun(left, what)}{of}")
    if more:
        parts.append(f"{', '.join(more)}: {ALL}")
    return "\n\n".join(parts)


def _directions(dataset: xr.Dataset) -> str:
    """A line a direction: the first tokens at either end of its products, and their moments, largest kurtosis first."""
    some = by_kurtosis(dataset).isel(direction=slice(_LINES))
    columns: dict[str, Any] = {"direction": some["direction"].to_numpy().tolist()}
    if any(labels := some["label"].to_numpy().tolist()):
        columns["label"] = labels
    keys, said = len(columns), []
    if "row_kurtosis" in some:
        columns["kurtosis"] = _short(some["row_kurtosis"])
        said.append("directions whose products have the largest kurtosis")
    for end, heading in (("top", "most"), ("bottom", "least")):
        columns[heading] = [" ".join(names) for names in first_tokens(some, end, _TOKENS_OF_LINE)]
    columns |= {"largest": _short(some["top_product"][:, 0]), "smallest": _short(some["bottom_product"][:, 0])}
    columns |= {name: _short(some[f"row_{name}"]) for name in MOMENTS if f"row_{name}" in some and name not in columns}
    return "\n".join([*said, align(list(columns), zip(*columns.values(), strict=True), keys=keys)])


def _short(numbers: xr.DataArray) -> list[float]:
    """Numbers of six significant digits."""
    return [float(f"{number:.6g}") for number in numbers.to_numpy().tolist()]


def _direction(dataset: xr.Dataset, place: int) -> str:
    one = dataset.isel(direction=place)
    called = " ".join(filter(None, (f"direction {one['direction'].item()}", shown(one["label"].item()))))
    names = [f"{end}_{what}" for end in ("top", "bottom") for what in ("product", "token_id", "token")]
    one = with_display_names(one.isel(top=slice(_TOKENS), bottom=slice(_TOKENS)))
    columns = (one[name].to_numpy().tolist() for name in names)
    rows = ([rank, *row] for rank, row in enumerate(zip(*columns, strict=True), start=1))
    table = align(["", "most", "id", "token", "least", "id", "token"], rows)
    moments = [f"{name} {one[f'row_{name}'].item():.6g}" for name in MOMENTS if f"row_{name}" in one]
    return "\n".join(filter(None, (called, ", ".join(moments), table)))
