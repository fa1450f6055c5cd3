from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from embgeom_dask.execution.grid import Grid

sizes = st.integers(1, 300)


@given(rows=sizes, columns=st.none() | sizes, tile=st.integers(1, 64), run=st.integers(1, 9))
def test_panels_cover_every_tile_once(rows: int, columns: int | None, tile: int, run: int) -> None:
    grid = Grid(rows, columns or rows, tile, run, symmetric=columns is None)
    panels = [*grid.first(), *grid.rest()]
    seen = Counter((panel.row, column) for panel in panels for column in range(panel.start, panel.stop))
    height, width = -(-rows // tile), -(-(columns or rows) // tile)
    assert seen == {(i, j): 1 for i in range(height) for j in range(width) if columns or j >= i}
    assert sum(panel.stop - panel.start for panel in panels) == grid.tiles
    assert len(panels) == grid.panel_count
    assert max(panel.stop - panel.start for panel in panels) <= run
    assert [panel.row for panel in grid.first()] == list(range(height))


@given(rows=sizes, columns=st.none() | sizes, tile=st.integers(1, 16), parts=st.sampled_from([1, 2, 8]))
def test_the_parts_of_all_panels_cover_every_smaller_tile_once(
    rows: int, columns: int | None, tile: int, parts: int
) -> None:
    coarse = Grid(rows, columns or rows, tile * parts, 3, symmetric=columns is None)
    fine = Grid(rows, columns or rows, tile, 3, symmetric=columns is None)
    tiles = Counter(
        (part.row, column)
        for panel in (*coarse.first(), *coarse.rest())
        for part in fine.part(panel, parts)
        for column in range(part.start, part.stop)
    )
    assert set(tiles.values()) == {1}
    assert len(tiles) == fine.tiles
