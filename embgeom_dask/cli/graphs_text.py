"""Results of components and cluster as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from embgeom_dask.cli.text_tables import align, more_text, whose
from embgeom_dask.reporting.display_names import display_names

if TYPE_CHECKING:
    import xarray as xr

_LINES = 10
_ACROSS = 4
_OF_RADIUS = ("radius", "component_count", "alone_count", "isolated_count", "edge_count")
_OF_CLUSTER = ("vocab_size", "cluster_count", "cluster_radius", "next_distance", "contrast")
_OF_ITERATION = ("iteration", "kind", "count", "radius", "next_distance", "contrast", "shift")
_OF_COMPONENT = {
    "component_token_count": "tokens",
    "component_distinct_count": "distinct",
    "component_edge_count": "edges",
    "component_density": "density",
    "component_diameter": "diameter",
}


def components_text(dataset: xr.Dataset) -> str:
    """The counts of each radius, then the largest components of each with their first tokens."""
    facts = [[name, str(dataset[name].item())] for name in ("token_count", "distinct_count")]
    if "left_out_token_id" in dataset:
        facts.append(["left out, rows of zeros", str(dataset.sizes["left_out"])])
    columns = (dataset[name].to_numpy().tolist() for name in _OF_RADIUS)
    header = ["radius", "components", "tokens alone", "rows isolated", "edges"]
    parts = [whose(dataset), align(["graph", ""], facts), align(header, zip(*columns, strict=True))]
    more = 0
    of_radius, radii = dataset["component_radius"].to_numpy(), dataset["radius"].to_numpy()
    for place, radius in enumerate(radii):
        (listed,) = np.nonzero(of_radius == radius)
        more += max(0, listed.size - _LINES)
        if listed.size:
            parts.append(f"within {radius:.9g}\n{_components(dataset, place, listed[:_LINES])}")
    if more:
        parts.append(more_text(more, "component"))
    return "\n\n".join(parts)


def _components(dataset: xr.Dataset, place: int, listed: np.ndarray) -> str:
    """A line for each component, by its first tokens: by name, or by id where they have none."""
    of_tokens = dataset["token_to_component"].to_numpy()[:, place]
    ids = dataset["token_id"].to_numpy()
    names = [name for name in _OF_COMPONENT if name in dataset]
    rows = []
    for component in listed.tolist():
        (members,) = np.nonzero(of_tokens == component)
        tokens = zip(display_names(dataset, at=members[:_ACROSS]), ids[members[:_ACROSS]], strict=True)
        first = [token or str(token_id) for token, token_id in tokens]
        said = " ".join([*first, *(["..."] if members.size > _ACROSS else [])])
        rows.append([component, *(dataset[name].to_numpy()[component].item() for name in names), said])
    return align(["", *(_OF_COMPONENT[name] for name in names), "tokens"], rows)


def cluster_text(dataset: xr.Dataset) -> str:
    """The cluster with the tokens on either side of its gap, and how it was found."""
    facts = [[name, _number(dataset[name].item())] for name in _OF_CLUSTER]
    facts += [[name, "yes" if dataset[name].item() else "no"] for name in ("stands_apart", "is_stable")]
    parts = [whose(dataset), align(["cluster", ""], facts)]
    names = [name if name == "iteration" else f"iteration_{name}" for name in _OF_ITERATION]
    columns = (dataset[name].to_numpy().tolist() for name in names)
    parts.append(align(["step", *_OF_ITERATION[1:4], "next", *_OF_ITERATION[5:]], zip(*columns, strict=True)))
    distance, inside = dataset["cluster_distance"].to_numpy(), dataset["in_cluster"].to_numpy()
    order = np.argsort(distance, kind="stable")
    within, outside = order[inside[order]], order[~inside[order]]
    for title, rows in (
        ("nearest to its centroid", within[:_LINES]),
        ("last inside", within[-_LINES // 2 :]),
        ("first outside", outside[: _LINES // 2]),
    ):
        ids, far = (dataset[name].to_numpy()[rows] for name in ("token_id", "cluster_distance"))
        lines = zip(ids, display_names(dataset, at=rows), far, strict=True)
        parts.append(f"{title}\n{align(['id', 'token', 'distance'], lines)}")
    parts.append("--json prints all tokens, --out saves them")
    return "\n\n".join(parts)


def _number(value: float) -> str:
    return f"{value:.9g}" if isinstance(value, float) else str(value)
