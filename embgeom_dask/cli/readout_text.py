"""What directions write, as text for a person."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embgeom_dask.cli.text_tables import ALL, align, whose
from embgeom_dask.escaping import shown
from embgeom_dask.reporting.display_names import with_display_names
from embgeom_dask.units import noun

if TYPE_CHECKING:
    import xarray as xr

_DIRECTIONS = 10
_TOKENS = 20
_MOMENTS = ("mean", "std", "skew", "kurtosis")


def readout_text(dataset: xr.Dataset) -> str:
    """The tokens at both ends of the first directions, largest product first, then smallest."""
    count, ranks = dataset.sizes["direction"], dataset.sizes["top"]
    parts = [f"{shown(dataset['model'].item())} against {whose(dataset, 1)}"]
    parts += [_direction(dataset, place) for place in range(min(count, _DIRECTIONS))]
    more = []
    for left, what, of in ((count - _DIRECTIONS, "direction", ""), (ranks - _TOKENS, "token", " of each")):
        if left > 0:
            more.append(f"{left:,} more {noun(left, what)}{of}")
    if more:
        parts.append(f"{', '.join(more)}: {ALL}")
    return "\n\n".join(parts)


def _direction(dataset: xr.Dataset, place: int) -> str:
    one = dataset.isel(direction=place)
    called = " ".join(filter(None, (f"direction {one['direction'].item()}", shown(one["label"].item()))))
    names = [f"{end}_{what}" for end in ("top", "bottom") for what in ("product", "token_id", "token")]
    one = with_display_names(one.isel(top=slice(_TOKENS), bottom=slice(_TOKENS)))
    columns = (one[name].to_numpy().tolist() for name in names)
    rows = ([rank, *row] for rank, row in enumerate(zip(*columns, strict=True), start=1))
    table = align(["", "most", "id", "token", "least", "id", "token"], rows)
    moments = [f"{name} {one[f'row_{name}'].item():.6g}" for name in _MOMENTS if f"row_{name}" in one]
    return "\n".join(filter(None, (called, ", ".join(moments), table)))
