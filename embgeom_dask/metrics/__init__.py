"""The metrics, by scipy's names, and the inner product.

A metric says what a tile computes for a pair, how far that may be from the pair's value (the bounds of the filter), and
how the value is computed exactly (the recheck). `docs/design.md`, "How a pair is decided", has the inequalities.
"""

from __future__ import annotations

from embgeom_dask.errors import InputError
from embgeom_dask.metrics.base import USUAL_LENGTHS, Metric, Norms, Points, Precision
from embgeom_dask.metrics.cosine import Cosine
from embgeom_dask.metrics.differences import Chebyshev, Cityblock
from embgeom_dask.metrics.dot import Dot
from embgeom_dask.metrics.euclidean import Euclidean
from embgeom_dask.metrics.matrix_product import multiply_digits, product_error
from embgeom_dask.metrics.workspace import Workspace

__all__ = [
    "DISTANCES",
    "METRICS",
    "USUAL_LENGTHS",
    "Metric",
    "Norms",
    "Points",
    "Precision",
    "Workspace",
    "find_distance",
    "find_metric",
    "multiply_digits",
    "product_error",
]

METRICS: dict[str, Metric] = {
    metric.name: metric for metric in (Euclidean(), Cosine(), Chebyshev(), Cityblock(), Dot())
}

DISTANCES = tuple(name for name, metric in METRICS.items() if not metric.is_product)
"""The metrics that are distances."""


def find_metric(name: str) -> Metric:
    """Return the metric of that name. Raises InputError, which lists the metrics, if there is none."""
    if not isinstance(name, str) or name not in METRICS:
        raise InputError(f"no metric {name!r}: choose one of {', '.join(METRICS)}")
    return METRICS[name]


def find_distance(name: str) -> Metric:
    """Return the metric of that name, which is a distance. Raises InputError where it is none."""
    if (metric := find_metric(name)).is_product:
        raise InputError(f"`metric` {name} is no distance: choose one of {', '.join(DISTANCES)}")
    return metric
