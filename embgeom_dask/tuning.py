"""Every tuned constant: what it decides, and the measurement that set it. Where none is named, none is recorded.

They trade time for memory, or one kind of work for another; no distance, order or count depends on them. They are read
when they are used, as `tuning.NAME`, so that `override` changes them for a test or an experiment.

What numba compiles into its loops stays beside them, since a compiled loop never reads it again: `STRIP` in
`kernels.bounds`, `_STRIP` in `kernels.exact_sums`, `LANES` in
`kernels.double_double_sums`, `_LINE` in `kernels.prefetch`. So does what is no choice: formats, limits that keep a
hostile file from taking all memory (but MOST_MODULES, which takes minutes to reach), and the constants of proofs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# Tiles and panels

TILES: tuple[int, ...] = (2048, 1024, 512, 256)
"""Rows of a tile on a CPU: the first for which there is memory. The 10 neighbors of 16,384 rows of 384 bfloat16 values
take 2.6 s of cpu time with 1,024 rows, 2.2 s with 2,048 and 2.0 s with 4,096, which need four times the memory (AMD
EPYC, two cores, beside other work, medians of 3)."""

CUDA_TILES: tuple[int, ...] = (8192, 4096, *TILES)
"""The same where all workers have CUDA. A panel costs the scheduler 1.7 ms; by the cost model of docs/scaling.md
one of eight tiles of 2,048 rows takes a GPU 1.4 ms, and one of 31 tiles of 8,192 rows 85 ms."""

PANEL_TILES = 8
"""Tiles of a panel, where these are of TILES: about 3 s of a CPU by that cost model, with 8,192 values a row."""

LONG_PANEL_TILES = 64
"""Tiles of a panel, where these have more rows: each takes a GPU about 3 ms by that cost model."""

MOST_PANELS = 5_000_000
"""Panels of a pass: dealing them to workers takes 0.3 KB of each in the memory of the client (tracemalloc), 1.5 GB."""

LEAST_TILE = 32
"""Rows of a tile that is not halved any more where memory runs out."""

TRIANGLE_STEPS = 4
"""Tiles that a block is multiplied with itself in: two make 3/4 of its square, four 5/8, in smaller tiles. A histogram
of 32,768 rows of 2,560 bfloat16 values takes 47.5 s of cpu time with two and 46.5 s with four, 10 neighbors 17.8 s and
17.2 s (Intel Xeon, two cores, beside other work, medians of 2)."""

SORTED_PART_ROWS = 256
"""Rows of a part of a tile of blocks sorted by norm: after each of them the next may be left out. The 100 farthest of
those pairs take 0.9 s of cpu time with 64 rows, 0.7 s with 256 and 0.9 s with 1,024 (measured as TILES)."""

# Points

SAMPLE_ROWS = 2048
"""Rows of a side that centre and shape of the points are taken from."""

UNCLIPPED = 0.99
"""Of rows rounded to integers, all made as long as the longest, the share of which no value is cut off."""

USUAL = 0.95
"""Where the nearest of all rows are sought, the share of rows that are to be rounded well, not the longest."""

UNCLIPPED_USUAL = 0.9
"""Of rows made as long as the longest of the usual, the share of which no value is cut off."""

USUAL_RANGE = 16
"""The longest row is at most so many times as long as the longest usual: its values stay within float32."""

SAMPLED_ROWS = 64
"""Rows whose neighbors among the sample say how well products of integers filter."""

UNDECIDED = {"bfloat16": 1 / 64, "float32": 1 / 50, "float64": 1 / 25}
"""The share of pairs that, looked at one by one, take as long as integers save where products would be of these. Of
2,560 values a pair alone takes a core of a Xeon with AVX512 about 1 us (0.7 us of it its sum), in a product of float32
0.03 us, of integers 0.008 us. The 10 products at either end of 4,096 directions with 151,936 rows, of which the sample
said 1/45, take 39.7 s of cpu time with float32 and 43.4 s with integers (Xeon, two cores, beside other work)."""

LONG_ROWS_BYTES = 16 << 20
"""Rows of the second side, its longest, that the first limits of products are taken from. With 3,000 of 151,936 rows
integers leave 1/80 of the pairs to be looked at alone, with 800 1/37, with 400 1/26 (measured as the readouts of
UNDECIDED)."""

LONG_ROWS_SHARE = 1 / 16
"""The most of all rows that are taken for that."""

BY_FIRST_LIMITS = 1.5
"""How many times as many pairs as UNDECIDED may be left where first limits are known: they hold from the first tile on,
and later ones leave fewer pairs than the sample says. Of the readout above it says 1/60 with first limits, and 1/80
are left: 22.2 s of cpu time with integers, 26.1 s with bfloat16 (AMD EPYC, two cores, beside other work)."""

PRODUCT_COSTS = {"int8": 1 / 8, "bfloat16": 1 / 4, "int8x2": 3 / 8, "float32": 1.0, "float64": 2.0}
"""What a product costs, in float32 products: on CPUs with AVX512-VNNI and -BF16, of 2,560 values a row. Two digits are
three products of integers."""

RECHECK_COST = 9.0
"""What a pair costs that is looked at alone, in float32 products: see UNDECIDED."""

UNDECIDED_BY_EUCLIDEAN = {"cpu": 1 / 2, "cuda": 1 / 64, "mps": 1 / 64}
"""The share of pairs that L2 may leave undecided in chebyshev or cityblock, where it is to rule out the others, by the
kind of device. Of 2,560 bfloat16 values a pair looked at alone takes a core of a Xeon with AVX512 0.9 us, in a tile of
differences 3.5 us (chebyshev) or 1.7 us (cityblock), in a product 0.04 us. On GPUs it was not measured: there
differences cost little beside pairs looked at alone, which CPUs do."""

# Finer products of dense pairs

DENSE_ROW_PAIRS = 32
"""Undecided pairs of one row or column that make it a part of the dense pairs."""

DENSE_LEAST_ONE_IN = 128
"""Where fewer than one in so many pairs of two blocks are undecided, these one by one cost less than finer products."""

DENSE_ONE_IN = 8
"""Where one in so many pairs of rows and columns is undecided, a finer product is cheaper than these one by one."""

DENSE_ONE_IN_ROUNDED = 16
"""The same where the finer product is of the rows of a tile of integers, unrounded."""

CLOSE = 1 / 32
"""Rows as far apart as that, relative to their length, are told apart about one of them: in a cluster."""

CLUSTERS = 8
"""Clusters of close rows that are sought among the rows of dense pairs."""

DOUBLED_ROWS = 512
"""Rows of either side whose points are made float64 at a time."""

# Reductions

NEIGHBOR_TIES = 2
"""Pairs for each place of a table of neighbors, beyond which its ties are resolved before it is sent on."""

FINE_BINS = 1 << 16
"""Bins of a histogram for exact quantiles, where none is asked for: few enough pairs of a vocabulary are in each. The
edges between which a quantile lies are of these bins."""

COLLECTED_PAIRS = 1 << 21
"""Pairs of tokens at most that are collected for exact quantiles, unless they are ties; more bins are divided first."""

BIN_CELLS = 8192
"""Cells of the table that finds the bin of a distance, where bins differ in width."""

# Memory

MEMORY_SHARE = 0.6
"""Of the memory that is free, what a scan may take where no limit is given; of dask's limit, what is not spilled."""

KEPT_SHARE = 0.5
"""Of what a worker may hold beside what it holds already, the share that rows kept from one pass to the next may take:
the rest is for what passes make of rows."""

READING_BYTES = 192 << 20
"""Chunks being decompressed side by side, and what allocators keep back, of a process."""

# The run

SENT_BYTES = 4 << 20
"""Bytes of a plan that one task holds at most; dask warns of 10 MB."""

PANELS_AHEAD = 2
"""Panels submitted for each thread of the cluster: one running, one waiting. With two, 64 threads did 181 panels a
second, as many as two cores for client, scheduler and workers allow (docs/scaling.md)."""

MERGE_SHARE = 0.5
"""Panels are merged when their states come to so many times the bytes of what was merged before."""

HOPELESS_PANELS = 32
"""Where so many panels fail one after the other, the rest would too."""

PART_BYTES = 16 << 20
"""Rows that one task of a pass over rows reads, or one chunk where that is more."""

SUM_STRIP = 512
"""Rows of a strip whose products with each other bound what sums over all pairs are off (`pairwise.left_out`)."""

LONG_STRIP = 2
"""Where that leaves mean or deviation less certain than `CERTAIN`, strips have so many times more rows than columns."""

LONG_STRIP_VALUES = 1 << 24
"""The most values of such a strip."""

CERTAIN = 1e-6
"""What mean and deviation of all distances should be off at most, of themselves."""

KEPT_PART_BYTES = 64 << 20
"""Rows that one task reads, at most, where several passes read them and workers keep them between: a task takes 4 ms
besides, as long as the distances of 16 MiB of rows."""

PRODUCT_BYTES = 256 << 20
"""Products of columns that one task of `spectrum` gives back; for more columns rows are read again. Up to 5,600 columns
are one task's."""

MODELS_A_WORKER = 2
"""Models at a time for each worker: one is read and planned while the other is in its panels."""

MODELS_AT_ONCE = 64
"""The most models at a time: this process holds the rows' facts and the merged states of each."""

WORKERS_LOOK = 2.0
"""Seconds between looks at which workers are there, while nothing else tells."""

SCHEDULER_PATIENCE = 5.0
"""Seconds in which a scheduler is to answer."""

WORKER_REMINDER = 60.0
"""Seconds between notes that no worker is there yet."""

OUTAGE = 120.0
"""Seconds in which a worker waits for what it cannot reach, before its task fails."""

# Products of columns

STRIPE_COLUMNS = 512
"""Columns that are multiplied with all columns from their first on, where a matrix X'X is made: it is symmetric."""

# Stores and files

CHUNK_BYTES = 8 << 20
"""Rows of a chunk of a new store, rounded down to a power of two of them."""

CHUNKS_READ_AHEAD = 4
"""Chunks of a checkpoint being read while a store is filled."""

CHUNKS_WRITTEN_BEHIND = 2
"""Chunks of a store being written while it is filled."""

READ_WHOLE = 1.125
"""Rows taken from a stretch of fewer than so many times as many are read with all of it, in one piece."""

FETCHED_BYTES = 64 << 20
"""Of a group at a URL so many bytes are read in one go when it is opened, the smallest keys first."""

COLLECTED_BYTES = 8 << 20
"""What is written to a URL and is larger goes there by itself; the rest of its group in one go, at the end."""

EXPORT_BYTES = 32 << 20
"""Rows that an export reads at a time."""

STEPS_BYTES = 256 << 20
"""Steps of a training read together where a chunk of their file holds several, and steps in work at a time."""

STEPS_KEPT_SECONDS = 20
"""Between copies of what is known of the steps read so far: one takes less than a second of them."""

STEPS_SAVED = 256
"""Steps of a training, at most, whose results are saved together while others are computed."""

LOADED_BYTES = 64 << 20
"""A variable of up to so many bytes is loaded when its result is opened; a larger one is read when it is used."""

HELD_BYTES = 4 << 20
"""Of many models, a saved result of up to so many bytes is held in memory; a larger one is read when it is used."""

COMPARED_BYTES = 8 << 20
"""Rows of an array, or of a checkpoint, that are compared with a store at a time."""

HUB_REQUEST_BYTES = 16 << 20
"""The most that one request asks the hub for."""

HUB_TRIES = 5
"""How often a request to the hub is made again that is not answered."""

HUB_CUTS = 5
"""How often in a row an answer of the hub may come back short."""

HUB_WAIT = 1.0
"""Seconds before the first such retry; they double."""

MOST_MODULES = 200_000
"""Modules of a model that is built without weights to find its embeddings: what asks for more is no model's config."""

# Devices

COMPILED_DEVICES: tuple[str, ...] = ("cuda",)
"""Kinds of devices on which torch.compile fuses the passes over a tile; elsewhere they run operation by operation."""

COMPILER = "inductor"
"""The backend of torch.compile."""


@contextmanager
def override(**values: Any) -> Iterator[None]:
    """While entered, use other values for tuned constants, in all threads of this process.

    Other processes, such as workers of a cluster of processes, keep theirs. It also decorates a function.

    Parameters
    ----------
    **values
        The value of each constant, by its name.

    Raises
    ------
    AttributeError
        Where there is no tuned constant of a name; it says which.

    Examples
    --------
    >>> from embgeom_dask import tuning
    >>> with tuning.override(LEAST_TILE=4):
    ...     tuning.LEAST_TILE
    4
    >>> tuning.LEAST_TILE
    32
    """
    here = globals()
    for name in values:
        if not name.isupper() or name not in here:
            raise AttributeError(f"embgeom_dask.tuning has no constant {name}: its module lists them")
    before = {name: here[name] for name in values}
    here.update(values)
    try:
        yield
    finally:
        here.update(before)
