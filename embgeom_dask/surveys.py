"""The survey of seed notebook 07.3o: centroid and row norms of any number of models, one pass over each matrix."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
import xarray as xr
from dask.delayed import Delayed
from distributed import Client, as_completed
from numpy.typing import NDArray

from embgeom_dask import devices, progress, results
from embgeom_dask.cluster import connect
from embgeom_dask.errors import EmbgeomError, InputError
from embgeom_dask.stores import Matrix, Role, find_matrix, open_model

_PIECE_VALUES = 1 << 17  # 1 MiB of float64: a few of these stay in a core's cache

StorePath = str | os.PathLike[str]


class BlockSummary(NamedTuple):
    """What is kept of a block of rows: `sums` (2, d) float64, whose two rows add up to the sum of the rows,
    `norms` (rows,) float64, the L2 norm of each row, and the name of the `device` that computed them.
    """

    sums: NDArray[np.float64]
    norms: NDArray[np.float64]
    device: str


def survey(
    stores: StorePath | Iterable[StorePath],
    matrix: Role | None = None,
    *,
    out: StorePath | None = None,
    device: str = "auto",
    client: Client | None = None,
    scheduler: str | None = None,
) -> xr.Dataset:
    """Describe the centroid and the row norms of one matrix of each store, as a Dataset over `model`.

    All is float64 and depends neither on the number of workers nor on the order in which they finish: the centroid
    is the mean of the stored values rounded twice, once for the exact sum and once for the division by V.

    - `centroid (model, hidden)`, the mean row; padded with NaN where the models differ in width;
    - `centroid_l1`, `centroid_l2`, `centroid_linf`: its norms; `centroid_mean`, `centroid_std`, `centroid_min`,
      `centroid_max`: of its components;
    - `norm_mean`, `norm_median`, `norm_std`, `norm_min`, `norm_max`: of the L2 norms of the rows;
    - `centroid_ratio`: `centroid_l2` / `norm_mean`, NaN where all rows are zero;
    - `vocab_size`, `hidden_size` (int64), `dtype` (str), `tied` (bool), and the coordinate `matrix`, the stored array.

    A standard deviation is the sample's (n - 1; NaN for n = 1), a median the mean of the two middle values. The
    result is saved at `out`; where the same result is there already, it is opened instead.

    Raises
    ------
    InputError
        where there is no store or no such matrix, a row holds NaN or infinity, or something else is at `out`.
    EmbgeomError
        where a store cannot be read.
    """
    started = time.perf_counter()
    paths = [stores] if isinstance(stores, str | os.PathLike) else list(stores)
    if not paths:
        raise InputError("survey needs at least one store: embgeom list shows them")
    matrices = [find_matrix(path, matrix) for path in paths]
    attrs = results.provenance("survey", matrices, [], 0.0)
    if out is not None and (done := results.existing(out, attrs)) is not None:
        return done
    summaries = _summarize_all(matrices, device, client, scheduler)
    dataset = _dataset(matrices, summaries)
    used = [block.device for blocks in summaries for block in blocks]
    dataset.attrs = results.provenance("survey", matrices, used, time.perf_counter() - started)
    if out is not None:
        results.save(dataset, out)
    return dataset


def table(dataset: xr.Dataset) -> pd.DataFrame:
    """Return the scalars of a survey as a table: one row a number, one column a model."""
    return dataset.drop_dims("hidden").reset_coords().to_dataframe().T


def summarize(rows: NDArray[Any], device: str = "auto") -> BlockSummary:
    """Sum `rows` (n, d) and take their norms, in float64 on `device` (on the cpu where that is mps: it has no float64).

    Each value is cut at a common unit and the parts above and below it are summed apart (Rump, Ogita and Oishi 2008,
    "Accurate floating-point summation", ExtractVector). No sum of n parts above the unit rounds, whatever the order;
    nor does one of parts below where values have 24 bits or fewer and lie within a factor 2**50 of the largest. So
    every device and thread count finds the same sums.
    """
    chosen = devices.choose(device)
    if chosen.type == "mps":
        chosen = torch.device("cpu")
    with devices.session(chosen):
        block = devices.to_tensor(rows, chosen)
        low, high = torch.aminmax(block)
        cut = 4.0 * len(rows) * max(abs(float(low)), abs(float(high)))
        sums = torch.zeros(2, rows.shape[1], dtype=torch.float64, device=chosen)
        norms = []
        for piece in torch.split(block, max(1, _PIECE_VALUES // rows.shape[1])):
            values = piece.double()
            above = (values + cut).sub_(cut)
            sums[0] += above.sum(0)
            sums[1] += torch.sub(values, above, out=above).sum(0)
            norms.append(torch.linalg.vector_norm(values, dim=1))
        return BlockSummary(sums.cpu().numpy(), torch.cat(norms).cpu().numpy(), str(chosen))


def mean_row(summaries: Sequence[BlockSummary]) -> NDArray[np.float64]:
    """Return the mean row (d,) of the blocks that `summaries` describe: correctly rounded sums, divided by the rows."""
    columns = np.concatenate([block.sums for block in summaries]).T
    return np.array([math.fsum(column) for column in columns.tolist()]) / sum(len(block.norms) for block in summaries)


def check_finite(matrix: Matrix, token_ids: NDArray[np.int64], norms: NDArray[np.float64]) -> None:
    """Raise InputError with the model and the first token ids where a norm, and so a row's value, is not finite."""
    bad = token_ids[~np.isfinite(norms)]
    if bad.size:
        first = ", ".join(map(str, bad[:5].tolist())) + (", ..." if bad.size > 5 else "")
        raise InputError(
            f"{matrix.model}: {bad.size} of {norms.size} rows of {matrix.name} hold NaN or infinity (token ids {first})"
        )


def _summarize_all(
    matrices: Sequence[Matrix], device: str, client: Client | None, scheduler: str | None
) -> list[list[BlockSummary]]:
    """Summarize every block of every matrix in one dask computation; returns a list a matrix, blocks in order."""
    blocks = [_lazy_summaries(matrix, device) for matrix in matrices]
    owner = {block.key: matrix for matrix, own in zip(matrices, blocks, strict=True) for block in own}
    done: dict[str, BlockSummary] = {}
    total = sum({matrix: matrix.vocab_size for matrix in matrices}.values())
    with connect(client, scheduler, device) as active, progress.bar(total, "survey", "rows") as advance:
        wanted = {block.key: block for own in blocks for block in own}
        for future in as_completed(active.compute(list(wanted.values())), loop=active.loop):
            try:
                done[future.key] = future.result().item()
            except EmbgeomError:
                raise
            except Exception as error:
                reason = str(error).partition("\n")[0]
                raise EmbgeomError(
                    f"{owner[future.key].model}: cannot read {owner[future.key].store}: {reason}"
                ) from error
            advance(len(done[future.key].norms))
    return [[done[block.key] for block in own] for own in blocks]


def _lazy_summaries(matrix: Matrix, device: str) -> list[Delayed]:
    """One task a chunk of the store: the worker reads the chunk and sends back its summary."""
    rows = open_model(matrix.store)[matrix.name].data
    lazy = rows.map_blocks(
        _summarize_chunk,
        device,
        chunks=((1,) * rows.numblocks[0], (1,)),
        dtype=object,
        meta=np.empty((0, 0), dtype=object),
    )
    return list(lazy.to_delayed().ravel())


def _summarize_chunk(rows: NDArray[Any], device: str) -> NDArray[Any]:
    chunk = np.empty((1, 1), dtype=object)
    chunk[0, 0] = summarize(rows, device)
    return chunk


def _dataset(matrices: Sequence[Matrix], summaries: Sequence[Sequence[BlockSummary]]) -> xr.Dataset:
    centroids = np.full((len(matrices), max(matrix.hidden_size for matrix in matrices)), np.nan)
    rows = []
    for own, matrix, blocks in zip(centroids, matrices, summaries, strict=True):
        norms = np.concatenate([block.norms for block in blocks])
        check_finite(matrix, np.arange(norms.size), norms)
        own[: matrix.hidden_size] = mean_row(blocks)
        rows.append(_statistics(matrix, own[: matrix.hidden_size], norms))
    columns = {name: ("model", _column([row[name] for row in rows])) for name in rows[0]}
    dataset = xr.Dataset({**columns, "centroid": (("model", "hidden"), centroids)})
    return dataset.set_coords(["model", "matrix"])


def _statistics(matrix: Matrix, centroid: NDArray[np.float64], norms: NDArray[np.float64]) -> Mapping[str, Any]:
    size, length = np.abs(centroid), math.sqrt(math.fsum(centroid**2))
    mean = float(norms.mean())
    return {
        "model": matrix.model,
        "matrix": matrix.name,
        "centroid_l1": math.fsum(size),
        "centroid_l2": length,
        "centroid_linf": size.max(),
        "centroid_mean": math.fsum(centroid) / centroid.size,
        "centroid_std": _sample_std(centroid),
        "centroid_min": centroid.min(),
        "centroid_max": centroid.max(),
        "norm_mean": mean,
        "norm_median": np.median(norms),
        "norm_std": _sample_std(norms),
        "norm_min": norms.min(),
        "norm_max": norms.max(),
        "centroid_ratio": length / mean if mean else math.nan,
        "vocab_size": matrix.vocab_size,
        "hidden_size": matrix.hidden_size,
        "dtype": matrix.dtype,
        "tied": matrix.tied,
    }


def _sample_std(values: NDArray[np.float64]) -> float:
    return float(values.std(ddof=1)) if values.size > 1 else math.nan


def _column(values: list[Any]) -> NDArray[Any]:
    return np.array(values, dtype=np.dtypes.StringDType() if isinstance(values[0], str) else None)
