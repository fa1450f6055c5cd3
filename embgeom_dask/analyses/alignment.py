"""How the columns of two matrices correspond, over matched rows: column matching, linear CKA, leading components."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
import torch
from distributed import Client
from numpy.typing import NDArray

from embgeom_dask import devices, tuning
from embgeom_dask.analyses.spectrum import column_groups
from embgeom_dask.errors import InputError
from embgeom_dask.execution.map_rows import in_order
from embgeom_dask.execution.plan import ITEMSIZE
from embgeom_dask.kernels.column_products import BLOCK_ROWS, ColumnProducts, error_of, sample_covariance
from embgeom_dask.kernels.eigenvalues import eigen
from embgeom_dask.kernels.rationals import Rationals
from embgeom_dask.selections.matching import Matched
from embgeom_dask.storage.model_stores import Matrix
from embgeom_dask.units import bytes_text

Array = NDArray[Any]

_COMPONENTS = 10
"""Leading directions of either side that are compared."""

_SQUARES = 6
"""Matrices (d + d', d + d') float64 that the process which asks holds."""

_SUMMED = 2.0**-46
"""What sums of up to 2^32 squares, made in pairs, lose of themselves."""


class PairsAndStripes(NamedTuple):
    """What one task multiplies: columns of the rows `rows` (n,) beside those of the rows `others` (n,) of `against`,
    for a group of stripes of columns.
    """

    rows: Array
    others: Array
    against: Matrix
    group: list[int]


def check_columns(matrix: Matrix, against: Matrix) -> None:
    """Refuse products of columns that do not fit into memory, and what lacks scipy."""
    _scipy()
    width = matrix.hidden_size + against.hidden_size
    needed, free = 8 * _SQUARES * width**2, devices.memory(torch.device("cpu"))[1]
    if needed > free:
        raise InputError(
            f"`columns`: the products of {width} columns take {bytes_text(needed)} here, and {bytes_text(free)} are "
            "free: use a machine with more memory"
        )


def compare_columns(
    client: Client, matrix: Matrix, against: Matrix, matched: Matched, means: Sequence[Rationals]
) -> dict[str, Any]:
    """The variables of a pass over all pairs of columns; `means` are the mean rows of either side."""
    count, width = matched.first.size, matrix.hidden_size
    products = _products(client, matrix, against, matched)
    raw = _whole(products, width + against.hidden_size)
    norms = np.sqrt(raw.diagonal())
    cosine = np.divide(raw, np.outer(norms, norms), out=np.zeros_like(raw), where=np.outer(norms, norms) > 0)
    variables = _assigned(cosine[:width, width:].copy())
    del raw, cosine
    if count < 2:
        return variables
    words = zip(*(each.in_two_words() for each in means), strict=True)
    high, low = (np.concatenate(part) for part in words)
    covariance = sample_covariance(products, high, low, count)
    products.clear()
    off = 2.0**-51 * _size(covariance) + 1.01 * error_of(count) * float((norms**2).sum()) / (count - 1)
    return variables | _cka(covariance, width, off) | _directions(covariance, width, off)


def _assigned(cosine: Array) -> dict[str, Any]:
    """Which column of the other side each is (AWM, arXiv 2510.06738): the assignment of largest sum of |cosine|."""
    mine, theirs = _scipy().linear_sum_assignment(np.abs(cosine), maximize=True)
    match, of_match = np.full(len(cosine), -1), np.full(len(cosine), np.nan)
    match[mine], of_match[mine] = theirs, cosine[mine, theirs]
    return {
        "column_match": ("hidden", match),
        "column_cosine": ("hidden", of_match),
        "column_cosine_mean": float(np.abs(of_match[mine]).mean()),
        "column_moved_count": int(np.count_nonzero(match[mine] != mine)),
        "column_negated_count": int(np.count_nonzero(of_match[mine] < 0)),
    }


def _cka(covariance: Array, width: int, off: float) -> dict[str, float]:
    """Linear CKA (Kornblith et al. 2019), |C_xy|^2 / (|C_xx| |C_yy|), and a bound of its error."""
    mine, theirs = _size(covariance[:width, :width]), _size(covariance[width:, width:])
    across = _size(covariance[:width, width:])
    if min(mine, theirs) <= off:  # rows that are all the same
        return {"cka": np.nan, "cka_error": np.nan}
    found = across / mine * (across / theirs)
    error = (2 * across + off) * off / (mine * theirs) + found * (off / (mine - off) + off / (theirs - off))
    return {"cka": found, "cka_error": 1.01 * (error + 8 * _SUMMED * found)}


def _directions(covariance: Array, width: int, off: float) -> dict[str, Any]:
    """How the leading components of both sides lie to each other."""
    across = covariance[:width, width:].copy()
    sides = [covariance[:width, :width].copy(), covariance[width:, width:].copy()]
    kept = min(_COMPONENTS, *map(len, sides))
    mine, theirs = (eigen(each, kept, off) for each in sides)
    spread = np.sqrt(np.outer(mine.value[:kept], theirs.value[:kept]))
    shared = mine.vector @ across @ theirs.vector.T
    dims = ("component", "against_component")
    variables: dict[str, Any] = {
        "score_correlation": (dims, np.divide(shared, spread, out=np.full_like(shared, np.nan), where=spread > 0)),
        "component_share": ("component", mine.value[:kept] / (mine.value.sum() or np.nan)),
        "against_component_share": ("against_component", theirs.value[:kept] / (theirs.value.sum() or np.nan)),
    }
    if mine.vector.shape == theirs.vector.shape:
        variables["component_cosine"] = (dims, mine.vector @ theirs.vector.T)
    return variables


def _products(client: Client, matrix: Matrix, against: Matrix, matched: Matched) -> list[ColumnProducts]:
    """The products of all columns of both sides, beside each other: pieces of rows are added in order."""
    width, count = matrix.hidden_size + against.hidden_size, matched.first.size
    groups = list(column_groups(width))
    step = max(8 * BLOCK_ROWS, 1 << (4 * width - 1).bit_length())
    parts = [
        PairsAndStripes(matched.first[start : start + step], matched.second[start : start + step], against, group)
        for start in range(0, count, step)
        for group in groups
    ]
    found = {group[0]: ColumnProducts.none(width, group) for group in groups}
    sizes = [part.rows.size if part.group is groups[0] else 0 for part in parts]
    for part, products in zip(parts, in_order(client, "columns", matrix, parts, sizes, _look), strict=True):
        found[part.group[0]].add(products)
    return list(found.values())


def _look(matrix: Matrix, part: PairsAndStripes) -> ColumnProducts:
    """The products of the columns of a part; runs on a worker."""
    with devices.session(torch.device("cpu")):
        width = matrix.hidden_size + part.against.hidden_size
        products = ColumnProducts.none(width, part.group)
        row_bytes = width * max(ITEMSIZE[matrix.dtype], ITEMSIZE[part.against.dtype])
        step = BLOCK_ROWS * max(1, tuning.PART_BYTES // (BLOCK_ROWS * row_bytes))
        for start in range(0, part.rows.size, step):
            here = slice(start, start + step)
            products.add_rows(_beside(matrix.take(part.rows[here]), part.against.take(part.others[here])))
        return products


def _beside(x: Array, y: Array) -> Array:
    """The columns of both, in a type that holds the values of either."""
    if x.dtype != y.dtype:
        kind = np.float64 if np.float64 in (x.dtype, y.dtype) else np.float32
        x, y = x.astype(kind), y.astype(kind)
    return np.concatenate([x, y], axis=1)


def _whole(groups: Sequence[ColumnProducts], width: int) -> Array:
    """The products (d, d) of all columns, as they are summed."""
    found = np.empty((width, width))
    for group in groups:
        for start, total in zip(group.first, group.total, strict=True):
            found[start : start + len(total), start:] = total
            found[start:, start : start + len(total)] = total.T
    return found


def _size(matrix: Array) -> float:
    """The Frobenius norm, of which no square overflows."""
    largest = float(np.abs(matrix).max())
    return largest * float(np.sqrt(np.square(matrix / largest).sum())) if largest else 0.0


def _scipy() -> Any:
    try:
        return import_module("scipy.optimize")
    except ModuleNotFoundError as error:
        raise InputError("`columns` needs scipy: pip install 'embgeom-dask[notebook]'") from error
