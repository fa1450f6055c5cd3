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

    @property
    def name(self) -> str:
        """The panel in a word."""
        return f"{self.row}-{self.start}-{self.stop}"


@dataclass(frozen=True)
class Grid:
    """The pairs of `rows` rows and `columns` rows in tiles of `tile` x `tile`, `panel_tiles` tiles to a panel.

    Where `symmetric`, both sides are one and only the tiles on and above the diagonal count.
    """

    rows: int
    columns: int
    tile: int
    panel_tiles: int
    symmetric: bool

    @property
    def tiles(self) -> int:
        """The number of tiles."""
        height, width = self._blocks(self.rows), self._blocks(self.columns)
        return height * (height + 1) // 2 if self.symmetric else height * width

    @property
    def panel_count(self) -> int:
        """The number of panels."""
        first = self.first()
        lengths = (end - begin for panel in first for begin, end in self._beside(panel))
        return len(first) + sum(-(-length // self.panel_tiles) for length in lengths)

    def first(self) -> list[Panel]:
        """One tile for each row block, on the diagonal: with what these find as hints, the other tiles keep less."""
        width = self._blocks(self.columns)
        return [Panel(row, row % width, row % width + 1) for row in range(self._blocks(self.rows))] if width else []

    def rest(self) -> Iterator[Panel]:
        """All other tiles, in panels of at most `panel_tiles`."""
        for panel in self.first():
            for begin, end in self._beside(panel):
                for start in range(begin, end, self.panel_tiles):
                    yield Panel(panel.row, start, min(start + self.panel_tiles, end))

    def part(self, panel: Panel, parts: int) -> Iterator[Panel]:
        """The tiles of a panel of the grid whose tiles are `parts` times larger."""
        width = self._blocks(self.columns)
        for row in range(panel.row * parts, min((panel.row + 1) * parts, self._blocks(self.rows))):
            start = max(panel.start * parts, row) if self.symmetric else panel.start * parts
            yield Panel(row, start, min(panel.stop * parts, width))

    def _beside(self, panel: Panel) -> list[tuple[int, int]]:
        """The column blocks that a row block has tiles with beside its first one, from and to."""
        width = self._blocks(self.columns)
        return [(panel.stop, width)] if self.symmetric else [(0, panel.start), (panel.stop, width)]

    def _blocks(self, rows: int) -> int:
        return -(-rows // self.tile)
