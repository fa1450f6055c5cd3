"""The section of a report about trainings, of `series`: what changes over steps, and which tokens do."""

from __future__ import annotations

import numpy as np
import xarray as xr

from embgeom_dask.escaping import shown
from embgeom_dask.reporting import charts, step_numbers
from embgeom_dask.reporting.charts import Axis
from embgeom_dask.reporting.display_names import display_names
from embgeom_dask.reporting.markup import Column, table, text
from embgeom_dask.reporting.parts import Parts, Section, note, side_by_side
from embgeom_dask.reporting.report_contents import Gathered, Item
from embgeom_dask.reporting.step_numbers import KINDS, StepPicture

_ENDS = 10
"""How many tokens are named of an order."""

_FOOT = 0.5
"""Where a count of 0 is on a logarithmic axis."""

_TITLES = {
    "norms": "Norms: mean, least to greatest",
    "centroid": "The centroid",
    "groups": "Identical rows",
    "changes": "Changes",
}


def series(found: Gathered, parts: Parts) -> Section | None:
    """Each training: its numbers over steps, and the tokens that were born last and died first."""
    items = [each for each in found.of_command("series") if "analysis" not in each.result.attrs]
    if not items:
        return None
    said = (
        "A row is born at the step of its first change, and dies at that of its last: which die at the last step is "
        "not known. Tokens merge where they join a group of identical rows. Counts of 0 are at the foot of a figure."
    )
    body = "".join(_of_training(each, parts, named=len(items) > 1) for each in items)
    return Section("series", "Over training", note(said) + body)


def _of_training(item: Item, parts: Parts, *, named: bool) -> str:
    one = step_numbers.of_series(item.result)
    figures = [parts.figure(_figure(one, kind, item.color), _TITLES[name]) for name, kind in KINDS.items()]
    heading = f"<h3>{text(step_numbers.name_of(one))}</h3>" if named else ""
    first, last, steps = (one[name].to_numpy() for name in ("first_change_step", "last_change_step", "step"))
    columns = [Column(name, "count") for name in ("steps", "rows", "rows that never change", "change in the last step")]
    last_ones = int(np.sum(last == steps[-1])) if steps.size > 1 else 0
    facts = table(columns, [[steps.size, first.size, int(np.sum(first < 0)), last_ones]])
    changing = np.flatnonzero(first >= 0)
    born = changing[np.argsort(-first[changing], kind="stable")][:_ENDS]
    ended = changing[last[changing] < steps[-1]]
    died = ended[np.argsort(last[ended], kind="stable")][:_ENDS]
    tables = "".join(
        f"<h4>{text(title)}</h4>{_tokens(one, places)}"
        for title, places in ((f"The {born.size} born last", born), (f"The {died.size} that died first", died))
        if places.size
    )
    return heading + side_by_side(figures) + facts + tables


def _figure(one: xr.Dataset, kind: StepPicture, color: str) -> object:
    """The lines of a picture against the step; counts on a logarithmic axis, at whose foot is 0."""
    steps = one["step"].to_numpy()
    drawn = []
    axis = Axis(kind.axis)
    if kind.counts:
        most = max(float(np.nanmax(step_numbers.values(one, name), initial=2)) for name in kind.lines.values())
        axis = Axis(kind.axis, "log", _FOOT, 1.5 * most)
    plot = charts.new_figure(Axis("step"), axis)
    if kind.band is not None:
        low, high = (step_numbers.values(one, name) for name in kind.band)
        charts.band(plot, kind.axis, color, steps, low, high)
    colors = [color] if len(kind.lines) == 1 else step_numbers.COLORS
    for (label, name), each in zip(kind.lines.items(), colors, strict=False):
        value = step_numbers.values(one, name).astype(np.float64)
        columns = {"x": steps, "y": np.maximum(value, _FOOT) if kind.counts else value, "value": value}
        drawn.append(charts.line(plot, shown(label), each, columns, marked=steps.size <= 100))
    rows = [("what", "$name"), ("step", "@x{0}"), ("value", "@value{%.6g}")]
    charts.hover(plot, drawn, rows, line_policy="nearest")
    if len(kind.lines) > 1:
        charts.add_legend(plot, drawn)
    return plot


def _tokens(one: xr.Dataset, places: np.ndarray) -> str:
    told = {
        "token_id": Column("id", "id"),
        "token": Column("token", "token"),
        "first_change_step": Column("first change", "id"),
        "last_change_step": Column("last change", "id"),
        "change_count": Column("changes", "count"),
        "grouped_step_count": Column("steps in a group", "count"),
    }
    there = {name: column for name, column in told.items() if name in one.variables}
    cells = (display_names(one, name, places) if name == "token" else one[name].to_numpy()[places] for name in there)
    return table([*there.values()], zip(*cells, strict=True))
