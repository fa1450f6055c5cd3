"""The report: one HTML file made of results."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from importlib import resources
from pathlib import Path

from embgeom_dask.errors import parse_path
from embgeom_dask.reporting import (
    about_sections,
    direction_section,
    graph_section,
    model_sections,
    pair_sections,
    step_sections,
    table_section,
)
from embgeom_dask.reporting.charts import bokeh
from embgeom_dask.reporting.markup import text
from embgeom_dask.reporting.parts import Parts, Section
from embgeom_dask.reporting.report_contents import Gathered, Given, gather, whose
from embgeom_dask.storage import replacement
from embgeom_dask.units import noun

_SECTIONS: tuple[Callable[[Gathered, Parts], Section | None], ...] = (
    model_sections.survey,
    model_sections.norms,
    model_sections.tokens,
    model_sections.sky,
    model_sections.spectrum,
    pair_sections.distances,
    pair_sections.extremes,
    pair_sections.neighbors,
    pair_sections.duplicates,
    graph_section.components,
    pair_sections.ranks,
    model_sections.outliers,
    direction_section.directions,
    step_sections.series,
    table_section.others,
    about_sections.provenance,
    about_sections.missing,
)
_NAMED = 4
"""The most models, or pairs and steps of models, that the title names."""


def report(results: Given | Iterable[Given], path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Write a report of results as one HTML file, which opens without a network.

    What the results have is shown: tables, plots of all models on shared axes, and a field that finds the neighbors of
    a token. What none of them has is named at the end, with the command that would add it.

    Parameters
    ----------
    results : path, xarray.Dataset or xarray.DataTree, or several of them
        What commands returned, or the paths where they saved it: of one model or of many, in any mixture.
    path : path
        The file to write.
    overwrite : bool
        Whether to replace a file that exists.

    Returns
    -------
    pathlib.Path
        The file.

    Raises
    ------
    InputError
        If there is no result at a path, or a file at `path` and `overwrite` is not given.
    EmbgeomError
        If a result is damaged, or the file cannot be written; nothing is left behind.

    Examples
    --------
    >>> import embgeom_dask as eg
    >>> from embgeom_dask.testing import make_store
    >>> store = make_store("tiny.zarr", output=np.eye(4, 2, dtype=np.float32))
    >>> found = [eg.survey(store), eg.scan(store, farthest=1, histogram=8)]
    >>> str(report(found, "tiny.html"))
    'tiny.html'
    """
    written = Path(parse_path("path", path))
    replacement.check_new(written, overwrite=overwrite)
    page = html_of(gather(results))
    with replacement.new_file(written, overwrite=overwrite) as file:
        file.write(page.encode())
    return written


def html_of(found: Gathered) -> str:
    """The page, whole."""
    parts = Parts()
    sections = [section for make in _SECTIONS if (section := make(found, parts)) is not None]
    labels = [*dict.fromkeys(text(each.label) for each in found.items)]
    models = {whose(each.result).model for each in found.items}
    title = ", ".join(labels) if len(labels) <= _NAMED else f"{len(models)} {noun(len(models), 'model')}"
    own = resources.files(__package__)
    style = own.joinpath("page.css").read_text("utf-8")
    scripts = [*_bokeh(), own.joinpath("page.js").read_text("utf-8")]
    index = "".join(f'<li><a href="#{each.anchor}">{text(each.title)}</a></li>' for each in sections)
    body = "".join(f'<section id="{each.anchor}"><h2>{text(each.title)}</h2>{each.body}</section>' for each in sections)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_policy(scripts)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>embgeom: {title}</title><style>{style}</style></head><body>"
        f"<nav><b>embgeom</b><ol>{index}</ol></nav>"
        f"<main><header><h1>Vocabulary geometry</h1><p class=models>{title}</p></header>{body}</main>\n"
        + "\n".join([*parts.scripts, *(f"<script>{script}</script>" for script in scripts)])
        + "\n</body></html>\n"
    )


def _bokeh() -> list[str]:
    """The scripts of bokeh, as they are."""
    return list(bokeh("resources").Resources(mode="inline", components=["bokeh", "bokeh-gl"]).js_raw)


def _policy(scripts: Sequence[str]) -> str:
    """What a browser lets the page do: run these scripts and no others, and load nothing.

    So a string of a checkpoint that were not escaped would run nothing either.
    """
    hashes = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{each}'" for each in hashes)
    return f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'"
