"""The section of a report for results that have none of their own: their tables, each with its first lines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embgeom_dask.reporting import tables
from embgeom_dask.reporting.direction_lines import has_lines
from embgeom_dask.reporting.display_names import with_display_names
from embgeom_dask.reporting.markup import Column, code, table, text
from embgeom_dask.reporting.parts import Parts, Section, note
from embgeom_dask.reporting.report_contents import SHOWN, Gathered, Source

if TYPE_CHECKING:
    import pandas as pd

_LINES = 20
_OF_SCANS = {"pairs", "within"}
"""The tables of a scan that no other section shows."""

_RANK = "indicator_rank"
"""What a table is sorted by if it has it: what `undertrained` finds has the lowest ranks, not the lowest ids."""


def others(found: Gathered, parts: Parts) -> Section | None:
    """Tables of results that other sections do not show."""
    del parts
    body = "".join(
        f"<h3>{text(source.name)}: {text(name)}</h3>{lines}"
        for source in found.sources
        for name in _names(source)
        if (lines := _first_lines(source, name))
    )
    return Section("tables", "More tables", body) if body else None


def _names(source: Source) -> list[str]:
    command = source.result.attrs.get("command")
    if command == "readout" and has_lines(source.result):
        return []
    if command == "series" and "analysis" not in source.result.attrs:
        return []
    names = tables.names(source.result)
    return [name for name in names if command not in SHOWN or (command == "scan" and name in _OF_SCANS)]


def _first_lines(source: Source, name: str) -> str:
    """The first lines of a table; nothing of a vector."""
    frame = tables.frame(with_display_names(source.result), name)
    if "hidden" in frame:  # a vector is no table to read
        return ""
    order = ""
    if _RANK in frame:
        frame, order = frame.sort_values(_RANK), f" by {_RANK}"
    said = (
        f"The first {_LINES} of {len(frame):,} lines{order}. {code(f'embgeom to-csv RESULT.zarr {name} -o {name}.csv')}"
    )
    columns = [_column(str(column), frame) for column in frame.columns]
    lines = frame.head(_LINES).itertuples(index=False, name=None)
    return table(columns, lines) + (note(f"{said} writes all.") if len(frame) > _LINES else "")


def _column(name: str, frame: pd.DataFrame) -> Column:
    """A column, and what its cells are."""
    kind = frame[name].dtype.kind
    if kind == "f":
        return Column(name)
    if kind in "iu":
        return Column(name, "id" if "_id" in name or name in ("hidden", "group") else "count")
    return Column(name, "token" if "token" in name or name == "text" else "text")
