"""The command `embgeom`: each command reads its arguments, calls the library and prints the answer."""

from __future__ import annotations

import logging
import os
import shlex
import sys
import traceback
import warnings
from functools import cache
from inspect import signature
from typing import Any

import typer

from embgeom_dask import streams
from embgeom_dask.cli.analyses import duplicates, neighbors, outliers, scan, survey
from embgeom_dask.cli.answers import as_options
from embgeom_dask.cli.commands import Command, with_report
from embgeom_dask.cli.compare import compare
from embgeom_dask.cli.controls import controls, whiten
from embgeom_dask.cli.doctor import doctor
from embgeom_dask.cli.examples import examples, first_steps
from embgeom_dask.cli.exports import to_csv, to_masks, to_netcdf, to_parquet
from embgeom_dask.cli.graphs import cluster, components
from embgeom_dask.cli.lattice import lattice
from embgeom_dask.cli.model_stores import convert, export, list_stores
from embgeom_dask.cli.one_pass import describe, spectrum, tokens, undertrained
from embgeom_dask.cli.options import Version
from embgeom_dask.cli.plots import plot
from embgeom_dask.cli.readout import readout
from embgeom_dask.cli.reports import report
from embgeom_dask.cli.results import show, status
from embgeom_dask.cli.series import series, store_series
from embgeom_dask.errors import EmbgeomError, EmbgeomWarning, InputError
from embgeom_dask.redaction import redact

_INTERRUPTED = 130
_KEPT_WITH_OUT = ("scan", "components", "readout", "series")
"""The commands whose --out keeps what is done, from which they go on; the others save each result that is whole."""

app = typer.Typer(
    help="Exact geometry of language-model vocabularies.",
    epilog=first_steps(),
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _options(
    version: Version = False,
) -> None:
    """Exact geometry of language-model vocabularies."""


for _command in (
    *(
        convert,
        list_stores,
        export,
        store_series,
        controls,
        whiten,
        survey,
        tokens,
        duplicates,
        spectrum,
        describe,
        undertrained,
    ),
    *(lattice, compare, series),
    *(scan, neighbors, outliers, components, cluster, readout),
    *(show, status, report, plot, to_parquet, to_csv, to_netcdf, to_masks, doctor),
):
    _name = "list" if _command is list_stores else _command.__name__.replace("_", "-")
    _computes = _command is not doctor and "scheduler" in signature(_command).parameters
    app.command(_name, cls=Command, epilog=examples(_name))(with_report(_command) if _computes else _command)


def run() -> None:
    """Run `embgeom`, and exit as `main` says."""
    streams.open_closed()
    logging.disable(logging.ERROR)  # also what asyncio and dask say while the interpreter ends
    warnings.simplefilter("ignore")
    sys.unraisablehook = lambda _: None  # as where a client is closed again when it is deleted
    code = main()
    streams.close()
    if code == _INTERRUPTED:  # in an orderly exit torch aborts a process of which a thread still computes a panel
        os._exit(code)
    sys.exit(code)


def main(args: list[str] | None = None) -> int:
    """Run `embgeom` with `args` (default: the process's) and return its exit code.

    0 done; 2 wrong usage or input and 1 a failure while running, with one line on stderr; 130 interrupted. With
    EMBGEOM_TRACEBACK=1 a traceback comes before that line.
    """
    args = sys.argv[1:] if args is None else args
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("DASK_DISTRIBUTED__LOGGING__DISTRIBUTED", "critical")
    from embgeom_dask.progress import showing

    command = redact(shlex.join(["embgeom", *args]))
    logged = logging.root.manager.disable
    logging.disable(logging.ERROR)  # what goes wrong is said once, below
    try:
        with showing(True), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", EmbgeomWarning)
            warnings.showwarning = lambda message, *_, **__: _say(f"warning: {message}")
            _check_surroundings()
            _check_given(args)
            code = _built()(args or ["--help"], prog_name="embgeom", standalone_mode=False, obj=command) or 0
    except KeyboardInterrupt:
        code = _INTERRUPTED
    except (SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # the last resort: Rust's panics, in tokenizers, are no Exception
        code = _complain(error)
    finally:
        logging.disable(logged)
    if code == _INTERRUPTED:
        streams.say(f"interrupted: the same command {_next_time(args)}: {command}")
    return code


def _next_time(args: list[str]) -> str:
    """A line that says what an interrupted command does when it is given again."""
    name = next((arg for arg in args if not arg.startswith("-")), "")
    out = any(arg.split("=")[0] == "--out" for arg in args)
    if name in ("convert", "store-series") or (out and name in _KEPT_WITH_OUT):
        return "goes on"
    if out:
        return "does what has no result yet"
    return "begins again (--out keeps what is done)" if name in _KEPT_WITH_OUT else "begins again"


@cache
def _built() -> Any:
    """The commands with their options, which typer would build anew at each call."""
    return typer.main.get_command(app)


def _check_given(args: list[str]) -> None:
    """Refuse what is empty, mostly a variable of the shell that is not set: as a path it would be the folder here."""
    for place, arg in enumerate(args, 1):
        name, gives, value = arg.partition("=")
        if not arg or (name.startswith("--") and gives and not value):
            before = args[place - 2] if place > 1 and not arg else name
            what = before if before.startswith("-") else f"argument {place}"
            raise InputError(f"{what} is empty: give a value (is a variable of the shell not set?)")


def _check_surroundings() -> None:
    """Refuse at once what would make the command fail late, or crash the process."""
    try:
        os.getcwd()  # noqa: PTH109
    except OSError as error:  # Intel's MKL ends the process
        raise InputError("the working directory is gone: change to one that is there") from error
    streams.check_stdout()


def _complain(error: BaseException) -> int:
    """Say in one line what went wrong, after the traceback if it is asked for, and return the exit code."""
    wanted = os.environ.get("EMBGEOM_TRACEBACK", "") not in ("", "0")
    if wanted:
        for line in "".join(traceback.format_exception(error)).splitlines():
            streams.say(line)
    match error:
        case typer.TyperException():
            message, code = " ".join(error.format_message().split("\n")).rstrip("."), error.exit_code
            message = message.replace("Value error, ", "")  # as pydantic says it
            context = getattr(error, "ctx", None)
            message += f": {context.command_path} --help lists what it takes" if context is not None else ""
        case EmbgeomError():
            message, code = str(error), error.exit_code
        case MemoryError():
            said = f" ({error})" if str(error) else ""
            message, code = f"out of memory{said}: give --memory-limit, or ask for less at a time", 1
        case _:
            what = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}".removesuffix(": ")
            hint = "" if wanted else ": EMBGEOM_TRACEBACK=1 shows where"
            message, code = f"{what}{hint}", 1
    _say(f"error: {message}")
    return code


def _say(message: str) -> None:
    streams.say(as_options(message, _built()))
