"""Examples that the help of each command ends with."""

from __future__ import annotations

_EXAMPLES = {
    "convert": ("embgeom convert acme/tiny",),
    "store-series": ("embgeom store-series acme/base acme/tuned --name acme/training",),
    "export": ("embgeom export acme/tiny -o tiny.safetensors",),
    "list": ("embgeom list",),
    "survey": ("embgeom survey acme/tiny", "embgeom survey stores/*.zarr --out surveys"),
    "describe": (
        "embgeom describe acme/tiny --out described",
        "embgeom describe stores/*.zarr --each survey,duplicates",
    ),
    "duplicates": ("embgeom duplicates acme/tiny",),
    "scan": (
        "embgeom scan acme/tiny --farthest 5 --neighbors 5 --out scan.zarr",
        "embgeom scan acme/tiny --metric cosine --histogram 512",
        "embgeom scan acme/tiny --metric dot --largest 5 --top 5",
    ),
    "neighbors": ("embgeom neighbors acme/tiny king queen -k 5",),
    "readout": ("embgeom readout directions.npy --against acme/tiny -k 5",),
    "outliers": ("embgeom outliers acme/tiny --tokens 0:10",),
    "components": ("embgeom components acme/tiny --radius 0.5,1 --diameter --out components.zarr",),
    "cluster": ("embgeom cluster acme/tiny --least 3 --mask cluster.safetensors --out cluster.zarr",),
    "controls": ("embgeom controls acme/tiny --like gaussian --seed 42",),
    "whiten": ("embgeom whiten acme/tiny --how causal --ridge 0.001",),
    "tokens": ("embgeom tokens acme/tiny --from king --out tokens.zarr",),
    "spectrum": ("embgeom spectrum acme/tiny --components 3 --sky 1,2,3 --out spectrum.zarr",),
    "compare": (
        "embgeom compare acme/base acme/tuned --out compare.zarr",
        "embgeom compare acme/base acme/tuned --all-pairs",
    ),
    "undertrained": ("embgeom undertrained acme/tiny --unused 3,5 --out undertrained.zarr",),
    "lattice": ("embgeom lattice acme/half --tokens 0:10 --pairs-within 2",),
    "series": ("embgeom series acme/base acme/tuned",),
    "show": ("embgeom show scan.zarr",),
    "status": ("embgeom status scan.zarr",),
    "report": (
        "embgeom report tokens.zarr spectrum.zarr scan.zarr -o report.html",
        "embgeom report surveys -o models.html",
    ),
    "plot": ("embgeom plot scan.zarr --heatmap -o neighbors.png",),
    "to-parquet": ("embgeom to-parquet scan.zarr -o scan.parquet",),
    "to-csv": ("embgeom to-csv scan.zarr farthest -o farthest.csv",),
    "to-masks": ("embgeom to-masks tokens.zarr -o masks.safetensors",),
    "to-netcdf": ("embgeom to-netcdf scan.zarr -o scan.nc",),
    "doctor": ("embgeom doctor",),
}


def first_steps() -> str:
    """Return how to begin, as typer takes it at the end of the help of `embgeom` itself."""
    lines = (
        "embgeom convert acme/tiny",
        "embgeom neighbors acme/tiny king queen -k 5",
        "embgeom scan acme/tiny --neighbors 5 --out scan.zarr",
        "embgeom report scan.zarr -o report.html",
    )
    more = "`embgeom COMMAND --help` has the options of a command, and examples."
    return "\n".join(
        ["\b", "Begin with a model folder, or a model of the hub:", *(f"  {line}" for line in lines), more]
    )


def examples(command: str) -> str:
    """Return the examples of a command, a line each, as typer takes them at the end of its help."""
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in _EXAMPLES[command])])
