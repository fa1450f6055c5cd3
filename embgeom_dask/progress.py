"""One progress bar on stderr, with rate and time left; silent until `show(True)`.

Whether bars are shown is a matter of the caller's context: a thread that is to show them runs in a copy of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

from tqdm import tqdm

from embgeom_dask import escaping
from embgeom_dask.streams import STDERR, say

_shown: ContextVar[bool] = ContextVar("shown", default=False)


def show(on: bool) -> None:
    """Show (or hide) the bars opened from now on in this context. The command line shows them, the library does not."""
    _shown.set(on)


def note(text: str) -> None:
    """Print one line on stderr, where bars are shown."""
    if _shown.get():
        say(text)


class Advance(Protocol):
    """Moves a bar by `n` and says something beside it. What is not `fresh`, an earlier run did: no rate counts it."""

    def __call__(self, n: int, said: str = "", *, fresh: bool = True) -> None: ...  # noqa: D102


@contextmanager
def bar(total: int, what: str, unit: str) -> Iterator[Advance]:
    """Yield `advance(n)`, which moves a bar titled `what` by `n` of `total` `unit`; bars may be nested.

    On a terminal the bar is redrawn in place; elsewhere (a log file) it is printed at most every 30 seconds.
    """
    if not _shown.get():
        yield _hidden
        return
    terminal = STDERR.isatty()
    interval = 0.1 if terminal else 30.0
    with tqdm(
        total=total,
        desc=escaping.shown(what),
        unit=f" {unit}",
        unit_scale=total >= 10_000,
        file=STDERR,
        mininterval=interval,
        maxinterval=interval + 10,
        dynamic_ncols=terminal,
        leave=None,
    ) as shown:

        def advance(n: int, said: str = "", *, fresh: bool = True) -> None:
            if not fresh:
                shown.initial += n
            shown.set_postfix_str(escaping.shown(said), refresh=False)
            shown.update(n)

        yield advance


def _hidden(n: int, said: str = "", *, fresh: bool = True) -> None:
    """Show nothing."""
