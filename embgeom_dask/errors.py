"""The errors and warnings that a user sees: one line that says what, where and what to do."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from embgeom_dask.redaction import is_secretive, redact

if TYPE_CHECKING:
    import xarray as xr


class EmbgeomError(Exception):
    """A failure while running. The command line prints the message as one line and exits with 1.

    Parameters
    ----------
    message : str
        What failed, where, and what to do; credentials in URLs are removed.

    Examples
    --------
    >>> raise EmbgeomError("the disk is full: free some space")
    Traceback (most recent call last):
    embgeom_dask.errors.EmbgeomError: the disk is full: free some space
    """

    exit_code = 1

    def __init__(self, message: str = "") -> None:
        super().__init__(redact(str(message)))


class InputError(EmbgeomError, ValueError):
    """Wrong usage or input, found before anything was written. The command line exits with 2.

    Parameters
    ----------
    message : str
        What is wrong, where, and what to do; credentials in URLs are removed.

    Examples
    --------
    >>> import embgeom_dask as eg
    >>> try:
    ...     eg.open_model("nowhere.zarr")
    ... except InputError as error:
    ...     print(error.exit_code)
    2
    """

    exit_code = 2


NO_STORE = "no store at {}: embgeom list shows those there are, embgeom convert makes one"


def refuse_credentials(url: str) -> None:
    """Raise InputError where `url`, or a part of a chained one, holds what may be a credential.

    That is a password, the user of an `https://` URL, parameters, a query or a fragment.
    """
    if is_secretive(url):
        solid = "_".join(url.split())
        raise InputError(
            f"{solid} is given with a password, parameters or a query: "
            "credentials belong in the environment or in a profile"
        )


def parse_path(name: str, path: object) -> str:
    """The text of the path given as the parameter `name`, with the home folder for `~`. InputError where it is none.

    A `name` that is empty is not said. The home of an unknown user is no error; xarray and dask expand paths so, too.
    """
    if isinstance(path, str | os.PathLike) and isinstance(text := os.fspath(path), str):
        return os.path.expanduser(text)  # noqa: PTH111
    said = f"`{name}` " if name else ""
    raise InputError(f"{said}{shorten(repr(path), 40)} is no path: name a file or a folder")


class AbortRun(EmbgeomError):
    """A failure that a worker would meet with any task: it gets no more work; without other workers the command ends.

    `worker` is the address of the worker, or empty if the failure is not of one worker.
    """

    def __init__(self, message: str, worker: str = "") -> None:
        super().__init__(message)
        self.worker = worker


class SomeFailed(EmbgeomError):
    """Some of several models failed.

    Parameters
    ----------
    message : str
        How many failed, and why.
    results : sequence of xarray.Dataset
        The results of the others, in order.

    Examples
    --------
    >>> try:
    ...     raise SomeFailed("1 of 3 models failed", [xr.Dataset(), xr.Dataset()])
    ... except SomeFailed as error:
    ...     print(error, len(error.results))
    1 of 3 models failed 2
    """

    def __init__(self, message: str, results: Sequence[xr.Dataset]) -> None:
        super().__init__(message)
        self.results = results


class EmbgeomWarning(UserWarning):
    """Something is missing and the work goes on without it. The command line prints the message as one line.

    Whatever URL the message names, it holds no credentials.
    """

    def __init__(self, message: str) -> None:
        super().__init__(redact(message))


def shorten(said: object, most: int = 100) -> str:
    """Return a text as one line of at most `most` characters."""
    line = " ".join(str(said).split())
    return line if len(line) <= most else f"{line[: most - 3]}..."
