"""Time scans beside the bare product and beside other tools, in one process, and print one markdown table.

`docs/benchmarks.md` says what each line of the table compares and how it is measured.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import dask
import psutil
import torch
from distributed import get_task_stream

from benchmarks import conversion, overhead, references
from benchmarks.data import DIRECTIONS, Data
from benchmarks.references import fastest, product, seconds, speed
from embgeom_dask import EmbgeomError, __version__, readout, scan
from embgeom_dask.execution.cluster import connect
from embgeom_dask.storage import model_stores

CUDA = torch.cuda.is_available()
RADII = (1e-3, 1.0)
CLOSE = 0.002
"""All pairs so close are listed; in data a these are the 2,000 rows about one point, and those that are identical."""
K = 10
JOBS: dict[str, tuple[str, dict[str, Any]]] = {
    "farthest": ("farthest 100", {"farthest": 100}),
    "neighbors": ("neighbors 10", {"neighbors": 10}),
    "histogram": ("histogram 4,096, moments, two radii", {"histogram": 4096, "within": RADII}),
    "all": ("all three in one run", {"farthest": 100, "neighbors": 10, "histogram": 4096, "within": RADII}),
    "bulk": ("two radii in the bulk alone", {"within": (1.3, 1.4)}),
    "close": (f"all pairs within {CLOSE:g}", {"pairs_within": CLOSE}),
    "cosine": ("cosine neighbors 10", {"neighbors": 10, "metric": "cosine"}),
    "readout": ("readout, top and bottom 10", {"moments": False}),
    "readout-moments": ("readout, top and bottom 10, row moments", {"moments": True}),
    "chebyshev-close": ("chebyshev, all pairs within 4e-5", {"pairs_within": 4e-5, "metric": "chebyshev"}),
    "chebyshev": ("chebyshev farthest", {"farthest": 1, "metric": "chebyshev"}),
    "memory": ("peak memory, farthest 100, limit 2 GiB", {"farthest": 100, "memory_limit": "2GiB"}),
    "overhead": ("dask, journal and labels, neighbors 10", {"neighbors": 10}),
    "device": ("farthest 100, nearest 100, neighbors 10", {"farthest": 100, "nearest": 100, "neighbors": 10}),
}


BROUGHT = ("tasks", "work", "limit")
"""References that a job measures with itself."""


@dataclass(frozen=True)
class Line:
    """One line of the table for each data set in `data`: a job beside a reference, with the target of their ratio."""

    job: str
    data: str
    reference: str
    limit: float | None = None
    kind: str = "most"

    @property
    def key(self) -> str:
        """The name that the reference is measured under: some belong to their job."""
        return f"{self.reference} {self.job}" if self.reference in ("sklearn", *BROUGHT) else self.reference


LINES = (
    Line("farthest", "a", "half", 0.4),
    Line("farthest", "b", "half", 1.15),
    Line("farthest", "c", "half"),
    Line("farthest", "abc", "half8"),
    Line("farthest", "ab", "sklearn", 10, "faster"),
    Line("neighbors", "a", "square", 0.6),
    Line("neighbors", "b", "square", 0.75),
    Line("neighbors", "c", "square"),
    Line("neighbors", "ab", "faiss", 4, "faster"),
    Line("neighbors", "c", "faiss", None, "faster"),
    Line("neighbors", "ab", "sklearn", 10, "faster"),
    Line("cosine", "a", "neighbors", 1.2),
    Line("histogram", "a", "half32", 1.25),
    Line("histogram", "c", "half32"),
    Line("histogram", "a", "sklearn", 10, "faster"),
    Line("all", "a", "half32", 1.1),
    Line("all", "c", "half32"),
    Line("all", "a", "sklearn", 10, "faster"),
    Line("bulk", "a", "half", 1.25),
    Line("close", "a", "half", 0.7),
    Line("chebyshev-close", "a", "close", 2),
    Line("chebyshev", "a", "read", 2),
    Line("readout", "v", "directions", 1.2),
    Line("readout-moments", "v", "directions", 3),
    Line("memory", "m", "limit", 1),
    Line("overhead", "a", "work", 1.03),
    Line("device", "a", "resident", 60, "percent"),
    Line("device", "a", "tasks"),
)
# How the ratio of ours to the reference is written, how its target is, and whether it is met.
KINDS: dict[str, tuple[Callable[[float], str], str, Callable[[float, float], bool]]] = {
    "most": (lambda ratio: f"{ratio:.3f}", "at most {:g}", lambda ratio, limit: ratio <= limit),
    "faster": (lambda ratio: f"{1 / ratio:.1f} x faster", "at least {:g} x", lambda ratio, limit: 1 / ratio >= limit),
    "percent": (lambda ratio: f"{100 / ratio:.0f}%", "at least {:g}%", lambda ratio, limit: 100 / ratio >= limit),
}


def device_of(job: str) -> str:
    """Where a job runs: all but one are measured on the cpu, also where there is a CUDA device."""
    return "cuda" if job == "device" else "cpu"


@cache
def warm_up(job: str, store: str) -> None:
    """Do a job on few rows, untimed: what is compiled or loaded once is there afterwards."""
    matrix = model_stores.find_matrix(store)
    if job.startswith("readout"):
        readout(matrix.read(0, min(64, matrix.vocab_size)), store, K, **JOBS[job][1], device="cpu")
        return
    few = min(3000, matrix.vocab_size)
    scan(store, **JOBS[job][1], device=device_of(job), tokens=f"0:{few}")


def ours(job: str, data: Data) -> dict[str, float]:
    """Seconds of a job's scan, from the store to the labelled result, its local cluster included."""
    warm_up(job, data.store)
    if job.startswith("readout"):
        return {job: seconds(readout, data.directions, data.store, K, **JOBS[job][1], device="cpu")}
    return {job: seconds(scan, data.store, **JOBS[job][1], device=device_of(job))}


def ours_and_tasks(job: str, data: Data) -> dict[str, float]:
    """Seconds of a scan that is saved, its local cluster included, and of its dask tasks as the worker timed them."""
    warm_up(job, data.store)
    setting = {"distributed.scheduler.dashboard.status.task-stream-length": 1_000_000}
    with tempfile.TemporaryDirectory() as folder, dask.config.set(setting):
        started = perf_counter()
        with connect() as client, get_task_stream(client) as stream:
            out = Path(folder, "result.zarr")
            scan(data.store, **JOBS[job][1], device=device_of(job), client=client, out=out)
            threads = sum(client.nthreads().values())
        whole = perf_counter() - started
    spans = [span for task in stream.data for span in task["startstops"] if span["action"] == "compute"]
    return {job: whole, f"tasks {job}": sum(span["stop"] - span["start"] for span in spans) / threads}


def ours_and_work(job: str, data: Data) -> dict[str, float]:
    """Seconds of a scan that is saved, its local cluster included, and of what a plain loop would have to do too."""
    warm_up(job, data.store)
    spent = overhead.measure(data.store, JOBS[job][1])
    return {job: spent.wall, f"work {job}": spent.work}


def peak_memory(job: str, data: Data) -> dict[str, float]:
    """GiB of the largest resident set of a process of its own that does the job."""
    wanted = JOBS[job][1] | {"device": device_of(job)}
    code = f"from embgeom_dask import scan; scan({data.store!r}, **{wanted!r})"
    code += "; print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    found = subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True)
    return {job: int(found.stdout) / 2**20, f"limit {job}": 2.0}


# What the table calls a reference, and its measurement where it has one of its own.
REFERENCES: dict[str, tuple[str, Callable[[Data], float] | None]] = {
    "half": ("half-square {dtype} product", lambda data: seconds(product, data.rows.to(fastest(data)), half=True)),
    "square": ("full-square {dtype} product", lambda data: seconds(product, data.rows.to(fastest(data)), half=False)),
    "half32": ("half-square float32 product", lambda data: seconds(product, data.rows.float(), half=True)),
    "half8": ("half-square int8 product, random", lambda data: seconds(product, references.integers(data), half=True)),
    "resident": ("half-square bfloat16 product, rows resident", references.resident),
    "directions": ("{dtype} product of {directions:,} directions with the rows", references.of_directions),
    "read": ("reading the store", lambda data: seconds(data.read)),
    "faiss": ("FAISS IndexFlatL2{part}", references.faiss),
    "sklearn": ("scikit-learn pairwise_distances_chunked{part}", None),
    "tasks": ("its dask tasks alone", None),
    "work": ("planning, panels and naming alone", None),
    "limit": ("the limit", None),
}


MEASURES = {"memory": peak_memory, "overhead": ours_and_work, "device": ours_and_tasks}


def measure(name: str, data: Data) -> dict[str, float]:
    """Measure a job, with the reference that belongs to it where there is one, or another reference."""
    if name in JOBS:
        return MEASURES.get(name, ours)(name, data)
    peer, _, job = name.partition(" ")
    call = REFERENCES[peer][1]
    return {name: call(data) if call else references.sklearn(data, **JOBS[job][1])}


def measure_all(
    lines: Sequence[Line], sets: dict[str, Data], rounds: int
) -> tuple[dict[tuple[str, str], list[float]], dict[tuple[str, str], str]]:
    """Measure all that the lines need, in turn, `rounds` times; peers and the peak memory once.

    Returns the values, and the errors, by (name, data set).
    """
    needed = [(name, data) for line in lines for data in line.data if data in sets for name in (line.key, line.job)]
    values: dict[tuple[str, str], list[float]] = defaultdict(list)
    errors: dict[tuple[str, str], str] = {}
    for turn in range(rounds):
        for name, data in dict.fromkeys(needed):
            brought, once = name.startswith(BROUGHT), name.startswith(("faiss", "sklearn", "memory"))
            if brought or (once and turn) or (name, data) in errors:
                continue
            try:
                for key, value in measure(name, sets[data]).items():
                    values[key, data].append(value)
                    say(f"round {turn + 1} of {rounds}: {key}, data {data}: {value:.3f}")
            except (EmbgeomError, subprocess.CalledProcessError) as error:
                errors[name, data] = str(error)
                say(f"{name}, data {data}: {error}")
    return values, errors


def cells(line: Line, name: str, data: Data, values: Any, errors: Any) -> list[str]:
    """The cells of a line for data set `name`."""
    title = JOBS[line.job][0]
    text, target, met = KINDS[line.kind]
    target = "" if line.limit is None else target.format(line.limit)
    if reason := errors.get((line.job, name)) or errors.get((line.key, name)):
        return [title, name, f"not measured: {reason}", "", "", target, ""]
    mine, other = median(values[line.job, name]), median(values[line.key, name])
    total = data.matrix.vocab_size
    part = f" ({data.picked.size:,} of {total:,} rows, scaled up)" if data.picked.size < total else ""
    reference = (REFERENCES.get(line.reference) or JOBS[line.reference])[0]
    if "{dtype}" in reference:
        part = str(fastest(data)).removeprefix("torch.")
    unit = "GiB" if line.job == "memory" else "s"
    beside = f"{reference.format(dtype=part, part=part, directions=DIRECTIONS)}, {other:.4g} {unit}"
    answer = "" if line.limit is None else "yes" if met(mine / other, line.limit) else "no"
    return [title, name, f"{mine:.4g} {unit}", beside, text(mine / other), target, answer]


def table(rows: Iterable[Sequence[str]]) -> str:
    """A markdown table of rows of seven cells."""
    head = ("job", "data", "ours", "reference", "ratio", "target", "met")
    return "".join(f"| {' | '.join(row)} |\n" for row in (head, ["---"] * len(head), *rows))


def machine() -> tuple[str, str]:
    """The name of this machine, and what else decides its speed."""
    about = torch.cpu.get_capabilities()
    native = any(about.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    name = torch.cuda.get_device_name() if CUDA else f"{about.get('cpu_name', 'CPU')}, {torch.get_num_threads()} cores"
    return name, (
        f"{name}, {psutil.virtual_memory().total / 2**30:.0f} GiB; torch {torch.__version__}, "
        f"{torch.backends.cpu.get_cpu_capability()}, bfloat16 {'native' if native else 'not native'}; products on the "
        f"cpu {speed(torch.int8):.0f} GOP/s in int8, {speed(torch.bfloat16):.0f} GFLOP/s in bfloat16, "
        f"{speed(torch.float32):.0f} in float32; "
        f"embgeom-dask {__version__}"
    )


def write(path: Path, title: str, section: str) -> None:
    """Put a section between its markers in a markdown file, which is made where there is none; new ones come last."""
    begin, end = f"<!-- begin {title} -->\n", f"<!-- end {title} -->\n"
    text = path.read_text() if path.exists() else ""
    if begin not in text:
        text = f"{text.rstrip()}\n\n{begin}{end}".lstrip()
    before, _, rest = text.partition(begin)
    path.write_text(before + begin + section + end + rest.partition(end)[2])


def say(text: str) -> None:
    """Print progress."""
    print(text, file=sys.stderr, flush=True)


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, str]:
    """The options, and the command less the places that it reads from and writes to."""
    places = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    default = Path(tempfile.gettempdir(), "embgeom-bench")
    places.add_argument("--data", type=Path, default=default, help="folder of the stores (default %(default)s)")
    places.add_argument("--write", type=Path, metavar="FILE", help="put the table into this markdown file too")
    parser = argparse.ArgumentParser(prog="scripts/bench", parents=[places], allow_abbrev=False, description=__doc__)
    parser.add_argument("--full", action="store_true", help="151,936 rows, data a and v alone, and the overhead")
    parser.add_argument("--rows", type=int, metavar="N", help="rows of the data that is made, for a trial")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="how often to measure (default %(default)s)")
    parser.add_argument("--only", metavar="JOB,...", help=f"of {', '.join(JOBS)}")
    parser.add_argument("--conversion", action="store_true", help="the conversion of a full-size checkpoint, beside cp")
    parser.add_argument("--data-set", metavar="NAME,...", help="of a, b, c, m, v")
    given, rest = parser.parse_args(arguments), places.parse_known_args(arguments)[1]
    usual = ["device"] if CUDA else [job for job in JOBS if job != "device" and (given.full or job != "overhead")]
    given.only = given.only.split(",") if given.only else usual
    given.data_set = given.data_set.split(",") if given.data_set else list("av" if given.full else "abcmv")
    if unknown := set(given.only) - set(JOBS) | set(given.data_set) - set("abcmv"):
        parser.error(f"unknown job or data set: {', '.join(unknown)}")
    if not any(line.job in given.only and set(line.data) & set(given.data_set) for line in LINES):
        parser.error(f"{', '.join(given.only)} is not measured on data set {', '.join(given.data_set)}")
    return given, " ".join(["scripts/bench", *rest])


def main(arguments: Sequence[str]) -> None:
    """Measure, print the section of this machine and command, and write it where asked."""
    given, command = parse(arguments)
    if given.conversion:
        host, details = machine()
        found = conversion.table(conversion.measure(given.data, given.rounds))
        finish(given, host, command, f"{details}. Medians of {given.rounds}.", found)
        return
    lines = [line for line in LINES if line.job in given.only]
    named = {name: "v" if given.full and name == "a" else name for name in given.data_set}
    sets = {name: Data(given.data, source, given.rows) for name, source in named.items()}
    host, details = machine()
    values, errors = measure_all(lines, sets, given.rounds)
    rows = [cells(line, name, sets[name], values, errors) for line in lines for name in line.data if name in sets]
    used = {name: sets[name].matrix for name in sorted({name for _, name in values})}
    shapes = [f"{name} {matrix.vocab_size:,} x {matrix.hidden_size:,}" for name, matrix in used.items()]
    about = f"{details}. Data: {', '.join(shapes)}. Medians of {given.rounds}."
    finish(given, host, command, about, table(rows))


def finish(given: argparse.Namespace, host: str, command: str, about: str, found: str) -> None:
    """Print the section of this machine and command, and write it where asked."""
    section = f"## {host}: `{command}`\n\n{about}\n\n{found}"
    print(section)
    if given.write:
        write(given.write, f"{host}: {command}", section)


if __name__ == "__main__":
    main(sys.argv[1:])
