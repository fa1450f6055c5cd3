"""The lattice of bfloat16 as text for a person."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from embgeom_dask.cli.text_tables import align, more_text, whose
from embgeom_dask.reporting.display_names import display_names
from embgeom_dask.units import noun

if TYPE_CHECKING:
    import xarray as xr

_LINES = 10
_PAIR_LINES = 20
_NUMBERS = ("token_count", "hidden_size", "extent_max", "both_signs_count", "negative_value_count")


def lattice_text(dataset: xr.Dataset) -> str:
    """The numbers of a lattice, its exponents, its widest columns, and what lies near what."""
    facts = [[name, str(dataset[name].item())] for name in _NUMBERS]
    parts = [whose(dataset), align(["lattice", ""], facts), _exponents(dataset), _columns(dataset)]
    if "exponent_distance" in dataset:
        parts.append(_near(dataset))
    if "within_count" in dataset:
        header = ["steps at most", "pairs", "tokens with one"]
        some = np.count_nonzero(dataset["within_degree"], axis=0)
        columns = (dataset[name].to_numpy() for name in ("radius", "within_count"))
        parts.append(align(header, zip(*columns, some, strict=True)))
    if "pair_token_id" in dataset:
        parts.append(_pairs(dataset))
    return "\n\n".join(parts)


def _exponents(dataset: xr.Dataset) -> str:
    """How many values have each exponent, the largest first, with the distance of two neighbors there."""
    counts = dataset["exponent_count"].to_numpy()
    used = np.flatnonzero(counts)[::-1]
    units = np.ldexp(1.0, np.maximum(used, 1) - 134)
    rows = [[each, f"2^{max(each, 1) - 127}", unit, counts[each], f"{counts[each] / counts.sum():.3%}"]
            for each, unit in zip(used.tolist(), units, strict=True)][: 2 * _LINES]  # fmt: skip
    return align(["exponent", "values from", "step", "values", "share"], rows)


def _columns(dataset: xr.Dataset) -> str:
    """The columns of the largest extents."""
    names = ("step_extent", "step_min", "step_max", "value_min", "value_max", "exponent_min", "exponent_max")
    first = np.argsort(-dataset["step_extent"].to_numpy(), kind="stable")[:_LINES]
    columns = (dataset[name].to_numpy()[first] for name in names)
    return align(["column", *names], zip(first, *columns, strict=True))


def _near(dataset: xr.Dataset) -> str:
    """The rows whose exponents are nearest to those of the token chosen."""
    distance = dataset["exponent_distance"].to_numpy()
    first = np.argsort(distance, kind="stable")[:_LINES]
    ids = dataset["token_id"].to_numpy()[first]
    table = align(
        ["id", "token", "exponents apart"], zip(ids, display_names(dataset, at=first), distance[first], strict=True)
    )
    counts = np.bincount(distance)
    apart = np.flatnonzero(counts)[:_LINES]
    up_to = align(["exponents at most", "tokens"], zip(apart, np.cumsum(counts)[apart], strict=True))
    origin = dataset["origin_token_id"].item()
    return f"nearest by exponents to {origin}\n{table}\n\n{up_to}"


def _pairs(dataset: xr.Dataset) -> str:
    """How many pairs there are at each number of steps of all columns, and the first of them."""
    count = dataset.sizes["pair"]
    said = f"{count} {noun(count, 'pair')} at most {dataset['pair_radius'].item():.9g} steps apart"
    if not count:
        return said
    steps, counts = np.unique(dataset["pair_cityblock_steps"].to_numpy(), return_counts=True)
    table = align(["steps in all columns", "pairs"], list(zip(steps, counts, strict=True))[:_LINES])
    ids, tokens = dataset["pair_token_id"].to_numpy(), display_names(dataset, "pair_token", slice(_PAIR_LINES))
    columns = (dataset[f"pair_{name}_steps"].to_numpy() for name in ("chebyshev", "cityblock"))
    rows = [[*row, ids[place, 0], tokens[place, 0], ids[place, 1], tokens[place, 1]]
            for place, row in enumerate(list(zip(*columns, strict=True))[:_PAIR_LINES])]  # fmt: skip
    pairs = align(["chebyshev", "cityblock", "id", "token", "id", "token"], rows)
    more = dataset.sizes["pair"] - _PAIR_LINES
    return "\n\n".join([said, table, pairs] + [more_text(more, "pair")] * (more > 0))
