"""What jobs of the benchmark are measured beside: bare products of the same rows, FAISS and scikit-learn."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from time import perf_counter
from typing import Any

import numpy as np
import torch

from benchmarks.data import Array, Data
from embgeom_dask import private_apis

TILE = 2048


def seconds(call: Callable[..., Any], *args: Any, **options: Any) -> float:
    """Wall time of a call."""
    started = perf_counter()
    call(*args, **options)
    return perf_counter() - started


@cache
def speed(dtype: torch.dtype) -> float:
    """GFLOP/s of a product of 2048 x 2560 by 2560 x 2048 on the cpu, the best of five."""
    tile = torch.randn(TILE, 2560).to(dtype)
    return 2e-9 * TILE**2 * 2560 / min(seconds(product, tile, half=True) for _ in range(5))


def fastest(data: Data) -> torch.dtype:
    """The dtype of the fastest product of these rows: their own, or float32 where that is faster."""
    return max(data.rows.dtype, torch.float32, key=speed)


def integers(data: Data) -> torch.Tensor:
    """As many integers from -127 to 127 as there are values."""
    return torch.randint(-127, 128, data.rows.shape, dtype=torch.int8)


def product(points: torch.Tensor, *, half: bool) -> None:
    """The bare products of all pairs of blocks of 2048 rows; of i <= j alone for half the square."""
    blocks = torch.split(points, TILE)
    whole = points.dtype == torch.int8
    multiply = private_apis.int8_product if whole else torch.mm
    out = torch.empty(TILE * TILE, dtype=torch.int32 if whole else points.dtype)
    for i, rows in enumerate(blocks):
        for columns in blocks[i if half else 0 :]:
            multiply(rows, columns.T, out=out[: len(rows) * len(columns)].view(len(rows), len(columns)))


def of_directions(data: Data) -> float:
    """Seconds of the bare product of the directions with all rows, block by block into one output."""
    dtype = fastest(data)
    directions, rows = torch.from_numpy(data.directions).to(dtype), data.rows.to(dtype)
    out = torch.empty(len(directions), TILE, dtype=dtype)

    def multiply() -> None:
        for block in torch.split(rows, TILE):
            torch.mm(directions, block.T, out=out[:, : len(block)])

    return seconds(multiply)


def resident(data: Data) -> float:
    """Seconds of half the square on the CUDA device: rows resident, blocks of 8192 rows, results in float32."""
    blocks = torch.split(data.rows.cuda(), 4 * TILE)

    def multiply(blocks: Sequence[torch.Tensor]) -> None:
        for i, rows in enumerate(blocks):
            for columns in blocks[i:]:
                torch.mm(rows, columns.T, out_dtype=torch.float32)
        torch.cuda.synchronize()

    multiply(blocks[:2])
    return seconds(multiply, blocks)


def faiss(data: Data) -> float:
    """Seconds of FAISS IndexFlatL2 on float32 rows: 10 neighbors of the picked rows, scaled up to all rows."""
    from faiss import IndexFlatL2

    points = data.rows.float().numpy()
    index = IndexFlatL2(points.shape[1])
    index.add(points)
    return seconds(index.search, points[data.picked], 11) * len(points) / data.picked.size


def sklearn(
    data: Data, farthest: int = 0, neighbors: int = 0, histogram: int = 0, within: Iterable[float] = ()
) -> float:
    """Seconds of scikit-learn's pairwise_distances_chunked on float32 rows, with the same reductions, scaled up alike.

    `neighbors` takes every distance of a picked row, the others those to later rows.
    """
    from sklearn.metrics import pairwise_distances_chunked

    points = data.rows.float().numpy()
    number = np.arange(len(points))
    kept: list[Any] = []

    def keep(distance: Array, start: int) -> None:
        if neighbors:
            nearest = np.argpartition(distance, neighbors)[:, : neighbors + 1]
            kept.append((nearest, np.sort(np.take_along_axis(distance, nearest, axis=1))))
        if farthest or histogram:
            later = distance[number > data.picked[start : start + len(distance), None]]
        if farthest:
            kept.append(np.argpartition(later, -min(farthest, later.size))[-farthest:])
        if histogram:
            counts = [np.count_nonzero(later <= radius) for radius in within]
            moments = later.mean(), later.std(), later.min(), later.max()
            kept.append((np.histogram(later, histogram, (0, 4)), moments, counts))

    chunks = pairwise_distances_chunked(points[data.picked], points, reduce_func=keep)
    return seconds(list, chunks) * len(points) / data.picked.size
