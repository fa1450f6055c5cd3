"""What tests of this package, and of what is built on it, are made with.

- `checkpoints`: tiny checkpoints and stores, whose names are here too;
- `references`: every distance of a small matrix, in order and correctly rounded, from integers;
- `strategies`: hypothesis strategies of matrices that make inexact arithmetic fail (the one that needs hypothesis);
- `faults`: a kill, a power cut or an error at any call that a piece of work makes to the disk.

`embgeom_dask.tuning.override` changes tuned constants, so that small matrices have many tiles, panels and chunks.
"""

from embgeom_dask.testing.checkpoints import ArrayRows, make_checkpoint, make_store

__all__ = ["ArrayRows", "make_checkpoint", "make_store"]
