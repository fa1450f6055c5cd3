"""Scan all pairs of rows: from the store to the labelled result."""

from __future__ import annotations

import os
from dataclasses import replace
from time import perf_counter
from typing import Any

import xarray as xr

from embgeom_dask.analyses.all_pairs import compare_pairs
from embgeom_dask.batches.scan_many import for_each
from embgeom_dask.errors import InputError
from embgeom_dask.execution.arrays import Data
from embgeom_dask.execution.cluster import ClientLike
from embgeom_dask.execution.memory import parse_limit
from embgeom_dask.execution.planning import Resources
from embgeom_dask.execution.spec import MAX_PAIRS, Numbers, ScanSpec, parse_count, parse_numbers
from embgeom_dask.metrics import find_metric
from embgeom_dask.progress import showing
from embgeom_dask.selections.radii import parse_radii
from embgeom_dask.selections.selection import Selection
from embgeom_dask.selections.sides import sides_of
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
    """Compare every pair of rows of a matrix, or every row with every row of another, exactly.

    What is kept of the pairs is what is asked for: the farthest pairs, neighbors, a histogram and so on.

    At least one of these must be given: `farthest`, `nearest`, `neighbors`, `histogram`, `histogram_edges`,
    `quantiles`, `within` or `pairs_within`; with metric `dot`: `largest`, `smallest`, `top` or `bottom`; with any
    metric: `moments_per_row`. One pass over the pairs serves all of them.

    Parameters
    ----------
    data : path, array, or list of these
        A store, a matrix of a file as for `against`, or any array of rows: an xarray DataArray, a numpy or dask array,
        a torch tensor. All rows of an array are compared, in their order, repeated ones too. The token ids of the
        result are the integer labels along the dimension `token_id` (or the first dimension), and its token strings the
        coordinate `token`. An array without labels has its positions as token ids. Rows that are in no store are
        written to a temporary one.
    role : {"input", "output"}, optional
        The matrix of a store; by default output, or input where there is no output matrix.
    against : path or array, optional
        Other rows of the same width: each row of `data` is compared with each of them. `STORE:input` and `STORE:output`
        name a matrix of a store; without this ending `role` chooses it. `FILE.npy`, `FILE.safetensors` and
        `FILE.safetensors:KEY` name a matrix of a file, which is written to a temporary store.
    tokens : str, list of int and str, or mask, optional
        Which rows of `data` to compare; by default all. Ids, ranges and names may be given as text,
        `"0:1000,5000,king"`, as a list, or in a file, `"@FILE"` or `"FILE.safetensors"`. `king` is the token with that
        piece or text, with or without the mark of a leading space; a name of several tokens is refused. A mask is a
        boolean array over all ids; of a DataArray with token ids over these, in any order.
    metric : {"euclidean", "cosine", "chebyshev", "cityblock", "dot"}
        What is computed of two rows: a distance, or with `dot` their inner product. Rows of zeros have no cosine and
        are left out.
    farthest, nearest : int, optional
        How many of the farthest and of the nearest pairs to keep. Identical rows are at distance 0.
    neighbors : int, optional
        How many of the nearest rows to keep for every row.
    largest, smallest : int, optional
        With metric `dot`, how many of the pairs with the largest and with the smallest products to keep. Within one
        matrix no token is paired with itself; two tokens with identical rows are a pair like any other.
    top, bottom : int, optional
        With metric `dot`, how many other rows to keep for every row: those with which its product is largest, and
        smallest.
    moments_per_row : bool
        Whether to give, for every row, statistics of its distances or products: mean, standard deviation (of the
        population: divided by n), skewness, kurtosis (3 for normal numbers), smallest and largest.
    histogram : int, optional
        How many equal bins to count pairs in, from 0 to a bound of the largest distance (see Notes). Bins are
        half-open, [edge, next edge), and the last is closed. The result also has the mean, the standard deviation
        (n - 1), the smallest and the largest of all distances.
    histogram_scale : {"linear", "log"}
        With `log` the bins are equal on a logarithmic scale and begin at a millionth of that bound.
    histogram_edges : list of float, or str, optional
        Edges of bins, at least two that ascend, instead of a number of bins.
    common_edges : bool
        Whether all stores of a list are counted in the same bins. A pass over the rows of each store comes first, to
        find a bound of the largest distance.
    quantiles : float, list of float, or str, optional
        Numbers from 0 to 1. For each, the result has the edges of the bin in which that quantile certainly lies: a bin
        of the histogram asked for, or else one of 4,096 equal bins.
    exact_quantiles : bool
        Whether to find the quantiles themselves too, by a second pass over the pairs in those bins.
    exact_moments : bool
        Whether to sum every distance as it is reported, for a mean and a standard deviation exact to the last digits.
        This is slow.
    within : float, list of float, or str, optional
        Radii. For each, the result counts the pairs at a distance of at most the radius, in all and of each row. Text
        may be `"0.5,2^-14,2ulp@0.037"`; the last is two units in the last place of 0.037 in bfloat16. `"2ulp"` counts
        in units in the last place of the largest absolute value of the rows that `tokens` or an array selects, in their
        stored type (of two matrices, the type with fewer bits); a note gives the number.
    pairs_within : float or str, optional
        A radius. The result lists every pair at a distance of at most this.
    max_pairs : int, optional
        How many pairs `pairs_within` may list; by default 10 million.
    distinct : bool
        Whether to leave pairs of identical rows (-0 is +0) out of `nearest`, `neighbors`, `within` and `pairs_within`.
        The neighbors of a token then are the nearest tokens with a different row; several of them may share one row.
        The list of a token that has fewer such neighbors ends with ids of -1 and distances of NaN. Everything else
        still counts every pair.
    out : path, optional
        Where to save the result; of a list, a folder. If the same result is there already, it is opened instead of
        computed again; an interrupted scan with the same settings is continued.
    device : {"auto", "cpu", "cuda", "mps"}
        What products are computed on, on each worker.
    tile : int, optional
        Rows of a tile. No result depends on it; by default 2,048, or fewer where memory is short.
    memory_limit : str or int, optional
        The memory that the process of each worker may hold, `"2GiB"` or bytes. By default it is what the process holds
        already and 60% of what is free. It is never more than 60% of dask's memory limit for the worker.
    memory_share : float
        The share of the memory not yet held that this scan may take, where several scans share the workers.
    dry_run : bool
        Whether to stop before the first tile. Then the result is empty, and its attribute `plan` is the plan.
    part : str, optional
        Which part of a list of stores to do, where several commands share the list and the folder `out`: "2/8" is the
        second of eight parts. By default all.
    client : Client, cluster or str, optional
        A dask client, a cluster, or the address of a scheduler. By default the active client, or else a local cluster.
    progress : bool, optional
        Whether to show the plan, the address of dask's dashboard and a bar with rate and time left; by default only in
        a notebook.
    resume_command : str, optional
        The command line that continues this scan; `status` shows it.

    Returns
    -------
    xarray.Dataset
        Distances are float64, token ids and counts int64. The strings of tokens are coordinates. The sides of a pair
        are A and B; B is a row of `against`, if given.

        - `farthest_distance (farthest)`, `farthest_token_id (farthest, side)`, and the same for nearest.
        - `neighbor_distance`, `neighbor_token_id (token_id, neighbor)`, nearest first.
        - `largest_product (largest)`, `largest_token_id (largest, side)`, and the same for smallest; `top_product`,
          `top_token_id (token_id, top)`, and the same for bottom.
        - `row_mean`, `row_std`, `row_skew`, `row_kurtosis`, `row_min`, `row_max`, `row_step (token_id)`; `row_count`,
          the number of other tokens that each token is compared with.
        - `histogram_count`, `histogram_cdf (bin)`, `bin_edge (edge)`; `histogram_below` and `histogram_above`, the
          numbers of pairs below and above all bins; `distance_mean` and `distance_std`, with bounds of their errors,
          `distance_mean_error` and `distance_std_error`; `distance_min`, `distance_max`, `pair_count`.
        - `quantile_lower`, `quantile_upper`, and with `exact_quantiles` `quantile_distance (quantile)`.
        - `within_count (radius)`, and `within_degree (token_id, radius)`, in which no token counts itself.
        - `pair_distance (pair)` and `pair_token_id (pair, side)`, in order of the ids; `pair_radius`.
        - The coordinate `token_id`: the ids of the rows compared. It is there with neighbors, `within_degree` and the
          pairs of one matrix.
        - `left_out_token_id (left_out)` and `against_left_out_token_id (against_left_out)`, where rows were left out.

    xarray.DataTree
        Returned for a list of stores: a node for each store, `<organisation>--<name>`, and in the root the table of
        all. A few stores are scanned at a time; they share the cluster and its memory. In the folder `out` each result
        is saved as soon as it is complete, as `<organisation>--<name>.zarr`, and the table as `table.zarr`.

    Raises
    ------
    InputError
        If a store, matrix, selection, metric or device does not exist; if two matrices differ in width; if a row has
        NaN, infinity, or a float64 value below 2^-400 or above 2^400 in size; if a number is out of range; if a result
        of other settings is at `out`; or if nothing is to be kept.
    SomeFailed
        If stores of a list failed. It is raised after the others are done; its `results` are theirs.
    EmbgeomError
        If more than `max_pairs` pairs lie within `pairs_within`; the message gives their number.

    Notes
    -----
    Each distance or product is the float64 number nearest to the true one of the stored values. Bin edges and radii are
    compared with the reported distances. So if a radius is taken from a result, the pair that it comes from is within
    it. Ties go to the lowest ids (for an array, to the first rows). If there are fewer pairs than asked for, all of
    them are given. The attribute `certificate` (JSON) says what products were made of, gives a bound of their error,
    and counts the pairs that were decided in float64, in double-double and in rational numbers.

    The last bin ends at a bound of all distances: the sum of the two largest distances from the mean of the first rows
    (euclidean) or from the origin (chebyshev, cityblock), rounded up to three digits; 2 for cosine. The quantile q of n
    distances is the one of rank ceil(q n), with q taken as a decimal number: numpy's `inverted_cdf`.

    The smallest and the largest distance of a row are exact. Its other moments are those of its reported distances,
    each rounded to a multiple of `row_step`. This is a power of two, 2^-28 to 2^-27 of a bound of the row's distances
    (for products, of |x| times the largest norm). The sums are sums of integers, so that their bits depend on nothing
    else. Mean and standard deviation are within half a step of the true ones, and the mean within smallest and largest;
    skewness and kurtosis are off by a few times step / s at most, with s the standard deviation. scipy's `skew` and
    `kurtosis(fisher=False)` define them in the same way.

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
    if not 0 < memory_share <= 1:
        raise InputError(f"`memory_share` {memory_share}: give a number above 0, and 1 at most")
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
