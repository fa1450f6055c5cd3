"""Wait and try again while an object store, or the network to it, cannot be reached."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from embgeom_dask import tuning
from embgeom_dask.errors import EmbgeomError

T = TypeVar("T")

_NAMES = frozenset(
    (
        *("EndpointConnectionError", "ConnectTimeoutError", "ReadTimeoutError", "ConnectionClosedError"),
        *("ClientConnectionError", "ServerTimeoutError", "HttpError", "HTTPClientError"),
    )
)
"""Of botocore, aiohttp and gcsfs, which need not be installed: what is raised where no answer comes."""


def waited_out(work: Callable[[], T]) -> T:
    """Do `work`. If it fails because something cannot be reached, wait and try again, for `tuning.OUTAGE` seconds.

    File systems try again by themselves, for a second or two.
    """
    until, pause = time.monotonic() + tuning.OUTAGE, 1.0
    while True:
        try:
            return work()
        except EmbgeomError as error:
            if time.monotonic() + pause > until or not is_outage(error):
                raise
        time.sleep(pause)
        pause = min(2 * pause, 10.0)


def is_outage(error: BaseException) -> bool:
    """Whether an error, or one of its causes, says that nobody answers."""
    return any(
        isinstance(each, ConnectionError | TimeoutError | socket.gaierror)
        or any(kind.__name__ in _NAMES for kind in type(each).__mro__)
        for each in _chain(error)
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
