"""Results of graphs of tokens as text for a person: components."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from embgeom_dask.cli.text import align
from embgeom_dask.escaping import shown

if TYPE_CHECKING:
    import xarray as xr

_LINES = 10
_ACROSS = 4
_OF_RADIUS = ("radius", "component_count", "alone_count", "isolated_count", "edge_count")
_OF_COMPONENT = {
    "component_token_count": "tokens",
    "component_distinct_count": "distinct",
    "component_edge_count": "edges",
    "component_density": "density",
    "component_diameter": "diameter",
}


def components_text(dataset: xr.Dataset) -> str:
    """The counts of each radius, then the largest components of each with their first tokens."""
    whose = shown(f"{dataset['model'].item()}, {dataset['matrix'].item()}")
    facts = [[name, str(dataset[name].item())] for name in ("token_count", "distinct_count")]
    if "left_out_token_id" in dataset:
        facts.append(["left out, rows of zeros", str(dataset.sizes["left_out"])])
    columns = (dataset[name].to_numpy().tolist() for name in _OF_RADIUS)
    header = ["radius", "components", "tokens alone", "rows isolated", "edges"]
    parts = [whose, align(["graph", ""], facts), align(header, zip(*columns, strict=True))]
    more = 0
    of_radius, radii = dataset["component_radius"].to_numpy(), dataset["radius"].to_numpy()
    for place, radius in enumerate(radii):
        (listed,) = np.nonzero(of_radius == radius)
        more += max(0, listed.size - _LINES)
        if listed.size:
            parts.append(f"within {radius:.9g}\n{_components(dataset, place, listed[:_LINES])}")
    if more:
        parts.append(f"{more} more components: --json prints all, --out saves them")
    return "\n\n".join(parts)


def _components(dataset: xr.Dataset, place: int, listed: np.ndarray) -> str:
    """A line for each component, by its first tokens: by name, or by id where they have none."""
    of_tokens = dataset["token_to_component"].to_numpy()[:, place]
    ids, tokens = dataset["token_id"].to_numpy(), dataset["token"].to_numpy()
    names = [name for name in _OF_COMPONENT if name in dataset]
    rows = []
    for component in listed.tolist():
        (members,) = np.nonzero(of_tokens == component)
        first = [tokens[each] or str(ids[each]) for each in members[:_ACROSS].tolist()]
        said = " ".join([*first, *(["..."] if members.size > _ACROSS else [])])
        rows.append([component, *(dataset[name].to_numpy()[component].item() for name in names), said])
    return align(["", *(_OF_COMPONENT[name] for name in names), "tokens"], rows)
