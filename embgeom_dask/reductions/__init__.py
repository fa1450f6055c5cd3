"""What is kept of the distances: each reduction is an immutable specification with pure functions on states.

`empty(hint)` starts a panel, knowing what others found; `update(state, tile, exact)` adds a tile;
`finish(state, exact)` keeps what leaves the worker; `merge(states, exact)` joins panels; `hint(state, exact)` tells
later panels what they need not keep; `finalize(state, sides, exact)` names the result. A state is a plain dict of numpy
arrays; no result depends on hints, order or grouping.
"""

from __future__ import annotations

from embgeom_dask.reductions.extremes import Extreme
from embgeom_dask.reductions.histogram import Histogram
from embgeom_dask.reductions.neighbors import Neighbors
from embgeom_dask.reductions.order_statistics import OrderStatistics
from embgeom_dask.reductions.pairs_within import PairsWithin
from embgeom_dask.reductions.thresholds import Thresholds
from embgeom_dask.reductions.within import Within

__all__ = ["Extreme", "Histogram", "Neighbors", "OrderStatistics", "PairsWithin", "Reduction", "Thresholds", "Within"]

Reduction = PairsWithin | Extreme | Histogram | Neighbors | OrderStatistics | Within
