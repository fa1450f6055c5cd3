"""What is kept of the distances: one module a reduction; `base` says what each is to the engine."""

from __future__ import annotations

from embgeom_dask.reductions.base import Reduction, Reductions
from embgeom_dask.reductions.components import Components
from embgeom_dask.reductions.extremes import Extreme
from embgeom_dask.reductions.histogram import Histogram
from embgeom_dask.reductions.neighbors import Neighbors
from embgeom_dask.reductions.order_statistics import OrderStatistics
from embgeom_dask.reductions.pairs_within import PairsWithin
from embgeom_dask.reductions.row_moments import RowEnd, RowMoments
from embgeom_dask.reductions.row_products import RowProducts
from embgeom_dask.reductions.thresholds import Thresholds
from embgeom_dask.reductions.within import Within

__all__ = [
    "Components",
    "Extreme",
    "Histogram",
    "Neighbors",
    "OrderStatistics",
    "PairsWithin",
    "Reduction",
    "Reductions",
    "RowEnd",
    "RowMoments",
    "RowProducts",
    "Thresholds",
    "Within",
]
