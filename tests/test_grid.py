from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from embgeom_dask.grid import Grid

sizes = st.integers(1, 300)


@given(rows=sizes, columns=st.none() | sizes, tile=st.integers(1, 64), run=st.integers(1, 9))
def test_panels_cover_every_tile_once(rows: int, columns: int | None, tile: int, run: int) -> None:
    grid = Grid(rows, columns or rows, tile, run, symmetric=columns is None)
    panels = [*grid.first(), *grid.rest()]
    seen = Counter((panel.row, column) for panel in panels for column in range(panel.start, panel.stop))
    height, width = -(-rows // tile), -(-(columns or rows) // tile)
    assert seen == {(i, j): 1 for i in range(height) for j in range(width) if columns or j >= i}
    assert sum(panel.stop - panel.start for panel in panels) == grid.tiles
    assert max(panel.stop - panel.start for panel in panels) <= run
    assert [panel.row for panel in grid.first()] == list(range(height))
