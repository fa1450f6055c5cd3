"""A folder of results as text, a line for each result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from embgeom_dask.cli.text_tables import align

if TYPE_CHECKING:
    import xarray as xr

_FIGURES = {
    "survey": ("norm_mean",),
    "tokens": ("vocab_size",),
    "duplicates": ("group_count",),
    "spectrum": ("participation_ratio",),
    "outliers": ("farthest_distance",),
    "cluster": ("cluster_count",),
    "undertrained": ("candidate_count",),
    "lattice": ("extent_max",),
    "compare": ("matched_count",),
    "components": ("component_count",),
    "scan": ("distance_mean", "farthest_distance", "nearest_distance", "largest_product", "smallest_product"),
}
"""What is told of a result of each command: the first of these that it has, at its first rank or radius."""

_SIZES = ("step", "direction", "token_id")
"""Of others how many of these they have."""


def folder_text(tree: xr.DataTree) -> str:
    """The results of a tree, a line each: what it is called, the command, the model, and one figure."""
    lines = ([each["result"], each["command"], each["model"], each["figure"], each["value"]] for each in _lines(tree))
    return align(["result", "command", "model", "figure", "value"], lines)


def as_json(tree: xr.DataTree) -> dict[str, Any]:
    """The same as a JSON document."""
    return {"results": _lines(tree)}


def _lines(tree: xr.DataTree) -> list[dict[str, Any]]:
    nodes = [node for node in tree.subtree if node.data_vars and not node.children]
    return [{"result": node.path.strip("/"), **_of(node.to_dataset())} for node in nodes]


def _of(result: xr.Dataset) -> dict[str, Any]:
    """The command, the model and one figure of a result; of a table of several models how many they are."""
    from embgeom_dask.storage.model_stores import label

    command, attrs = result.attrs["command"], result.attrs
    value: int | float | None
    if result.sizes.get("model", 1) != 1:
        figure, value, model = "models", result.sizes["model"], ""
    else:
        names = [label(*each) for each in zip(attrs["model"], attrs["revision"], strict=True)]
        model = " against ".join(dict.fromkeys(names))
        figure = next((name for name in _FIGURES.get(command, ()) if name in result and result[name].size), "")
        value = result[figure].to_numpy().ravel()[0].item() if figure else None
        if not figure:
            figure = next((name for name in _SIZES if name in result.sizes), "")
            value = result.sizes.get(figure)
    return {"command": command, "model": model, "figure": figure, "value": value}
