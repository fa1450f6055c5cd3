"""The survey of seed notebook 07.3o: centroid and row norms of any number of models, one pass over each matrix."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
import xarray as xr
from distributed import Client
from numpy.typing import NDArray

from embgeom_dask import devices, many, results
from embgeom_dask.chunks import by_chunk
from embgeom_dask.errors import InputError
from embgeom_dask.places import Place
from embgeom_dask.stores import Matrix, Role, find_matrix

_PIECE_VALUES = 1 << 17  # 1 MiB of float64: a few of these stay in a core's cache


class BlockSummary(NamedTuple):
    """What is kept of a block of rows: `sums` (2, d) float64, whose two rows add up to the sum of the rows,
    `norms` (rows,) float64, the L2 norm of each row, and the name of the `device` that computed them.
    """

    sums: NDArray[np.float64]
    norms: NDArray[np.float64]
    device: str


def survey(
    stores: Place | Iterable[Place],
    matrix: Role | None = None,
    *,
    out: Place | None = None,
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
    - `vocab_size`, `hidden_size` (int64), `dtype` (str), `tied` (bool), and the coordinates `revision` and
      `matrix`, the stored array.

    A standard deviation is the sample's (n - 1; NaN for n = 1), a median the mean of the two middle values. The
    result is saved at `out`; where the same result is there already, it is opened instead. With several stores `out` is
    a folder: each model is saved as `<organisation>--<name>.zarr`, all of them as `table.zarr`.

    Raises
    ------
    InputError
        where there is no store or no such matrix, a row holds NaN or infinity, or something else is at `out`.
    EmbgeomError
        where a store cannot be read.
    SomeFailed
        where some of several stores failed, once the others are done; its `results` are theirs.
    """
    paths = many.places_of(stores, "survey")
    how: dict[str, Any] = {"out": out, "device": device, "client": client, "scheduler": scheduler}
    if len(paths) == 1:
        return _survey(paths[0], matrix, **how)

    def work(store: Place, target: Place | None, active: Client, _: int) -> xr.Dataset:
        return _survey(store, matrix, out=target, device=device, client=active)

    return together(many.on_each("survey", paths, work, together, matrix=matrix, **how))


def _survey(
    store: Place,
    role: Role | None,
    *,
    out: Place | None,
    device: str,
    client: Client | None,
    scheduler: str | None = None,
) -> xr.Dataset:
    """Survey one model."""
    started = time.perf_counter()
    matrix = find_matrix(store, role)
    attrs = results.provenance("survey", [matrix], [], 0.0)
    if out is not None and (done := results.existing(out, attrs)) is not None:
        return done
    blocks = by_chunk("survey", matrix, _summarize_part, device, how=(client, scheduler, device, out))
    dataset = _dataset(matrix, blocks)
    used = [block.device for block in blocks]
    dataset.attrs = results.provenance("survey", [matrix], used, time.perf_counter() - started)
    if out is not None:
        results.save(dataset, out)
    return dataset


def together(surveys: Sequence[xr.Dataset]) -> xr.Dataset:
    """Put the surveys of several models into one; centroids are padded with NaN."""
    if not surveys:
        return xr.Dataset(attrs=many.joined(surveys, "survey"))
    centroids = np.full((len(surveys), max(each.sizes["hidden"] for each in surveys)), np.nan)
    for own, each in zip(centroids, surveys, strict=True):
        own[: each.sizes["hidden"]] = each["centroid"].to_numpy()[0]
    columns = {
        str(name): ("model", np.concatenate([each[name].to_numpy() for each in surveys]))
        for name, variable in surveys[0].variables.items()
        if variable.dims == ("model",)
    }
    dataset = xr.Dataset({**columns, "centroid": (("model", "hidden"), centroids)})
    return dataset.set_coords(["model", "revision", "matrix"]).assign_attrs(many.joined(surveys, "survey"))


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


def _summarize_part(matrix: Matrix, start: int, stop: int, device: str) -> BlockSummary:
    return summarize(matrix.read(start, stop), device)


def _dataset(matrix: Matrix, blocks: Sequence[BlockSummary]) -> xr.Dataset:
    norms = np.concatenate([block.norms for block in blocks])
    check_finite(matrix, np.arange(norms.size), norms)
    centroid = mean_row(blocks)
    columns = {name: ("model", _column([value])) for name, value in _statistics(matrix, centroid, norms).items()}
    dataset = xr.Dataset({**columns, "centroid": (("model", "hidden"), centroid[None])})
    return dataset.set_coords(["model", "revision", "matrix"])


def _statistics(matrix: Matrix, centroid: NDArray[np.float64], norms: NDArray[np.float64]) -> Mapping[str, Any]:
    size, length = np.abs(centroid), math.sqrt(math.fsum(centroid**2))
    mean = float(norms.mean())
    return {
        "model": matrix.model,
        "revision": matrix.revision,
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
