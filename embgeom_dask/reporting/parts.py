"""Figures and data of a page: figures are drawn when they come into view, data are unpacked when used."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from embgeom_dask.reporting.charts import bokeh
from embgeom_dask.reporting.markup import text
from embgeom_dask.reporting.report_contents import Item


class Section(NamedTuple):
    """A section of a page: HTML under a title; `anchor` is its address in the page."""

    anchor: str
    title: str
    body: str


class Parts:
    """The figures and the data of one page, by their ids."""

    def __init__(self) -> None:
        self.scripts: list[str] = []
        self._ids = 0

    def figure(self, plot: Any, title: str = "", *, data: str = "", dark: bool = False) -> str:
        """The element of HTML that a figure is drawn in; one that is `dark` keeps its shape, any other its height.

        `data` is an id that `packed` gave: the page fills the first source of the figure with these data.
        """
        name = self._script("plot", "application/json", in_script(bokeh("embed").json_item(plot)))
        heading = f"<h4>{text(title)}</h4>" if title else ""
        filled = f' data-filled="{data}"' if data else ""
        kind = "plot dark" if dark else "plot"
        style = f"aspect-ratio:{plot.width}/{plot.height}" if dark else f"min-height:{plot.height}px"
        return (
            f'<figure class="{kind}">{heading}<div class="drawing" data-plot="{name}"{filled} style="{style}">'
            "</div></figure>"
        )

    def packed(self, value: Any) -> str:
        """The id of data that the page unpacks when it needs them: plain JSON, and arrays as `array` gives them."""
        data = gzip.compress(json.dumps(value, ensure_ascii=False).encode(), compresslevel=6, mtime=0)
        return self._script("data", "text/plain", base64.b64encode(data).decode())

    def _script(self, what: str, kind: str, inside: str) -> str:
        self._ids += 1
        name = f"{what}-{self._ids}"
        self.scripts.append(f'<script type="{kind}" id="{name}">{inside}</script>')
        return name


def in_script(value: Any) -> str:
    """JSON that ends no element of HTML, whatever strings it holds."""
    said = json.dumps(value, separators=(",", ":"))
    return said.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def array(values: NDArray[Any]) -> dict[str, Any]:
    """Numbers as the page unpacks them: float64, float32 or int32, little-endian.

    The first bytes of all come first, then the second ones: so they pack to two thirds.
    """
    kind = values.dtype.newbyteorder("<")
    planes = np.ascontiguousarray(values, kind).view(np.uint8).reshape(-1, kind.itemsize).T
    return {"kind": kind.name, "planes": base64.b64encode(planes.tobytes()).decode()}


def side_by_side(figures: Sequence[str]) -> str:
    """Figures beside each other where the window is wide."""
    return f'<div class="figures">{"".join(figures)}</div>'


def for_each(items: Sequence[Item], make: Callable[[Item], str]) -> str:
    """What is made of each model: of several side by side, under their names."""
    if len(items) == 1:
        return make(items[0])
    return side_by_side([f"<div><h4>{text(each.label)}</h4>{make(each)}</div>" for each in items])


def legend(items: Sequence[Item]) -> str:
    """The names and colours of models, where there are several: a click hides one."""
    names = dict.fromkeys((each.label, each.color) for each in items)
    if len(names) < 2:
        return ""
    buttons = "".join(
        f'<button type="button" aria-pressed="true" data-name="{text(label)}"><i style="background:{color}"></i>'
        f"<bdi>{text(label)}</bdi></button>"
        for label, color in names
    )
    return f'<div class="legend">{buttons}</div>'


def note(said: str) -> str:
    """What a reader should know of what is above or below; HTML."""
    return f"<p class=note>{said}</p>"
