"""The command `embgeom`: each command reads its arguments, calls the library and prints the answer."""

from __future__ import annotations

import json
import logging
import os
import re
import shlex
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

import embgeom_dask as eg
from embgeom_dask import streams
from embgeom_dask.cli.as_json import to_json
from embgeom_dask.cli.options import (
    SELECTION,
    Device,
    Json,
    ManyStores,
    Metric,
    Out,
    Role,
    Scheduler,
    Store,
    Stores,
    Version,
)
from embgeom_dask.cli.stores import find_other, find_store, find_stores
from embgeom_dask.errors import EmbgeomError, EmbgeomWarning, InputError, SomeFailed
from embgeom_dask.escaping import shown_lines
from embgeom_dask.redaction import redact

if TYPE_CHECKING:
    import xarray as xr

_INTERRUPTED = 130

app = typer.Typer(
    help="Exact geometry of language-model vocabularies.",
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


@app.command()
def convert(
    sources: Annotated[
        list[str] | None,
        typer.Argument(metavar="SOURCE", help="Model folders, .safetensors or .npy files, or ORG/NAME[@REVISION]."),
    ] = None,
    from_file: Annotated[str | None, typer.Option(metavar="FILE", help="More sources, one a line.")] = None,
    stores: Stores = "stores",
    role: Annotated[Literal["input", "output", "both"], typer.Option(help="What to store.")] = "both",
    input_key: Annotated[str | None, typer.Option(metavar="K", help="The tensor of the input embedding.")] = None,
    output_key: Annotated[str | None, typer.Option(metavar="K", help="The tensor of the output embedding.")] = None,
    tokenizer: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="The tokenizer, where it lies elsewhere.")
    ] = None,
    name: Annotated[str | None, typer.Option(metavar="ORG/NAME", help="What the model is called.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a store that exists.")] = False,
    as_json: Json = False,
) -> None:
    """Read the embedding matrices and the token labels of checkpoints into stores."""
    from embgeom_dask.checkpoints.convert import convert_each, read_decision, read_sources

    wanted = list(dict.fromkeys([*(sources or []), *(read_sources(from_file) if from_file else [])]))
    keys = {"input_key": input_key, "output_key": output_key}
    options = {"role": role, **keys, "tokenizer": tokenizer, "name": name, "overwrite": overwrite}
    if not wanted:
        raise InputError("nothing to convert: give SOURCE, or --from-file FILE with one a line")
    paths, failed = convert_each(wanted, stores, **options)
    decisions = {path: read_decision(path) for path in paths.values()} if as_json else {}
    failed = {redact(source): _as_options(reason) for source, reason in failed.items()}
    answer = {"stores": list(paths.values()), "decisions": decisions, "failed": failed}
    _print(answer if as_json else "\n".join(paths.values()))
    for source, reason in failed.items():
        streams.say(f"failed: {source}: {reason}")
    if failed:
        raise EmbgeomError(f"{len(failed)} of {len(wanted)} not converted: the same command does only what is missing")


@app.command()
def export(
    store: Store,
    output: Annotated[str, typer.Option("--output", "-o", metavar="FILE.safetensors", help="The file to write.")],
    role: Role = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that exists.")] = False,
    as_json: Json = False,
) -> None:
    """Write a matrix back to a safetensors file, byte for byte, as the tensor W."""
    path = eg.export(find_store(store), output, role=role, overwrite=overwrite)
    _print({"file": path} if as_json else path)


@app.command("list")
def list_stores(stores: Stores = "stores", as_json: Json = False) -> None:
    """List the stores of a folder."""
    from embgeom_dask.cli import text
    from embgeom_dask.storage import listing

    _print(to_json(listing.list_models(stores)) if as_json else text.list_text(*listing.describe(stores)))


@app.command()
def survey(
    stores: ManyStores,
    role: Role = None,
    out: Out = None,
    scheduler: Scheduler = None,
    as_json: Json = False,
) -> None:
    """Describe the centroid and the norms of every row, for any number of models."""
    stores = find_stores(stores)
    from embgeom_dask.analyses import survey
    from embgeom_dask.cli import text

    with _finished(lambda found: _print_one(survey.together(found), text.survey_text, as_json)):
        result = eg.survey(stores, role, out=out, client=scheduler)
    _print_one(result, text.survey_text, as_json)


@app.command()
def duplicates(
    stores: ManyStores,
    role: Role = None,
    out: Out = None,
    scheduler: Scheduler = None,
    as_json: Json = False,
) -> None:
    """Find the groups of identical rows: how many, how large and whose, for any number of models."""
    stores = find_stores(stores)
    from embgeom_dask.analyses import duplicates
    from embgeom_dask.cli import text

    with _finished(lambda found: _print_one(duplicates.together(found), text.duplicates_text, as_json)):
        result = eg.duplicates(stores, role, out=out, client=scheduler)
    _print_one(result, text.duplicates_text, as_json)


@app.command()
def scan(
    context: typer.Context,
    stores: ManyStores,
    role: Role = None,
    against: Annotated[
        str | None,
        typer.Option(metavar="STORE2", help="Compare with the rows of another: STORE2, STORE2:input, STORE2:output."),
    ] = None,
    metric: Metric = "euclidean",
    tokens: Annotated[str | None, SELECTION] = None,
    out: Out = None,
    farthest: Annotated[int | None, typer.Option(metavar="K", help="The K pairs farthest apart.")] = None,
    nearest: Annotated[int | None, typer.Option(metavar="K", help="The K pairs nearest each other.")] = None,
    neighbors: Annotated[int | None, typer.Option(metavar="K", help="The K nearest tokens of every token.")] = None,
    histogram: Annotated[
        int | None, typer.Option(metavar="BINS", help="Count all distances in BINS bins; moments.")
    ] = None,
    histogram_scale: Annotated[Literal["linear", "log"], typer.Option(help="The scale of the bins.")] = "linear",
    histogram_edges: Annotated[
        str | None, typer.Option(metavar="E,E...", help="Count all distances between these edges; moments.")
    ] = None,
    common_edges: Annotated[
        bool, typer.Option("--common-edges", help="Of several stores: the same bins for all.")
    ] = False,
    quantiles: Annotated[
        str | None, typer.Option(metavar="Q,Q...", help="The interval that holds each quantile of the distances.")
    ] = None,
    exact_quantiles: Annotated[
        bool, typer.Option("--exact-quantiles", help="Also the values of --quantiles, by a second pass.")
    ] = False,
    within: Annotated[
        str | None, typer.Option(metavar="R,R...", help="Count pairs within each radius, and of each token.")
    ] = None,
    pairs_within: Annotated[
        str | None, typer.Option(metavar="R", help="List the pairs within a radius, with their distances.")
    ] = None,
    max_pairs: Annotated[
        int | None,
        typer.Option(metavar="N", help="Refuse more pairs for --pairs-within; default 10 million."),
    ] = None,
    distinct: Annotated[
        bool, typer.Option("--distinct", help="Leave pairs of identical rows out of --nearest and --neighbors.")
    ] = False,
    device: Device = "auto",
    scheduler: Scheduler = None,
    tile: Annotated[int | None, typer.Option(metavar="ROWS", help="Rows of a tile; no result depends on it.")] = None,
    memory_limit: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="What a process may hold, like 2GiB."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and stop.")] = False,
    as_json: Json = False,
) -> None:
    """Compare every pair of tokens, or each with each of another matrix, exactly; keep what is asked for."""
    stores = find_stores(stores)
    other = None if against is None else find_other(against)
    from embgeom_dask.analyses import many
    from embgeom_dask.cli import text

    how: dict[str, Any] = {
        "role": role,
        "against": other,
        "tokens": tokens,
        "metric": metric,
        "farthest": farthest,
        "nearest": nearest,
        "neighbors": neighbors,
        "histogram": histogram,
        "histogram_scale": histogram_scale,
        "histogram_edges": histogram_edges,
        "quantiles": quantiles,
        "common_edges": common_edges,
        "exact_quantiles": exact_quantiles,
        "within": within,
        "pairs_within": pairs_within,
        "max_pairs": max_pairs,
        "distinct": distinct,
        "out": out,
        "device": device,
        "client": scheduler,
        "tile": tile,
        "memory_limit": memory_limit,
        "dry_run": dry_run,
        "resume_command": context.obj,
    }
    if len(stores) == 1:
        _print_one(eg.scan(stores[0], **how), text.scan_text, as_json)
        return

    def show(found: Sequence[xr.Dataset]) -> None:
        table = many.table(found)
        each = {"results": [to_json(one) for one in found]}
        _print(to_json(table) | each if as_json else text.scans_text(table))

    with _finished(show):
        found = eg.scan(stores, **how)
    show([node.to_dataset() for node in found.children.values()])


@app.command()
def neighbors(
    store: Store,
    tokens: Annotated[list[str], typer.Argument(metavar="TOKEN", help="Tokens by name or id: king queen 2332.")],
    count: Annotated[int, typer.Option("-k", "--count", metavar="K", help="How many neighbors.")] = 10,
    role: Role = None,
    metric: Metric = "euclidean",
    out: Out = None,
    device: Device = "auto",
    scheduler: Scheduler = None,
    as_json: Json = False,
) -> None:
    """Name the nearest tokens of a few tokens."""
    store = find_store(store)
    from embgeom_dask.cli import text

    how: dict[str, Any] = {"role": role, "metric": metric, "out": out, "device": device, "client": scheduler}
    _print_one(eg.neighbors(store, tokens, count, **how), text.neighbors_text, as_json)


@app.command()
def outliers(
    store: Store,
    tokens: Annotated[str, SELECTION],
    role: Role = None,
    out: Out = None,
    device: Device = "auto",
    scheduler: Scheduler = None,
    as_json: Json = False,
) -> None:
    """Find the two tokens of a selection that are farthest apart, and their triangle with its centroid."""
    store = find_store(store)
    from embgeom_dask.cli import text

    result = eg.outliers(store, tokens, role, out=out, device=device, client=scheduler)
    _print_one(result, text.outliers_text, as_json)


@app.command()
def show(
    result: Annotated[str, typer.Argument(metavar="RESULT.zarr", help="What a command was given as --out.")],
    as_json: Json = False,
) -> None:
    """Print a saved result again, or the table of a folder of results."""
    from embgeom_dask.cli import text

    found = eg.open_result(result)
    if hasattr(found, "children"):  # of several scans
        if not found.data_vars:
            raise InputError(
                f"{result} has no table yet: the command that makes it goes on, or show one of its results"
            )
        found = found.to_dataset()
    _print_one(found.load(), text.result_text, as_json)


@app.command()
def status(
    result: Annotated[str, typer.Argument(metavar="RESULT.zarr", help="What a scan was given as --out.")],
    as_json: Json = False,
) -> None:
    """Say how far a scan is that runs or has died, and the command that goes on."""
    from embgeom_dask.cli import text

    found = eg.status(result)
    _print(found if as_json else text.status_text(found))


@app.command()
def doctor(as_json: Json = False) -> None:
    """Say which devices, how much memory and which versions are here."""
    from embgeom_dask import devices
    from embgeom_dask.cli import text

    found = devices.describe()
    _print(found if as_json else text.doctor_text(found))


@contextmanager
def _finished(show: Callable[[Sequence[xr.Dataset]], None]) -> Iterator[None]:
    """Where some of many models fail, show those that did not."""
    try:
        yield
    except SomeFailed as error:
        if error.results:
            show(error.results)
        raise


def _print_one(result: xr.Dataset, as_text: Callable[[xr.Dataset], str], as_json: bool) -> None:
    _print(to_json(result) if as_json else as_text(result))


def _print(answer: str | dict[str, Any]) -> None:
    streams.answer(shown_lines(answer) if isinstance(answer, str) else json.dumps(answer, allow_nan=False))


def run() -> None:
    """Run `embgeom`, and exit as `main` says."""
    streams.open_closed()
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
    logging.disable(logging.ERROR)  # what goes wrong is said once, below
    try:
        with showing(True), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", EmbgeomWarning)
            warnings.showwarning = lambda message, *_, **__: streams.say(_as_options(f"warning: {message}"))
            _check_surroundings()
            code = app(args or ["--help"], prog_name="embgeom", standalone_mode=False, obj=command) or 0
    except KeyboardInterrupt:
        code = _INTERRUPTED
    except (SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # the last resort: Rust's panics, in tokenizers, are no Exception
        code = _complain(error)
    finally:
        logging.disable(logging.NOTSET)
    if code == _INTERRUPTED:
        kept = args[:1] == ["convert"] or any(arg.split("=")[0] == "--out" for arg in args)
        then = "goes on" if kept else "begins again (--out keeps what is done)"
        streams.say(f"interrupted: the same command {then}: {command}")
    return code


def _check_surroundings() -> None:
    """Refuse at once what would end a command late, or end the process."""
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
            message, code = " ".join(error.format_message().split("\n")), error.exit_code
        case EmbgeomError():
            message, code = str(error), error.exit_code
        case MemoryError():
            said = f" ({error})" if str(error) else ""
            message, code = f"out of memory{said}: give --memory-limit, or ask for less at a time", 1
        case _:
            what = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}".removesuffix(": ")
            hint = "" if wanted else ": EMBGEOM_TRACEBACK=1 shows where"
            message, code = f"{what}{hint}", 1
    streams.say(f"error: {_as_options(message)}")
    return code


def _as_options(message: str) -> str:
    """Say a message of the library to the user of a command: for each `parameter` in it the command's --option."""
    commands = cast(Any, typer.main.get_command(app)).commands.values()
    named = {parameter.name: parameter.opts[0] for command in commands for parameter in command.params}
    return re.sub(r"`(\w+)`", lambda found: named.get(found[1], found[0]), message)
