"""Multiply the points of two blocks, and bound the error of the product."""

from __future__ import annotations

import torch

from embgeom_dask import private_apis
from embgeom_dask.kernels.double_double import UNIT
from embgeom_dask.metrics.base import Precision
from embgeom_dask.metrics.workspace import Workspace


def product_error(width: int, precision: Precision) -> float:
    """Return c such that a product p.q, and the evaluation of a linear bound with it, err by at most c |p| |q|.

    c = (d + 16) u + (d + 4) 2^-53 on a CPU, with 3 d in place of the first d elsewhere; u is `precision.unit`. A sum of
    d products errs by at most d u |p| |q| in any order (Jeannerod and Rump, SIAM J. Matrix Anal. Appl. 34, 2013), and
    by 3 d u |p| |q| where tensor cores truncate. 16 u cover the rounding of the points (4 u), of the bound's arrays
    (1 u), of their multiplication by a unit (3 u) and of the sum of its terms (4 u). (d + 4) 2^-53 covers the norms,
    which are float64 sums.

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
