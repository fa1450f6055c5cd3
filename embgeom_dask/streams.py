"""Write to stdout and stderr, even if they are closed, full, or have another charset."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from itertools import chain
from typing import TextIO

from embgeom_dask.errors import EmbgeomError
from embgeom_dask.escaping import shown
from embgeom_dask.redaction import redact


def say(line: str, stream: TextIO | None = None) -> None:
    """Write one line on stderr, or another stream: without credentials, and with control characters made visible.

    Where stderr is closed or full, nobody can read it, and the work goes on.
    """
    (stream or STDERR).write(shown(redact(line)) + "\n")


def check_stdout() -> None:
    """Raise EmbgeomError where the process was started without stdout."""
    if sys.stdout is None:
        raise EmbgeomError("stdout is closed, and the answer goes there: send it to a file, or to /dev/null")


def answer(pieces: Iterable[str]) -> None:
    r"""Write text on stdout, a piece at a time, and end its last line.

    What its charset lacks is written as `\u82b1`: nothing is lost. Who reads a pipe may stop before the end.

    Raises
    ------
    EmbgeomError
        where stdout is closed or full.
    """
    check_stdout()
    charset = sys.stdout.encoding or "utf-8"
    try:
        for piece in chain(pieces, ["\n"]):
            sys.stdout.write(piece.encode(charset, "backslashreplace").decode(charset))
        sys.stdout.flush()
    except BrokenPipeError:  # `| head`: who reads has enough
        return
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise EmbgeomError(f"cannot write the answer to stdout: {reason}: send it to a file") from error


class _Stderr:
    """The current stderr, as a file that never fails: what it cannot write is dropped."""

    def write(self, text: str) -> int:
        """Write, if that can be done."""
        with suppress(OSError, ValueError, AttributeError):  # full, closed, or never opened
            sys.stderr.write(text)
        return len(text)

    def flush(self) -> None:
        """Write what is kept, if that can be done."""
        with suppress(OSError, ValueError, AttributeError):
            sys.stderr.flush()

    def fileno(self) -> int:
        """Its descriptor."""
        return sys.stderr.fileno()

    def isatty(self) -> bool:
        """Whether a person sees it."""
        return sys.stderr is not None and sys.stderr.isatty()

    @property
    def encoding(self) -> str:
        """Its charset."""
        return getattr(sys.stderr, "encoding", None) or "ascii"


STDERR = _Stderr()


def open_closed() -> None:
    """Open /dev/null where the process was started without stdin, stdout or stderr.

    The next file opened would get their number, and what libraries print would be written into it.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def close() -> None:
    """End both streams; the interpreter would complain, when it ends, of what it cannot write."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
