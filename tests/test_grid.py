from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from embgeom_dask.grid import Grid


@given(rows=st.integers(1, 300), tile=st.integers(1, 64), run=st.integers(1, 9))
def test_panels_cover_every_tile_of_the_upper_triangle_once(rows: int, tile: int, run: int) -> None:
    grid = Grid(rows, tile, run)
    panels = [*grid.diagonal(), *grid.upper()]
    seen = Counter((panel.row, column) for panel in panels for column in range(panel.start, panel.stop))
    assert seen == {(i, j): 1 for i in range(grid.blocks) for j in range(i, grid.blocks)}
    assert sum(panel.stop - panel.start for panel in panels) == grid.tiles
    assert max(panel.stop - panel.start for panel in panels) <= max(run, 1)


@given(rows=st.integers(1, 300), tile=st.integers(1, 64))
def test_blocks_split_the_rows(rows: int, tile: int) -> None:
    grid = Grid(rows, tile, 1)
    positions = [position for block in range(grid.blocks) for position in range(*grid.bounds(block))]
    assert positions == list(range(rows))
