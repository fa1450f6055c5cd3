"""The versions that a result was made with."""

from __future__ import annotations

import platform
import sys
from functools import cache
from importlib import metadata

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


version = cache(metadata.version)
"""The version of an installed package, read once: every task asks for that of this one."""


def installed() -> dict[str, str]:
    """Return the version of Python and of each of `PACKAGES` in this process."""
    return {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}


def _version(package: str) -> str:
    """The version that a package says when it is loaded, with the build (`+cu130`) that its metadata leave out."""
    return getattr(sys.modules.get(package), "__version__", None) or _in_metadata(package)


@cache
def _in_metadata(package: str) -> str:
    try:
        return version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
