"""Sections of a report about the results themselves: where each comes from, and what would add what is not there."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any, NamedTuple

from embgeom_dask.reporting import sky_chart
from embgeom_dask.reporting.markup import code, facts, text
from embgeom_dask.reporting.parts import Parts, Section
from embgeom_dask.reporting.report_contents import Gathered, Source

_FEW = 3
"""The most models that a command names."""

_JSON = ("settings", "versions", "certificate")
_OF_EACH = ("model", "revision", "matrix", "sha256", "labels_sha256")


class Wanted(NamedTuple):
    """What a report may show, the variable and dimension that it needs, and the command and options that give it."""

    what: str
    variable: str
    dimension: str | None
    command: str
    options: str = ""


_WANTED = (
    Wanted("the survey", "centroid_ratio", None, "survey"),
    Wanted("row norms and distances from the centroid", "norm_l2", "token_id", "tokens"),
    Wanted("the spectrum", "eigenvalue", None, "spectrum"),
    Wanted("the sky map", "score", "token_id", "spectrum", "--sky 1,2,3"),
    Wanted("groups of identical rows", "unique_count", None, "duplicates"),
    Wanted("components over radius", "component_count", "radius", "components", "--radius 0.2,0.4,0.6,0.8,1,1.2"),
    Wanted("farthest pairs", "farthest_distance", "farthest", "scan", "--farthest 20"),
    Wanted("nearest pairs", "nearest_distance", "nearest", "scan", "--nearest 20"),
    Wanted("neighbors", "neighbor_distance", "neighbor", "scan", "--neighbors 10"),
    Wanted("the distances of all pairs", "histogram_count", None, "scan", "--histogram 512"),
    Wanted("quantiles", "quantile_lower", None, "scan", "--histogram 512 --quantiles 0.01,0.25,0.5,0.75,0.99"),
)


def provenance(found: Gathered, parts: Parts) -> Section:
    """Of each result what made it, from what, and its certificate."""
    del parts
    body = "".join(map(_of_source, found.sources))
    return Section("provenance", "Where each result comes from", body)


def _of_source(source: Source) -> str:
    attrs = source.result.attrs
    models = ", ".join(dict.fromkeys(map(str, _several(attrs.get("model", [])))))
    said = [str(attrs.get("command", "a result")), models]
    if "seconds" in attrs:
        said.append(f"{attrs['seconds']:g} s on {', '.join(map(str, _several(attrs.get('devices', []))))}")
    rows: list[tuple[str, object]] = []
    for name, value in attrs.items():
        if name in _JSON:
            rows += [(f"{name}: {key}", _plain(each)) for key, each in _loaded(value).items()]
        elif name in _OF_EACH:
            rows.append((name, ", ".join(map(str, _several(value)))))
        elif name not in ("command", "variables"):
            rows.append((name, _plain(value)))
    summary = f"<b>{text(source.name)}</b> {text(' · '.join(each for each in said if each))}"
    return f"<details><summary>{summary}</summary>{facts(rows)}</details>"


def _loaded(value: Any) -> Mapping[str, Any]:
    try:
        found = json.loads(value)
    except (TypeError, ValueError):
        return {"": value}
    return found if isinstance(found, dict) else {"": found}


def _several(value: Any) -> list[Any]:
    return [value] if isinstance(value, str) else [*value]


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def missing(found: Gathered, parts: Parts) -> Section | None:
    """What no result has, with the commands that would add it."""
    del parts
    lacking = [each for each in _WANTED if not _is_there(found, each)]
    if not lacking:
        return None
    models = found.models()
    few = [each for each in models if each]
    stores = " ".join(map(shlex.quote, few)) if few and len(few) <= _FEW else "STORE..."
    many = len(models) > 1
    lines = []
    for command in dict.fromkeys(each.command for each in lacking):
        of_command = [each for each in lacking if each.command == command]
        options = [each.options for each in of_command if each.options]
        options = [each for each in options if not any(each != other and other.startswith(each) for other in options)]
        out = command if many else f"{command}.zarr"
        typed = " ".join(["embgeom", command, stores, *options, "--out", out])
        lines.append(f"<li>{text(', '.join(each.what for each in of_command))}: {code(typed)}</li>")
    said = "<p>No result given has what follows. The commands add it: give what they save to this report too.</p>"
    return Section("missing", "What is not here", f"{said}<ul>{''.join(lines)}</ul>")


def _is_there(found: Gathered, wanted: Wanted) -> bool:
    if wanted.variable == "score":
        return any(sky_chart.has_sky(each.result) for each in found.items)
    return bool(found.having(wanted.variable, wanted.dimension))
