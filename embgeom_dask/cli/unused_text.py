"""Undertrained tokens as text for a person."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from embgeom_dask.cli.text_tables import align, more_text, whose
from embgeom_dask.reporting.display_names import display_names

if TYPE_CHECKING:
    import xarray as xr

_LINES = 20
_OTHERS = 5
_INDICATORS = {
    "input_norm": ("input_norm", "input norm"),
    "cosine": ("unused_cosine_distance", "cosine"),
    "centered": ("unused_centered_distance", "centered"),
    "component": ("unused_component_distance", "no component"),
    "euclidean": ("unused_euclidean_distance", "euclidean"),
}
_KINDS = {"special": "special tokens", "byte": "single bytes", "partial": "parts of letters in UTF-8"}


def undertrained_text(dataset: xr.Dataset) -> str:
    """The threshold, how many tokens of each kind are below it, and the candidates with the lowest indicator."""
    chosen, threshold = dataset["indicator"].item(), dataset["threshold"].item()
    category, unused = dataset["category"].to_numpy(), dataset["unused"].to_numpy()
    values = dataset[_INDICATORS[chosen][0]].to_numpy()
    facts = [
        ["unused tokens", f"{dataset['unused_count'].item()} ({dataset['unused_rule'].item()})"],
        ["indicator", chosen],
        ["mean +/- std", f"{dataset['indicator_mean'].item():.3f} +/- {dataset['indicator_std'].item():.3f}"],
        ["threshold", f"{threshold:.9g}"],
        ["candidates", str(dataset["candidate_count"].item())],
        ["candidates among the unused", str(np.count_nonzero(dataset["candidate"].to_numpy() & unused))],
    ]
    kinds = {what: category == kind for kind, what in _KINDS.items()}
    if "reachability" in dataset:
        told = dataset["reachability"].to_numpy().astype(np.str_)
        kinds["tokens that no text reaches"] = np.char.startswith(told, "UNREACHABLE") & (category == "token")
    for what, of_kind in kinds.items():
        below = np.count_nonzero(values[of_kind] <= threshold)
        facts.append([what, f"{np.count_nonzero(of_kind)}, {below} below the threshold"])
    order = np.argsort(dataset["indicator_rank"].to_numpy())
    others = order[(dataset["candidate"].to_numpy() & (category == "token") & ~unused)[order]]
    parts = [whose(dataset), align(["undertrained", ""], facts)]
    parts.append(_table(dataset, others[:_LINES], "ordinary candidates that are not among the unused", chosen))
    if (more := others.size - _LINES) > 0:
        parts.append(more_text(more, "candidate"))
    for what, of_kind in kinds.items():
        below = order[of_kind[order] & (values[order] <= threshold) & ~unused[order]]
        if below.size:
            parts.append(_table(dataset, below[:_OTHERS], f"{what} below the threshold", chosen))
    return "\n\n".join(parts)


def _table(dataset: xr.Dataset, rows: np.ndarray, title: str, chosen: str) -> str:
    """Tokens with their indicators, the one that they are ranked by first."""
    names = [chosen, *(name for name in _INDICATORS if name != chosen and _INDICATORS[name][0] in dataset)]
    columns = [dataset[_INDICATORS[name][0]].to_numpy()[rows] for name in names]
    told = dataset["token_id"].to_numpy()[rows], display_names(dataset, at=rows)
    header = ["id", "token", *(_INDICATORS[name][1] for name in names)]
    listed = ([*row[:2], *(float(f"{value:.6g}") for value in row[2:])] for row in zip(*told, *columns, strict=True))
    return f"{title}\n{align(header, listed)}"
