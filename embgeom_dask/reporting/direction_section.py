"""The section of a report about directions, of `readout`: the tokens that each writes most and least."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from embgeom_dask.reporting.direction_lines import MOMENTS, by_kurtosis, first_tokens, has_lines
from embgeom_dask.reporting.markup import MOST_ROWS, Column, code, table, text
from embgeom_dask.reporting.parts import Parts, Section, note
from embgeom_dask.reporting.report_contents import Gathered, Item

_TOKENS = 5


def directions(found: Gathered, parts: Parts) -> Section | None:
    """A line a direction, the largest kurtosis of its products first."""
    del parts
    items = [each for each in found.of_command("readout") if has_lines(each.result)]
    if not items:
        return None
    said = (
        "Each direction is multiplied with every row of the vocabulary: the tokens of the largest and of the smallest "
        "products, and the moments of all of them. Where few tokens have products far from all others, the kurtosis "
        "is large; of normal numbers it is 3."
    )
    return Section("directions", "What directions write", note(said) + "".join(map(_of_result, items)))


def _of_result(item: Item) -> str:
    found = by_kurtosis(item.result)
    some = found.isel(direction=slice(MOST_ROWS))
    columns: dict[Column, Iterable[Any]] = {Column("direction", "id"): some["direction"].to_numpy()}
    if (labels := some["label"].to_numpy()).any():
        columns[Column("label", "text")] = labels
    columns[Column("most", "tokens")] = first_tokens(some, "top", _TOKENS)
    columns[Column("least", "tokens")] = first_tokens(some, "bottom", _TOKENS)
    columns[Column("largest product")] = some["top_product"].to_numpy()[:, 0]
    columns[Column("smallest product")] = some["bottom_product"].to_numpy()[:, 0]
    columns |= {Column(name): some[f"row_{name}"].to_numpy() for name in reversed(MOMENTS) if f"row_{name}" in some}
    count, written = found.sizes["direction"], [code(f"embgeom to-csv RESULT.zarr {end}") for end in ("top", "bottom")]
    more = note(f"The first {MOST_ROWS:,} of {count:,} lines. {written[0]} and {written[1]} write all.")
    lines = table(list(columns), zip(*columns.values(), strict=True))
    return f"<h3>{text(item.label)}</h3>{lines}{more * (count > MOST_ROWS)}"
