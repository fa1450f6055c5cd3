"""The arguments and options that several commands have."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from embgeom_dask import __version__, streams

Store = Annotated[
    str,
    typer.Argument(
        metavar="STORE", help="A store: a folder, a URL, or a model's name in list, with :input or :output."
    ),
]
ManyStores = Annotated[
    list[str] | None,
    typer.Argument(metavar="STORE", help="Stores: folders, URLs, or models' names in list, with :input or :output."),
]
FromFile = Annotated[str | None, typer.Option(metavar="FILE", help="A file that names more stores, one a line.")]
Part = Annotated[
    str | None,
    typer.Option(
        "--part", metavar="I/N", help="Do part I of N of the models alone; other commands do the other parts."
    ),
]
Stores = Annotated[str, typer.Option("--stores", metavar="DIR", help="The folder of the stores, or a URL.")]
Role = Annotated[
    Literal["input", "output"] | None,
    typer.Option("--role", help="Which matrix; default: output, or input where there is no output."),
]
SELECTION = typer.Option(
    metavar="SELECTION", help="These tokens alone: 0:1000,5000 or king,queen or @FILE or FILE.safetensors[:KEY]."
)
Metric = Annotated[str, typer.Option(metavar="NAME", help="euclidean, cosine, chebyshev, cityblock or dot.")]
Distance = Annotated[str, typer.Option("--metric", metavar="NAME", help="euclidean, cosine, chebyshev or cityblock.")]
Out = Annotated[
    str | None, typer.Option(metavar="RESULT.zarr", help="Save the result here; with several stores, a folder.")
]
OutFile = Annotated[str | None, typer.Option("--out", metavar="RESULT.zarr", help="Save the result here.")]
Device = Annotated[Literal["auto", "cpu", "cuda", "mps"], typer.Option(help="What each worker computes on.")]
Scheduler = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS", help="The address of a running dask scheduler; default: a cluster in this process."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]


def _say_version(wanted: bool) -> None:
    if wanted:
        streams.answer([f"embgeom {__version__}"])
        raise typer.Exit


Version = Annotated[bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Print the version.")]
