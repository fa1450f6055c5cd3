"""Time the commands that visit rows, not pairs, beside reading the store: a markdown table.

    python -m benchmarks.commands --data DIR --rounds 3

takes data a of `docs/benchmarks.md` in its `--full` size (made in DIR where it is not there yet), as a store in the
page cache. Each is one call of the Python function, from the store to the labelled result, its local dask cluster
included, after a first call on few rows; `lattice` is of 1,000 tokens, `compare` of the store with a second one of the
same rows. "Reading the store" is every chunk, decoded, with two threads, as the commands read it, and nothing kept.
`--only survey,tokens` times these alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import embgeom_dask as eg
from benchmarks.data import Data
from benchmarks.references import seconds
from benchmarks.run import finish, machine, say
from embgeom_dask.storage.model_stores import Matrix

ONE_PASS = ("survey", "tokens", "duplicates", "spectrum", "cluster", "undertrained", "lattice", "compare")
LIMIT = 3.0
"""What a command that takes one pass may take, in times of reading the store."""


def read(matrix: Matrix) -> None:
    """Read every chunk, with two threads."""
    starts = range(0, matrix.vocab_size, matrix.chunk_rows)
    with ThreadPoolExecutor(2) as pool:
        for _ in pool.map(lambda start: matrix.read(start, min(start + matrix.chunk_rows, matrix.vocab_size)), starts):
            pass


def calls(store: str, other: str) -> dict[str, Callable[[], Any]]:
    """What is timed, by name; the two stores are alike."""
    some = {"lattice": {"tokens": "0:1000"}, "undertrained": {"unused": "0:100"}, "compare": {"other": other}}

    def one(name: str) -> Callable[[], Any]:
        return lambda: getattr(eg, name)(store, **some.get(name, {}), progress=False)

    return {name: one(name) for name in ONE_PASS}


def measure(data: Data, few: Data, rounds: int, names: Sequence[str]) -> dict[str, list[float]]:
    """Seconds of the commands of these names and of reading, in turn, round after round."""
    first, asked = calls(few.store, few.store), calls(data.store, data.store)
    for name in names:
        first[name]()
    timed = {"read": lambda: read(data.matrix), **{name: asked[name] for name in names}}
    found: dict[str, list[float]] = {name: [] for name in timed}
    for turn in range(rounds):
        for name, call in timed.items():
            found[name].append(seconds(call))
            say(f"round {turn + 1} of {rounds}: {name} {found[name][-1]:.3f}")
    return found


def table(found: dict[str, list[float]]) -> str:
    """A markdown table of the medians."""
    reading = median(found["read"])
    text = f"| command | seconds | times reading ({reading:.2f} s) | target | met |\n| --- | --- | --- | --- | --- |\n"
    for name in [name for name in found if name != "read"]:
        took = median(found[name])
        met = "yes" if took <= LIMIT * reading else "no"
        text += f"| `embgeom {name}` | {took:.2f} | {took / reading:.1f} | at most {LIMIT:g} | {met} |\n"
    return text


def chosen(text: str) -> list[str]:
    """The names of commands in a list with commas, in the order of the table."""
    names = text.split(",")
    if unknown := [name for name in names if name not in ONE_PASS]:
        raise argparse.ArgumentTypeError(f"{unknown[0]}: choose of {', '.join(ONE_PASS)}")
    return [name for name in ONE_PASS if name in names]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the table, and write it where asked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.commands", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the stores")
    parser.add_argument("--only", type=chosen, default=ONE_PASS, metavar="NAME[,NAME]", help="which commands")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, help="rows of the data that is made, for a trial")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the table into this markdown file too")
    given = parser.parse_args(arguments)
    data = Data(given.data, "v", given.rows)
    found = measure(data, Data(given.data, "v", 3000), given.rounds, given.only)
    host, details = machine()
    rows, columns = data.matrix.vocab_size, data.matrix.hidden_size
    about = f"{details}. Data a: {rows:,} x {columns:,} bfloat16. Medians of {given.rounds}."
    finish(given, host, "python -m benchmarks.commands", about, table(found))


if __name__ == "__main__":
    main()
