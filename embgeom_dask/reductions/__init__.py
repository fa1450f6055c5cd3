"""What is kept of the distances: each reduction is an immutable specification with pure functions on states.

`empty(rows)` starts a panel from a hint of what others found, `update(state, tile)` adds a tile, `finish(state)` keeps
what leaves the worker, `merge(states)` joins panels, `hint(state)` tells later panels what they need not keep. A state
is a plain dict of numpy arrays; no result depends on hints, order or grouping.
"""

from __future__ import annotations

from embgeom_dask.reductions.extreme import Extreme
from embgeom_dask.reductions.histogram import Histogram
from embgeom_dask.reductions.neighbors import Neighbors

__all__ = ["Extreme", "Histogram", "Neighbors", "Reduction"]

Reduction = Extreme | Histogram | Neighbors
