"""The errors and warnings that a user sees: one line that says what, where and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import xarray as xr


class EmbgeomError(Exception):
    """A failure while running. The command line prints the message as one line and exits with 1."""

    exit_code = 1


class InputError(EmbgeomError, ValueError):
    """Wrong usage or input, found before anything was written. The command line exits with 2."""

    exit_code = 2


class Halt(EmbgeomError):
    """A failure of one panel that every other would meet too: the run stops."""


class SomeFailed(EmbgeomError):
    """Of many models some failed. `results` are those of the others, in order."""

    def __init__(self, message: str, results: Sequence[xr.Dataset]) -> None:
        super().__init__(message)
        self.results = results


class EmbgeomWarning(UserWarning):
    """Something is missing and the work goes on without it. The command line prints the message as one line."""


def shorten(said: object, most: int = 100) -> str:
    """What is said in one line of `most` characters."""
    line = " ".join(str(said).split())
    return line if len(line) <= most else f"{line[: most - 3]}..."
