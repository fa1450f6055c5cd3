"""Scan all pairs of rows: from the store to the labelled result."""

from __future__ import annotations

import os
from dataclasses import replace
from time import perf_counter
from typing import Any

import xarray as xr

from embgeom_dask.analyses.all_pairs import compare_pairs
from embgeom_dask.analyses.radii import parse_radii
from embgeom_dask.analyses.scan_many import for_each
from embgeom_dask.analyses.selection import Selection
from embgeom_dask.analyses.sides import sides_of
from embgeom_dask.execution.arrays import Data
from embgeom_dask.execution.cluster import ClientLike
from embgeom_dask.execution.memory import parse_limit
from embgeom_dask.execution.planning import Resources
from embgeom_dask.execution.spec import MAX_PAIRS, Numbers, ScanSpec, parse_count, parse_numbers
from embgeom_dask.metrics import find_metric
from embgeom_dask.progress import showing
from embgeom_dask.storage.model_stores import Role


@for_each
def scan(
    data: Data,
    *,
    role: Role | None = None,
    against: Data | None = None,
    tokens: Selection = None,
    metric: str = "euclidean",
    farthest: int | None = None,
    nearest: int | None = None,
    neighbors: int | None = None,
    largest: int | None = None,
    smallest: int | None = None,
    top: int | None = None,
    bottom: int | None = None,
    moments_per_row: bool = False,
    histogram: int | None = None,
    histogram_scale: str = "linear",
    histogram_edges: Numbers | None = None,
    common_edges: bool = False,  # noqa: ARG001 - of several stores
    quantiles: Numbers | None = None,
    exact_quantiles: bool = False,
    exact_moments: bool = False,
    within: Numbers | None = None,
    pairs_within: float | str | None = None,
    max_pairs: int | None = None,
    distinct: bool = False,
    out: str | os.PathLike[str] | None = None,
    device: str = "auto",
    tile: int | None = None,
    memory_limit: str | int | None = None,
    memory_share: float = 1.0,
    dry_run: bool = False,
    part: str | None = None,  # noqa: ARG001 - of several stores
    client: ClientLike | None = None,
    progress: bool | None = None,
    resume_command: str | None = None,
) -> xr.Dataset:
    """Compare every pair of rows of a matrix, or every row with every row of another; keep what is asked for, exactly.

    At least one of `farthest`, `nearest`, `neighbors`, `histogram`, `histogram_edges`, `quantiles`, `within` and
    `pairs_within` must be given, or with metric `dot` of `largest`, `smallest`, `top` and `bottom`, or in any
    metric `moments_per_row`. One pass over the pairs serves all of them.

    Parameters
    ----------
    data : path, array, or list of these
        A store, a matrix of a file as for `against`, or any array of rows: an xarray DataArray, a numpy or dask array,
        a torch tensor. The rows of an array are those that it holds, in their order, repeated ones too. Its integers
        along the dimension `token_id` (or the first) are the token ids of the result, its coordinate `token` the
        strings; without, ids are positions. What is not stored already is written to a temporary store.
    role : {"input", "output"}, optional
        The matrix of a store; by default output, or input where there is no output matrix.
    against : path or array, optional
        Other rows of the same width: each row of `data` is compared with each of them. `STORE:input` and `STORE:output`
        name a matrix of a store, else `role` does; `FILE.npy`, `FILE.safetensors` or `FILE.safetensors:KEY` a matrix
        of a file, which is written to a temporary store.
    tokens : str, list of int and str, or mask, optional
        Which rows of `data` to compare, by default all: ids, ranges and names in text, `"0:1000,5000,king"`, or in a
        list, or a file of them, `"@FILE"`, `"FILE.safetensors"`. `king` is the token with that piece or text, with or
        without the mark of a leading space; it is refused where these are several.
    metric : {"euclidean", "cosine", "chebyshev", "cityblock", "dot"}
        What is computed of two rows: a distance, or with `dot` their inner product. Rows of zeros have no cosine and
        are left out.
    farthest, nearest : int, optional
        How many pairs to keep, of largest and of smallest distance. Identical rows are at distance 0.
    neighbors : int, optional
        How many of the nearest rows to keep for every row.
    largest, smallest : int, optional
        With metric `dot`, how many pairs to keep, of largest and of smallest product. Within one matrix no row is
        multiplied by itself; identical rows of two tokens are a pair like others.
    top, bottom : int, optional
        With metric `dot`, how many of the rows of largest and of smallest product with it to keep for every row.
    moments_per_row : bool
        Whether to tell, of every row, the mean, the standard deviation (population: divided by their number), the
        skewness, the kurtosis (3 for normal numbers), the smallest and the largest of its distances or products.
    histogram : int, optional
        How many equal bins to count pairs in, from 0 to a bound of the largest distance (see Notes). Bins are
        half-open, [edge, next edge), and the last is closed. Adds the mean, the standard deviation (n - 1), the
        smallest and the largest of the distances.
    histogram_scale : {"linear", "log"}
        `log` for bins that are equal in the logarithm, from a millionth of that bound.
    histogram_edges : list of float, or str, optional
        Edges of bins, at least two that ascend, instead of a number of bins.
    common_edges : bool
        Whether all of a list of stores are counted in the same bins. A pass over the rows of each comes before, to find
        the largest distance that there can be.
    quantiles : float, list of float, or str, optional
        Numbers from 0 to 1. Tells for each between which edges of bins that quantile certainly lies: bins of the
        histogram asked for, else 4,096 equal ones.
    exact_quantiles : bool
        Whether to find the quantiles themselves too, by a second pass over the pairs in those bins.
    exact_moments : bool
        Whether mean and deviation are made of every distance as it is reported: to the last digits, and slowly.
    within : float, list of float, or str, optional
        Radii. Counts for each how many pairs are at that distance at most, and how many of each row. Text may be
        `"0.5,2^-14,2ulp@0.037"`, the last being two units in the last place of 0.037 in bfloat16. `"2ulp"` takes the
        largest absolute value of the rows that `tokens` or an array selects, in their stored type (of two matrices, the
        one with fewer bits); a note says what it is.
    pairs_within : float or str, optional
        A radius. Lists every pair at that distance at most.
    max_pairs : int, optional
        How many pairs `pairs_within` may list; by default 10 million.
    distinct : bool
        Whether to leave pairs of identical rows (-0 is +0) out of `nearest`, `neighbors`, `within` and `pairs_within`.
        The neighbors of a token then are the nearest tokens with other rows; several of these may share a row. Where a
        token has fewer than others, its list ends with ids of -1 and distances of NaN. All else counts every pair.
    out : path, optional
        Where to save the result; of a list, a folder. If the same result is there already, it is opened instead of
        computed again; if a scan with these settings was interrupted, it goes on.
    device : {"auto", "cpu", "cuda", "mps"}
        What products are computed on, on each worker.
    tile : int, optional
        Rows of a tile. No result depends on it; by default 2,048, or fewer where memory is short.
    memory_limit : str or int, optional
        What the process of each worker may hold, `"2GiB"` or bytes; by default 60% of what is free on top of what it
        holds already. Never more than 60% of the memory limit that dask has for a worker.
    memory_share : float
        What part of the memory that is not yet held this scan may take, where several scans share the workers.
    dry_run : bool
        Whether to plan, and stop before the first tile. The result is empty, with the plan as attribute `plan`.
    part : str, optional
        Of a list of stores do one part only, "2/8" the second of eight, where several commands share the folder `out`.
    client : Client, cluster or str, optional
        A dask client, a cluster or an address; by default the client that is active, or else a cluster in this process.
    progress : bool, optional
        Whether to show the plan, the address of dask's dashboard and a bar with rate and time left; by default only in
        a notebook.
    resume_command : str, optional
        The command line that goes on with this scan, for `status` to say.

    Returns
    -------
    xarray.Dataset
        Distances float64, token ids and counts int64, with the strings of tokens as coordinates. Sides are A and B; B
        is that of `against`, if any.

        - `farthest_distance (farthest)`, `farthest_token_id (farthest, side)`, and the same for nearest.
        - `neighbor_distance`, `neighbor_token_id (token_id, neighbor)`, nearest first.
        - `largest_product (largest)`, `largest_token_id (largest, side)`, and the same for smallest; `top_product`,
          `top_token_id (token_id, top)`, and the same for bottom.
        - `row_mean`, `row_std`, `row_skew`, `row_kurtosis`, `row_min`, `row_max`, `row_step (token_id)`; `row_count`,
          how many others each token has.
        - `histogram_count`, `histogram_cdf (bin)`, `bin_edge (edge)`; `histogram_below`, `histogram_above`, how many
          pairs are outside all bins; `distance_mean`, `distance_std` and what these may be off, `distance_mean_error`,
          `distance_std_error`; `distance_min`, `distance_max`, `pair_count`.
        - `quantile_lower`, `quantile_upper`, and `quantile_distance (quantile)` of exact ones.
        - `within_count (radius)`, and `within_degree (token_id, radius)`, in which no token counts itself.
        - `pair_distance (pair)` and `pair_token_id (pair, side)`, in order of the ids; `pair_radius`.
        - The coordinate `token_id`, the rows compared, with neighbors, `within_degree` and the pairs of one matrix.
        - `left_out_token_id (left_out)`, `against_left_out_token_id (against_left_out)`, where rows were left out.

    xarray.DataTree
        Of a list: a node for each store, `<organisation>--<name>`, and in the root the table of all. A few stores are
        scanned at a time; they share the cluster and its memory. In the folder `out` each result is saved as soon as it
        is there, as `<organisation>--<name>.zarr`, and the table as `table.zarr`.

    Raises
    ------
    InputError
        If a store, matrix, selection, metric or device is not there, two matrices differ in width, a row has NaN,
        infinity, or a float64 value below 2^-400 or above 2^400 in size, a number is out of range, there is a result
        from other settings at `out`, or nothing is to be kept.
    SomeFailed
        If stores of a list failed, once all others are done; its `results` are theirs.
    EmbgeomError
        If more than `max_pairs` pairs lie within `pairs_within`; it says how many.

    Notes
    -----
    Each distance or product is the float64 number nearest to the true one of the stored values. Edges and radii are
    compared with distances as they are reported, so that the pair that a radius was taken from is within it. Ties go to
    the lowest ids; of an array, to the first rows. Where there are fewer pairs than asked for, all of them are given.
    The attribute `certificate` (JSON) says what products were made of, the bound of their error, and how many pairs
    were decided in float64, in double-double and in rational numbers.

    Bins end at the sum of the two largest distances from the mean of the first rows (euclidean) or from the origin,
    rounded up to three digits; at 2 for cosine. The quantile q of n distances is the one of rank ceil(q n), q as a
    decimal number: numpy's `inverted_cdf`.

    Smallest and largest of a row are exact. Its other moments are those of its distances, as they are reported, each
    rounded to a multiple of `row_step`: a power of two, 2^-28 to 2^-27 of a bound of the row's distances (of products,
    |x| times the largest norm). Sums are integers, so that the bits hang on nothing else, and mean and standard
    deviation are within half a step of the true ones. A step is a small part of the standard deviation s, and skewness
    and kurtosis are off by a few step / s at most. scipy's `skew` and `kurtosis(fisher=False)` say the same.

    Examples
    --------
    >>> from embgeom_dask.testing import make_store
    >>> store = make_store("tiny.zarr", output=np.array([[0, 0], [3, 4], [0, 1]], np.float32), tokens=["a", "b", "c"])
    >>> found = scan(store, farthest=1, neighbors=1, within=[1.0, 4.5])
    >>> found["farthest_distance"].values, found["farthest_token"].values
    (array([5.]), array([['a', 'b']], dtype=object))
    >>> found["neighbor_token"].sel(token_id=1, neighbor=1).item()
    'c'
    >>> found["within_count"].sel(radius=4.5).item()
    2

    Rows in memory are scanned in the same way:

    >>> scan(np.eye(3), metric="cityblock", histogram_edges=[0, 1, 3])["histogram_count"].values
    array([0, 3])
    """
    started = perf_counter()
    find_metric(metric)
    tile, most = parse_count("tile", tile), parse_limit(memory_limit)
    spec = ScanSpec(
        metric,
        farthest=farthest,
        nearest=nearest,
        neighbors=neighbors,
        largest=largest,
        smallest=smallest,
        top=top,
        bottom=bottom,
        moments_per_row=moments_per_row,
        histogram=histogram,
        histogram_scale=histogram_scale,
        histogram_edges=parse_numbers("histogram_edges", histogram_edges, in_order=True),
        quantiles=parse_numbers("quantiles", quantiles, largest=1.0),
        exact_quantiles=exact_quantiles,
        exact_moments=exact_moments,
        max_pairs=MAX_PAIRS if max_pairs is None else max_pairs,
        distinct=distinct,
        **parse_radii(within=within, pairs_within=pairs_within),
    )
    with showing(progress), sides_of(data, role, tokens, against, client) as sides:
        rows: dict[str, Any] = {"tokens": sides[0].selection}
        rows["against"] = sides[-1].selection if against is not None else None
        spec = replace(spec, **rows, **parse_radii(sides, within=within, pairs_within=pairs_within))
        resources = Resources(device, tile, most, memory_share)
        return compare_pairs(
            "scan",
            sides,
            spec,
            resources,
            client,
            started=started,
            out=out,
            dry_run=dry_run,
            resume_command=resume_command,
        )
