"""Libraries that an extra installs, `notebook` or `plot`, loaded when first used."""

from __future__ import annotations

import importlib
from typing import Any

from embgeom_dask.errors import InputError


def load(module: str, extra: str = "notebook") -> Any:
    """The module, or an InputError that says how to install it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        raise InputError(f"{package} is not installed: pip install 'embgeom-dask[{extra}]'") from error
