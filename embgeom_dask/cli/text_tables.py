"""Tables of aligned columns for a terminal, and what they call models and sides."""

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
from embgeom_dask.units import noun

if TYPE_CHECKING:
    import xarray as xr

_GAP = 2
_ENDLESS = 1 << 20
"""Columns of what is no terminal: a file or a pipe gets every table whole."""


ALL = "--json prints all, --out saves them"
"""Where the lines are that a table leaves out."""


def more_text(more: int, one: str) -> str:
    """Say how many more there are than a table shows, of what one is called `one`, and where they are."""
    return f"{more} more {noun(more, one)}: {ALL}"


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
    cells = [[shown(name), *(cell(row[column]) for row in rows)] for column, name in enumerate(header)]
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


def cell(value: Any) -> str:
    """Return a cell as text: yes or no, a number with nine significant digits, or text that a terminal may be given."""
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, float | np.floating):
        return f"{value:.9g}"
    return shown(value)


def align_variables(dataset: xr.Dataset, names: Sequence[str]) -> str:
    """Return variables of a result as columns beside each other: they have one length, and their names as headings."""
    return align(names, zip(*(dataset[name].to_numpy().tolist() for name in names), strict=True))


def models_of(dataset: xr.Dataset, model: str = "model", revision: str = "revision") -> list[str]:
    """The models of a result, each with its revision where that is known."""
    from embgeom_dask.storage.model_stores import label

    return [label(*each) for each in zip(dataset[model].to_numpy(), dataset[revision].to_numpy(), strict=True)]


def side_labels(dataset: xr.Dataset) -> list[str]:
    """The model of each side of a scan, with its revision where that is known."""
    from embgeom_dask.storage.model_stores import label

    return [label(*side) for side in zip(dataset.attrs["model"], dataset.attrs["revision"], strict=True)]


def whose(dataset: xr.Dataset, side: int = 0) -> str:
    """Whose a result is, or a side of it: the model, with its revision where that is known, and the matrix."""
    return shown(f"{side_labels(dataset)[side]}, {dataset.attrs['matrix'][side]}")
