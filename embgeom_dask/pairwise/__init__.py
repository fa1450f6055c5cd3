"""How a pair of rows is decided: distinct rows, points, blocks, tiles, exact answers."""
