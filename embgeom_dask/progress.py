"""One progress bar on stderr, with rate and time left; silent until `show(True)`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

_shown = False


def show(on: bool) -> None:
    """Show (or hide) the bars opened from now on in this process. The command line shows them, the library does not."""
    global _shown
    _shown = on


def note(text: str) -> None:
    """Print one line on stderr, where bars are shown."""
    if _shown:
        print(text, file=sys.stderr)


@contextmanager
def bar(total: int, what: str, unit: str) -> Iterator[Callable[[int], None]]:
    """Yield `advance(n)`, which moves a bar titled `what` by `n` of `total` `unit`; bars may be nested.

    On a terminal the bar is redrawn in place; elsewhere (a log file) it is printed at most every 30 seconds.
    """
    if not _shown:
        yield lambda _: None
        return
    terminal = sys.stderr.isatty()
    interval = 0.1 if terminal else 30.0
    with tqdm(
        total=total,
        desc=what,
        unit=f" {unit}",
        unit_scale=total >= 10_000,
        file=sys.stderr,
        mininterval=interval,
        maxinterval=interval + 10,
        dynamic_ncols=terminal,
        leave=None,
    ) as shown:

        def advance(n: int) -> None:
            shown.update(n)

        yield advance
