"""The matrix product of the points of two blocks, and a bound of its error."""

from __future__ import annotations

import torch

from embgeom_dask import private_apis
from embgeom_dask.kernels.double_double import UNIT
from embgeom_dask.metrics.base import Precision
from embgeom_dask.metrics.workspace import Workspace


def product_error(width: int, precision: Precision) -> float:
    """Bound the error of the product of two points relative to the product of their norms, and that of using it.

    With u the unit roundoff, a product of rows errs by at most d u |x| |y| in any order of summation (Jeannerod and
    Rump, SIAM J. Matrix Anal. Appl. 34, 2013), 3 d u where tensor cores truncate. 16 u more: rounding the points (4),
    the bound itself (1), its unit (3) and the sum of its terms (4), with slack; and the norms, which are float64 sums.
    """
    return ((1 if precision.cpu else 3) * width + 16) * precision.unit + (width + 4) * UNIT


def multiply(rows: torch.Tensor, columns: torch.Tensor, workspace: Workspace) -> torch.Tensor:
    """The matrix product: of bfloat16 in float32 where the device can (cuda), else in bfloat16; of int8 in int32.

    On a CPU the product lies in memory of `workspace`.
    """
    if rows.device.type != "cpu":
        wide = rows.dtype == torch.bfloat16 and rows.device.type == "cuda"
        return torch.mm(rows, columns.T, out_dtype=torch.float32) if wide else torch.mm(rows, columns.T)
    whole = rows.dtype == torch.int8
    out = workspace.empty(len(rows), len(columns), torch.int32 if whole else rows.dtype)
    return (private_apis.int8_product if whole else torch.mm)(rows, columns.T, out=out)
