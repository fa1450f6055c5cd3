"""Print the answer of a command; and say messages of the library with the names of options."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from embgeom_dask import streams
from embgeom_dask.cli.as_json import json_pieces, to_json
from embgeom_dask.errors import SomeFailed
from embgeom_dask.escaping import shown_lines

if TYPE_CHECKING:
    import xarray as xr


@contextmanager
def finished(show: Callable[[Sequence[xr.Dataset]], None]) -> Iterator[None]:
    """If some of many models fail, show the results of the others before the error is raised."""
    try:
        yield
    except SomeFailed as error:
        if error.results:
            show(error.results)
        raise


def print_result(result: xr.Dataset, as_text: Callable[[xr.Dataset], str], as_json: bool) -> None:
    """Print a result as JSON or as text."""
    print_answer(to_json(result) if as_json else as_text(result))


def print_many(table: xr.Dataset, found: Sequence[xr.Dataset], as_json: bool) -> None:
    """Print the table of several results, as JSON with the results themselves."""
    from embgeom_dask.cli.scan_text import scans_text

    each = {"results": [to_json(one) for one in found]}
    print_answer(to_json(table) | each if as_json else scans_text(table))


def print_answer(answer: str | dict[str, Any]) -> None:
    """Print text, or a JSON document."""
    streams.answer([shown_lines(answer)] if isinstance(answer, str) else json_pieces(answer))


def as_options(message: str, program: Any) -> str:
    """Return a message of the library with each `parameter` in it replaced by the --option of `program`."""
    named = {parameter.name: parameter.opts[0] for each in program.commands.values() for parameter in each.params}
    named |= {"client": named["scheduler"], "k": named["count"]}
    return re.sub(r"`(\w+)`", lambda found: named.get(found[1], found[0]), message)
