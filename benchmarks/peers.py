"""Time and wrong answers of other tools beside ours: the ten nearest rows of every row, euclidean.

    python -m benchmarks.peers --data DIR --rounds 3

needs the extra `bench`. Each tool gets the rows in memory as float32, which holds bfloat16 exactly; ours starts at the
store. All run in turn, round after round, in one process. What is counted wrong, against float64 differences of the
stored values, which err by less than 1e-12:

- *wrong rows*: of the 10 n answers those that are farther than the true tenth nearest by more than 1e-9 of it;
  which one of equals is named counts for nothing, and a row itself is left out of its own answers;
- *zero*: answers at distance 0, or at the square root of less, of rows that differ;
- *worst*: the largest relative error of a distance that is not 0.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import embgeom_dask as eg
from benchmarks.data import Data
from benchmarks.run import machine, say, warm_up, write

Array = NDArray[Any]

K = 10
BLOCK = 1024
Answer = tuple[Array, Array]
"""Ids (n, k) int64 and distances (n, k) float64, nearest first."""


def ours(data: Data) -> Answer:
    """`embgeom_dask.scan` from the store."""
    found = eg.scan(data.store, neighbors=K, device="cpu", progress=False)
    return found.neighbor_token_id.values, found.neighbor_distance.values


def faiss(data: Data) -> Answer:
    """FAISS IndexFlatL2, which gives squared distances."""
    from faiss import IndexFlatL2

    points = data.rows.float().numpy()
    index = IndexFlatL2(points.shape[1])
    index.add(points)
    squares, ids = index.search(points, K + 1)
    return ids, np.sqrt(np.maximum(squares.astype(np.float64), 0.0))


def sklearn(data: Data) -> Answer:
    """scikit-learn NearestNeighbors by brute force, which sums float32 rows in float64, in blocks."""
    from sklearn.neighbors import NearestNeighbors

    points = data.rows.float().numpy()
    distances, ids = NearestNeighbors(n_neighbors=K + 1, algorithm="brute").fit(points).kneighbors(points)
    return ids, distances.astype(np.float64)


def cdist(data: Data) -> Answer:
    """torch.cdist and topk, 1,024 rows at a time."""
    points = data.rows.float()
    found = [torch.cdist(part, points).topk(K + 1, largest=False) for part in points.split(BLOCK)]
    ids = torch.cat([each.indices for each in found]).numpy()
    return ids, torch.cat([each.values for each in found]).double().numpy()


def bfloat16(data: Data) -> Answer:
    """torch in the stored type: |x|^2 + |y|^2 - 2 x.y of bfloat16 rows, as many notebooks have it."""
    points = data.rows
    squares = (points * points).sum(1)
    found = []
    for part, square in zip(points.split(BLOCK), squares.split(BLOCK), strict=True):
        distance = (square[:, None] + squares - 2 * part @ points.T).clamp(min=0).sqrt()
        found.append(distance.float().topk(K + 1, largest=False))
    ids = torch.cat([each.indices for each in found]).numpy()
    return ids, torch.cat([each.values for each in found]).double().numpy()


TOOLS: dict[str, Callable[[Data], Answer]] = {
    "embgeom scan --neighbors 10": ours,
    "FAISS IndexFlatL2": faiss,
    "scikit-learn NearestNeighbors": sklearn,
    "torch.cdist, topk": cdist,
    "torch, products in the stored type": bfloat16,
}


@dataclass
class Found:
    """What one tool did: the seconds of each round, and its last answers."""

    seconds: list[float] = field(default_factory=list)
    answer: Answer | None = None


def without_self(ids: Array, distances: Array) -> Answer:
    """The first ten answers of each row that are not the row itself."""
    own = ids == np.arange(len(ids))[:, None]
    order = np.argsort(own, axis=1, kind="stable")[:, :K]
    return np.take_along_axis(ids, order, 1), np.take_along_axis(distances, order, 1)


def true_distances(rows: Array, ids: Array) -> Array:
    """The distances (n, k) of rows from the rows named, by float64 differences."""
    found = np.empty(ids.shape)
    for i, named in enumerate(ids):
        found[i] = np.sqrt(np.square(rows[named].astype(np.float64) - rows[i].astype(np.float64)).sum(axis=1))
    return found


def wrong(rows: Array, exact: Array, answer: Answer) -> tuple[int, int, float]:
    """How many answers are wrong, how many are 0 though rows differ, and the worst relative error; see above.

    `exact` (n, k) are the true distances of the true nearest, in order.
    """
    ids, said = answer
    true = true_distances(rows, ids)
    beyond = true > exact[:, -1:] * (1 + 1e-9)
    zero = (true > 0) & (said == 0)
    rest = (true > 0) & (said > 0)
    return int(beyond.sum()), int(zero.sum()), float((abs(said - true)[rest] / true[rest]).max(initial=0.0))


def lines(data: Data, found: dict[str, Found]) -> Iterator[str]:
    """The lines of the table of one data set."""
    rows = data.rows.float().numpy()
    mine = found["embgeom scan --neighbors 10"]
    assert mine.answer is not None
    exact = true_distances(rows, mine.answer[0])
    for tool, each in found.items():
        assert each.answer is not None
        answer = each.answer if each is mine else without_self(*each.answer)
        beyond, zero, worst = wrong(rows, exact, answer)
        seconds = median(each.seconds)
        times = f"{seconds / median(mine.seconds):.2f}"
        shape = f"{rows.shape[0]:,} x {rows.shape[1]:,} {str(data.rows.dtype).removeprefix('torch.')}"
        counts = f"{beyond:,} of {answer[0].size:,} | {zero:,} | {worst:.1e}"
        yield f"| {data.name}: {shape} | {tool} | {seconds:.1f} s | {times} | {counts} |\n"


def measure(data: Data, rounds: int) -> dict[str, Found]:
    """Run every tool so many times, in turn."""
    found = {tool: Found() for tool in TOOLS}
    for number in range(rounds):
        for tool, call in TOOLS.items():
            started = perf_counter()
            found[tool].answer = call(data)
            found[tool].seconds.append(perf_counter() - started)
            say(f"{data.name}, round {number + 1}: {tool} {found[tool].seconds[-1]:.2f} s")
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--data-set", default="a,c", help="names of them, see docs/benchmarks.md")
    parser.add_argument("--rows", type=int, default=16_384, help="rows of those that are made")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", type=Path, help="put the table into this page too")
    given = parser.parse_args()
    given.data.mkdir(parents=True, exist_ok=True)
    name, about = machine()
    text = "| data | tool | time | of ours | wrong rows | zero | worst |\n| --- | --- | --- | --- | --- | --- | --- |\n"
    for each in given.data_set.split(","):
        data = Data(given.data, each, given.rows)
        warm_up("neighbors", data.store)
        text += "".join(lines(data, measure(data, given.rounds)))
    title = f"{name}: `python -m benchmarks.peers --data-set {given.data_set} --rounds {given.rounds}`"
    section = f"## {title}\n\n{about}. Medians of {given.rounds}.\n\n{text}"
    print(section, end="")
    if given.write:
        write(given.write, title, section)


if __name__ == "__main__":
    main()
