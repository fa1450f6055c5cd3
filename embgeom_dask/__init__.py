"""Exact geometry of language-model vocabularies: checkpoint -> store -> tiles -> reductions -> labelled result.

The public names are loaded when first used, so that zarr can import `embgeom_dask.bfloat16` without torch or dask.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from embgeom_dask.checkpoints import convert
    from embgeom_dask.clusters import outliers
    from embgeom_dask.errors import EmbgeomError, InputError, SomeFailed
    from embgeom_dask.exports import export
    from embgeom_dask.groups import duplicates
    from embgeom_dask.journal import status
    from embgeom_dask.many import scan_many
    from embgeom_dask.results import open_result
    from embgeom_dask.scans import scan
    from embgeom_dask.stores import list_models, open_model
    from embgeom_dask.surveys import survey

__version__ = "0.1.0"

_HOME = {
    "convert": "checkpoints",
    "duplicates": "groups",
    "export": "exports",
    "list_models": "stores",
    "open_model": "stores",
    "open_result": "results",
    "outliers": "clusters",
    "scan": "scans",
    "status": "journal",
    "scan_many": "many",
    "survey": "surveys",
    "EmbgeomError": "errors",
    "InputError": "errors",
    "SomeFailed": "errors",
}

__all__ = [
    "EmbgeomError",
    "InputError",
    "SomeFailed",
    "convert",
    "duplicates",
    "export",
    "list_models",
    "open_model",
    "open_result",
    "outliers",
    "scan",
    "scan_many",
    "status",
    "survey",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"embgeom_dask.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
