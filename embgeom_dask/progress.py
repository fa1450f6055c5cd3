"""Notes and one progress bar: in the output of a notebook, else on stderr.

Whether they are shown is a matter of the caller's context: a thread that is to show them runs in a copy of it.
"""

from __future__ import annotations

import shutil
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

from embgeom_dask import escaping, streams

_LEAST_TITLE = 16
_BESIDE_TITLE = 56
"""Columns of count, time and rate: ` 100%|#| 10.0k/10.0k [1:00:00<1:00:00, 12.6k tiles/s]`."""

_wanted: ContextVar[bool | None] = ContextVar("_wanted", default=None)


@contextmanager
def showing(wanted: bool | None) -> Iterator[None]:
    """Show or hide notes and bars while entered. None changes nothing: they are shown in a notebook, else hidden."""
    before = _wanted.get()
    _wanted.set(before if wanted is None else wanted)
    try:
        yield
    finally:
        _wanted.set(before)


def note(text: str) -> None:
    """Print one line, where bars are shown."""
    if _shown():
        streams.say(text, _stream())


class Advance(Protocol):
    """Moves a bar by `n`, with a text beside it. What an earlier command did is not `fresh`, and counts for no rate."""

    def __call__(self, n: int, said: str = "", *, fresh: bool = True) -> None: ...  # noqa: D102


@contextmanager
def bar(total: int, what: str, unit: str) -> Iterator[Advance]:
    """Yield `advance(n)`, which moves a bar titled `what` by `n` of `total` `unit`; bars may be nested.

    In a notebook and on a terminal the bar is redrawn in place; elsewhere (a log file) it is printed at most every 30
    seconds.
    """
    if not _shown():
        yield _hidden
        return
    stream = _stream()
    redrawn = _in_notebook() or stream.isatty()
    interval = 0.1 if redrawn else 30.0
    with _tqdm()(
        total=total,
        desc=_short(escaping.shown(what)) if redrawn else escaping.shown(what),
        unit=f" {unit}",
        unit_scale=total >= 10_000,
        file=stream,
        mininterval=interval,
        maxinterval=interval + 10,
        dynamic_ncols=redrawn,
    ) as shown:
        shown.leave = shown.pos == 0  # what is nested goes when it is done

        def advance(n: int, said: str = "", *, fresh: bool = True) -> None:
            if not fresh:
                shown.initial += n
            shown.set_postfix_str(escaping.shown(said), refresh=False)
            shown.update(n)

        yield advance


def _short(title: str) -> str:
    """A title without its middle where count, rate and time would not fit beside it on the terminal."""
    room = max(_LEAST_TITLE, shutil.get_terminal_size().columns - _BESIDE_TITLE)
    start = (room - 3) // 2
    return title if len(title) <= room else f"{title[:start]}...{title[start + 3 - room :]}"


def _hidden(n: int, said: str = "", *, fresh: bool = True) -> None:
    """Show nothing."""


def _shown() -> bool:
    wanted = _wanted.get()
    return _in_notebook() if wanted is None else wanted


def _in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")


def _stream() -> Any:
    """The stream for people: stderr, but in a notebook stdout, since notebooks show stderr as an error."""
    return sys.stdout if _in_notebook() else streams.STDERR


def _tqdm() -> Any:
    """The class of bars that fits: a notebook without ipywidgets gets one of text."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tqdm.auto import tqdm

    return tqdm
