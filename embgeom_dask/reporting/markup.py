"""Pieces of HTML: whatever comes from a result is escaped here, and a token shows what it is made of."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from embgeom_dask.escaping import shown

LONGEST = 120
"""The most characters of a token that are shown: one in a vocabulary may be a line of a thousand dashes."""

MOST_ROWS = 1000
"""The most lines of a table: a page of more is slow, and `to-csv` writes them all."""


class Column(NamedTuple):
    """A column of a table: its name, and what its cells are: `id` is a number without separators."""

    name: str
    kind: Literal["text", "token", "tokens", "id", "count", "number"] = "number"


def text(value: object) -> str:
    """`value` as text of HTML, in one line, in which control characters and bidi marks can be read."""
    return html.escape(shown(value))


def cut(value: object) -> str:
    """What is shown of a token: see `LONGEST`."""
    said = shown(value)
    return said if len(said) <= LONGEST else f"{said[:LONGEST]}…"


def token(value: object) -> str:
    """A token, set apart: its spaces show, and letters that run to the left turn nothing around."""
    return f'<bdi class="token">{html.escape(cut(value))}</bdi>'


def code(value: object) -> str:
    """A command, as one types it."""
    return f"<code>{text(value)}</code>"


def table(columns: Sequence[Column], rows: Iterable[Sequence[Any]], *, rest: str = "") -> str:
    """A table that a click on a heading sorts; of more than `MOST_ROWS` lines the first, and what `rest` says.

    A first column `model` that says the same in every line is left out.
    """
    rows = [*rows]
    if columns[0].name == "model" and len({row[0] for row in rows}) == 1:
        columns, rows = columns[1:], [row[1:] for row in rows]
    head = "".join(
        f'<th scope="col" class="{_side(column)}"><button type="button">{text(column.name)}</button></th>'
        for column in columns
    )
    lines = (
        "".join(_cell(column, value) for column, value in zip(columns, row, strict=True)) for row in rows[:MOST_ROWS]
    )
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    more = f"<p class=note>The first {MOST_ROWS:,} of {len(rows):,} lines. {rest}</p>" * (len(rows) > MOST_ROWS)
    return (
        f'<div class="scroll"><table class="sortable"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
        f"{more}"
    )


def facts(rows: Iterable[tuple[str, object]]) -> str:
    """Names and what they are, a line each."""
    lines = (f"<tr><th scope=row>{text(name)}</th><td>{text(value)}</td></tr>" for name, value in rows)
    return f'<table class="facts"><tbody>{"".join(lines)}</tbody></table>'


def number(value: float) -> str:
    """Six significant digits."""
    return f"{value:.6g}"


def _side(column: Column) -> str:
    return "left" if column.kind in ("text", "token", "tokens") else "right"


def _cell(column: Column, value: Any) -> str:
    """A cell: what is shown, and what it is sorted by."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or value != value:  # NaN
        return "<td></td>"
    if column.kind == "text":
        return f"<td>{text(_said(value))}</td>"
    if column.kind == "token":
        return f"<td>{token(value)}</td>"
    if column.kind == "tokens":
        return f"<td>{' '.join(map(token, value))}</td>"
    if column.kind == "id":
        return f'<td class="right" data-sort="{int(value)}">{int(value)}</td>'
    if column.kind == "count":
        return f'<td class="right" data-sort="{int(value)}">{int(value):,}</td>'
    return f'<td class="right" data-sort="{value!r}" title="{value!r}">{number(value)}</td>'


def _said(value: Any) -> Any:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else value
