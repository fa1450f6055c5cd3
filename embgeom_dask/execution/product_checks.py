"""Check the products of this process: multiply numbers with known sums before its first tile."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from embgeom_dask import devices
from embgeom_dask.kernels import digits
from embgeom_dask.metrics import METRICS, Precision, Workspace, multiply_digits, product_error
from embgeom_dask.pairwise.points import DIGITS

Array = NDArray[Any]

_BITS = {"int8": 7, "bfloat16": 8, "float32": 24, "float64": 53}
"""Of the integers that are multiplied: as many as an element holds."""

_SHAPES = ((1, 1, 16), (3, 65, 33), (130, 97, 64), (64, 64, 509))
"""Rows of either side, and values of a row: alone, at odd ends, in whole blocks, in long sums; these fit 63 bits."""


@cache
def are_right(metric: str, element: str, device: torch.device) -> bool:
    """Whether this process makes the products of `metric`, of points of `element`, within their bounds on `device`.

    Sums of integers are known without error. Products are compared with these at several shapes, once a process.
    """
    try:
        with devices.session(device):
            if element in DIGITS:
                return all(_are_digits_right(element, device, *shape) for shape in _SHAPES)
            return all(_is_right(metric, element, device, *shape) for shape in _SHAPES)
    except (RuntimeError, TypeError, NotImplementedError) as error:
        if devices.out_of_memory(error):
            raise
        return False  # the device cannot multiply these at all


def fastest(metric: str, name: str) -> list[str]:
    """What products on the device called `name` can be made of, fastest first: those that are right, and float32."""
    device = devices.choose(name)
    return [each for each in devices.fastest(name) if each == "float32" or are_right(metric, each, device)]


def _is_right(metric: str, element: str, device: torch.device, rows: int, columns: int, width: int) -> bool:
    rng = np.random.default_rng(width)
    most = (1 << _BITS[element]) - 1
    x, y = (rng.integers(-most, most, (count, width), endpoint=True) for count in (rows, columns))
    x[0], y[0] = most, most  # the largest sum: what adds up in too few bits is cut off there
    if metric in ("chebyshev", "cityblock"):
        return _is_near(metric, element, device, abs(x), abs(y))
    if 2 * most.bit_length() + width.bit_length() < 63:
        return _is_near(metric, element, device, x, y)
    signs = [np.where(side < 0, -1, 1) for side in (x, y)]
    return _is_near(metric, element, device, x, signs[1]) and _is_near(metric, element, device, signs[0], y)


def _are_digits_right(element: str, device: torch.device, rows: int, columns: int, width: int) -> bool:
    """Whether products of digits, the largest among them, are made without error, of rows and columns of two sizes."""
    rng, each, count = np.random.default_rng(width), sum(digits.slices(width)), int(element[-1])
    x, y = (rng.integers(-128, 128, (3, size, each)) for size in (rows, columns))
    x[:, 0], y[:, 0] = np.array([[[127], [-128], [-128]], [[-127], [-128], [-128]]])
    steps = [np.ldexp(rng.integers(16, 33, size).astype(np.float64), -4) for size in (rows, columns)]
    order = [*range(count), *reversed(range(count - 1))]
    points = [torch.from_numpy(np.concatenate(side[order], axis=1).astype(np.int8)) for side in (x, y)]
    first, second = (point.to(device) for point in points)
    found = multiply_digits(first, second, (steps[0], steps[1]), Workspace(), whole=element != "float64x3", count=count)
    known = sum((x[k] @ y[other].T) << 8 * (2 - k - other) for k in range(count) for other in range(count - k))
    return bool((found.cpu().numpy() == known * np.outer(*steps) / 65536).all())


def _is_near(metric: str, element: str, device: torch.device, x: Array, y: Array) -> bool:
    """Whether the product of integers (m, d) and (n, d) is within the bound of its error."""
    dtype = getattr(torch, element)
    points, others = (torch.from_numpy(side).to(dtype).to(device) for side in (x, y))
    product = METRICS[metric].product(points, others, Workspace())
    found, width = product.cpu().double().numpy(), x.shape[1]
    if not (np.abs(found) < 2.0**63).all():  # nor NaN
        return False
    precision = Precision(str(product.dtype).removeprefix("torch."), device.type == "cpu")
    if metric in ("chebyshev", "cityblock"):
        apart = np.abs(x[:, None] - y)
        known = apart.max(2) if metric == "chebyshev" else apart.sum(2)
        bound = (width + 8) * precision.unit * known
    else:
        known = x @ y.T
        lengths = [np.sqrt(np.square(side.astype(np.float64)).sum(1)) for side in (x, y)]
        bound = product_error(width, precision) * np.outer(*lengths) + precision.rounding * np.abs(known)
    if element == "int8":
        bound = np.zeros(known.shape)
    return bool((np.abs(found.astype(np.int64) - known) <= bound).all())
