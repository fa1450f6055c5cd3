"""What the points of a scan are: chosen by what is fast, and by how well products of integers tell pairs apart."""

from __future__ import annotations

from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embgeom_dask.blocks import Block
from embgeom_dask.forms import Form
from embgeom_dask.kernels.rows import norms, peaks
from embgeom_dask.metrics import METRICS, Terms
from embgeom_dask.settings import Settings
from embgeom_dask.tiles import Tile

Array = NDArray[Any]

_WIDTHS = range(16, 2**31 // 127**2)
"""Sums of so many products of 8-bit integers fit 32 bits; of a single one torch 2.13 gives anything."""

_UNCLIPPED = 0.99
"""The share of rows, all made as long as the longest, of which no value is cut off when they are rounded."""

_UNCLIPPED_NEAR = 0.95, 0.9
"""Where the nearest of all rows are sought: the share of rows that are no longer than some, and of these as above."""

_RANGE = 16
"""The longest row is at most so many times that long: its values, and their bounds, stay within float32."""

_SAMPLED = 64
"""Rows whose neighbours among a sample are looked for."""

_UNDECIDED = {"bfloat16": 1 / 64, "float32": 1 / 10, "float64": 1 / 5}
"""The share of pairs that, looked at one by one, take as long as integers save where products would be of these."""


def choose_form(
    settings: Settings,
    dtypes: set[str],
    centre: Array,
    radii: Array,
    some: Array,
    fastest: list[str],
    element: str | None,
) -> Form:
    """The form of the points of rows of these `dtypes`, `radii` (all,) from `centre`; `some` (n, d) are a sample.

    Products are of `element` where it is given. Else they are float64 where few pairs may be left undecided; integers
    where these are multiplied fastest and farthest pairs are sought, or neighbours that integers tell from most others
    in the sample; else of the first of `fastest` that can hold the points.
    """
    largest = float(radii.max())
    plain = element if element not in {None, "int8"} else _plain(settings, dtypes, centre, largest, fastest)
    form = Form(settings.metric, plain, centre, 1.0 if plain == "bfloat16" else _into_unit_ball(largest))
    if element != "int8" and (element or fastest[0] != "int8" or not _few(settings, centre.size)):
        return form
    if not settings.neighbors:
        return Form(settings.metric, "int8", centre, _filling(largest, _UNCLIPPED, some, centre))
    length = max(float(np.quantile(radii, _UNCLIPPED_NEAR[0])), largest / _RANGE)
    scale = _filling(length, _UNCLIPPED_NEAR[1], some, centre)
    rounded = Form(settings.metric, "int8", centre, scale, form)
    return rounded if element or _filters_well(rounded, some, settings.neighbors, radii.size) else form


def _few(settings: Settings, width: int) -> bool:
    few = settings.kept <= {"farthest", "neighbors"}
    return few and METRICS[settings.metric].quantises and width in _WIDTHS


def _plain(settings: Settings, dtypes: set[str], centre: Array, radius: float, fastest: list[str]) -> str:
    if settings.double or "float64" in dtypes:
        return "float64"
    offset = float(np.linalg.norm(centre))
    near_origin = offset <= radius and 2.0**-10 <= offset + radius <= 2.0**10
    as_stored = dtypes == {"bfloat16"} and METRICS[settings.metric].as_stored
    fit = {"float32", "bfloat16"} if as_stored and near_origin else {"float32"}
    return next(name for name in fastest if name in fit)


def _into_unit_ball(radius: float) -> float:
    """What rows of up to this radius are multiplied by: a power of two that brings them into the unit ball."""
    return float(2.0 ** -np.ceil(np.log2(radius * (1 + 1e-9)))) if radius > 0 else 1.0


def _filling(length: float, share: float, some: Array, centre: Array) -> float:
    """What rows are multiplied by to be rounded: of that share of them, if of this length, no value exceeds 127."""
    if not length > 0:
        return 1.0
    lengths = np.sqrt(norms(some, centre)[:, 1]) / length
    apart = lengths > 0
    shape = peaks(some[apart], centre, 1 / length) / lengths[apart]
    return float(127 / (length * np.quantile(shape, share))) if shape.any() else 127 / length


def _filters_well(form: Form, rows: Array, neighbors: int, count: int) -> bool:
    """Whether integers, the points of `form`, leave few more pairs to be looked at than its unrounded points do.

    The pairs are those that may be among the `neighbors` nearest of either row, of `count` rows of which `rows` (n, d)
    are a sample.
    """
    sample = Block(np.arange(len(rows)), rows, *form.points(rows), np.zeros(len(rows)), form=form)
    first = sample.take(np.arange(0, len(rows), -(-len(rows) // _SAMPLED)))
    rounded = Tile(METRICS[form.metric], first, sample, diagonal=False)
    plain = rounded.unrounded()
    least, most = (_bound(plain, terms) for terms in plain.terms)
    place = min(ceil(neighbors * len(rows) / count), len(rows) - 1)  # 0 is the row itself
    limit = np.partition(most, place, axis=1)[:, place, None]
    more = np.mean(_bound(rounded, rounded.terms[0]) <= limit) - np.mean(least <= limit)
    return bool(2 * more <= _UNDECIDED[plain.precision.element])


def _bound(tile: Tile, terms: Terms) -> Array:
    p = tile.product.float().numpy()
    bound: Array = terms.row[:, None] + terms.column + np.float32(terms.factor) * p + np.float32(terms.bend) * np.abs(p)
    return bound
