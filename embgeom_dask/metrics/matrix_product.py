"""Multiply the points of two blocks, bound the error of the product, and what metrics of products have in common."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from embgeom_dask import private_apis
from embgeom_dask.kernels import digits
from embgeom_dask.kernels.double_double import UNIT
from embgeom_dask.kernels.row_norms import norms
from embgeom_dask.metrics.base import Metric, Norms, Points, Precision
from embgeom_dask.metrics.workspace import Workspace

Array = NDArray[Any]


class ProductOfRows(Metric):
    """A metric that tiles compute from the matrix product of the rows as they are, and from their squared norms."""

    as_stored = True
    quantizes = True
    has_rough = True

    def unit(self, scale: float) -> float:
        """Return scale^2."""
        return scale**2

    def distance_from_centre(self, l1: Array, l2_squared: Array, linf: Array) -> Array:  # noqa: ARG002
        """Return the L2 norm."""
        return np.asarray(np.sqrt(l2_squared))

    def points(self, values: Array, dtype: Any) -> Points:
        """Return the rows as they are, with their squared norms."""
        points = values.astype(dtype, copy=False)
        return Points(points, Norms(squared_norm(points)))

    def product(self, rows: torch.Tensor, columns: torch.Tensor, workspace: Workspace) -> torch.Tensor:
        """Return the matrix product."""
        return multiply(rows, columns, workspace)

    def direct_slack(self, values: Array, width: int, unit: float = UNIT) -> Array:
        """Return (d + 8) u v, where v is the value, or |x| |y| of an inner product.

        The sum errs by d u of this in any order (Jeannerod and Rump), differences and squares by 3 u; values of float64
        rows that are multiplied in float32 by 2 u.
        """
        return (width + 8) * unit * values

    def key_slack(self, values: Array, width: int) -> Array:
        """Return 4 (d + 1)^2 u^2 v, with v as above: each of d terms loses at most 3 d u^2 of it."""
        return 4.0 * (width + 1) ** 2 * UNIT**2 * values


def squared_norm(values: Array) -> Array:
    """Return the squared L2 norm (b,) float64 of rows (b, d), summed in float64."""
    out: Array = norms(values)[:, 1]
    return out


def product_error(width: int, precision: Precision) -> float:
    """Return c such that a product p.q, and the evaluation of a linear bound with it, err by at most c |p| |q|.

    c = (d + 16) u + (d + 4) 2^-53 on a CPU, with 3 d in place of the first d elsewhere; u is `precision.unit`. A sum of
    d products errs by at most d u |p| |q| in any order (Jeannerod and Rump, SIAM J. Matrix Anal. Appl. 34, 2013), and
    by 3 d u |p| |q| where tensor cores truncate. 16 u cover the rounding of the points (4 u), of the bound's arrays
    (1 u), of their multiplication by a unit and a factor (3 u each) and of the sum of its terms (4 u). (d + 4) 2^-53
    covers the norms, which are float64 sums.

    Parameters
    ----------
    width : int
        d, the number of columns; 0 for a product whose sums are exact.
    precision : Precision
        How the product was computed.
    """
    return ((1 if precision.cpu else 3) * width + 16) * precision.unit + (width + 4) * UNIT


def multiply(rows: torch.Tensor, columns: torch.Tensor, workspace: Workspace) -> torch.Tensor:
    """Return the matrix product rows columns^T, (m, n), of points (m, d) and (n, d) of one dtype on one device.

    Points of int8 give int32; points of bfloat16 give float32 on cuda and bfloat16 elsewhere; others give their own
    dtype. On a CPU the product lies in memory of `workspace`.
    """
    if rows.device.type != "cpu":
        wide = rows.dtype == torch.bfloat16 and rows.device.type == "cuda"
        return torch.mm(rows, columns.T, out_dtype=torch.float32) if wide else torch.mm(rows, columns.T)
    whole = rows.dtype == torch.int8
    out = workspace.empty(len(rows), len(columns), torch.int32 if whole else rows.dtype)
    return (private_apis.int8_product if whole else torch.mm)(rows, columns.T, out=out)


def multiply_digits(
    rows: torch.Tensor,
    columns: torch.Tensor,
    steps: tuple[Array, Array],
    workspace: Workspace,
    *,
    whole: bool,
    count: int = 3,
) -> torch.Tensor:
    """Return the product (m, n) float64 of points in digits, as `kernels.digits` makes them: the same bits anywhere.

    Parameters
    ----------
    rows, columns : torch.Tensor of int8, (m, 5 w) and (n, 5 w), or (m, 3 w) and (n, 3 w)
        Of one device.
    steps : tuple of numpy.ndarray of float64, (m,) and (n,)
        The steps of the rows and of the columns.
    workspace : Workspace
        What the product lies in on a CPU.
    whole : bool
        Whether digits are multiplied as 8-bit integers; else as float64 numbers, whose sums are exact too.
    count : {3, 2}
        Digits of a value: of two as 8-bit integers alone.
    """
    out = workspace.empty(len(rows), len(columns), torch.float64) if rows.device.type == "cpu" else None
    made = []
    for start in range(0, len(rows), _STRIP):
        strip = slice(start, start + _STRIP)
        here = None if out is None else out[strip]
        made.append(_strip_of_digits(rows[strip], columns, (steps[0][strip], steps[1]), workspace, here, whole, count))
    return out if out is not None else torch.cat(made)


_STRIP = 512
"""Rows whose products of digits are made at a time, so that they need not go through memory."""


def _strip_of_digits(
    rows: torch.Tensor,
    columns: torch.Tensor,
    steps: tuple[Array, Array],
    workspace: Workspace,
    out: torch.Tensor | None,
    whole: bool,
    count: int,
) -> torch.Tensor:
    found, places = out, 2 * count - 1
    for start in range(0, rows.shape[1], part := places * _slice_of(rows.shape[1] // places)):
        first, second = rows[:, start : start + part], columns[:, start : start + part]
        if whole and out is not None:
            parts = _whole_parts(first, second, workspace, count)
            digits.combine(parts, *steps, out.numpy(), add=start > 0)
            continue
        total = _total_on_device(first, second, count) if whole else _total(first, second)
        (k, p), (other_k, other_p) = (map(torch.from_numpy, digits.parts_of(step)) for step in steps)
        device = rows.device
        counts = total * (k.to(device)[:, None] * other_k.to(device))
        product = counts.double() * (p.to(device)[:, None] * other_p.to(device))
        if out is None:
            found = product if found is None else found + product
        else:
            out.copy_(product if start == 0 else out + product)
    assert found is not None
    return found


def _slice_of(columns: int) -> int:
    """How many columns a slice has, of so many columns; the slices are alike."""
    return columns // -(-columns // digits.LONGEST)


def _whole_parts(rows: torch.Tensor, columns: torch.Tensor, workspace: Workspace, count: int) -> tuple[Any, ...]:
    """h.h, h.m + m.h and h.l + m.m + l.h: the digits of rows are multiplied with those of columns in reverse order."""
    places, m, n = 2 * count - 1, len(rows), len(columns)
    w = rows.shape[1] // places
    memory = workspace.empty(count * m, n, torch.int32)
    for k in range(count):
        other = columns[:, (places - 1 - k) * w :]
        private_apis.int8_product(rows[:, : (k + 1) * w], other.T, out=memory[k * m : (k + 1) * m])
    found = memory.numpy()
    return tuple(found[k * m : (k + 1) * m] for k in range(count))


def _total_on_device(rows: torch.Tensor, columns: torch.Tensor, count: int) -> torch.Tensor:
    """The sum of products of digits, int64, by products of integers on a device of its own."""
    places = 2 * count - 1
    w = rows.shape[1] // places
    total = torch.zeros(len(rows), len(columns), dtype=torch.int64, device=rows.device)
    for k in range(count):
        first, second = rows[:, : (k + 1) * w], columns[:, (places - 1 - k) * w :]
        total = (total << 8) + private_apis.int8_product(first.contiguous(), second.contiguous().T)
    return total << 8 * (3 - count)


def _total(rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """The sum of products of digits, int64, by three products of float64 numbers: no sum reaches 2^53."""
    w, found = rows.shape[1] // 5, []
    h, m, low = (rows[:, k * w : (k + 1) * w].double() for k in range(3))
    for start in range(0, len(columns), _STRIP):
        part = columns[start : start + _STRIP]
        other = [part[:, k * w : (k + 1) * w].double().T for k in range(3)]
        total = torch.mm(low, other[0])
        total.addmm_(m, other[0] * 256 + other[1])
        total.addmm_(h, other[0] * 65536 + other[1] * 256 + other[2])
        found.append(total.long())
    return torch.cat(found, dim=1)
