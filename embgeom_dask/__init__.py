"""Exact geometry of language-model vocabularies: checkpoint -> store -> tiles -> reductions -> labelled result.

The public names are loaded when first used, so that zarr can import `embgeom_dask.bfloat16` without torch or dask.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from embgeom_dask.analyses.cluster import cluster as cluster
    from embgeom_dask.analyses.compare import compare as compare
    from embgeom_dask.analyses.components import components as components
    from embgeom_dask.analyses.controls import controls as controls
    from embgeom_dask.analyses.describe import describe as describe
    from embgeom_dask.analyses.duplicates import duplicates as duplicates
    from embgeom_dask.analyses.lattice import lattice as lattice
    from embgeom_dask.analyses.neighbors import neighbors as neighbors
    from embgeom_dask.analyses.outliers import outliers as outliers
    from embgeom_dask.analyses.plan_scan import plan_scan as plan_scan
    from embgeom_dask.analyses.readout import readout as readout
    from embgeom_dask.analyses.scan import scan as scan
    from embgeom_dask.analyses.series import series as series
    from embgeom_dask.analyses.spectrum import spectrum as spectrum
    from embgeom_dask.analyses.store_series import store_series as store_series
    from embgeom_dask.analyses.survey import survey as survey
    from embgeom_dask.analyses.tokens import tokens as tokens
    from embgeom_dask.analyses.undertrained import undertrained as undertrained
    from embgeom_dask.analyses.whiten import whiten as whiten
    from embgeom_dask.batches.batch import status as status
    from embgeom_dask.checkpoints.convert import convert as convert
    from embgeom_dask.errors import EmbgeomError as EmbgeomError
    from embgeom_dask.errors import InputError as InputError
    from embgeom_dask.errors import SomeFailed as SomeFailed
    from embgeom_dask.reporting.page import report as report
    from embgeom_dask.storage.export import export as export
    from embgeom_dask.storage.listing import list_models as list_models
    from embgeom_dask.storage.model_stores import open_model as open_model
    from embgeom_dask.storage.results import open_result as open_result
    from embgeom_dask.storage.series_stores import open_series as open_series

__version__ = "0.1.0"

_HOME = {
    "cluster": "analyses.cluster",
    "compare": "analyses.compare",
    "components": "analyses.components",
    "controls": "analyses.controls",
    "convert": "checkpoints.convert",
    "store_series": "analyses.store_series",
    "describe": "analyses.describe",
    "duplicates": "analyses.duplicates",
    "export": "storage.export",
    "lattice": "analyses.lattice",
    "list_models": "storage.listing",
    "neighbors": "analyses.neighbors",
    "open_model": "storage.model_stores",
    "open_result": "storage.results",
    "open_series": "storage.series_stores",
    "outliers": "analyses.outliers",
    "plan_scan": "analyses.plan_scan",
    "readout": "analyses.readout",
    "report": "reporting.page",
    "scan": "analyses.scan",
    "series": "analyses.series",
    "spectrum": "analyses.spectrum",
    "status": "batches.batch",
    "survey": "analyses.survey",
    "tokens": "analyses.tokens",
    "undertrained": "analyses.undertrained",
    "whiten": "analyses.whiten",
    "EmbgeomError": "errors",
    "InputError": "errors",
    "SomeFailed": "errors",
}

__all__ = sorted(_HOME)

_GIVE_RESULTS = {
    "cluster",
    "compare",
    "components",
    "describe",
    "duplicates",
    "lattice",
    "neighbors",
    "open_result",
    "outliers",
    "readout",
    "scan",
    "series",
    "spectrum",
    "survey",
    "tokens",
    "undertrained",
}


def __getattr__(name: str) -> Any:
    if name in _GIVE_RESULTS:
        importlib.import_module("embgeom_dask.reporting.accessor")  # `result.embgeom`
    if name in _HOME:
        return getattr(importlib.import_module(f"embgeom_dask.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
