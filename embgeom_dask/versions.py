"""The versions that a result was made with."""

from __future__ import annotations

import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version

PACKAGES = (
    "embgeom-dask",
    "torch",
    "dask",
    "distributed",
    "zarr",
    "xarray",
    "numpy",
    "numba",
    "transformers",
)


def installed() -> dict[str, str]:
    """Return the version of Python and of each of `PACKAGES` in this process."""
    return {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}


@cache
def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
