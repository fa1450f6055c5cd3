"""What a scan will do: grid, reductions and settings, fixed before the first tile."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from embgeom_dask.blocks import Source
from embgeom_dask.grid import Grid
from embgeom_dask.reductions import Reduction

TILE = 2048
RUN = 8


@dataclass(frozen=True)
class Settings:
    """What the caller asked for: these decide the result, and nothing else does."""

    metric: str
    farthest: int | None
    nearest: int | None
    neighbors: int | None
    histogram: int | None
    tokens: str | None

    def as_dict(self) -> dict[str, Any]:
        """The settings that were given."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class Plan:
    """All that a worker needs for any panel."""

    source: Source
    reductions: dict[str, Reduction]
    device: str

    @cached_property
    def grid(self) -> Grid:
        """The tiles."""
        return Grid(self.source.rows.token_id.size, self.source.tile, RUN)
