"""Blocks, tiles and panels of the pair matrix: integers only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Panel:
    """Row block `row` against the column blocks `start` to `stop`: one dask task."""

    row: int
    start: int
    stop: int


@dataclass(frozen=True)
class Grid:
    """The upper triangle of the pairs of `rows` rows, in tiles of `tile` x `tile` rows, `run` tiles to a panel."""

    rows: int
    tile: int
    run: int

    @property
    def blocks(self) -> int:
        """The number of blocks."""
        return -(-self.rows // self.tile)

    @property
    def tiles(self) -> int:
        """The number of tiles on and above the diagonal."""
        return self.blocks * (self.blocks + 1) // 2

    def bounds(self, block: int) -> tuple[int, int]:
        """The half-open range of positions in a block."""
        return block * self.tile, min((block + 1) * self.tile, self.rows)

    def diagonal(self) -> list[Panel]:
        """The tiles on the diagonal, each a panel: what they find lets the other panels keep little."""
        return [Panel(block, block, block + 1) for block in range(self.blocks)]

    def upper(self) -> Iterator[Panel]:
        """The tiles above the diagonal, in panels of at most `run`."""
        for row in range(self.blocks):
            for start in range(row + 1, self.blocks, self.run):
                yield Panel(row, start, min(start + self.run, self.blocks))
