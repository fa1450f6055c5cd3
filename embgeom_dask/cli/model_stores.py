"""The commands that make, list and write out stores: convert, list, export."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

import embgeom_dask as eg
from embgeom_dask import streams
from embgeom_dask.cli.answers import as_options, print_answer
from embgeom_dask.cli.as_json import to_json
from embgeom_dask.cli.options import Json, Part, Role, Store, Stores
from embgeom_dask.cli.stores import find_store, read_list
from embgeom_dask.errors import EmbgeomError, InputError
from embgeom_dask.redaction import redact


def convert(
    context: typer.Context,
    sources: Annotated[
        list[str] | None,
        typer.Argument(metavar="SOURCE", help="Model folders, .safetensors or .npy files, or ORG/NAME[@REVISION]."),
    ] = None,
    from_file: Annotated[
        str | None, typer.Option(metavar="FILE", help="A file that names more sources, one a line.")
    ] = None,
    stores: Stores = "stores",
    role: Annotated[Literal["input", "output", "both"], typer.Option(help="What to store.")] = "both",
    input_key: Annotated[str | None, typer.Option(metavar="K", help="The tensor of the input embedding.")] = None,
    output_key: Annotated[str | None, typer.Option(metavar="K", help="The tensor of the output embedding.")] = None,
    tokenizer: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="The tokenizer, where it lies elsewhere.")
    ] = None,
    name: Annotated[str | None, typer.Option(metavar="ORG/NAME", help="What the model is called.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a store that exists.")] = False,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE", help="Several chunks in one object, of up to this size, like 1GiB; default: one chunk."
        ),
    ] = None,
    part: Part = None,
    scheduler: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="A dask scheduler whose workers convert; default: here.")
    ] = None,
    connections: Annotated[
        int, typer.Option(metavar="N", help="The most connections to the hub at a time, of all workers.")
    ] = 16,
    as_json: Json = False,
) -> None:
    """Store the embedding matrices and tokens of checkpoints."""
    from embgeom_dask.checkpoints.convert import read_decision

    wanted = list(dict.fromkeys([*(sources or []), *(read_list(from_file) if from_file else [])]))
    keys = {"input_key": input_key, "output_key": output_key}
    options: dict[str, Any] = {"role": role, **keys, "tokenizer": tokenizer, "name": name, "overwrite": overwrite}
    options["shard"] = shard
    if not wanted:
        raise InputError("nothing to convert: give SOURCE, or --from-file FILE with one a line")
    failed: dict[str, str] = {}
    if len(wanted) == 1 and scheduler is None and part is None:
        paths = {wanted[0]: eg.convert(wanted[0], stores, **options)}
    else:
        from embgeom_dask.batches.convert_many import convert_each

        options |= {"client": scheduler, "connections": connections, "part": part}
        options |= {"resume_command": context.find_root().obj}
        paths, failed = convert_each(wanted, stores, **options)
    decisions = {path: read_decision(path) for path in paths.values()} if as_json else {}
    failed = {redact(source): as_options(reason, context.find_root().command) for source, reason in failed.items()}
    answer = {"stores": list(paths.values()), "decisions": decisions, "failed": failed}
    print_answer(answer if as_json else "\n".join(paths.values()))
    for source, reason in failed.items():
        streams.say(f"failed: {source}: {reason}")
    if failed:
        tried = len(failed) + len(paths)
        raise EmbgeomError(f"{len(failed)} of {tried} not converted: the same command does only what is missing")


def export(
    store: Store,
    output: Annotated[str, typer.Option("--output", "-o", metavar="FILE.safetensors", help="The file to write.")],
    role: Role = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that exists.")] = False,
    as_json: Json = False,
) -> None:
    """Write a matrix as a safetensors file, byte for byte.

    The tensor is called W.
    """
    path = eg.export(find_store(store), output, role=role, overwrite=overwrite)
    print_answer({"file": path} if as_json else path)


def list_stores(
    folder: Annotated[
        str | None, typer.Argument(metavar="DIR", help="The folder of the stores, or a URL; default: stores.")
    ] = None,
    stores: Annotated[
        str | None, typer.Option("--stores", metavar="DIR", help="The same, as other commands call it.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the stores of a folder."""
    from embgeom_dask.cli import text
    from embgeom_dask.storage import listing

    if folder is not None and stores is not None:
        raise InputError(f"two folders, {folder} and {stores}: give DIR or --stores DIR")
    of = folder or stores or "stores"
    print_answer(to_json(listing.list_models(of)) if as_json else text.list_text(*listing.describe(of)))
