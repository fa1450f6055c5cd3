"""Loops over tiles and rows: numba on the CPU, torch operations on other devices. Arrays in, arrays out."""

from embgeom_dask.kernels import numba_cache

numba_cache.settle()  # before a module is imported that defines compiled passes
